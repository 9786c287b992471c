import math
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from faelles.errors import PlanError
from faelles.privacy import accountant
from faelles.privacy.accountant import ORDERS, Event, compose, delta, epsilon, epsilons, prv_epsilon, rdp_curve

SETTINGS = [  # sampling rate, noise multiplier, steps
    (0.05, 1.0, 400),
    (0.256, 2.0, 300),
    (1.0, 5.0, 40),
    (0.001, 1.0, 1000),
    (0.256, 10.0, 300),
    (0.64, 12.0, 300),
    (0.01, 0.7, 1000),
    (0.02, 20.0, 1000),
]
RATES = st.floats(1e-6, 1.0)
NOISES = st.floats(0.3, 100.0)
STEPS = st.integers(1, 5000)
DELTAS = st.sampled_from([1e-3, 1e-5, 1e-7])


def event(q: float, sigma: float, steps: int) -> Event:
    return Event(sampling_rate=q, noise_multiplier=sigma, steps=steps)


def reference_event(q: float, sigma: float, steps: int) -> dp_accounting.DpEvent:
    step = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
    return dp_accounting.SelfComposedDpEvent(step, steps)


def exact_divergence(q: float, sigma: float, order: float, *, adding: bool) -> float:
    """Integrate the Rényi divergence between the mixture and the plain Gaussian, in either direction."""
    z = np.linspace(-14 * sigma - order, 14 * sigma + order + 1, 200_001)
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * sigma**2))
    exponents = stats.norm.logpdf(z, scale=sigma) + (order if adding else 1 - order) * log_ratio
    peak = exponents.max()
    return float((peak + np.log(np.exp(exponents - peak).sum() * (z[1] - z[0]))) / (order - 1))


@pytest.mark.parametrize(("q", "sigma", "steps"), SETTINGS)
@pytest.mark.parametrize("allowed", [1e-5, 1e-7])
def test_epsilon_equals_the_reference_accountant(q: float, sigma: float, steps: int, allowed: float) -> None:
    reference = RdpAccountant(orders=list(ORDERS)).compose(reference_event(q, sigma, steps))
    assert epsilon(rdp_curve(event(q, sigma, steps)), allowed) == pytest.approx(
        reference.get_epsilon(allowed), rel=1e-6
    )


@pytest.mark.parametrize(("q", "sigma", "steps"), SETTINGS)
def test_delta_equals_the_reference_accountant(q: float, sigma: float, steps: int) -> None:
    reference = RdpAccountant(orders=list(ORDERS)).compose(reference_event(q, sigma, steps))
    assert delta(rdp_curve(event(q, sigma, steps)), 2.0) == pytest.approx(reference.get_delta(2.0), rel=1e-6)


@settings(max_examples=25)
@given(q=RATES, sigma=NOISES, steps=STEPS, allowed=DELTAS)
def test_epsilon_never_exceeds_the_reference_accountant(q: float, sigma: float, steps: int, allowed: float) -> None:
    reference = RdpAccountant(orders=list(ORDERS)).compose(reference_event(q, sigma, steps)).get_epsilon(allowed)
    assert epsilon(rdp_curve(event(q, sigma, steps)), allowed) <= reference * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("adding", [True, False])
@pytest.mark.parametrize(("q", "sigma"), [(0.05, 1.0), (0.256, 2.0), (0.5, 0.6), (0.9, 3.0), (0.01, 0.4)])
def test_curve_is_at_least_the_exact_divergence_in_both_directions(q: float, sigma: float, adding: bool) -> None:
    orders = (1.1, 1.5, 2.0, 2.5, 3.5, 6.0, 10.5, 24.0, 63.0)
    exact = np.array([exact_divergence(q, sigma, order, adding=adding) for order in orders])
    curve = rdp_curve(event(q, sigma, 1))[[ORDERS.index(order) for order in orders]]
    assert np.all(curve >= exact * (1 - 1e-9) - 1e-10)
    if adding:  # the larger direction, which the curve meets at whole orders
        assert_allclose(curve[[2, 5, 7, 8]], exact[[2, 5, 7, 8]], rtol=1e-8)


@given(
    q=st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)),
    sigma=st.one_of(st.just(0.0), st.floats(0, 1e300)),
    steps=st.integers(0, 10**9),
)
def test_curve_is_never_negative_or_nan(q: float, sigma: float, steps: int) -> None:
    assert np.all(rdp_curve(event(q, sigma, steps)) >= 0)


def test_curve_at_the_ends_of_the_ranges() -> None:
    assert np.all(np.isinf(rdp_curve(event(0.1, 0.0, 1))))
    assert not rdp_curve(event(0.0, 0.0, 5)).any()
    assert not rdp_curve(event(0.1, 0.0, 0)).any()
    assert_allclose(rdp_curve(event(1.0, 5.0, 1)), np.array(ORDERS) / 50, rtol=1e-15)


