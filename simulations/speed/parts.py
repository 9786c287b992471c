"""Measure what a round of the cohort consists of: drawing, training, and everything that is not the municipalities'.

Each part is run alone, in one process; a round runs the first two in a process a core.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from simulations.cohort import CohortGrid
from simulations.fleet import Fleet, Task, TrainTask
from simulations.pool import LocalPool
from simulations.speed.measured import torch_threads
from simulations.speed.ours import Watch, build_cast, run_rounds
from simulations.speed.workload import Workload

ROUNDS = 9


class IdlePool(LocalPool):
    """Answer every task with what it answered first, so that a round is all but the municipalities' work."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet, 1)
        self.tasks: list[TrainTask] = []
        self._made: dict[tuple[int, ...], Any] = {}

    def do(self, tasks: Sequence[Task]) -> list[Any]:
        """Do what was never asked before."""
        for task in tasks:
            if task.places not in self._made:
                self._made[task.places] = self._fleet.do(task)
        self.tasks = [task for task in tasks if isinstance(task, TrainTask)] or self.tasks
        return [self._made[task.places] for task in tasks]


def parts_lines(workload: Workload) -> list[str]:
    """Write what a round's parts take."""
    with tempfile.TemporaryDirectory(prefix="speed") as name, torch_threads(1):
        folder = Path(name)
        (folder / "nodes").mkdir()
        card = workload.card(ROUNDS)
        cast = build_cast(workload, card, folder / "nodes")
        fleet = Fleet(card, cast.roll, 1)
        pool = IdlePool(fleet)
        watch = Watch()
        grid = CohortGrid(
            card=card, sites=cast.sites, pool=pool, epsilon_cap=cast.epsilon_cap, folder=cast.folder,
            observe=watch.note,
        )  # fmt: skip
        run_rounds(workload, card, grid, folder / "run")
        server_s = watch.measured.median_s
        training_s = _median_s(lambda: [fleet.do(task) for task in pool.tasks])
        drawing_s = _median_s(lambda: [fleet.draw(task) for task in pool.tasks])
    return [
        f"- of a round of {workload.name}, on one core: {1000 * drawing_s:.0f} ms draw batches and noise, "
        f"{1000 * (training_s - drawing_s):.0f} ms train, {1000 * server_s:.0f} ms are messages, validation, "
        "aggregation and checkpoint"
    ]


def _median_s(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        work()
        seconds.append(time.monotonic() - began)
    return median(seconds)
