"""Hold what a simulator took, and keep its clock the same for all of them."""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Hold the seconds of a run.

    Args:
        rounds_s: Of each round, in order.
        whole_s: From the first round's begin to the last one's end.
    """

    rounds_s: tuple[float, ...]
    whole_s: float

    @property
    def median_s(self) -> float:
        """Give the seconds of the round in the middle: what others do on the machine moves a mean."""
        return statistics.median(self.rounds_s)


def clock(one_round: Callable[[], object], rounds: int) -> Measured:
    """Run rounds and note what each takes, after a first one that nobody counts: in it torch loads what it needs.

    Args:
        one_round: Does the work of one.
        rounds: How many are counted, at least 1.

    Returns:
        The seconds.
    """
    one_round()
    ends = [time.monotonic()]
    for _ in range(rounds):
        one_round()
        ends.append(time.monotonic())
    return between(ends)


def between(ends: list[float]) -> Measured:
    """Reckon the rounds from the times that bound them: the first one's begin, then each one's end."""
    seconds = tuple(after - before for before, after in itertools.pairwise(ends))
    return Measured(rounds_s=seconds, whole_s=ends[-1] - ends[0])


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch so many threads within the block, whatever the environment says, and what it had after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