@given(q=st.floats(1e-12, 1e-7), sigma=st.floats(1.0, 1e4))
def test_tiniest_rates_are_not_rounded_away(q: float, sigma: float) -> None:
    # order * q^2 / (2 sigma^2) bounds the curve from below as q goes to 0; float64 alone would give 0 here.
    assert np.all(rdp_curve(event(q, sigma, 1)) >= 0.999 * np.array(ORDERS) * q**2 / (2 * sigma**2))


@given(q=RATES, sigma=NOISES, steps=STEPS)
def test_curve_is_linear_in_steps(q: float, sigma: float, steps: int) -> None:
    assert_array_equal(rdp_curve(event(q, sigma, steps)), steps * rdp_curve(event(q, sigma, 1)))


@given(q=st.floats(1e-4, 0.9), sigma=st.floats(0.5, 20.0), steps=st.integers(1, 1000), allowed=DELTAS)
def test_more_noise_fewer_steps_or_rarer_sampling_never_costs_more(
    q: float, sigma: float, steps: int, allowed: float
) -> None:
    spent = epsilon(rdp_curve(event(q, sigma, steps)), allowed) * (1 + 1e-9) + 1e-9
    assert epsilon(rdp_curve(event(q, sigma * 1.1, steps)), allowed) <= spent
    assert epsilon(rdp_curve(event(q * 0.9, sigma, steps)), allowed) <= spent
    assert epsilon(rdp_curve(event(q, sigma, steps - 1)), allowed) <= spent


def test_compose_adds_curves_in_any_order_and_grouping() -> None:
    a, b, c = (rdp_curve(event(*terms)) for terms in SETTINGS[:3])
    assert_allclose(compose(a, b, c), a + b + c, rtol=1e-14)
    assert_allclose(compose(compose(c, a), b), compose(a, b, c), rtol=1e-14)
    assert_allclose(compose(rdp_curve(event(0.05, 1.0, 10)), rdp_curve(event(0.05, 1.0, 30))), 0.1 * a, rtol=1e-12)
    assert not compose().any()


def test_composition_of_different_events_equals_the_reference_accountant() -> None:
    reference = RdpAccountant(orders=list(ORDERS))
    for terms in SETTINGS[:4]:
        reference.compose(reference_event(*terms))
    ours = epsilon(compose(*(rdp_curve(event(*terms)) for terms in SETTINGS[:4])), 1e-5)
    assert ours == pytest.approx(reference.get_epsilon(1e-5), rel=1e-6)


@given(sigma=st.floats(0.5, 50.0), allowed=DELTAS)
def test_epsilon_and_delta_hold_for_the_gaussian_mechanism(sigma: float, allowed: float) -> None:
    def exact_delta(spent: float) -> float:  # Balle and Wang 2018, theorem 8
        low, high = -0.5 / sigma - spent * sigma, 0.5 / sigma - spent * sigma
        return float(stats.norm.cdf(high) - math.exp(spent) * stats.norm.cdf(low))

    curve = rdp_curve(event(1.0, sigma, 1))
    assert exact_delta(epsilon(curve, allowed)) <= allowed * (1 + 1e-9)
    assert exact_delta(0.5) <= delta(curve, 0.5) * (1 + 1e-9)


@given(scale=st.floats(0, 1e6), allowed=st.floats(0, 0.999), spent=st.floats(0, 1e6))
def test_conversions_stay_in_their_ranges(scale: float, allowed: float, spent: float) -> None:
    curve = scale * np.array(ORDERS)
    assert epsilon(curve, allowed) >= 0
    assert 0 <= delta(curve, spent) <= 1


def test_epsilon_falls_with_delta_and_rises_with_the_curve() -> None:
    curve = rdp_curve(event(0.256, 2.0, 300))
    spent = [epsilon(curve, allowed) for allowed in (0.0, 1e-9, 1e-5, 1e-2, 0.9)]
    assert spent[0] == math.inf
    assert spent == sorted(spent, reverse=True)
    assert epsilon(curve * 1.01, 1e-5) > epsilon(curve, 1e-5)


@given(scale=st.floats(0, 1e6), allowed=st.floats(0, 0.999), place=st.integers(0, len(ORDERS) - 1))
@example(scale=0.0, allowed=0.75, place=1)
def test_each_order_gives_an_epsilon_of_its_own_and_the_smallest_is_epsilon(
    scale: float, allowed: float, place: int
) -> None:
    curve = scale * np.array(ORDERS)
    each = epsilons(curve, allowed)
    assert each.shape == (len(ORDERS),)
    assert not np.isnan(each).any()
    assert epsilon(curve, allowed) == max(0.0, each.min())
    # What an order gives depends on the curve there alone, whatever is known of the others.
    alone = np.full(len(ORDERS), np.inf)
    alone[place] = curve[place]
    assert epsilons(alone, allowed)[place] == each[place]
    more = curve.copy()
    more[place] += 1.0
    assert epsilons(more, allowed)[place] >= each[place]
    assert np.isinf(np.delete(epsilons(alone, allowed), place)).all()


