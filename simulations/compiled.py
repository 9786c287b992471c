"""Compile loops over numbers for the machine they run on.

Numba compiles a function when it is first called, and keeps what it made beside the source or in the user's cache.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

# Neither infinity nor NaN is assumed away: clipping looks for them. Division by zero gives infinity, as in torch.
OPTIONS: Any = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function when it is first called, and keep the outcome for later processes where a folder allows it."""
    try:
        made: F = numba.njit(function, cache=True, **OPTIONS)
    except RuntimeError:  # there is no folder that this user may write
        made = numba.njit(function, **OPTIONS)
    return made
