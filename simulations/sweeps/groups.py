"""Put the jobs of a sweep together that differ in the seed only, and take means and intervals over the seeds."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from scipy.special import stdtrit

from server.result import Result

SEED = "seed"
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Hold what a completed job's main arm reached; epsilon is infinite where it trained without privacy."""

    auc: float | None
    log_loss: float | None
    accuracy: float | None
    epsilon: float
    seconds: float

    @classmethod
    def of(cls, result: Result) -> Self:
        """Take the figures from a simulation's result."""
        assert result.main_arm is not None
        arm, spent = result.arms[result.main_arm], result.privacy.epsilon
        return cls(
            auc=arm.auc.pooled,
            log_loss=arm.log_loss.pooled,
            accuracy=arm.accuracy.pooled,
            epsilon=math.inf if spent is None else spent,
            seconds=result.timing.total_s,
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """Hold one job: its folder's name, what was typed for it, and its figures, or why there are none."""

    folder: str
    settings: dict[str, str]
    figures: Figures | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Hold a mean over seeds and half of its interval, which one seed does not have."""

    mean: float
    half: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Self | None:
        """Compute the two-sided Student-t interval of the values that are defined; None where none is."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        count = len(known)
        half = None
        if count > 1:
            half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * statistics.stdev(known) / math.sqrt(count)
        return cls(mean=statistics.mean(known), half=half, count=count)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Hold the jobs that differ in the seed only, under the settings that vary between groups."""

    settings: dict[str, str]
    jobs: tuple[Job, ...]

    @property
    def done(self) -> tuple[Figures, ...]:
        """List the figures of the jobs that completed."""
        return tuple(job.figures for job in self.jobs if job.figures is not None)

    @property
    def epsilon(self) -> float | None:
        """Give what was spent, on average over the seeds: a twin's sizes, and so its plans, depend on the seed."""
        return statistics.mean(one.epsilon for one in self.done) if self.done else None

    @property
    def seconds(self) -> float | None:
        """Give how long a job took, on average."""
        return statistics.mean(one.seconds for one in self.done) if self.done else None

    def spread(self, of: Callable[[Figures], float | None]) -> Spread | None:
        """Give mean and interval of one figure over the seeds."""
        return Spread.of([of(one) for one in self.done])


MEASURED: tuple[tuple[str, str, Callable[[Figures], float | None]], ...] = (
    ("auc", "AUC", lambda one: one.auc),
    ("log_loss", "log loss", lambda one: one.log_loss),
    ("accuracy", "accuracy", lambda one: one.accuracy),
)


def varied(jobs: Sequence[Job]) -> tuple[str, ...]:
    """Name the settings in which jobs differ, the seed left out, in the order in which they were typed."""
    names = dict.fromkeys(name for job in jobs for name in job.settings if name != SEED)
    return tuple(name for name in names if len({job.settings.get(name) for job in jobs}) > 1)


def grouped(jobs: Sequence[Job]) -> list[Group]:
    """Put the jobs together that differ in the seed only, in the order in which they ran."""
    names = varied(jobs)
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.settings.get(name, "") for name in names), []).append(job)
    return [Group(settings=dict(zip(names, key, strict=True)), jobs=tuple(members)) for key, members in groups.items()]


def describe(settings: dict[str, str]) -> str:
    """Write settings as they are typed."""
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "no overrides"
