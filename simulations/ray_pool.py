"""Spread a cohort's tasks over the processes of Ray: one a core of this machine, or of a whole cluster.

RAY_ADDRESS names the cluster, as for every program that uses Ray; its machines have this package installed.
"""

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from faelles.card import UseCaseCard
from faelles.errors import RunError
from simulations.fleet import Fleet, Task
from simulations.ray_session import LOST, RaySession, load_ray
from simulations.roll import Roll


class Worker:
    """Do tasks in a process of Ray.

    Args:
        card: What is learned.
        roll: The citizens, in the memory that all processes of a machine share.
        seed: Of batches and noise.
    """

    def __init__(self, card: UseCaseCard, roll: Roll, seed: int) -> None:
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            # Shared memory is read-only, which PyTorch cannot say of a tensor; a fleet writes to no citizen.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
            self._fleet = Fleet(card, roll, seed)

    def do(self, task: Task) -> object:
        """Do a task."""
        return self._fleet.do(task)

    def ready(self) -> None:
        """Answer once the citizens are here."""


class RayPool:
    """Do tasks in Ray's processes, each on one processor.

    Args:
        card: What is learned.
        roll: The citizens.
        seed: Of batches and noise.
        workers: How many processes, None for every processor; what is made does not depend on it.
    """

    def __init__(self, card: UseCaseCard, roll: Roll, seed: int, workers: int | None) -> None:
        self._card, self._roll, self._seed = card, roll, seed
        self._wanted = workers
        self._session = RaySession()
        self._ray: Any = None
        self._workers: list[Any] = []

    @property
    def size(self) -> int:
        """Count the tasks that are done at the same time."""
        return max(1, len(self._workers))

    def start(self) -> None:
        """Start the processes, and wait until each has the citizens.

        Raises:
            RunError: Ray or one of its processes does not start.
        """
        try:
            size = self._session.start(self._wanted, len(self._roll.labels))
            self._ray = load_ray()
            roll = self._ray.put(self._roll)
            worker = self._ray.remote(num_cpus=1)(Worker)
            self._workers = [worker.remote(self._card, roll, self._seed) for _ in range(size)]
            for one in self._workers:
                self._made(one.ready.remote())
        except BaseException:
            self.close()  # a grid that could not be entered is not left
            raise

    def do(self, tasks: Sequence[Task]) -> list[Any]:
        """Do tasks, the first ones first: large ones should come first.

        Raises:
            RunError: A process has ended.
        """
        made: dict[int, Any] = {}
        waiting, free, busy = deque(enumerate(tasks)), list(self._workers), dict[Any, tuple[int, Any]]()
        while len(made) < len(tasks):
            while waiting and free:
                number, task = waiting.popleft()
                worker = free.pop()
                busy[worker.do.remote(task)] = (number, worker)
            for done in self._ray.wait(list(busy))[0]:
                number, worker = busy.pop(done)
                made[number] = self._made(done)
                free.append(worker)
        return [made[number] for number in range(len(tasks))]

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._workers = []
        self._session.close()

    def _made(self, done: Any) -> Any:
        """Fetch what a process made.

        Raises:
            RunError: The process has ended.
        """
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError:
            raise RunError(LOST.format("ray")) from None
