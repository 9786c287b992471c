"""Find places in the picture of a sweep: the axis of epsilon, labels that do not cover each other, the legend."""

import itertools
import math
from collections.abc import Sequence

from server.charts import Axis, Tick
from server.formats import significant

ROW, KEY, LETTER, GAP = 24.0, 40.0, 7.5, 22.0  # of the legend: a row, a sample, a letter, between two entries
ROOM = 18.0  # between two labels under each other
APART = 44.0  # between two labels side by side
FEW = 4  # decades, up to which each has three gridlines
NARROWEST = 6.5  # from end to end; a logarithmic axis that is narrower might show a single figure


def epsilon_axis(spent: Sequence[float], start: float, end: float) -> Axis | None:
    """Choose the axis that shows what was spent; None where no job was private."""
    if not spent:
        return None
    low, high = min(spent) / 1.25, max(spent) * 1.25
    wider = max(1.0, math.sqrt(NARROWEST / (high / low)))
    return Axis(low=low / wider, high=high * wider, start=start, end=end, logarithmic=True)


def epsilon_ticks(axis: Axis, spent: Sequence[float]) -> tuple[Tick, ...]:
    """Choose gridlines: at what was spent, rounded, where that is three figures or more; else at 1, 2, 5, 10, ..."""
    at_values = _ticks(axis, sorted({float(f"{value:.2g}") for value in spent}))
    gaps = [after.at - before.at for before, after in itertools.pairwise(at_values)]
    if len(gaps) > 1 and min(gaps) >= APART:
        return at_values
    decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    steps = (1, 2, 5) if len(decades) <= FEW else (1,)
    return _ticks(axis, [float(f"{step}e{decade}") for decade in decades for step in steps])


def _ticks(axis: Axis, values: Sequence[float]) -> tuple[Tick, ...]:
    return tuple(Tick(at=axis.place(v), label=significant(v)) for v in values if axis.low <= v <= axis.high)


def apart(places: Sequence[float], top: float, bottom: float) -> list[float]:
    """Move labels apart where they would cover each other, as little as that takes.

    >>> apart([100.0, 101.0, 300.0], 0.0, 400.0)
    [91.5, 109.5, 300.0]
    """
    rows: list[list[int]] = []  # labels that touch
    for number in sorted(range(len(places)), key=lambda number: places[number]):
        rows.append([number])
        while len(rows) > 1 and _first(rows[-2], places, top, bottom) + ROOM * len(rows[-2]) > _first(
            rows[-1], places, top, bottom
        ):
            rows[-2:] = [rows[-2] + rows[-1]]
    found = {
        number: round(_first(row, places, top, bottom) + ROOM * step, 1)
        for row in rows
        for step, number in enumerate(row)
    }
    return [found[number] for number in range(len(places))]


def _first(row: Sequence[int], places: Sequence[float], top: float, bottom: float) -> float:
    """Place the first label of a row that lies around the middle of its places, and between top and bottom."""
    length = ROOM * (len(row) - 1)
    middle = sum(places[number] for number in row) / len(row)
    return max(top, min(bottom, middle + length / 2) - length)


def legend(names: Sequence[str], left: float, width: float) -> list[tuple[float, float]]:
    """Place the legend's entries side by side, in as many rows as they need."""
    found, x, y = [], left, 0.0
    for name in names:
        if x > left and x + key_width(name) > width - GAP:
            x, y = left, y + ROW
        found.append((round(x, 1), y))
        x += key_width(name) + GAP
    return found


def key_width(name: str) -> float:
    """Say how wide an entry of the legend is, about."""
    return KEY + LETTER * len(name)