def test_a_curve_of_nothing_and_a_curve_of_everything() -> None:
    nothing, everything = np.zeros(len(ORDERS)), np.full(len(ORDERS), np.inf)
    assert (epsilon(nothing, 0.0), epsilon(nothing, 1e-5), delta(nothing, 0.0)) == (0, 0, 0)
    assert (epsilon(everything, 1e-5), delta(everything, 100.0)) == (math.inf, 1)


@pytest.mark.parametrize(
    "events",
    [
        [(0.05, 1.0, 400)],
        [(0.256, 10.0, 300)],
        [(1.0, 5.0, 40)],
        [(0.001, 1.0, 1000)],
        [(0.1, 3.0, 100), (1.0, 20.0, 1), (0.1, 3.0, 100)],
    ],
)
def test_prv_agrees_with_the_reference_accountant_and_stays_an_upper_bound(
    events: list[tuple[float, float, int]],
) -> None:
    reference = PLDAccountant()
    for terms in events:
        reference.compose(reference_event(*terms))
    exact = reference.get_epsilon(1e-5)
    ours = prv_epsilon([event(*terms) for terms in events], 1e-5)
    assert exact * 0.999 <= ours <= exact * 1.01 + 0.01
    assert ours <= epsilon(compose(*(rdp_curve(event(*terms)) for terms in events)), 1e-5)


def test_prv_at_the_ends_of_the_ranges() -> None:
    assert prv_epsilon([event(0.1, 0.0, 3)], 1e-5) == math.inf
    assert prv_epsilon([event(0.0, 1.0, 3), event(0.1, 0.0, 0)], 1e-5) == 0
    assert prv_epsilon([], 1e-5) == 0


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([event(0.01 * i, 2.0, 1) for i in range(1, 10)], "9 distinct events: expected at most 8; use the RDP epsilon"),
        ([event(0.05, 0.5, 1_000_000)], "PRV accounting: expected at most"),
    ],
)
def test_prv_refuses_what_it_cannot_convolve(events: list[Event], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        prv_epsilon(events, 1e-5)


@pytest.mark.parametrize(
    ("terms", "word"),
    [
        ((-0.1, 1.0, 1), "sampling_rate"),
        ((1.1, 1.0, 1), "sampling_rate"),
        ((math.nan, 1.0, 1), "sampling_rate"),
        ((0.1, -1.0, 1), "noise_multiplier"),
        ((0.1, math.inf, 1), "noise_multiplier"),
        ((0.1, math.nan, 1), "noise_multiplier"),
        ((0.1, 1.0, -1), "steps"),
        ((0.1, 1.0, True), "steps"),
    ],
)
def test_an_event_outside_its_ranges_is_refused_in_one_line(terms: tuple[float, float, int], word: str) -> None:
    with pytest.raises(PlanError, match=f"^{word}=.*expected.*$") as caught:
        event(*terms)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("curve", [np.zeros(3), np.full(len(ORDERS), np.nan), np.full(len(ORDERS), -1.0)])
def test_an_array_that_is_no_curve_is_refused(curve: accountant.Curve) -> None:
    for use in (
        lambda: epsilons(curve, 1e-5),
        lambda: epsilon(curve, 1e-5),
        lambda: delta(curve, 1.0),
        lambda: compose(curve),
    ):
        with pytest.raises(PlanError, match="make it with rdp_curve"):
            use()


@pytest.mark.parametrize("allowed", [-1e-5, 1.0, math.nan])
def test_a_delta_outside_its_range_is_refused(allowed: float) -> None:
    with pytest.raises(PlanError, match="delta"):
        epsilon(np.zeros(len(ORDERS)), allowed)
    with pytest.raises(PlanError, match="delta"):
        prv_epsilon([event(0.1, 1.0, 1)], allowed)


@pytest.mark.parametrize("spent", [-1.0, math.inf, math.nan])
def test_an_epsilon_outside_its_range_is_refused(spent: float) -> None:
    with pytest.raises(PlanError, match="epsilon"):
        delta(np.zeros(len(ORDERS)), spent)


def test_curves_are_cached_and_a_caller_cannot_spoil_the_cache() -> None:
    first = rdp_curve(event(0.123, 4.5, 1))
    first[:] = 0
    before = accountant._step_curve.cache_info().hits
    assert rdp_curve(event(0.123, 4.5, 2)).all()
    assert accountant._step_curve.cache_info().hits == before + 1


def test_import_needs_neither_torch_nor_flower_nor_opacus() -> None:
    code = "import sys, faelles.privacy.accountant; print({'torch', 'flwr', 'opacus'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
