"""Find out who benefits: what each municipality gains over learning alone, and how that depends on its size.

A gain is positive where the federation is better: AUC goes up, log loss goes down.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from server.charts import size_edges
from server.result import Arm, Result

Measure = Literal["auc", "log_loss"]


@dataclass(frozen=True, kw_only=True)
class Share:
    """Hold one municipality's figures; None where a figure is not defined, or where nothing was compared."""

    name: str
    declared_size: int
    training_citizens: int
    held_out_citizens: int
    alone: float | None
    together: float | None
    gain: float | None


@dataclass(frozen=True, kw_only=True)
class Band:
    """Hold the means over the municipalities of about one size for which every figure is defined."""

    label: str
    sites: int
    undefined: int  # of these, left out of the means
    alone: float | None
    together: float | None
    gain: float | None
    median: float | None  # of what the chart shows
    middle: float  # training citizens of the median municipality


@dataclass(frozen=True, kw_only=True)
class Benefit:
    """Hold who gains what, measured as `measure`; `compared` where there is an arm of learning alone."""

    measure: Measure
    compared: bool
    shares: tuple[Share, ...]  # by name
    bands: tuple[Band, ...]  # by size

    @property
    def best(self) -> list[Share]:
        """List those that gain, most first."""
        return sorted((one for one in self.shares if (one.gain or 0) > 0), key=lambda one: -(one.gain or 0))

    @property
    def worst(self) -> list[Share]:
        """List those that lose, most first."""
        return sorted((one for one in self.shares if (one.gain or 0) < 0), key=lambda one: one.gain or 0)

    @property
    def judged(self) -> int:
        """Count those whose gain is defined."""
        return sum(one.gain is not None for one in self.shares)

    def shown(self, share: Share) -> float | None:
        """Give what the chart shows of a municipality: its gain, or its figure where nothing was compared."""
        return share.gain if self.compared else share.together


def benefit(result: Result) -> Benefit | None:
    """Compare the main arm with learning alone; None where the result holds no exact figures of municipalities.

    AUC is compared, unless log loss is defined for twice as many: it needs no citizen of each class.
    """
    if result.main_arm is None or result.main_arm not in result.arms:
        return None
    compared, main = "local" in result.arms, result.arms[result.main_arm]
    by_auc, by_loss = _shares(result, main, "auc"), _shares(result, main, "log_loss")
    if not by_auc:
        return None
    measure: Measure = "log_loss" if _defined(by_loss, compared) > 2 * _defined(by_auc, compared) else "auc"
    shares = by_auc if measure == "auc" else by_loss
    return Benefit(measure=measure, compared=compared, shares=shares, bands=tuple(_bands(shares, compared)))


def _shares(result: Result, main: Arm, measure: Measure) -> tuple[Share, ...]:
    together = getattr(main, measure).by_site
    alone = getattr(result.arms["local"], measure).by_site if "local" in result.arms else {}
    sign = -1.0 if measure == "log_loss" else 1.0
    shares = []
    for key, site in sorted(result.sites.items(), key=lambda item: (item[1].name, item[0])):
        if site.declared_size is None or site.training_citizens is None or site.held_out_citizens is None:
            continue  # only a simulation counts citizens
        before, after = alone.get(key), together.get(key)
        shares.append(
            Share(
                name=site.name,
                declared_size=site.declared_size,
                training_citizens=site.training_citizens,
                held_out_citizens=site.held_out_citizens,
                alone=before,
                together=after,
                gain=None if before is None or after is None else sign * (after - before),
            )
        )
    return tuple(shares)


def _defined(shares: Sequence[Share], compared: bool) -> int:
    return sum((one.gain if compared else one.together) is not None for one in shares)


def _bands(shares: Sequence[Share], compared: bool) -> list[Band]:
    largest = max(one.training_citizens for one in shares)
    edges = [0, *size_edges(100, largest), math.inf]
    bands = []
    for low, high in itertools.pairwise(edges):
        inside = [one for one in shares if low <= one.training_citizens < high]
        if inside:
            bands.append(_band(_label(low, high), inside, compared))
    return bands


def _label(low: float, high: float) -> str:
    if math.isinf(high):
        return f"{low:,}+"
    return f"{low:,}–{int(high) - 1:,}" if low else f"under {int(high):,}"


def _band(label: str, inside: Sequence[Share], compared: bool) -> Band:
    judged = [one for one in inside if (one.gain if compared else one.together) is not None]

    def mean(values: Sequence[float | None]) -> float | None:
        return fmean(value for value in values if value is not None) if judged and None not in values else None

    shown = [one.gain if compared else one.together for one in judged]
    return Band(
        label=label,
        sites=len(inside),
        undefined=len(inside) - len(judged),
        alone=mean([one.alone for one in judged]),
        together=mean([one.together for one in judged]),
        gain=mean([one.gain for one in judged]),
        median=median(value for value in shown if value is not None) if judged else None,
        middle=median(one.training_citizens for one in judged or inside),
    )
