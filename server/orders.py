"""Turn what KOMBIT typed after `run` into a federation to run."""

import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from catalogue import shelf
from configs.schema import RunConfig, register
from faelles.card import UseCaseCard, describe_mistakes
from faelles.errors import ConfigError
from faelles.terms import RunTerms
from server.federation import FederationConfig, StrategyChoice
from strategies.registry import build

UNITS_S = {"s": 1, "m": 60, "h": 3600}


def order(overrides: Sequence[str], runs: Path) -> FederationConfig:
    """Compose a federation from what was typed.

    Args:
        overrides: `usecase=NAME strategy=NAME rounds=30 ...`
        runs: The folder of all runs.

    Raises:
        FaellesError: What was typed is wrong, or goes beyond the card.
    """
    typed = _compose(overrides)
    card = shelf.find(typed.usecase).card
    build(typed.strategy.name, dict(typed.strategy.terms))
    try:
        return FederationConfig(
            federation=uuid.uuid4(),
            card=card,
            terms=_terms(typed, card),
            strategy=StrategyChoice(name=typed.strategy.name, terms=dict(typed.strategy.terms)),
            weighting=typed.weighting,  # type: ignore[arg-type]  # checked by pydantic
            quorum=typed.quorum,
            deadline_s=seconds(typed.deadline, "deadline"),
            wait_s=seconds(typed.wait, "wait"),
            deliver_s=seconds(typed.deliver, "deliver"),
            seed=typed.seed,
            folder=runs,
        )
    except ValidationError as error:
        raise ConfigError(f"run: {describe_mistakes(error)}") from None


def seconds(text: str, name: str) -> float:
    """Read a time, e.g. 90s, 10m or 2h.

    Raises:
        ConfigError: It is something else.
    """
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])", text)
    if not found:
        raise ConfigError(f"{name}={text[:20]}: expected a number and s, m or h, e.g. 10m")
    return float(found[1]) * UNITS_S[found[2]]


def _terms(typed: RunConfig, card: UseCaseCard) -> RunTerms:
    epsilon = card.privacy.epsilon if typed.privacy.epsilon is None else typed.privacy.epsilon
    rounds = card.training.rounds if typed.rounds is None else typed.rounds
    try:
        terms = RunTerms(epsilon=epsilon, rounds=rounds, evaluate=typed.evaluate)
    except ValidationError as error:
        raise ConfigError(f"run: {describe_mistakes(error)}") from None
    if not terms.within(card):
        raise ConfigError(
            f"run: expected at most the card's {card.training.rounds} rounds and epsilon {card.privacy.epsilon:g}, "
            "more came; what goes beyond is another card, which municipalities must approve"
        )
    return terms


def _compose(overrides: Sequence[str]) -> RunConfig:
    register()
    try:
        with initialize_config_module("configs", version_base="1.3"):
            typed = OmegaConf.to_object(compose("federation", list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(f"run: {lines[0]}; see `faelles-server run --help`") from None
    assert isinstance(typed, RunConfig)
    return typed
