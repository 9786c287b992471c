"""Account for what noisy steps reveal: events -> Rényi curves on one fixed grid of orders -> epsilon.

An event is a number of equal steps of the Poisson-subsampled Gaussian mechanism. Its curve holds one Rényi divergence
for each order in ORDERS; curves of events on the same people add up, also when each event was chosen after the earlier
ones were seen. So an account keeps one vector, however long its history. Everything is stated for neighbours that
differ by adding or removing one unit.

Nothing is rounded here. A plan solves its noise multiplier on a decimal grid and takes its sampling rate from two
public integers, so equal plans give equal events and the cache of curves is met without losing precision.

    >>> curve = rdp_curve(Event(sampling_rate=0.05, noise_multiplier=1.0, steps=400))
    >>> round(epsilon(curve, 1e-5), 3)
    7.425
    >>> round(epsilon(compose(curve, curve), 1e-5), 3)
    10.611

This module needs numpy and scipy only, for a municipality's ledger imports it. It draws no noise and keeps no history.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from faelles.errors import PlanError
from faelles.privacy import _validate
from faelles.privacy._validate import MAX_COUNT

logger = logging.getLogger(__name__)

Curve: TypeAlias = npt.NDArray[np.float64]  # one Rényi divergence for each order in ORDERS

ORDERS: tuple[float, ...] = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    *(64.0, 72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 224.0, 256.0, 320.0, 384.0, 448.0, 512.0, 640.0, 768.0),
    *(896.0, 1024.0),
)
"""The orders at which every curve is kept; stored curves depend on it, so a change is a new version of the ledger."""

MAX_PRV_EVENTS = 8
"""How many distinct events `prv_epsilon` takes: a frozen plan has one, an account may have thousands."""

_ORDERS = np.array(ORDERS)
_IS_WHOLE = np.floor(_ORDERS) == _ORDERS
_WHOLE = _ORDERS[_IS_WHOLE]
_FRACTIONAL = _ORDERS[~_IS_WHOLE]
_SERIES_TERMS = 1000  # as many as dp-accounting takes at most
_ROUNDING = 2e-14  # more than the series loses to float64, so that a curve stays an upper bound for the tiniest rates
_PRV_EPSILON_ERROR = 0.005
_MAX_PRV_POINTS = 8_000_000  # 64 MB for each array of the convolution, of which there are a dozen


@dataclass(frozen=True, kw_only=True)
class Event:
    """Hold equal steps of one mechanism: each takes every unit with the same probability and adds Gaussian noise.

    Args:
        sampling_rate: Probability in [0, 1] with which a step takes a unit, each independently (Poisson).
        noise_multiplier: Standard deviation of the noise over the L2 norm a unit can add, at least 0.
        steps: How many steps, at least 0.

    Raises:
        PlanError: A term is outside its range.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.sampling_rate <= 1:
            raise PlanError(f"sampling_rate={self.sampling_rate}: expected 0 to 1; use batch_size / declared_size")
        if not 0 <= self.noise_multiplier < math.inf:
            raise PlanError(f"noise_multiplier={self.noise_multiplier}: expected a number >= 0; 0 is no privacy")
        _validate.count("steps", self.steps, 0, MAX_COUNT**2)


def rdp_curve(event: Event) -> Curve:
    """Compute the Rényi divergences of an event at every order in ORDERS.

    Guarantees:
        - Every value is at least the exact divergence, in both directions of adding and removing one unit.
        - No value is negative or NaN; noise_multiplier 0 gives inf, sampling_rate 0 or steps 0 gives 0.
        - A rate of 1 gives the plain Gaussian mechanism, order / (2 noise_multiplier^2), exactly.
        - The curve is linear in steps.

    Assumes:
        - A step takes each unit independently with the sampling rate, whatever the true count is.
        - A unit changes the sum that is noised by at most 1 in L2 norm, in multiples of the clipping norm.

    Args:
        event: What was or will be done.

    Returns:
        float64 array of shape (len(ORDERS),).

    Source:
        Mironov, Talwar and Zhang 2019 (arXiv:1908.10530), section 3.3: whole orders by the binomial sum, fractional
        orders by the series in erfc, its terms all counted as positive.

        >>> rdp_curve(Event(sampling_rate=1.0, noise_multiplier=5.0, steps=40))[ORDERS.index(2.0)].round(6).item()
        1.6
    """
    if event.steps == 0 or event.sampling_rate == 0:
        return np.zeros(len(ORDERS))
    return event.steps * _step_curve(event.sampling_rate, event.noise_multiplier)


