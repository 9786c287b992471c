"""A live federation learns the very model that a simulation of the same seed learns, whatever dies in between."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import ledger
from client.home import STORE
from client.store import Store
from server.result import RunRecord
from server.rounds import Federation
from server.runs import Run
from simulations.reference import ReferenceGrid
from tests.builders import build_card
from tests.coordinators import wait_until
from tests.federations import build_crews
from tests.live import CITIZENS, SeededFederation, kill, towns, with_folder, write_usecase

pytestmark = [pytest.mark.timeout(400), pytest.mark.live]
# Local parameters too, so that local state must survive as well.
CARD = build_card(
    model={"local": ["output.bias"]}, privacy={"epsilon": 0.5}, training={"rounds": 4, "learning_rate": 0.5}
)
TERMS = ("quorum=1.0", "deadline=5m", "wait=1m", "deliver=3m", "strategy=fedadam")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeededFederation]:
    folder = tmp_path_factory.mktemp("live")
    usecase = write_usecase(folder / CARD.id, CARD)
    federation = SeededFederation(folder=folder / "town", usecase=str(usecase), towns=towns(CARD, epsilon=4.0))
    with federation as started:
        started.set_up()
        started.start()
        yield started


def simulate(run: Run, folder: Path) -> RunRecord:
    """Run the same order in one process."""
    config = with_folder(run.order.federation, folder / "run")
    with ReferenceGrid(build_crews(folder, CARD, citizens=CITIZENS)) as grid:
        return Federation(grid, config).run()


def spent_rounds(live: SeededFederation, federation: uuid.UUID) -> dict[str, int]:
    """Count what each municipality's ledger has charged for a federation."""
    counts = {}
    for town in live.towns:
        store = Store(live.agent_folder(town.code) / STORE, serving=False)
        counts[town.code] = ledger.rounds_spent(store.database, str(federation), ledger.TRAINING)
        store.close()
    return counts


def test_a_live_run_learns_what_a_simulation_learns(live: SeededFederation, tmp_path: Path) -> None:
    federation = uuid.uuid4()
    run = live.order_as(federation, *TERMS, "rounds=2")
    record = live.finish(run, 200)
    assert (record.status, record.why, record.sits_out) == ("completed", "", {})
    simulated = simulate(run, tmp_path)
    assert [one.contributing for one in record.rounds] == [sorted(CITIZENS)] * 2
    assert [one.model_sha256 for one in record.rounds] == [one.model_sha256 for one in simulated.rounds]
    assert record.model_sha256 == simulated.model_sha256
    assert record.evaluation == simulated.evaluation
    assert spent_rounds(live, federation) == dict.fromkeys(CITIZENS, 2)


def test_whatever_is_killed_the_model_is_the_same_and_nobody_pays_twice(live: SeededFederation, tmp_path: Path) -> None:
    federation = uuid.uuid4()
    holds = [live.hold("0147", number) for number in range(1, 5)]
    for hold in holds:
        hold.folder.joinpath(f"held-{hold.server_round}").unlink(missing_ok=True)
        hold.place()
    run = live.order_as(federation, *TERMS)

    holds[0].wait()  # budget is reserved, and one municipality is in the middle of its release
    kill(live.serverapp_pid())
    holds[0].lift()

    holds[1].wait()
    kill(live.pid("0147", "worker"))
    holds[1].lift()

    holds[2].wait()
    assert live.coordinator is not None
    kill(live.coordinator.process.pid)
    live.coordinator.process.wait()
    live.start_coordinator()
    holds[2].lift()

    # Flower counts a killed node as connected for a minute: both wait for it at the same time.
    holds[3].wait()
    kill(live.pid("0101", "node"))
    agent = live.agents["0147"]
    kill(agent.process.pid)
    agent.process.wait()
    wait_until(
        lambda: not alive(live.pid("0147", "worker")), 60, "the end of the worker"
    )  # nothing of an agent outlives it
    live.start_agent("0147")
    holds[3].lift()

    record = live.finish(run, 300)
    simulated = simulate(run, tmp_path)
    assert (record.status, record.why) == ("completed", "")
    assert [one.contributing for one in record.rounds] == [sorted(CITIZENS)] * 4
    assert record.model_sha256 == simulated.model_sha256
    assert len(run.flower_runs) == 3  # at first, after the ServerApp and after the coordinator
    assert spent_rounds(live, federation) == dict.fromkeys(CITIZENS, 4)
    assert sorted(record.delivered) == sorted(CITIZENS)


def alive(pid: int) -> bool:
    """Say whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0].startswith("Z")
