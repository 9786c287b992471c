"""One citizen changes the sum of a step by the clipping norm at most, whatever weights somebody crafted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from faelles.card import UseCaseCard
from faelles.features import Citizens, input_width
from faelles.models import MAX_MAGNITUDE, Arrays, build_model, load_parameters, parameter_shapes
from faelles.privacy.plan import PrivacyPlan
from tests.gradients import (
    CARDS,
    contributions,
    draw_citizens,
    draw_start,
    first_sum,
    plan_of,
    some,
    wide_card,
    zeros,
)


def check_neighbours(use_case: UseCaseCard, start: Arrays, citizens: Citizens, plan: PrivacyPlan) -> None:
    """Leave out each citizen in turn and bound what that changes in the sum before noise."""
    whole = first_sum(use_case, start, citizens, plan)
    assert np.isfinite(whole).all()
    for left_out in range(len(citizens)):
        fewer = first_sum(use_case, start, some(citizens, np.arange(len(citizens)) != left_out), plan)
        assert np.linalg.norm(whole - fewer) <= plan.clipping_norm * (1 + 1e-5)


@st.composite
def neighbourhoods(draw: st.DrawFn) -> tuple[UseCaseCard, Arrays, Citizens]:
    use_case = CARDS[draw(st.sampled_from(sorted(CARDS)))]
    citizens = draw_citizens(use_case, draw(st.integers(1, 9)), draw(st.integers(0, 2**32)))
    extremes = draw(st.sampled_from([1.0, 1e2, MAX_MAGNITUDE]))
    start = draw_start(use_case, draw(st.integers(0, 2**32)), extremes / 4)
    pick = st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-1, 1, width=32)
    bounded = {name: np.clip(array, -extremes, extremes) for name, array in start.items()}
    bounded[draw(st.sampled_from(sorted(start)))].flat[0] = extremes * draw(pick)
    x_BRF = citizens.x_BRF.copy()
    x_BRF[draw(st.integers(0, len(citizens) - 1)), 0] = draw(pick)
    return use_case, bounded, replace(citizens, x_BRF=x_BRF)


@settings(max_examples=40)
@given(neighbourhoods(), st.sampled_from([1e-3, 0.3, 50.0]))
def test_one_citizen_changes_the_sum_by_the_clipping_norm_at_most(
    drawn: tuple[UseCaseCard, Arrays, Citizens], clipping_norm: float
) -> None:
    use_case, start, citizens = drawn
    check_neighbours(use_case, start, citizens, plan_of(clipping_norm=clipping_norm))


@pytest.mark.parametrize("value", [1e6, -1e6, 1e18, 1e30, -3e38, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", CARDS)
def test_the_bound_holds_under_crafted_weights(name: str, value: float) -> None:
    use_case = CARDS[name]
    citizens = draw_citizens(use_case, 5)
    for parameter in parameter_shapes(use_case):
        start = draw_start(use_case)
        start[parameter].flat[0] = value
        check_neighbours(use_case, start, citizens, plan_of())
        start[parameter][:] = value
        check_neighbours(use_case, start, citizens, plan_of())


def score(use_case: UseCaseCard, start: Arrays, x_F: NDArray[np.float32]) -> float:
    """Compute one row's score in float64."""
    model = build_model(use_case).double()
    load_parameters(model, start)
    return float(model(torch.from_numpy(x_F).double()).detach()[0])


def cancelling(use_case: UseCaseCard, x_F: NDArray[np.float32]) -> Arrays:
    """Craft weights whose large terms cancel for one row, so that its score is what rounding leaves."""
    rng = np.random.default_rng(3)
    start = {n: rng.uniform(-1, 1, s).astype(np.float32) for n, s in parameter_shapes(use_case).items()}
    first, bias = (start["hidden.0.weight" if use_case.model.hidden else "output.weight"], start["output.bias"])
    first *= MAX_MAGNITUDE
    first[:, 0] = -(first[:, 1:].astype(np.float64) @ x_F[1:].astype(np.float64)) / x_F[0]
    bias[:] = 0
    bias[:] = -score(use_case, start, x_F)
    return start


@pytest.mark.parametrize("hidden", [(), (8,)], ids=["logistic", "mlp"])
def test_who_comes_along_changes_the_gradients_of_no_other(hidden: tuple[int, ...]) -> None:
    # A matrix product may round a row otherwise when there is one row more. Here everybody's score is what rounding
    # leaves, and the citizen who comes along adds nothing itself, for its gradient is not finite.
    use_case = wide_card(hidden)
    crowd = draw_citizens(use_case, 24)
    x_BRF = np.broadcast_to(np.linspace(0.3, 0.9, input_width(use_case), dtype=np.float32), crowd.x_BRF.shape).copy()
    start = cancelling(use_case, x_BRF[0, 0])
    plan = plan_of(clipping_norm=10.0)
    x_BRF[0] = np.nan
    for last in range(2, 25):
        crowd_of_last = some(replace(crowd, x_BRF=x_BRF), slice(0, last))
        whole, fewer = (first_sum(use_case, start, some(crowd_of_last, slice(n, None)), plan) for n in (0, 1))
        np.testing.assert_allclose(whole, fewer, atol=1e-6)


def test_rounding_does_not_grow_with_the_number_of_citizens() -> None:
    use_case, start = CARDS["logistic"], zeros(CARDS["logistic"])
    many = draw_citizens(use_case, 20_000)
    alike = replace(many, x_BRF=np.abs(many.x_BRF), y_BR=np.ones_like(many.y_BR))
    whole, fewer = (first_sum(use_case, start, some(alike, slice(n, None)), plan_of()) for n in (0, 1))
    np.testing.assert_allclose(whole - fewer, contributions(use_case, start, some(alike, [0]), 0.3)[0], atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", CARDS)
def test_a_gradient_that_is_not_finite_adds_nothing_and_disturbs_nobody(name: str, value: float) -> None:
    use_case = CARDS[name]
    citizens, start = draw_citizens(use_case, 6), draw_start(use_case)
    x_BRF = citizens.x_BRF.copy()
    x_BRF[2, 0, 0] = value
    others = first_sum(use_case, start, some(citizens, np.arange(6) != 2), plan_of())
    spoiled = first_sum(use_case, start, replace(citizens, x_BRF=x_BRF), plan_of())
    if np.isfinite(value):
        assert np.linalg.norm(spoiled - others) <= 0.3 * (1 + 1e-5)
    else:
        np.testing.assert_allclose(spoiled, others, atol=1e-12)


def test_a_gradient_of_zero_stays_zero() -> None:
    use_case = CARDS["logistic"]
    start = zeros(use_case) | {"output.bias": np.array([1e6], np.float32)}
    citizens = draw_citizens(use_case, 3)
    sure = replace(citizens, y_BR=np.ones_like(citizens.y_BR))
    np.testing.assert_array_equal(first_sum(use_case, start, sure, plan_of()), 0)
