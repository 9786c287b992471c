"""Spread a fleet's tasks over processes: one a core, each with the same citizens in memory."""

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch

from simulations.fleet import Fleet, Task
from simulations.processes import Processes

AHEAD = 2  # tasks that a process has at once, so that it need not wait for the next one


class Pool(Protocol):
    """Do tasks, on this machine or on others."""

    @property
    def size(self) -> int:
        """Count the tasks that are done at the same time."""
        ...

    def start(self) -> None:
        """Start what does them."""
        ...

    def do(self, tasks: Sequence[Task]) -> list[Any]:
        """Do tasks; return what each made, in their order."""
        ...

    def close(self) -> None:
        """End what does them."""
        ...


class LocalPool:
    """Do tasks in worker processes of this machine; with one, in this process.

    Args:
        fleet: Does a task.
        workers: How many processes; what is made does not depend on it.
    """

    def __init__(self, fleet: Fleet, workers: int) -> None:
        self.size = workers
        self._fleet = fleet
        self._processes = Processes()

    def start(self) -> None:
        """Start the processes; on Linux a fork, so citizens are in memory once.

        What is in memory now is there to stay, so the garbage collector is told to leave it alone: it would walk
        through it now and then in the middle of a round, and make a fork copy what it shares.
        """
        gc.freeze()
        if self.size > 1:
            self._processes.start([functools.partial(serve, self._fleet)] * self.size)

    def do(self, tasks: Sequence[Task]) -> list[Any]:
        """Do tasks, the first ones first: large ones should come first.

        Raises:
            RunError: A process has ended.
        """
        if self.size == 1:
            return [self._fleet.do(task) for task in tasks]
        made: dict[int, Any] = {}
        waiting = list(enumerate(tasks))[::-1]
        for connection in self._processes.connections * AHEAD:
            if waiting:
                self._processes.send(connection, waiting.pop())
        while len(made) < len(tasks):
            for connection, (number, one) in self._processes.read(None):
                made[number] = one
                if waiting:
                    self._processes.send(connection, waiting.pop())
        return [made[number] for number in range(len(tasks))]

    def close(self) -> None:
        """End the processes."""
        self._processes.close()
        gc.unfreeze()


def serve(fleet: Fleet, sent: Iterator[Any], answer: Callable[[object], None]) -> None:
    """Do (number, task) after (number, task), until the process is ended."""
    torch.set_num_threads(1)
    for number, task in sent:
        answer((number, fleet.do(task)))
