"""Describe a federation to run: everything its rounds need, as one JSON text in the run's config."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from faelles.card import UseCaseCard, describe_mistakes
from faelles.errors import ConfigError
from faelles.terms import RunTerms

PLACE = frozenset({"folder", "nodes", "heads", "resume"})  # where and as whom it is run, which says nothing of what
RUN_CONFIG_KEY = "faelles"  # Flower's run config holds scalars only, so the whole configuration is one text


class StrategyChoice(BaseModel):
    """Choose a strategy and its terms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    terms: dict[str, float] = {}


class FederationConfig(BaseModel):
    """Hold one federation.

    `quorum` is the share of the expected municipalities without which a round does not count; `deadline_s` the seconds
    that a round waits for everybody, and `wait_s` those that it waits for a quorum beyond; `deliver_s` those that the
    finished model is kept ready for who was away. `weighting` is the public weight of a municipality's update. `nodes`
    binds municipalities to the nodes that they are enrolled with; without it they are those that the grid names.
    `heads` is the database that keeps ledger heads; without it one in the run's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    federation: UUID
    card: UseCaseCard
    terms: RunTerms
    strategy: StrategyChoice
    weighting: Literal["equal", "declared"] = "equal"
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.8
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    deliver_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    folder: Path
    resume: bool = False
    nodes: dict[str, int] | None = None
    heads: Path | None = None

    @property
    def sha256(self) -> str:
        """Identify what is run; where it lies, who is enrolled by now and how long to wait may change as it goes on."""
        aside = PLACE | {"deadline_s", "wait_s", "deliver_s"}
        return hashlib.sha256(self.model_dump_json(exclude=set(aside)).encode()).hexdigest()

    @classmethod
    def parse(cls, text: object) -> "FederationConfig":
        """Read a configuration that a command line has composed.

        Raises:
            ConfigError: A field is missing or wrong.
        """
        try:
            return cls.model_validate_json(text if isinstance(text, str) else "")
        except ValidationError as error:
            raise ConfigError(f"federation config: {describe_mistakes(error)}") from None
