"""Draw a live federation over its rounds: how many municipalities contributed, and how long each round took."""

import math
from collections.abc import Sequence

from server.charts import BOTTOM, LEFT, MANY_POINTS, RIGHT, TOP, Axis, Chart, Dot, Point, Stroke, Tick
from server.figures import Figure
from server.formats import fixed, seconds
from server.participation import LOST, Noun, replies_lost
from server.result import RoundRecord, RunRecord

WIDTH, HEIGHT = 480.0, 250.0
MOST_GRIDLINES = 6
SECONDS_UP_TO = 300  # from here on, minutes are easier to read


def timeline(run: RunRecord, noun: Noun) -> tuple[Figure, ...]:
    """Draw contributions and time by round; nothing where no round is recorded."""
    return (_contributions(run, noun), _times(run)) if run.rounds else ()


def _contributions(run: RunRecord, noun: Noun) -> Figure:
    points = [Point(x=one.number, y=len(one.contributing), title=_told(one)) for one in run.rounds]
    everyone, needed = len(run.expected), run.needed
    levels = [(float(needed), "quorum")] if needed == everyone else [(everyone, "expected"), (needed, "quorum")]
    words = {"expected": f"{everyone} expected", "quorum": f"quorum {needed}"}
    title = f"Contributing {noun.en[1]} by round"
    chart = _chart(points, levels, y_label=noun.en[1], about=f"{title}, with the quorum of {needed}", whole=True)
    legend = [("main", "contributed"), *((style, words[style]) for _, style in levels)]
    return Figure(title=title, chart=chart, legend=tuple(legend))


def _told(one: RoundRecord) -> str:
    lost = [f"{count} {kind}" for kind in LOST if (count := replies_lost(one, kind))]
    return f"Round {one.number}: {', '.join([f'{len(one.contributing)} contributed', *lost])}"


def _times(run: RunRecord) -> Figure:
    longest = max(one.seconds for one in run.rounds)
    unit, length = ("seconds", 1.0) if longest < SECONDS_UP_TO else ("minutes", 60.0)
    points = [
        Point(x=one.number, y=one.seconds / length, title=f"Round {one.number}: {seconds(one.seconds)}")
        for one in run.rounds
    ]
    mean = sum(one.seconds for one in run.rounds) / len(run.rounds)
    chart = _chart(points, [], y_label=unit, about=f"Time by round, in {unit}", whole=False)
    return Figure(title="Time by round", chart=chart, legend=(("main", f"{seconds(mean)} on average"),))


def _chart(
    points: Sequence[Point], levels: Sequence[tuple[float, str]], *, y_label: str, about: str, whole: bool
) -> Chart:
    """Lay out a line over rounds that starts at zero, with every level line in sight."""
    heights = [point.y or 0.0 for point in points]
    y_axis, y_ticks = _from_zero(max([*heights, *(level for level, _ in levels)]), whole)
    first, last = min(point.x for point in points), max(point.x for point in points)
    # A single round stands in the middle.
    beside = 0.5 if first == last else 0.0
    x_axis = Axis(low=first - beside, high=last + beside, start=LEFT, end=WIDTH - RIGHT)
    every = _step((last - first) or 1, whole=True)
    numbers = [number for number in range(math.floor(first), math.floor(last) + 1) if number % every == 0]
    places = [(x_axis.place(one.x), y_axis.place(y), one.title) for one, y in zip(points, heights, strict=True)]
    strokes = [Stroke(path=f"M{LEFT} {y_axis.place(level)}H{WIDTH - RIGHT}", style=style) for level, style in levels]
    strokes.append(Stroke(path="M" + "L".join(f"{x} {y}" for x, y, _ in places), style="main"))
    return Chart(
        about=about,
        x_label="round",
        y_label=y_label,
        width=WIDTH,
        height=HEIGHT,
        x_ticks=tuple(Tick(at=x_axis.place(number), label=str(number)) for number in numbers),
        y_ticks=y_ticks,
        strokes=tuple(strokes),
        dots=tuple(
            Dot(x=x, y=y, title=title, style="main")
            for x, y, title in (places if len(places) <= MANY_POINTS else places[-1:])
        ),
    )


def _from_zero(high: float, whole: bool) -> tuple[Axis, tuple[Tick, ...]]:
    """Choose an axis from zero whose gridlines are round figures."""
    step = _step(high or 1.0, whole)
    count = max(1, math.ceil(high / step - 1e-9))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    axis = Axis(low=0, high=count * step, start=HEIGHT - BOTTOM, end=TOP)
    ticks = (Tick(at=axis.place(number * step), label=fixed(number * step, decimals)) for number in range(count + 1))
    return axis, tuple(ticks)


def _step(reach: float, whole: bool) -> float:
    """Choose the round figure between two gridlines."""
    magnitude = 10.0 ** math.floor(math.log10(reach / MOST_GRIDLINES))
    step = next(step * magnitude for step in (1, 2, 5, 10) if reach / (step * magnitude) <= MOST_GRIDLINES)
    return max(1.0, step) if whole else step
