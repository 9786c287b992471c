"""What the speed table claims follows from what was measured, and nothing is claimed of what was not."""

from dataclasses import replace

import pytest

from simulations.speed.claims import claims, exponent
from simulations.speed.one import Found
from simulations.speed.workload import HUNDRED, SMALL, TEN_THOUSAND, THOUSAND


def found(*rounds_s: float) -> Found:
    return Found(rounds_s=rounds_s, study_s=0.0, memory_mib=1.0)


def test_seconds_that_grow_as_a_power_are_seen_to() -> None:
    assert exponent([1, 10, 100], [2.0, 20.0, 200.0]) == pytest.approx(1.0)
    assert exponent([1, 10, 100], [3.0, 300.0, 30_000.0]) == pytest.approx(2.0)


def test_a_ratio_is_of_medians_and_stands_with_both() -> None:
    results = {("cohort", SMALL): found(0.1, 9.0, 0.05), ("flower", SMALL): found(2.0, 2.0, 1.0)}
    assert claims(results, {}) == ["- as fast as Flower's simulation tuned by us: 20.00 times (2.0000 s and 0.1000 s)"]


def test_what_privacy_costs_is_measured_against_the_same_engine() -> None:
    results = {("cohort", SMALL): found(0.3), ("cohort", replace(SMALL, private=False)): found(0.2)}
    assert claims(results, {}) == ["- what privacy costs, 98 small: 1.50 times (0.3000 s and 0.2000 s)"]


def test_a_study_is_compared_with_each_rival_that_ran_one() -> None:
    lines = claims({}, {"cohort": 2.0, "flower": 50.0})
    assert lines == ["- a whole study of 20 rounds, as fast as flower: 25.0 times (50.0 s and 2.0 s)"]


def test_growth_is_claimed_where_all_sizes_ran() -> None:
    results = {("cohort", one): found(one.sites / 1000) for one in (HUNDRED, THOUSAND)}
    assert claims(results, {}) == []
    results["cohort", TEN_THOUSAND] = found(10.0)
    assert claims(results, {}) == ["- seconds grow with municipalities to the power 1.000, hidden layers [64, 32]"]
