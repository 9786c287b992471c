"""Describe what a run leaves behind: the record of what really happened, and result.json.

`docs/result-schema.md` explains every field to a reader of result.json.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from faelles.card import Bilingual
from faelles.metrics import Metrics

SCHEMA_VERSION = 1
Status = Literal["running", "completed", "incomplete", "stopped"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RoundRecord(_Part):
    """Record who took part in one round: every expected municipality stands in exactly one of the first five."""

    number: int
    contributing: list[str]
    refused: dict[str, str] = {}  # municipality -> code
    rejected: dict[str, str] = {}  # municipality -> what was wrong with its reply
    silent: list[str] = []  # connected, and no reply before the deadline
    missing: list[str] = []  # not connected at the deadline
    late: list[str] = []  # of the silent and missing, whose reply came after all and was dropped
    seconds: float
    model_sha256: str


class EvaluationRecord(_Part):
    """Record the released evaluation: metrics of the summed score histograms."""

    contributing: list[str]
    refused: dict[str, str] = {}
    rejected: dict[str, str] = {}
    silent: list[str] = []
    missing: list[str] = []
    auc: float | None
    log_loss: float | None
    accuracy: float | None
    calibration_error: float | None


class RunRecord(_Part):
    """Record a run; `completed` only where every round reached the quorum of the expected municipalities.

    `incomplete` is a run that gave up, `stopped` one that somebody ended; either may be taken up again.
    """

    federation: str
    status: Status = "running"
    why: str = ""
    quorum: float
    expected: list[str] = []
    sits_out: dict[str, str] = {}  # municipality -> why it does not take part in this run
    declared_sizes: dict[str, int] = {}
    rounds: list[RoundRecord] = []
    evaluation: EvaluationRecord | None = None
    model_sha256: str = ""
    delivered: list[str] = []  # whom the finished model has reached
    unwanted: list[str] = []  # who refused it
    undelivered: list[str] = []  # whom it had not reached when there was no more time
    waited_s: float = 0.0  # in all, beyond deadlines, for a quorum

    @property
    def settled(self) -> bool:
        """Say whether the finished model has been brought to everybody who took part, as far as that went."""
        return set(self.declared_sizes) <= {*self.delivered, *self.unwanted, *self.undelivered}

    @property
    def needed(self) -> int:
        """Count the municipalities without which a round does not count."""
        # Less a little: 55 % of 100 is a little more than 55 in floating point.
        return math.ceil(self.quorum * len(self.expected) - 1e-9)


class Figure(_Part):
    """Hold one metric: over all held-out citizens pooled, and for each site; null where it is not defined."""

    pooled: float | None
    by_site: dict[str, float | None]


class Arm(_Part):
    """Hold what one way of learning reached on the same held-out citizens; exact, not releasable."""

    auc: Figure
    log_loss: Figure
    accuracy: Figure
    calibration_error: Figure

    @classmethod
    def of(cls, pooled: Metrics, by_site: dict[str, Metrics]) -> Self:
        """Arrange metrics by figure."""
        return cls.model_validate({
            name: {
                "pooled": finite(getattr(pooled, name)),
                "by_site": {site: finite(getattr(one, name)) for site, one in by_site.items()},
            }
            for name in cls.model_fields
        })  # fmt: skip


class CurvePoint(_Part):
    """Hold the exact pooled metrics of the model after a round; not releasable."""

    round: int
    auc: float | None
    log_loss: float | None
    accuracy: float | None


class Site(_Part):
    """Describe one municipality; the true counts exist in simulations only, and are null in a live federation."""

    name: str
    declared_size: int | None  # null: it never said
    citizens: int | None = None
    training_citizens: int | None = None
    held_out_citizens: int | None = None


class PlanFigures(_Part):
    """Hold the privacy plan of every site with one declared size."""

    declared_size: int
    sites: int
    sampling_rate: float
    noise_multiplier: float
    steps: int
    epsilon: float | None  # null: no privacy


class Privacy(_Part):
    """State what the run cost each citizen; epsilon is null where it trained without privacy."""

    private: bool
    unit: Bilingual
    epsilon: float | None
    delta: float
    clipping_norm: float
    prv_epsilon: float | None
    evaluation_epsilon: float | None
    plans: list[PlanFigures]
    statement: Bilingual


class Timing(_Part):
    """Hold seconds by phase; null where nobody measured one, as in a live federation."""

    startup_s: float | None = None
    train_s: float
    evaluate_s: float | None = None
    compare_s: float | None = None
    total_s: float


class Usecase(_Part):
    """Name what was learned."""

    id: str
    version: int
    title: Bilingual
    card_sha256: str
    derived: bool  # the run's overrides go beyond the card, so it ran another card with another hash
    note: Bilingual | None


class Result(_Part):
    """Hold all of result.json, of a simulation or of a live federation, which knows no exact figures."""

    schema_version: int = SCHEMA_VERSION
    command: str
    seed: int
    usecase: Usecase
    strategy: str
    config: dict[str, Any]
    versions: dict[str, str]
    privacy: Privacy
    main_arm: Literal["federated", "personalised"] | None  # null: a live federation
    arms: dict[Literal["local", "pooled", "federated", "personalised"], Arm]
    curve: list[CurvePoint] = Field(default_factory=list)
    curve_label: str = "exact, not releasable"
    sites: dict[str, Site]
    run: RunRecord
    # A simulator's certificate: municipality -> array -> its largest difference from the reference in any round.
    parity: dict[str, dict[str, float]] | None = None
    timing: Timing

    @property
    def live(self) -> bool:
        """Say whether municipalities ran this, so that only what they released is known."""
        return self.main_arm is None


def read_record(path: Path) -> RunRecord | None:
    """Read a run's record; None where it has written none yet."""
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def finite(value: float | None) -> float | None:
    """Turn NaN and infinity, which JSON has no word for, into null."""
    return value if value is not None and math.isfinite(value) else None


def write_json(path: Path, value: BaseModel) -> None:
    """Write a model as JSON, atomically: a reader sees the old file or the new one."""
    write_atomically(path, (value.model_dump_json(indent=2) + "\n").encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, whole."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_result(path: Path) -> Result:
    """Read a result.json."""
    return Result.model_validate(json.loads(path.read_text(encoding="utf-8")))