def compose(*curves: Curve) -> Curve:
    """Add the curves of mechanisms that all see the same people.

    Guarantees:
        - The sum bounds the divergence of all of them together, also when each was chosen after seeing the earlier.
        - Order and grouping do not matter beyond float64 rounding; no curve at all gives zeros.

    Assumes:
        - Where events are chosen along the way: the cap on the total was fixed in advance, for one order (a Rényi
          filter). Taking the best order afterwards is exact for events fixed in advance.

    Args:
        curves: Arrays of shape (len(ORDERS),).

    Returns:
        float64 array of shape (len(ORDERS),).

    Raises:
        PlanError: A curve is not on this module's grid of orders.

    Source:
        Mironov 2017 (arXiv:1702.07476), proposition 1; Feldman and Zrnic 2021 (arXiv:2008.11193) for filters.
    """
    for curve in curves:
        _require_grid(curve)
    return np.sum(curves, axis=0) if curves else np.zeros(len(ORDERS))


def epsilon(curve: Curve, delta: float) -> float:
    """Convert a curve into the smallest epsilon that holds with a given delta.

    Guarantees:
        - What the curve bounds is (epsilon, delta)-differentially private.
        - Never negative, never NaN; inf where no order gives a bound.
        - Falls when delta rises, rises with every value of the curve.

    Assumes:
        - Every value of the curve is an upper bound at its order in ORDERS.

    Args:
        curve: Array of shape (len(ORDERS),), values at least 0, inf allowed.
        delta: Probability in [0, 1).

    Returns:
        Epsilon, minimised over the orders.

    Raises:
        PlanError: delta is outside its range or the curve is not on the grid.

    Source:
        Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), proposition 12, and delta <= sqrt(1 - exp(-KL)).

        >>> round(epsilon(rdp_curve(Event(sampling_rate=1.0, noise_multiplier=5.0, steps=40)), 1e-5), 3)
        6.208
    """
    return max(0.0, float(np.min(epsilons(curve, delta))))


def epsilons(curve: Curve, delta: float) -> Curve:
    """Convert a curve into the epsilon that each order alone gives with a given delta.

    Guarantees:
        - What the curve bounds is (value, delta)-differentially private for each value; one that was chosen before the
          events were is a bound also where each event was chosen after seeing the earlier ones.
        - Each value rises with the curve's value at its order; no value is NaN, inf where there is no bound.

    Assumes, Args, Raises, Source: as `epsilon`.

    Returns:
        float64 array of shape (len(ORDERS),).
    """
    _require_grid(curve)
    if not 0 <= delta < 1:
        raise PlanError(f"delta={delta}: expected 0 <= delta < 1; a common choice is 1e-5")
    if delta == 0:
        return np.where(curve == 0, 0.0, np.inf)
    bounds = curve + np.log1p(-1 / _ORDERS) - np.log(delta * _ORDERS) / (_ORDERS - 1)
    # The divergence at any order above 1 is at least KL; this bound alone makes epsilon 0 when almost nothing leaks.
    return np.asarray(np.where(-np.expm1(-curve) < delta**2, np.minimum(bounds, 0.0), bounds))


