"""Keep runs going: a run whose process died is taken up at its last finished round, until it ends or is stopped."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from faelles.errors import FaellesError
from server import enrolment
from server.bundle import build_bundle
from server.control import FINISHED, Control
from server.executor import Executor
from server.home import Home
from server.provenance import write_provenance
from server.register import Register
from server.runs import Run, all_runs

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
TRIES = 8  # without a round in between; then a person must look


@dataclass(kw_only=True)
class _Tries:
    """Count how often a run was started since it last got on."""

    count: int = 0
    rounds: int = -1
    due: float = 0.0


class Keeper:
    """Start runs, and start them again.

    Args:
        home: The coordinator's folder.
        control: Its Control API.
        executor: Runs the processes.
        clock: Monotonic seconds.
    """

    def __init__(
        self, home: Home, control: Control, executor: Executor, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._home, self._control, self._executor, self._clock = home, control, executor, clock
        self._tries: dict[str, _Tries] = {}
        self._bundle = build_bundle()

    def take_over(self) -> None:
        """End what an earlier coordinator's processes were running, for they died with it; know everybody enrolled."""
        with closing(Register(self._home.register)) as register:
            enrolment.restore(register, self._control)
        for number, status in self._control.runs().items():
            if status != FINISHED:
                self._control.stop(number)

    def step(self) -> None:
        """Look after every run once; called every moment."""
        for run in all_runs(self._home.runs):
            try:
                self._look_after(run)
            except FaellesError as error:
                log.error("event=not-kept run=%s why=%s", run.name, error)

    def _look_after(self, run: Run) -> None:
        if run.ended:
            self._tries.pop(run.name, None)
            return
        runs = run.flower_runs
        going = bool(runs) and self._control.runs().get(runs[-1], FINISHED) != FINISHED
        if run.stopped and going:
            if not self._executor.stop(runs[-1]):
                self._control.stop(runs[-1])
        elif run.stopped:
            run.close("stopped", "stopped by hand")
        elif not going:
            self._start(run)

    def _start(self, run: Run) -> None:
        tries, now = self._tries.setdefault(run.name, _Tries()), self._clock()
        record = run.record
        rounds = len(record.rounds) + len(record.delivered) if record else 0
        if rounds > tries.rounds:
            tries.count, tries.rounds = 0, rounds
        if now < tries.due:
            return
        if tries.count >= TRIES:
            run.close("incomplete", f"its process ended {tries.count} times without a round; see server.log")
            return
        tries.count += 1
        tries.due = now + min(FIRST_PAUSE_S * 2**tries.count, LONGEST_PAUSE_S)
        start(run, self._home, self._control, self._bundle)


def start(run: Run, home: Home, control: Control, bundle: bytes) -> int:
    """Start a Flower run of a run, with the municipalities that are enrolled by now."""
    order = run.order
    with closing(Register(home.register)) as register:
        nodes = {one.municipality: one.node for one in register.current().values()}
    config = order.federation.model_copy(
        update={"folder": run.folder, "nodes": nodes, "heads": home.heads, "resume": bool(run.flower_runs)}
    )
    write_provenance(run.folder, config, bundle)
    number = control.start(bundle, config.model_dump_json())
    try:
        run.started(number)
    except BaseException:
        # A Flower run that nobody wrote down would go on beside the next one, in the same folder.
        control.stop(number)
        raise
    log.info("event=run-started run=%s flower_run=%d municipalities=%d", run.name, number, len(nodes))
    return number
