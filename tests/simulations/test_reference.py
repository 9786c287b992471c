"""The reference changes where municipalities run, never what they answer, and leaves no process behind."""

import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from flwr.app import Message

from client import outbox
from client.store import Store
from faelles.card import UseCaseCard
from faelles.errors import RunError
from faelles.records import Kind, Request, parse_request, unpack
from server.result import RunRecord
from server.rounds import Federation
from simulations.grid import FIRST_NODE_ID
from simulations.questions import Question
from simulations.reference import ReferenceGrid
from simulations.worker import Crew, Municipality
from strategies.registry import STRATEGIES
from tests.builders import FEDERATION, LOCAL, build_card, content_bytes, message_of, personal_card
from tests.federations import CITIZENS, TappedGrid, build_config, build_crews, run_federation

CARD = build_card()
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, which gates and killed parents rely on")


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


def ready(card_sha256: str = CARD.sha256) -> Request:
    return Request(kind=Kind.READY, federation=FEDERATION, server_round=0, card_sha256=card_sha256)


# the same whatever the processes


@pytest.mark.parametrize("card", [CARD, personal_card()], ids=["federated", "personalised"])
def test_the_model_does_not_depend_on_workers_or_order(tmp_path: Path, card: UseCaseCard) -> None:
    digests = set()
    for workers, reverse in ((1, False), (2, False), (3, False), (2, True)):
        folder = tmp_path / f"{workers}-{reverse}"
        crews = build_crews(folder, card, workers=workers, reverse=reverse)
        record = run_federation(folder, card, "fedadam", crews=crews, weighting="declared")
        assert record.status == "completed"
        digests.add((record.model_sha256, record.evaluation.auc if record.evaluation else None))
    assert len(digests) == 1


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    first = run_federation(tmp_path / "a", CARD)
    crews = [dataclasses.replace(crew, seed=8) for crew in build_crews(tmp_path / "b", CARD)]
    assert run_federation(tmp_path / "b", CARD, crews=crews).model_sha256 != first.model_sha256


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_runs_for_three_rounds(tmp_path: Path, strategy: str) -> None:
    record = run_federation(tmp_path, CARD, strategy)
    assert record.status == "completed", record.why
    assert [one.contributing for one in record.rounds] == [sorted(CITIZENS)] * 3
    assert len({one.model_sha256 for one in record.rounds}) == 3


# what passes


def test_no_local_parameter_is_in_any_message_of_a_personalised_run(tmp_path: Path) -> None:
    card = personal_card()
    with TappedGrid(build_crews(tmp_path, card, workers=2)) as grid:
        Federation(grid, build_config(tmp_path, card, "fedavgm")).run()
    assert len(grid.passed) == 2 * len(CITIZENS) * (1 + 3 + 1 + 1 + 1)
    values: list[bytes] = []
    for path in (tmp_path / "nodes").glob("*.sqlite"):
        store = Store(path, durable=False, serving=False)
        states = [outbox.local_state(store.database, FEDERATION, before_round) for before_round in (2, 3, 4)]
        values += [unpack(state)[1][LOCAL[0]].tobytes() for state in states if state]
        home = outbox.model(store.database, FEDERATION)
        assert home is not None
        assert unpack(home)[1][LOCAL[0]].tobytes() == values[-1]
        store.close()
    assert len(set(values)) == 3 * len(CITIZENS)
    for message in grid.passed:
        sent = content_bytes(message)
        assert LOCAL[0].encode() not in sent
        assert not [value for value in values if value in sent]


def test_an_empty_municipality_sits_out_and_is_named(tmp_path: Path) -> None:
    crews = build_crews(tmp_path, CARD, citizens={**CITIZENS, "0400": 0})
    record = run_federation(tmp_path, CARD, crews=crews)
    assert record.sits_out == {"0400": "no-data"}
    assert "0400" in record.expected
    assert record.rounds[0].contributing == sorted(CITIZENS)
    assert record.status == "completed"


def test_every_municipality_answers_a_simulations_question(tmp_path: Path) -> None:
    with ReferenceGrid(build_crews(tmp_path, CARD, workers=2)) as grid:
        scores = grid.ask_all(Question(kind="alone"))
    assert sorted(scores) == list(range(FIRST_NODE_ID, FIRST_NODE_ID + 5))
    assert [sum(one.citizens) for _, one in sorted(scores.items())] == [CITIZENS[label] for label in sorted(CITIZENS)]
    assert all(one.p_NK.shape == (len(one.y_N), 2) for one in scores.values())


# deadlines


@dataclass(frozen=True, kw_only=True)
class GatedRows:
    """Make the reader wait until a byte is written to a pipe."""

    rows: Callable[[str, UseCaseCard], pa.Table]
    gate: int

    def __call__(self, population: str, card: UseCaseCard) -> pa.Table:
        """Wait, and return the rows."""
        os.read(self.gate, 1)
        return self.rows(population, card)


@dataclass(frozen=True, kw_only=True)
class GatedCrew(Crew):
    """Be a crew whose first municipality has a slow source."""

    gate: int

    def build(self) -> dict[int, Municipality]:
        """Build the crew with a gate before its first municipality's rows."""
        crew = super().build()
        slow = min(crew)
        object.__setattr__(crew[slow].node, "rows", GatedRows(rows=crew[slow].node.rows, gate=self.gate))
        return crew


