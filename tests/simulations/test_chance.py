"""Seeded draws do not depend on how many are drawn at once, and have the distribution that they claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from simulations.mechanisms import RARE, SeededRandomness, seeded_bytes

RATES = (0.001, 0.05, RARE, 0.126, 0.6, 1.0)


def source(*name: str | int) -> SeededRandomness:
    return SeededRandomness(seeded_bytes("test", *name))


@given(sizes=st.lists(st.integers(0, 3000), max_size=8), rate=st.sampled_from(RATES))
def test_choices_are_the_same_drawn_at_once_or_in_parts(sizes: list[int], rate: float) -> None:
    one, other = source(1), source(1)
    parts = [one.include(size, rate) for size in sizes]
    np.testing.assert_array_equal(np.concatenate([np.zeros(0, bool), *parts]), other.include(sum(sizes), rate))


@given(sizes=st.lists(st.integers(0, 3000), max_size=8), rate=st.sampled_from(RATES))
def test_who_is_chosen_and_whether_each_is_are_the_same_choice(sizes: list[int], rate: float) -> None:
    one, other = source(1), source(1)
    for size in sizes:
        np.testing.assert_array_equal(np.flatnonzero(one.include(size, rate)), other.places(size, rate))


@given(sizes=st.lists(st.integers(0, 20_000), max_size=8))
def test_noise_is_the_same_drawn_at_once_or_in_parts(sizes: list[int]) -> None:
    one, other = source(1), source(1)
    parts = [one.gaussian(size, 2.0) for size in sizes]
    np.testing.assert_array_equal(np.concatenate([np.zeros(0), *parts]), other.gaussian(sum(sizes), 2.0))


@pytest.mark.parametrize("rate", RATES)
def test_each_unit_is_chosen_at_the_rate_and_by_itself(rate: float) -> None:
    chosen = np.array([source(rate_and).include(20, rate) for rate_and in range(4000)])
    counts = chosen.sum(axis=0)
    spread = (4000 * rate * (1 - rate)) ** 0.5
    assert np.abs(counts - 4000 * rate).max() <= 5 * spread
    neighbours = (chosen[:, 1:] & chosen[:, :-1]).sum()
    expected = 4000 * 19 * rate**2
    assert abs(neighbours - expected) <= 5 * (expected + 1) ** 0.5 * (1 + 2 * rate) * (rate < 1)


def test_noise_is_normal() -> None:
    drawn = source("normal").gaussian(400_000, 3.0) / 3.0
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert np.abs(drawn).max() < 5.8
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01
