"""Arrange what a report draws: the model by round, and who benefits by size."""

from dataclasses import dataclass

from server import tables
from server.benefit import Benefit, Share
from server.charts import Chart, Point, curve_chart, size_chart
from server.formats import fixed, signed
from server.participation import Noun
from server.result import Result
from server.tables import ARMS, MEASURES, ArmName, Table

LEVELS: tuple[ArmName, ...] = ("local", "pooled")  # what a curve is compared with
LISTED = 10  # of those that gain most
LISTED_LOSERS = 20
FEW = 30  # held-out citizens: below, a figure of one site is mostly chance
NAMED_DOTS = 6  # up to here every dot of a chart has its name beside it


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Hold a chart with its title and legend; a legend's entry is a style and a text."""

    title: str
    chart: Chart
    legend: tuple[tuple[str, str], ...]
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Hold who benefits."""

    compared: bool
    figure: Figure | None
    summary: tuple[str, ...]
    bands: Table
    winners: Table | None
    losers: Table | None
    unlisted: int  # losers beyond those listed
    everyone: Table


def curves(result: Result) -> list[Figure]:
    """Draw AUC and log loss by round; a curve without a value is left out."""
    return [
        figure
        for measure, title in (("auc", "AUC by round"), ("log_loss", "Log loss by round"))
        if (figure := _curve(result, measure, title)) is not None
    ]


def _curve(result: Result, measure: str, title: str) -> Figure | None:
    label = MEASURES[measure]
    values = [(one.round, getattr(one, measure)) for one in sorted(result.curve, key=lambda one: one.round)]
    points = [Point(x=number, y=y, title=f"Round {number}: {label} {fixed(y)}") for number, y in values]
    levels = [
        (value, arm)
        for arm in LEVELS
        if arm in result.arms and (value := getattr(result.arms[arm], measure).pooled) is not None
    ]
    about = f"{title}, {result.curve_label}"
    chart = curve_chart(points, levels, y_label=label, about=about)
    if chart is None:
        return None
    drawn = {stroke.style for stroke in chart.strokes}
    last = next(point for point in reversed(points) if point.y is not None)
    arm_name = ARMS[result.main_arm or "federated"][0]
    legend = [("main", f"{arm_name} {fixed(last.y)} after round {last.x:g}")]
    legend += [
        (arm, f"{ARMS[arm][0]} {fixed(value)}" + ("" if arm in drawn else " (off the chart)")) for value, arm in levels
    ]
    return Figure(title=title, chart=chart, legend=tuple(legend))


def sizes(found: Benefit, noun: Noun) -> Sizes:
    """Arrange who benefits: a chart, the means of each size, and who gains and loses most."""
    winners, losers = found.best[:LISTED], found.worst[:LISTED_LOSERS]
    return Sizes(
        compared=found.compared,
        figure=_size_figure(found, noun),
        summary=tuple(_summary(found)),
        bands=tables.bands_table(found, noun),
        winners=tables.shares_table(found, winners, noun, short=True) if winners else None,
        losers=tables.shares_table(found, losers, noun, short=True) if losers else None,
        unlisted=len(found.worst) - len(losers),
        everyone=tables.shares_table(found, found.shares, noun),
    )


def _summary(found: Benefit) -> list[str]:
    lines = []
    if found.compared:
        lines.append(f"{len(found.best)} of {found.judged} gain, {len(found.worst)} lose.")
    hidden = len(found.shares) - sum(found.shown(one) is not None for one in found.shares)
    if hidden:
        what = MEASURES[found.measure]
        lines.append(f"Not shown: {hidden}, whose {what} is not defined (too few held-out citizens).")
    return lines


def _size_figure(found: Benefit, noun: Noun) -> Figure | None:
    label, one = MEASURES[found.measure], noun.en[0]
    shown = [share for share in found.shares if found.shown(share) is not None]
    named = _named(found, shown)
    points = [
        Point(
            x=max(1, share.training_citizens),
            y=found.shown(share),
            title=_dot_title(found, share),
            style=("lose" if (share.gain or 0) < 0 else "gain") + (" few" if share.held_out_citizens < FEW else ""),
            label=share.name if share.name in named else "",
        )
        for share in shown
    ]
    bands = found.bands if len(shown) > NAMED_DOTS else ()
    middle = [Point(x=max(1, band.middle), y=band.median) for band in bands if band.median is not None]
    what = f"{label} gain over learning alone" if found.compared else f"{label}, federated"
    if found.compared and found.measure == "log_loss":
        what = "Log loss saved over learning alone"
    chart = size_chart(
        points,
        middle,
        zero=found.compared,
        x_label="training citizens (logarithmic)",
        y_label=what,
        about=f"{what} of each {one}, by its number of training citizens",
    )
    if chart is None:
        return None
    drawn = {style for dot in chart.dots for style in dot.style.split()}
    words = {"gain": f"a {one}" + " that gains" * found.compared, "lose": f"a {one} that loses"}
    words["few"] = f"fewer than {FEW} held-out citizens"
    legend = [(style, text) for style, text in words.items() if style in drawn]
    if len(middle) > 1:
        legend.append(("middle", "median of its size"))
    return Figure(title=f"{what}, by size", chart=chart, legend=tuple(legend), wide=True)


def _named(found: Benefit, shown: list[Share]) -> set[str]:
    """Choose whose names stand in the chart: the largest gain and loss, and the largest of all."""
    if len(shown) <= NAMED_DOTS:
        return {share.name for share in shown}
    largest = max(shown, key=lambda share: share.training_citizens)
    return {share.name for share in (*found.best[:1], *found.worst[:1], largest)}


def _dot_title(found: Benefit, share: Share) -> str:
    label = MEASURES[found.measure]
    figures = f"{label} {fixed(share.together)} federated"
    if found.compared:
        figures = f"{label} {fixed(share.alone)} alone, {fixed(share.together)} federated, gain {signed(share.gain)}"
    sizes = f"{share.training_citizens:,} training and {share.held_out_citizens:,} held-out citizens"
    return f"{share.name}: {figures}; {sizes}"
