"""Check the terms of privacy one by one, so that every mistake is told in the same words.

Terms are public (they stand in plans and cards), so a message may hold the value that came.
"""

import json
import math
from typing import NoReturn

from faelles.errors import PlanError, WireError

MAX_COUNT = 1_000_000_000
"""The largest declared size, batch size, number of rounds or of local steps in a plan."""


def count(name: str, value: object, low: int = 1, high: int = MAX_COUNT) -> int:
    """Return a whole number from low to high, or raise PlanError."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise PlanError(f"{name}={value!r:.40}: expected a whole number from {low} to {high}; correct it")
    return value


def number(name: str, value: object, above: float = -math.inf) -> float:
    """Return a finite number above a bound as float, or raise PlanError."""
    # 1e300: a larger whole number has no float, and no term is anywhere near.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not above < value < 1e300:
        bound = "" if math.isinf(above) else f" above {above:g}"
        raise PlanError(f"{name}={value!r:.40}: expected a finite number{bound}; correct it")
    return float(value)


def delta(value: object) -> float:
    """Return a probability strictly between 0 and 1, or raise PlanError."""
    if not isinstance(value, float) or not 0 < value < 1:
        raise PlanError(f"delta={value!r:.40}: expected 0 < delta < 1; a common choice is 1e-5")
    return float(value)


def epsilon(value: object) -> float:
    """Return an epsilon above 0, inf allowed, or raise PlanError."""
    if value == math.inf:
        return math.inf
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise PlanError(f"epsilon={value!r:.40}: expected > 0; a common choice is 1 to 3")
    return number("epsilon", value)


def json_object(name: str, text: str | bytes) -> dict[str, object]:
    """Return the one JSON object that a text holds, without repeated keys and NaN, or raise WireError."""

    def refuse(constant: str) -> NoReturn:
        raise WireError(f"{name}: expected finite numbers, came {constant}; write it with to_json")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise WireError(f"{name}: expected each key once, came a key twice; write it with to_json")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except WireError:
        raise
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise WireError(f"{name}: expected one JSON object, came something else; write it with to_json")
    return value
