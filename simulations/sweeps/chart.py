"""Lay out the picture of a sweep, utility against epsilon; the template draws what stands here, and decides nothing.

Places are in the units of the viewBox, rounded to a tenth, so that equal results give equal bytes.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from server.charts import Axis, Tick, linear_axis
from server.formats import epsilon, fixed
from simulations.sweeps.groups import MEASURED, Figures, Group, Spread
from simulations.sweeps.places import KEY, ROW, apart, epsilon_axis, epsilon_ticks, key_width, legend

EPSILON = "privacy.epsilon"
WIDTH, PLOT = 720.0, 400.0  # of the drawing at least, and the plot's height
TOP, LEFT, RIGHT, BESIDE = 16.0, 84.0, 24.0, 84.0  # margins; the last where labels stand beside the plot
ASIDE = 44.0  # at the plot's right end, for the intervals of lines without privacy
AXIS = 62.0  # room under the plot for ticks and title
DODGE, WIDEST = 7.0, 28.0  # between lines at one epsilon, and for all of them
UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML has no way to write them

# Okabe and Ito's colours, told apart also by those who do not see red or green; without their yellow, for the page
# is white. A marker's shape tells lines apart in black and white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
MARKERS = (
    "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z",
    "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "M0 -5.5L5.5 4.5H-5.5Z",
    "M0 -6L6 0L0 6L-6 0Z",
    "M0 5.5L5.5 -4.5H-5.5Z",
    "M-2 -5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z",
    "M-5.5 -4.5L0 -2L5.5 -4.5L3 0L5.5 4.5L0 2L-5.5 4.5L-3 0Z",
    "M0 -5.5L5.5 -1.5L3.5 4.8H-3.5L-5.5 -1.5Z",
)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Place a group's mean and its interval; `title` is what a reader sees on pointing at it."""

    x: float
    y: float
    bar: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Level:
    """Place a line without privacy, and the label beside its end."""

    mark: Mark
    label_y: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """Place all groups that differ in epsilon only, and their entry in the legend."""

    name: str
    colour: str
    marker: str
    path: str
    marks: tuple[Mark, ...]
    levels: tuple[Level, ...]
    key_x: float
    key_y: float


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Hold the drawing; `about` says in a sentence what it shows, `empty` why there is nothing to draw."""

    about: str
    empty: str
    width: float
    height: float
    right: float
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    left: float = LEFT
    top: float = TOP
    bottom: float = TOP + PLOT
    key: float = KEY


@dataclass(frozen=True, kw_only=True)
class _Point:
    epsilon: float
    spread: Spread


def draw(groups: Sequence[Group]) -> str:
    """Draw the picture of a sweep as an SVG file of its own; every text is escaped."""
    return _template().render(picture=picture(groups))


def picture(groups: Sequence[Group]) -> Picture:
    """Lay out AUC against epsilon; accuracy where no group has an AUC."""
    name, lines = _measured(groups)
    points = [point for found in lines.values() for point in found]
    spent = [point.epsilon for point in points if math.isfinite(point.epsilon)]
    levels = len(spent) < len(points)
    width = max(WIDTH, LEFT + RIGHT + max(map(key_width, lines), default=0))
    right = width - (BESIDE if levels else RIGHT)
    keys = legend(tuple(lines), LEFT, width)
    x_axis = epsilon_axis(spent, LEFT, right - (ASIDE if levels else 0))
    y_axis, y_ticks = _utility_axis(points)
    return Picture(
        about=f"{name} against epsilon, {len(points)} points in {len(lines)} lines; dashed where without privacy",
        empty="" if points else "no job completed with a figure to draw",
        width=width,
        height=TOP + PLOT + AXIS + ROW + max((y for _, y in keys), default=0),
        right=right,
        x_label="ε spent (logarithmic)" if x_axis else "every job ran without privacy (ε = ∞)",
        y_label=f"{name}, mean and 95 % interval" if any(one.spread.half is not None for one in points) else name,
        x_ticks=epsilon_ticks(x_axis, spent) if x_axis else (),
        y_ticks=y_ticks,
        lines=_lines(lines, x_axis, y_axis, right, keys),
    )


def _measured(groups: Sequence[Group]) -> tuple[str, dict[str, list[_Point]]]:
    """Choose the figure to draw, and gather its points: a line for each combination of settings but epsilon."""
    shown = {key: (heading, of) for key, heading, of in MEASURED}
    heading, of = shown["auc"]
    if all(group.spread(of) is None for group in groups):
        heading, of = shown["accuracy"]
    lines: dict[str, list[_Point]] = {}
    for group in groups:
        point = _point(group, of)
        if point is not None:
            lines.setdefault(_name(group), []).append(point)
    return heading, {name: sorted(points, key=lambda one: one.epsilon) for name, points in lines.items()}


def _point(group: Group, of: Callable[[Figures], float | None]) -> _Point | None:
    spread, spent = group.spread(of), group.epsilon
    return None if spread is None or spent is None else _Point(epsilon=spent, spread=spread)


def _name(group: Group) -> str:
    """Name a line by what varies besides epsilon; a strategy's name speaks for itself."""
    others = {name: value for name, value in group.settings.items() if name != EPSILON}
    words = [value if name == "strategy" else f"{name}={value}" for name, value in others.items()]
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", ", ".join(words)) or "mean over the seeds"