def delta(curve: Curve, epsilon: float) -> float:
    """Convert a curve into the smallest delta that holds with a given epsilon.

    Guarantees:
        - What the curve bounds is (epsilon, delta)-differentially private.
        - Between 0 and 1, never NaN.

    Assumes:
        - Every value of the curve is an upper bound at its order in ORDERS.

    Args:
        curve: Array of shape (len(ORDERS),), values at least 0, inf allowed.
        epsilon: At least 0, finite.

    Returns:
        Delta, minimised over the orders.

    Raises:
        PlanError: epsilon is outside its range or the curve is not on the grid.

    Source:
        As `epsilon`.

        >>> f"{delta(rdp_curve(Event(sampling_rate=0.05, noise_multiplier=1.0, steps=400)), 7.4255):.1e}"
        '1.0e-05'
    """
    _require_grid(curve)
    if not 0 <= epsilon < math.inf:
        raise PlanError(f"epsilon={epsilon}: expected a number >= 0; a common choice is 1 to 3")
    if not curve.any():
        return 0.0
    with np.errstate(divide="ignore"):
        from_kl = 0.5 * np.log(-np.expm1(-curve))
    from_order = (_ORDERS - 1) * (curve - epsilon + np.log1p(-1 / _ORDERS)) - np.log(_ORDERS)
    return min(1.0, math.exp(min(0.0, float(np.min(np.minimum(from_kl, from_order))))))


def prv_epsilon(events: Sequence[Event], delta: float) -> float:
    """Compute a tighter epsilon by convolving privacy loss variables, for one frozen plan.

    May be used beside `epsilon` where the events were all fixed before the first of them ran, as in one plan. It must
    not be used for an account: an account's events are chosen along the way, and convolving a thousand of them takes
    more memory than a server has. Needs Opacus, imported on the first call.

    Guarantees:
        - An upper bound: what the events do is (epsilon, delta)-differentially private.
        - Never above `epsilon` of the same events.
        - Within 1 % + 0.01 of the exact figure where epsilon is 0.1 to 20.

    Assumes:
        - The events are fixed in advance and all see the same people.

    Args:
        events: At most MAX_PRV_EVENTS that differ in rate or noise; equal ones are merged.
        delta: Probability in (0, 1).

    Returns:
        Epsilon; inf where an event has no noise, 0 where nothing is sampled.

    Raises:
        PlanError: Too many distinct events, delta out of range, or a loss too wide to convolve.

    Source:
        Gopi, Lee and Wutschitz 2021 (arXiv:2106.02848), as in Opacus.

        >>> round(prv_epsilon([Event(sampling_rate=0.05, noise_multiplier=1.0, steps=400)], 1e-5), 1)
        6.7
    """
    delta = _validate.delta(delta)
    history = _merge(events)
    upper = epsilon(compose(*(rdp_curve(event) for event in history)), delta)
    if upper in (0.0, math.inf):
        return upper
    if len(history) > MAX_PRV_EVENTS:
        raise PlanError(f"{len(history)} distinct events: expected at most {MAX_PRV_EVENTS}; use the RDP epsilon")
    return min(upper, _convolve(history, delta))


@lru_cache(maxsize=4096)
def _step_curve(sampling_rate: float, noise_multiplier: float) -> Curve:
    """Compute the curve of one step; the rate is above 0."""
    sigma = np.float64(noise_multiplier)  # its square may overflow to inf, where a Python float raises
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        half_precision = 0.5 / sigma**2
        if sampling_rate == 1 or not np.isfinite(half_precision):
            curve: Curve = _ORDERS * half_precision
        else:
            curve = _subsampled_curve(sampling_rate, sigma)
    curve.setflags(write=False)
    return curve


def _subsampled_curve(q: float, sigma: np.float64) -> Curve:
    whole = _log_moments_whole(q, sigma) / (_WHOLE - 1)
    series = (_log_moments_fractional(q, sigma) + _ROUNDING) / (_FRACTIONAL - 1)
    # The divergence never falls with the order, so the next whole order is a bound too, and always a number.
    above = whole[np.searchsorted(_WHOLE, _FRACTIONAL)]
    curve = np.empty(len(ORDERS))
    curve[_IS_WHOLE] = whole
    curve[~_IS_WHOLE] = np.fmin(series, above)
    return curve


