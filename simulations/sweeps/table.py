"""Write the groups of a sweep as a table: CSV for programs, Markdown for people."""

import csv
import io
import math
from collections.abc import Sequence

from server.formats import ABSENT, epsilon, fixed
from simulations.sweeps.groups import MEASURED, SEED, Group, Job, Spread, describe

ABOUT = (
    "Means over the seeds ± half of their 95 % Student-t interval, of each job's main arm; exact on held-out citizens, "
    "not releasable."
)


def table_csv(groups: Sequence[Group]) -> str:
    """Write the groups for programs; what is not defined is empty, and no privacy is an epsilon of inf."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    bounds = [f"{name}_{part}" for name, _, _ in MEASURED for part in ("mean", "low", "high")]
    writer.writerow([*(groups[0].settings if groups else ()), "seeds", "left_out", *bounds, "epsilon", "seconds_mean"])
    for group in groups:
        counts = (len(group.done), len(group.jobs) - len(group.done))
        figures = [cell for _, _, of in MEASURED for cell in _bounds(group.spread(of))]
        writer.writerow([*group.settings.values(), *counts, *figures, _plain(group.epsilon), _plain(group.seconds)])
    return text.getvalue()


def table_md(groups: Sequence[Group], command: str) -> str:
    """Write the groups for people, with the jobs that are not in the table under it."""
    lines = ["# Sweep", "", f"`{command}`", "", ABOUT, "", *table_rows(groups), "", *left_out(groups)]
    return "\n".join(lines) + "\n"


def table_rows(groups: Sequence[Group]) -> list[str]:
    """Write the lines of the table, its columns under each other."""
    names = tuple(groups[0].settings) if groups else ()
    head = [*map(_cell, names), "seeds", *(heading for _, heading, _ in MEASURED), "ε spent", "seconds"]
    rows = [head, *(_row(group) for group in groups)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width if place < len(names) else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    first, *others = (_line(row, widths, len(names)) for row in rows)
    return [first, f"| {' | '.join(rule)} |", *others]


def left_out(groups: Sequence[Group]) -> list[str]:
    """Count the jobs whose figures are in no mean, and say of each why."""
    total = sum(len(group.jobs) for group in groups)
    missing = [(group, job) for group in groups for job in group.jobs if job.figures is None]
    if not missing:
        return [f"All {total} jobs completed."]
    lines = [
        f"- {describe(group.settings | _seed(job))} (folder {job.folder}): {' '.join(job.why.split())}"
        for group, job in missing
    ]
    return [f"{len(missing)} of {total} jobs did not complete, and no mean holds them:", "", *lines]


def _seed(job: Job) -> dict[str, str]:
    return {SEED: job.settings[SEED]} if SEED in job.settings else {}


def _row(group: Group) -> list[str]:
    done = group.done
    figures = [_around(group.spread(of), len(done)) for _, _, of in MEASURED]
    spent = ABSENT if group.epsilon is None else epsilon(group.epsilon)
    return [*map(_cell, group.settings.values()), f"{len(done)}", *figures, spent, fixed(group.seconds, 1)]


def _line(row: Sequence[str], widths: Sequence[int], words: int) -> str:
    cells = (
        cell.ljust(width) if place < words else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return f"| {' | '.join(cells)} |"


def _around(spread: Spread | None, seeds: int) -> str:
    if spread is None:
        return ABSENT
    half = "" if spread.half is None else f" ± {fixed(spread.half)}"
    return f"{fixed(spread.mean)}{half}" + (f" ({spread.count} of {seeds})" if spread.count < seeds else "")


def _bounds(spread: Spread | None) -> tuple[str, str, str]:
    if spread is None:
        return ("", "", "")
    if spread.half is None:
        return (_plain(spread.mean), "", "")
    return (_plain(spread.mean), _plain(spread.mean - spread.half), _plain(spread.mean + spread.half))


def _plain(value: float | None) -> str:
    """Write a figure for programs, to six decimals: beyond them results of different machines differ."""
    return "" if value is None else "inf" if math.isinf(value) else f"{value:.6f}"


def _cell(text: str) -> str:
    """Keep a setting within its cell."""
    return " ".join(text.split()).replace("|", "\\|")
