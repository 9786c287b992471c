"""Say what a table of measurements shows: how many times as fast, what privacy costs, and how seconds grow."""

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from simulations.speed.one import Found
from simulations.speed.workload import HUNDRED, LARGE, SMALL, TEN_THOUSAND, THOUSAND, Workload

Results = Mapping[tuple[str, Workload], Found]
GROWTH = (HUNDRED, THOUSAND, TEN_THOUSAND)  # the same rows in each municipality


def claims(results: Results, studies: Mapping[str, float]) -> list[str]:
    """Write a line for each thing that the project claims, from what was measured; nothing where it was not.

    Args:
        results: Engine and workload to what was found.
        studies: Engine to the seconds of a whole study on 98 small.
    """
    plain = replace(SMALL, private=False)
    ours = ("cohort", SMALL)
    lines = [
        _ratio(results, "as fast as Flower's simulation as its example has it", ("flower-documented", SMALL), ours),
        _ratio(results, "as fast as Flower's simulation tuned by us", ("flower", SMALL), ours),
        _ratio(results, "as fast as pfl, which does less", ("pfl", SMALL), ours),
        _ratio(results, "as fast as the reference", ("reference", SMALL), ours),
        _ratio(
            results, "as fast as plain PyTorch without privacy, as tutorials have it", ("plain-documented", plain), ours
        ),
        _ratio(results, "as fast as plain PyTorch without privacy, tuned by us", ("plain", plain), ours),
        _ratio(results, "what privacy costs, 98 small", ours, ("cohort", plain)),
        _ratio(results, "what privacy costs, 98 large", ("cohort", LARGE), ("cohort", replace(LARGE, private=False))),
        _ratio(results, "the floor of matrix products, 98 small", ours, ("floor", SMALL)),
        _ratio(results, "the floor of matrix products, 98 large", ("cohort", LARGE), ("floor", LARGE)),
    ]
    mine = studies.get("cohort", math.nan)
    for engine, seconds in studies.items():
        if engine != "cohort":
            times = f"{seconds / mine:.1f} times ({seconds:.1f} s and {mine:.1f} s)"
            lines.append(f"- a whole study of 20 rounds, as fast as {engine}: {times}")
    return [line for line in [*lines, *_growth(results)] if line]


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Fit seconds = a size^b by least squares of the logarithms; return b."""
    x, y = [math.log(one) for one in sizes], [math.log(one) for one in seconds]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    return sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / sum((a - x_mean) ** 2 for a in x)


def _ratio(results: Results, what: str, above: tuple[str, Workload], below: tuple[str, Workload]) -> str:
    if above not in results or below not in results:
        return ""
    over, under = (median(results[key].rounds_s) for key in (above, below))
    return f"- {what}: {over / under:.2f} times ({over:.4f} s and {under:.4f} s)"


def _growth(results: Results) -> list[str]:
    lines = []
    for hidden in (SMALL.hidden, ()):
        cases = [replace(one, hidden=hidden) for one in GROWTH]
        if all(("cohort", one) in results for one in cases):
            seconds = [median(results["cohort", one].rounds_s) for one in cases]
            grown = exponent([one.sites for one in cases], seconds)
            lines.append(f"- seconds grow with municipalities to the power {grown:.3f}, hidden layers {list(hidden)}")
    return lines