@lru_cache(maxsize=1)
def _whole_terms() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the indices k >= 2 and log binomials (whole orders, k) that depend on the grid only."""
    k = np.arange(2, _WHOLE[-1] + 1)
    n = _WHOLE[:, None]
    inside = k <= n
    log_binomial = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(np.where(inside, n - k, 0) + 1)
    return k, np.where(inside, log_binomial, -np.inf)


def _log_moments_whole(q: float, sigma: np.float64) -> npt.NDArray[np.float64]:
    """Compute log A for whole orders as log(1 + (A - 1)): the binomial weights sum to 1, so only k >= 2 remain."""
    k, log_binomial = _whole_terms()
    exponent = k * (k - 1) / (2 * sigma**2)
    log_expm1 = exponent + np.log(-np.expm1(-exponent))
    terms = log_binomial + k * math.log(q) + (_WHOLE[:, None] - k) * math.log1p(-q) + log_expm1
    total: npt.NDArray[np.float64] = np.logaddexp(0, _log_sum(terms))
    return total


@lru_cache(maxsize=1)
def _fractional_terms() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the indices i and log |binomials| (fractional orders, i) that depend on the grid only."""
    i = np.arange(_SERIES_TERMS, dtype=np.float64)
    a = _FRACTIONAL[:, None]
    return i, special.gammaln(a + 1) - special.gammaln(i + 1) - special.gammaln(a - i + 1)


def _log_moments_fractional(q: float, sigma: np.float64) -> npt.NDArray[np.float64]:
    """Bound log A for fractional orders; NaN where the noise is too small for float64."""
    i, log_binomial = _fractional_terms()
    j = _FRACTIONAL[:, None] - i
    log_q, log_1mq = math.log(q), math.log1p(-q)
    split = sigma**2 * (log_1mq - log_q) + 0.5
    below = i * log_q + j * log_1mq + (i * i - i) / (2 * sigma**2) + special.log_ndtr((split - i) / sigma)
    above = j * log_q + i * log_1mq + (j * j - j) / (2 * sigma**2) + special.log_ndtr((j - split) / sigma)
    # Beyond the order the terms shrink and alternate, the first of them negative: their sum is not above 0. Counting
    # them as positive is therefore an upper bound wherever the series is cut, and what dp-accounting does.
    return _log_sum(log_binomial + np.logaddexp(below, above))


def _log_sum(terms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Compute log(sum(exp(terms))) along the last axis without overflow."""
    peak = np.max(terms, axis=-1)
    shift = np.where(np.isfinite(peak), peak, 0)
    total: npt.NDArray[np.float64] = shift + np.log(np.sum(np.exp(terms - shift[:, None]), axis=-1))
    return total


def _require_grid(curve: Curve) -> None:
    if curve.shape != (len(ORDERS),) or not np.all(curve >= 0):
        raise PlanError(f"curve of shape {curve.shape}: expected {len(ORDERS)} values >= 0; make it with rdp_curve")


def _merge(events: Sequence[Event]) -> list[Event]:
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        if event.sampling_rate > 0 and event.steps > 0:
            key = (event.sampling_rate, event.noise_multiplier)
            steps[key] = steps.get(key, 0) + event.steps
    return [Event(sampling_rate=q, noise_multiplier=sigma, steps=count) for (q, sigma), count in steps.items()]


def _convolve(history: list[Event], delta: float) -> float:
    """Run Opacus' PRV accountant, unless its grid would not fit in memory."""
    log_error = math.log(12_000 / delta)  # Opacus keeps a thousandth of delta for its own error
    mesh = _PRV_EPSILON_ERROR / math.sqrt(sum(event.steps for event in history) * log_error / 2)
    width = epsilon(compose(*(rdp_curve(event) for event in history)), delta / 4000) + 3
    too_wide = "use the RDP epsilon, or a larger noise_multiplier, delta or fewer rounds"
    if 2 * width / mesh > _MAX_PRV_POINTS:
        raise PlanError(f"PRV accounting: expected at most {_MAX_PRV_POINTS} points, came more; {too_wide}")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # Opacus warns of its own inner search, which says nothing to our caller
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [(event.noise_multiplier, event.sampling_rate, event.steps) for event in history]
        try:
            return float(accountant.get_epsilon(delta, eps_error=_PRV_EPSILON_ERROR))
        except (RuntimeError, ValueError) as error:
            logger.debug("prv=failed reason=%s", error)
            raise PlanError(f"PRV accounting found no epsilon at delta={delta}; {too_wide}") from None