def _utility_axis(points: Sequence[_Point]) -> tuple[Axis, tuple[Tick, ...]]:
    ends = [end for one in points for end in _ends(one.spread)] or [0.0, 1.0]
    return linear_axis(min(ends), max(ends), TOP + PLOT, TOP)


def _ends(spread: Spread) -> tuple[float, float]:
    """Give an interval's ends within what AUC and accuracy can be: that of few seeds may reach beyond."""
    half = spread.half or 0.0
    return max(0.0, spread.mean - half), min(1.0, spread.mean + half)


def _lines(
    lines: dict[str, list[_Point]],
    x_axis: Axis | None,
    y_axis: Axis,
    right: float,
    keys: Sequence[tuple[float, float]],
) -> tuple[Line, ...]:
    levels = [one for found in lines.values() for one in found if math.isinf(one.epsilon)]
    label_ys = iter(apart([y_axis.place(one.spread.mean) for one in levels], TOP, TOP + PLOT))
    found = []
    for place, (name, points) in enumerate(lines.items()):
        aside = (place - (len(lines) - 1) / 2) * min(DODGE, WIDEST / len(lines))
        marks = tuple(
            _mark(name, one, x_axis.place(one.epsilon) + aside, y_axis)
            for one in points
            if x_axis is not None and math.isfinite(one.epsilon)
        )
        ends = [_mark(name, one, right - ASIDE / 2 + aside, y_axis) for one in points if math.isinf(one.epsilon)]
        found.append(
            Line(
                name=name,
                colour=COLOURS[place % len(COLOURS)],
                marker=MARKERS[place % len(MARKERS)],
                path="L".join(f"{mark.x} {mark.y}" for mark in marks),
                marks=marks,
                levels=tuple(Level(mark=mark, label_y=next(label_ys)) for mark in ends),
                key_x=keys[place][0],
                key_y=round(TOP + PLOT + AXIS + keys[place][1], 1),
            )
        )
    return tuple(found)


def _mark(name: str, point: _Point, x: float, y_axis: Axis) -> Mark:
    x, spread = round(x, 1), point.spread
    bar, around = "", ""
    if spread.half is not None:
        low, high = (y_axis.place(end) for end in _ends(spread))
        bar = f"M{x} {low}V{high}M{round(x - 3, 1)} {low}h6M{round(x - 3, 1)} {high}h6"
        around = f" ± {fixed(spread.half)}"
    title = f"{name}, ε = {epsilon(point.epsilon)}: {fixed(spread.mean)}{around} over {spread.count} seeds"
    return Mark(x=x, y=y_axis.place(spread.mean), bar=bar, title=title)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("simulations.sweeps"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("sweep.svg.j2")
