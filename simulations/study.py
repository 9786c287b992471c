"""Resolve what a researcher typed into one study: card, terms and strategy, and whether they go beyond the card.

An override that only tightens (a smaller epsilon, fewer rounds) is a term of the run, and the card keeps its hash.
Anything else makes another card with another hash, as it would have to be approved anew by every municipality.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catalogue.shelf import UseCase
from configs.schema import SimulationConfig
from faelles.card import UseCaseCard, describe_mistakes, parse_card
from faelles.errors import ConfigError
from faelles.terms import RunTerms
from server.federation import FederationConfig, StrategyChoice


@dataclass(frozen=True, kw_only=True)
class Study:
    """Hold one resolved study."""

    usecase: UseCase
    card: UseCaseCard
    terms: RunTerms
    derived: bool

    @property
    def main_arm(self) -> str:
        """Name the arm that the card asks for."""
        return "personalised" if self.card.model.local else "federated"


def resolve(usecase: UseCase, config: SimulationConfig) -> Study:
    """Apply a configuration's overrides to a card.

    Raises:
        CardError: The overridden card has mistakes.
        ConfigError: The terms are out of their range.
    """
    base = usecase.card
    fields = base.model_dump(mode="json")
    _override(fields["training"], vars(config.training))
    if config.training.local_steps is not None:
        fields["training"]["local_epochs"] = None
    if config.training.local_epochs is not None:
        fields["training"]["local_steps"] = None
    _override(fields["privacy"], {"delta": config.privacy.delta, "clipping_norm": config.privacy.clipping_norm})
    _override(fields["model"], {"local": config.model.local})
    rounds = base.training.rounds if config.rounds is None else config.rounds
    fields["training"]["rounds"] = max(rounds, base.training.rounds)
    epsilon = base.privacy.epsilon if config.privacy.epsilon is None else config.privacy.epsilon
    if base.privacy.epsilon < epsilon < float("inf"):
        fields["privacy"]["epsilon"] = epsilon
    card = parse_card(fields, base.id)
    try:
        terms = RunTerms(epsilon=epsilon, rounds=rounds, evaluate=config.evaluate)
    except ValidationError as error:
        raise ConfigError(f"terms: {describe_mistakes(error)}") from None
    return Study(usecase=usecase, card=card, terms=terms, derived=card.sha256 != base.sha256)


def federation_config(
    study: Study, config: SimulationConfig, folder: Path, municipalities: Sequence[tuple[str, int, int]] = ()
) -> FederationConfig:
    """Describe a study's federation; equal studies on equal populations get equal identifiers, to be taken up again.

    Args:
        study: What to run.
        config: How.
        folder: Where its checkpoints go.
        municipalities: Label, rows and declared size of each, so that other data are another federation.

    Raises:
        ConfigError: A setting is out of its range.
    """
    strategy = StrategyChoice(name=config.strategy.name, terms=dict(config.strategy.terms))
    terms = [study.terms.model_dump_json(), strategy.model_dump_json(), config.weighting, config.seed]
    what = json.dumps([study.card.sha256, *terms, *municipalities])
    try:
        return FederationConfig(
            federation=uuid.uuid5(uuid.NAMESPACE_OID, what),
            card=study.card,
            terms=study.terms,
            strategy=strategy,
            weighting=config.weighting,  # type: ignore[arg-type]  # checked by pydantic
            quorum=config.quorum,
            deadline_s=config.deadline_s,
            seed=config.seed,
            folder=folder,
            resume=config.resume,
        )
    except ValidationError as error:
        raise ConfigError(describe_mistakes(error)) from None


def with_local(study: Study, local: tuple[str, ...]) -> Study:
    """Make the study's other arm: the same card with other local parameters."""
    fields = study.card.model_dump(mode="json")
    fields["model"]["local"] = list(local)
    card = parse_card(fields, study.card.id)
    return Study(usecase=study.usecase, card=card, terms=study.terms, derived=True)


def _override(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    fields.update({name: value for name, value in changes.items() if value is not None})
