"""Turn what KOMBIT typed after `run` into a federation to run."""

import re
import uuid
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from catalogue import shelf
from configs.schema import RunConfig, register, strategies
from faelles.card import UseCaseCard, describe_mistakes
from faelles.errors import ConfigError
from faelles.terms import RunTerms
from server.federation import FederationConfig, StrategyChoice
from strategies.registry import STRATEGIES, build

UNITS_S = {"s": 1, "m": 60, "h": 3600}
WHOLE, NUMBER, TIME = "a whole number", "a number", "a number and s, m or h, e.g. 10m"
EXPECTED = {
    "usecase": "the name of a use case or the path of its folder, in quotes of its own where it holds a sign such as =",
    "strategy": f"one of {', '.join(strategies())}", "rounds": WHOLE, "privacy.epsilon": NUMBER,
    "evaluate": "true or false", "quorum": "a number above 0 and at most 1", "deadline": TIME, "wait": TIME,
    "deliver": TIME, "weighting": "declared or equal", "seed": WHOLE,
}  # fmt: skip
HELP = "see `faelles-server run --help`"
MISTAKES = (HydraException, OmegaConfBaseException, ValueError)


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
    with initialize_config_module("configs", version_base="1.3"):
        try:
            typed = OmegaConf.to_object(compose("federation", list(overrides)))
        except MISTAKES as error:
            raise ConfigError(f"run: {_mistake(overrides, error)}") from None
    assert isinstance(typed, RunConfig)
    return typed


def _mistake(overrides: Sequence[str], error: Exception) -> str:
    """Say what is wrong to who typed it; Hydra's own words are for who writes its configuration."""
    chosen = [one for one in overrides if one.startswith("strategy=")]
    strategy = chosen[-1].removeprefix("strategy=") if chosen else ""
    # The strategy first, for it decides which terms there are.
    tries = [[one] for one in chosen] + [[*chosen, one] for one in overrides]
    for wrong in tries:
        if not _taken(wrong):
            return _advice(wrong[-1], strategy)
    if not any(one.startswith("usecase=") for one in overrides):
        return f"expected usecase=NAME, none came; the catalogue has {', '.join(shelf.names())}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0]}; {HELP}"


def _taken(overrides: Sequence[str]) -> bool:
    try:
        compose("federation", list(overrides))
    except MISTAKES:
        return False
    return True


def _advice(typed: str, strategy: str) -> str:
    """Say what was expected in the place of one override."""
    key, equals, value = typed.lstrip("+").partition("=")
    if not equals:
        close = get_close_matches(key, shelf.names(), n=1)
        hint = f"did you mean usecase={close[0]}?" if close else HELP
        return f"{_short(typed)}: expected KEY=VALUE, there is no = in it; {hint}"
    terms = STRATEGIES[strategy].terms if strategy in STRATEGIES else {}
    expected = EXPECTED | {f"strategy.terms.{name}": term.range for name, term in terms.items()}
    if key in expected:
        close = get_close_matches(value, strategies(), n=1) if key == "strategy" else []
        hint = f"did you mean {close[0]}?" if close else HELP
        return f"{_short(typed)}: expected {expected[key]}, something else came; {hint}"
    close = [one for one in expected if one.endswith(f".{key}")] or get_close_matches(key, expected, n=1)
    hint = f"did you mean {close[0]}?" if close else HELP
    return f"{_short(key)}: expected one of {', '.join(expected)}, it is none of them; {hint}"


def _short(typed: str) -> str:
    return (typed if typed and typed.isprintable() else ascii(typed))[:60]
