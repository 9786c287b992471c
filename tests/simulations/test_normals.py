"""Normal numbers that compiled loops make are those of the formula, to rounding, for any bits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulations.normals import box_muller

WORDS = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 255, 256, 2**31, 2**32 - 256, 2**32 - 1]))


def by_formula(bits_N: NDArray[np.uint32]) -> NDArray[np.float64]:
    first_P, second_P = np.split((bits_N >> np.uint32(8)) * 2.0**-24, 2)
    radius_P, angle_P = np.sqrt(-2 * np.log(1 - first_P)), 2 * np.pi * second_P
    return np.concatenate([radius_P * np.cos(angle_P), radius_P * np.sin(angle_P)])


def close(bits_N: NDArray[np.uint32]) -> bool:
    apart_N = np.abs(box_muller(bits_N) - by_formula(bits_N))
    return bool((apart_N <= 5e-7).all())  # a few roundings of numbers up to 5.8


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=40))
def test_any_bits_give_the_formulas_numbers(pairs: list[tuple[int, int]]) -> None:
    assert close(np.array(pairs, np.uint32).T.ravel())


def test_so_do_very_many() -> None:
    assert close(np.random.default_rng(3).integers(0, 2**32, 400_000, np.uint32))
