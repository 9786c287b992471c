"""Find how much noise, or how small a delta, keeps an epsilon: searches over the accountant, without a plan.

Noise multipliers are solved on decimal numbers of five significant digits, so that they survive JSON unchanged and
equal terms give equal events. Each search ends on a value that was itself tested against epsilon.
"""

import math
from collections.abc import Callable
from functools import lru_cache

from faelles.errors import PlanError
from faelles.privacy import accountant
from faelles.privacy.accountant import Curve, Event

_MANTISSAS = 90_000  # 10,000 to 99,999
_DECADES = 8  # from 0.01 to 1e6


@lru_cache(maxsize=4096)
def smallest_noise_multiplier(sampling_rate: float, steps: int, epsilon: float, delta: float) -> float:
    """Find the smallest noise multiplier that keeps epsilon.

    Guarantees:
        - Steps with this noise spend no more than epsilon at delta.
        - It has five significant digits and lies between 0.01 and 1e6; where it is above 0.01, the next lower one
          spends more.

    Args:
        sampling_rate: Probability in (0, 1] with which a step takes a unit.
        steps: At least 1.
        epsilon: Above 0, finite.
        delta: In (0, 1).

    Raises:
        PlanError: No noise multiplier keeps epsilon.

        >>> smallest_noise_multiplier(0.256, 300, 2.0, 1e-5)
        9.6352
    """

    def spends_more(index: int) -> bool:
        event = Event(sampling_rate=sampling_rate, noise_multiplier=_grid_point(index), steps=steps)
        return accountant.epsilon(accountant.rdp_curve(event), delta) > epsilon

    top = _MANTISSAS * _DECADES
    too_small = last(spends_more, 0, top)
    if too_small == top:
        raise PlanError(
            f"epsilon={epsilon:g} at delta={delta:g}: expected a noise_multiplier up to {_grid_point(top):g} to keep"
            " it, none does; raise epsilon or delta, or lower rounds"
        )
    return _grid_point(0 if too_small is None else too_small + 1)


def smallest_delta(curve: Curve, epsilon: float) -> float:
    """Find the smallest delta of four significant digits with which a curve keeps epsilon.

    Guarantees:
        - What the curve bounds is (epsilon, delta)-differentially private by `accountant.epsilon`.

    Args:
        curve: Array of shape (len(ORDERS),).
        epsilon: Above 0, finite.

    Raises:
        PlanError: No delta below 1 keeps epsilon.

        >>> smallest_delta(accountant.rdp_curve(Event(sampling_rate=0.256, noise_multiplier=9.6352, steps=300)), 2.0)
        9.999e-06
    """
    exact = max(accountant.delta(curve, epsilon), 1e-300)
    decade = math.floor(math.log10(exact)) - 3
    mantissa = math.floor(exact / 10.0**decade)
    for candidate in (float(f"{mantissa + extra}e{decade}") for extra in range(3)):
        if candidate < 1 and accountant.epsilon(curve, candidate) <= epsilon:
            return candidate
    raise PlanError(f"epsilon={epsilon:g}: expected a delta below 1 to keep it, none does; raise noise_multiplier")


def last(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Find the last whole number for which a condition holds that never comes back once it fails.

    Guarantees:
        - The condition was tested and holds for the number; it fails for the next one, unless that is beyond `high`.

    Args:
        holds: The condition.
        low: First number to try.
        high: Last number to try.

    Returns:
        The number; None where the condition fails at `low` already.

        >>> last(lambda n: n * n <= 50, 1, 100)
        7
    """
    if not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _grid_point(index: int) -> float:
    """Give the decimal number of five significant digits that stands at a place: 0 is 0.01, 1 is 0.010001."""
    decade, mantissa = divmod(index, _MANTISSAS)
    return float(f"{10_000 + mantissa}e{decade - 6}")
