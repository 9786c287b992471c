"""Lay charts out: values to places in an SVG drawing. The template draws what stands here, and decides nothing.

Places are in the units of the drawing's viewBox, rounded to a tenth, so that equal results give equal bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from server.formats import fixed

TOP, RIGHT, BOTTOM, LEFT = 30.0, 16.0, 46.0, 62.0  # margins around the plot
EDGES = (1, 3)  # gridlines of a logarithmic axis, in each decade
LETTER = 8.0  # about as wide as a letter of a label is
MANY_POINTS = 60  # from here on a line's dots would hide the line


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Place a gridline and its label."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """Place a point; `title` is what a reader sees on pointing at it, `label` what stands beside it."""

    x: float
    y: float
    title: str
    style: str
    label: str = ""
    label_x: float = 0.0
    label_y: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """Place a line; a gap in the values is a gap in the line."""

    path: str
    style: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Hold a drawing; `about` says in a sentence what it shows, for those who do not see it."""

    about: str
    x_label: str
    y_label: str
    width: float
    height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    strokes: tuple[Stroke, ...]
    dots: tuple[Dot, ...]

    @property
    def left(self) -> float:
        """Give the plot's left edge."""
        return LEFT

    @property
    def right(self) -> float:
        """Give the plot's right edge."""
        return self.width - RIGHT

    @property
    def top(self) -> float:
        """Give the plot's upper edge."""
        return TOP

    @property
    def bottom(self) -> float:
        """Give the plot's lower edge."""
        return self.height - BOTTOM


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Map values in [low, high] to places in [start, end]."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Map one value."""
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return round(self.start + (self.end - self.start) * (at - low) / (high - low), 1)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Hold one value to draw."""

    x: float
    y: float | None
    title: str = ""
    style: str = "main"
    label: str = ""


def curve_chart(
    points: Sequence[Point], levels: Sequence[tuple[float, str]], *, y_label: str, about: str
) -> Chart | None:
    """Lay out a line over rounds, with level lines to compare with.

    Args:
        points: In order of their rounds; at least one y is defined, or there is no chart.
        levels: Heights and styles of level lines; those far away are left out, for they would flatten the line.
        y_label: What is measured.
        about: For those who do not see it.
    """
    heights = [point.y for point in points if point.y is not None]
    if not heights:
        return None
    reach = max(max(heights) - min(heights), 0.02)
    near = [level for level in levels if min(heights) - 2 * reach <= level[0] <= max(heights) + 2 * reach]
    width, height = 480.0, 290.0
    rounds = [point.x for point in points]
    x_axis, x_ticks = linear_axis(min(rounds), max(rounds), LEFT, width - RIGHT, whole=True)
    every = heights + [level for level, _ in near]
    y_axis, y_ticks = linear_axis(min(every), max(every), height - BOTTOM, TOP)
    strokes = [Stroke(path=f"M{LEFT} {y_axis.place(level)}H{width - RIGHT}", style=style) for level, style in near]
    strokes.append(Stroke(path=_path(points, x_axis, y_axis), style="main"))
    shown = points if len(points) <= MANY_POINTS else [points[-1]]
    return Chart(
        about=about,
        x_label="round",
        y_label=y_label,
        width=width,
        height=height,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        strokes=tuple(strokes),
        dots=_dots(shown, x_axis, y_axis),
    )


def size_chart(
    points: Sequence[Point], middle: Sequence[Point], *, zero: bool, x_label: str, y_label: str, about: str
) -> Chart | None:
    """Lay out dots over a logarithmic size.

    Args:
        points: x is at least 1; at least one y is defined, or there is no chart.
        middle: A line through them.
        zero: Whether y is a difference, so that zero is shown and marked.
        x_label: What x is.
        y_label: What y is.
        about: For those who do not see it.
    """
    defined = [point for point in points if point.y is not None]
    if not defined:
        return None
    width, height = 640.0, 420.0
    sizes = [point.x for point in defined]
    heights = [point.y for point in defined if point.y is not None] + ([0.0] if zero else [])
    x_axis = Axis(low=min(sizes) / 1.3, high=max(sizes) * 1.3, start=LEFT, end=width - RIGHT, logarithmic=True)
    if len(set(sizes)) == 1:
        x_axis = Axis(low=min(sizes) / 3, high=max(sizes) * 3, start=LEFT, end=width - RIGHT, logarithmic=True)
    y_axis, y_ticks = linear_axis(min(heights), max(heights), height - BOTTOM, TOP)
    strokes = [Stroke(path=f"M{LEFT} {y_axis.place(0)}H{width - RIGHT}", style="zero")] if zero else []
    if len(middle) > 1:
        strokes.append(Stroke(path=_path(middle, x_axis, y_axis), style="middle"))
    return Chart(
        about=about,
        x_label=x_label,
        y_label=y_label,
        width=width,
        height=height,
        x_ticks=tuple(Tick(at=x_axis.place(edge), label=f"{edge:,}") for edge in size_edges(x_axis.low, x_axis.high)),
        y_ticks=y_ticks,
        strokes=tuple(strokes),
        dots=_dots(defined, x_axis, y_axis),
    )


def size_edges(low: float, high: float) -> list[int]:
    """List the half decades within [low, high]: 1, 3, 10, 30, 100, ...

    >>> size_edges(20, 5000)
    [30, 100, 300, 1000, 3000]
    """
    edges = [edge * 10**decade for decade in range(12) for edge in EDGES]
    return [edge for edge in edges if low <= edge <= high]


def linear_axis(
    low: float, high: float, start: float, end: float, *, whole: bool = False
) -> tuple[Axis, tuple[Tick, ...]]:
    """Choose an axis whose ends are round figures, with four to eight gridlines."""
    if high - low < 1e-9:
        low, high = (low - 1, high + 1) if whole else (low - 0.01, high + 0.01)
    magnitude = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(step * magnitude for step in (1, 2, 5, 10) if (high - low) / (step * magnitude) <= 6)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if whole:  # the line fills the width: only gridlines are round
        axis = Axis(low=low, high=high, start=start, end=end)
        numbers = [number for number in range(first, last + 1) if low <= number * step <= high]
    else:
        axis = Axis(low=first * step, high=last * step, start=start, end=end)
        numbers = list(range(first, last + 1))
    return axis, tuple(Tick(at=axis.place(number * step), label=fixed(number * step, decimals)) for number in numbers)


def _path(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    steps, pen = [], "M"
    for point in points:
        if point.y is None:
            pen = "M"
            continue
        steps.append(f"{pen}{x_axis.place(point.x)} {y_axis.place(point.y)}")
        pen = "L"
    return "".join(steps)


def _dots(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> tuple[Dot, ...]:
    places = [(x_axis.place(one.x), y_axis.place(one.y), one) for one in points if one.y is not None]
    found = []
    for x, y, one in places:
        sides = ((x + 9, y, "start"), (x - 9, y, "end"), (x, y - 13, "middle"), (x, y + 13, "middle"))
        label_x, label_y, anchor = min(sides, key=lambda side: _crowd(side, one.label, places, x_axis))
        found.append(
            Dot(
                x=x,
                y=y,
                title=one.title,
                style=one.style,
                label=one.label,
                label_x=round(label_x, 1),
                label_y=round(label_y, 1),
                anchor=anchor,
            )
        )
    return tuple(found)


def _crowd(
    side: tuple[float, float, str], label: str, places: Sequence[tuple[float, float, Point]], x_axis: Axis
) -> int:
    """Count the dots that a label would cover; one that leaves the drawing covers them all."""
    if not label:
        return 0
    width = LETTER * len(label)
    left = side[0] - {"start": 0.0, "middle": width / 2, "end": width}[side[2]]
    if left < x_axis.start or left + width > x_axis.end + RIGHT:
        return len(places) + 1
    return sum(left - 5 < x < left + width + 5 and abs(y - side[1]) < 12 for x, y, _ in places)
