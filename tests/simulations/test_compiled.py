"""Loops are compiled also where nothing can be kept for the next process."""

from collections.abc import Callable
from typing import Any

from simulations.compiled import compiled


def test_a_function_without_a_file_is_compiled_but_not_kept() -> None:
    made: dict[str, Callable[[Any], Any]] = {}
    exec("def twice(number):\n    return 2 * number\n", made)  # noqa: S102  # as where no folder may be written
    twice = compiled(made["twice"])
    assert twice(21) == 42
    assert not twice.stats.cache_path  # type: ignore[attr-defined]
