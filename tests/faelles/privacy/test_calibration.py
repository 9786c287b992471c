import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faelles.errors import PlanError
from faelles.privacy.accountant import ORDERS, Event, epsilon, rdp_curve
from faelles.privacy.calibration import last, smallest_delta, smallest_noise_multiplier


def spent(q: float, sigma: float, steps: int, delta: float = 1e-5) -> float:
    return epsilon(rdp_curve(Event(sampling_rate=q, noise_multiplier=sigma, steps=steps)), delta)


@settings(max_examples=40)
@given(q=st.floats(1e-4, 1.0), steps=st.integers(1, 10_000), target=st.floats(0.05, 20.0))
def test_noise_keeps_epsilon_and_the_next_lower_grid_point_does_not(q: float, steps: int, target: float) -> None:
    sigma = smallest_noise_multiplier(q, steps, target, 1e-5)
    digits = 4 - math.floor(math.log10(sigma))
    assert round(sigma, digits) == sigma
    assert spent(q, sigma, steps) <= target < spent(q, round(sigma - 10.0**-digits, digits), steps)


def test_noise_has_a_floor() -> None:
    assert smallest_noise_multiplier(1.0, 1, 1e9, 1e-5) == 0.01


def test_noise_that_cannot_keep_epsilon_is_refused() -> None:
    with pytest.raises(PlanError, match=r"noise_multiplier up to 1e\+06 .* raise epsilon or delta"):
        smallest_noise_multiplier(1.0, 10**9, 1e-5, 1e-12)


@given(sigma=st.floats(0.5, 20.0), target=st.floats(0.05, 20.0))
def test_delta_keeps_epsilon_and_is_the_smallest_of_four_digits(sigma: float, target: float) -> None:
    curve = rdp_curve(Event(sampling_rate=0.1, noise_multiplier=sigma, steps=100))
    try:
        delta = smallest_delta(curve, target)
    except PlanError:
        assert epsilon(curve, 0.9989) > target
        return
    assert epsilon(curve, delta) <= target
    assert delta <= 1.1e-300 or epsilon(curve, delta * 0.998) > target


def test_delta_that_cannot_keep_epsilon_is_refused() -> None:
    with pytest.raises(PlanError, match="raise noise_multiplier"):
        smallest_delta(np.full(len(ORDERS), np.inf), 1.0)


@given(bound=st.integers(-5, 120))
def test_last_finds_where_a_condition_ends(bound: int) -> None:
    found = last(lambda number: number <= bound, 1, 100)
    assert found == (None if bound < 1 else min(bound, 100))
