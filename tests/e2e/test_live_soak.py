"""Kill processes of a live federation at random for twenty minutes: runs go on, and their records hide nothing."""

import logging
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.result import RunRecord
from tests.e2e.test_live_parity import CARD, simulate, spent_rounds
from tests.live import CITIZENS, SeededFederation, kill, towns, write_usecase

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]
SOAK_S = 20 * 60.0
BETWEEN_S = (8.0, 40.0)
KINDS = ("worker", "node", "agent", "serverapp", "coordinator")
TERMS = ("quorum=0.5", "deadline=2m", "wait=3m", "deliver=3m", "strategy=fedadam")


@dataclass(kw_only=True)
class Killer:
    """Kill at random, and start again what a service manager would."""

    live: SeededFederation
    rng: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Kill until told to stop."""
        while not self.over.wait(self.rng.uniform(*BETWEEN_S)):
            kind, code = self.rng.choice(KINDS), self.rng.choice(sorted(CITIZENS))
            self.killed[kind] += 1
            if kind in ("worker", "node"):
                kill(self.live.pid(code, kind))
            elif kind == "serverapp":
                kill(self.live.serverapp_pid())
            elif kind == "agent":
                self._restart_agent(code)
            else:
                self._restart_coordinator()

    def _restart_agent(self, code: str) -> None:
        agent = self.live.agents[code].process
        kill(agent.pid)
        agent.wait()
        self.live.start_agent(code)

    def _restart_coordinator(self) -> None:
        assert self.live.coordinator is not None
        kill(self.live.coordinator.process.pid)
        self.live.coordinator.process.wait()
        self.live.start_coordinator()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[SeededFederation]:
    usecase = write_usecase(tmp_path / CARD.id, CARD)
    with SeededFederation(folder=tmp_path / "town", usecase=str(usecase), towns=towns(CARD, epsilon=8.0)) as started:
        started.set_up()
        started.start()
        yield started


def test_twenty_minutes_of_kills(live: SeededFederation, tmp_path: Path) -> None:
    killer = Killer(live=live, rng=random.Random(20261124))
    thread = threading.Thread(target=killer.run, daemon=True)
    thread.start()
    began, finished = time.monotonic(), []
    try:
        while time.monotonic() - began < SOAK_S:
            federation = uuid.uuid4()
            run = live.order_as(federation, *TERMS)
            record = live.finish(run, 1200)
            log.info(
                "run=%s status=%s starts=%d killed=%s", run.name, record.status, len(run.flower_runs), killer.killed
            )
            check(record)
            finished.append((federation, run, record))
    finally:
        killer.over.set()
        thread.join()
    assert sum(killer.killed.values()) > SOAK_S / BETWEEN_S[1]
    for number, (federation, run, record) in enumerate(finished):
        assert all(count <= CARD.training.rounds for count in spent_rounds(live, federation).values())
        if all(one.contributing == sorted(CITIZENS) for one in record.rounds):
            assert record.model_sha256 == simulate(run, tmp_path / f"simulated-{number}").model_sha256
    assert any(record.status == "completed" for _, _, record in finished)


def check(record: RunRecord) -> None:
    """See that a record names every municipality in every round, and never calls a run completed that was not."""
    assert record.expected == sorted(CITIZENS)
    taking_part = set(record.expected) - set(record.sits_out)
    for one in record.rounds:
        named = [*one.contributing, *one.refused, *one.rejected, *one.silent, *one.missing]
        assert len(named) == len(set(named))
        assert taking_part - set(named) == set()
    if record.status == "completed":
        assert len(record.rounds) == CARD.training.rounds
        assert all(len(one.contributing) >= record.needed for one in record.rounds)
    else:
        assert record.why