class Patience:
    """Be the coordinator's clock, which jumps past a deadline once everybody who can reply has.

    The machine's own pace is no part of it.
    The second worker's first municipality waits at a gate, and so do those behind it.

    Args:
        crews: The fast and the slow worker.
        opens: Before which round's training the gate opens; None keeps it shut.
    """

    DEADLINE_S = 60.0

    def __init__(self, crews: list[Crew], opens: int | None) -> None:
        fast, slow = crews
        self.opens, self.ahead = opens, 0.0
        self.shut, self.left, self.ticks = True, 0, 0
        self.gate, self.key = os.pipe()
        fields = {field.name: getattr(slow, field.name) for field in dataclasses.fields(slow)}
        self.crews = [fast, GatedCrew(**fields, gate=self.gate)]
        self.slow = sorted(site.label for site in slow.sites.values())

    def monotonic(self) -> float:
        """Tell the time."""
        return time.monotonic() + self.ahead

    def observe(self, kind: str, messages: list[Message]) -> None:
        """Open the gate in time, and count who can reply while it is shut."""
        if kind == Kind.TRAIN and parse_request(messages[0]).server_round == self.opens:
            os.write(self.key, b"x")
            self.shut = False
        self.left = len(self.crews[0].sites) if self.shut and kind != Kind.READY else 0

    def tick(self) -> None:
        """Let the deadline pass after the last reply that can come."""
        self.ticks += 1
        self.left -= 1
        self.ahead += self.DEADLINE_S if self.left == 0 else 0.0

    def run(self, folder: Path, card: UseCaseCard) -> RunRecord:
        """Run a federation by this clock."""
        record = run_federation(
            folder, card, crews=self.crews, observe=self.observe, tick=self.tick, clock=self.monotonic, quorum=0.2,
            deadline_s=self.DEADLINE_S,
        )  # fmt: skip
        os.close(self.gate)
        os.close(self.key)
        return record


def run_record(folder: Path) -> RunRecord:
    return RunRecord.model_validate_json((folder / "run" / "run.json").read_bytes())


def test_a_late_reply_is_dropped_and_the_municipality_takes_part_again(tmp_path: Path) -> None:
    patience = Patience(build_crews(tmp_path, CARD, workers=2), opens=2)
    record = patience.run(tmp_path, CARD)
    assert record.rounds[0].silent == patience.slow
    assert [one.contributing for one in record.rounds[1:]] == [sorted(CITIZENS)] * 2
    assert record.status == "completed"
    # What came late was dropped, and named in the round that it was for.
    assert [sorted(one.late) for one in record.rounds] == [patience.slow, [], []]
    assert patience.ticks == 7 * len(CITIZENS)
    assert run_record(tmp_path) == record


def test_late_replies_that_fill_the_pipe_block_nobody(tmp_path: Path) -> None:
    # Some 115 KB for each message: neither a batch nor its late replies fit into a pipe's buffer.
    card = build_card(model={"kind": "mlp", "hidden": [4096]}, training={"local_steps": 1})
    patience = Patience(build_crews(tmp_path, card, workers=2), opens=2)
    record = patience.run(tmp_path, card)
    assert record.rounds[0].silent == patience.slow
    assert record.rounds[2].contributing == sorted(CITIZENS)


def test_leaving_does_not_wait_for_a_slow_municipality(tmp_path: Path) -> None:
    patience = Patience(build_crews(tmp_path, CARD, workers=2), opens=None)
    record = patience.run(tmp_path, CARD)
    assert [one.silent for one in record.rounds] == [patience.slow] * 3
    assert not any(one.late for one in record.rounds)
    assert sorted(record.delivered) == sorted(CITIZENS.keys() - set(patience.slow))
    assert record.evaluation is not None
    assert record.evaluation.silent == patience.slow


# failures


def test_no_worker_is_left_after_an_exception(tmp_path: Path) -> None:
    def fail(kind: str, messages: list[Message]) -> None:
        raise KeyError(kind)

    with pytest.raises(KeyError, match=r"query\.ready"):
        run_federation(tmp_path, CARD, crews=build_crews(tmp_path, CARD, workers=3), observe=fail)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("kind", [Kind.READY, Kind.TRAIN, Kind.CLOSE])
def test_a_worker_that_dies_is_told_in_one_line(tmp_path: Path, kind: Kind) -> None:
    def kill(sent: str, messages: list[Message]) -> None:
        if sent == kind:
            (victim, *_) = multiprocessing.active_children()
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()

    with pytest.raises(RunError, match="simulation: a worker process ended") as caught:
        run_federation(tmp_path, CARD, crews=build_crews(tmp_path, CARD, workers=2), observe=kill)
    assert "\n" not in str(caught.value)


def test_answers_are_what_the_app_answers_without_a_grid(tmp_path: Path) -> None:
    (crew,) = build_crews(tmp_path, CARD)
    close = message_of(dataclasses.replace(ready(), kind=Kind.CLOSE), FIRST_NODE_ID)
    with ReferenceGrid([crew]) as grid:
        (through,) = grid.send_and_receive([close])
    (tmp_path / "direct" / "nodes").mkdir(parents=True)
    direct_crew = dataclasses.replace(crew, folder=tmp_path / "direct" / "nodes")
    municipality = direct_crew.build()[FIRST_NODE_ID]
    direct = municipality.app(close, municipality.context)
    assert content_bytes(through) == content_bytes(direct)
    assert through.metadata.src_node_id == FIRST_NODE_ID
