"""Ray's processes make what this machine's own make, to the bit, and end with the simulation that started them."""

import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from configs.schema import SimulationConfig, StrategyConfig
from faelles.errors import ConfigError, RunError
from server.rounds import Federation
from simulations import engines
from simulations.cohort import CohortGrid
from simulations.fleet import Fleet, ScoreTask
from simulations.grid import FIRST_NODE_ID
from simulations.pool import LocalPool, Pool
from simulations.questions import Question
from simulations.ray_pool import RayPool
from simulations.roll import build_roll
from tests.builders import FEDERATION, build_sites, personal_card
from tests.federations import CITIZENS, build_config

CARD, SEED = personal_card(), 7
SITES = build_sites(CITIZENS)
ROLL = build_roll(CARD, SITES, SEED, None)
# Ray closes no file that its own processes write to, and does not wait for them; the session does.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning"),
]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install -e '.[flower]'")


def children() -> list[psutil.Process]:
    every: list[psutil.Process] = psutil.Process().children(recursive=True)
    return every


def folders() -> set[Path]:
    """Find where the Ray of this process writes."""
    sockets = [one.cmdline()[1].partition("=")[2] for one in children() if one.name() == "raylet"]
    return {Path(socket).parents[2] for socket in sockets}


@pytest.fixture(scope="module")
def shared() -> Iterator[RayPool]:
    """Give what takes seconds to start, and see that its processes and files are gone at the end."""
    before = signal.getsignal(signal.SIGTERM)
    pool = RayPool(CARD, ROLL, SEED, workers=2)
    yield pool
    ours, written = [one for one in children() if one.name().startswith(("ray", "gcs"))], folders()
    pool.close()
    gc.collect()  # while the warnings about what Ray left open are not errors
    assert not [one for one in ours if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not [folder for folder in written if folder.exists()]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def pool(shared: RayPool) -> RayPool:
    """Give Ray's processes; they are started anew after a test that ended them."""
    if not folders():
        shared.start()
    assert shared.size == 2
    return shared


class Lent:
    """Be a pool that somebody else starts and ends."""

    def __init__(self, pool: RayPool) -> None:
        self.size, self.do = pool.size, pool.do

    def start(self) -> None:
        """Start nothing."""

    def close(self) -> None:
        """End nothing."""


def play(folder: Path, pool: Pool) -> dict[str, Any]:
    """Run a federation and tell all that can be told of it."""
    (folder / "nodes").mkdir(parents=True)
    sites = {FIRST_NODE_ID + place: site for place, site in enumerate(SITES)}
    cap = CARD.privacy.epsilon
    with CohortGrid(card=CARD, sites=sites, pool=pool, epsilon_cap=cap, folder=folder / "nodes") as grid:
        record = Federation(grid, build_config(folder, CARD, "fedadam")).run()
        alone = grid.ask_all(Question(kind="alone"))
        local = grid.local_parameters(FEDERATION, before_round=4)
    assert record.status == "completed", record.why
    return {
        "model": record.model_sha256,
        "evaluation": record.evaluation,
        "alone": {node: (one.p_NK.tobytes(), one.y_N.tobytes(), one.citizens) for node, one in alone.items()},
        "local": {(node, name): array.tobytes() for node, one in local.items() for name, array in one.items()},
    }


@needs_ray
def test_what_is_made_is_the_same_to_the_bit(tmp_path: Path, pool: RayPool) -> None:
    assert play(tmp_path / "ray", Lent(pool)) == play(tmp_path / "here", LocalPool(Fleet(CARD, ROLL, SEED), 1))


@needs_ray
def test_results_come_in_the_order_of_the_tasks(pool: RayPool) -> None:
    order = [4, 0, 2, 1, 3, 0, 4]
    scored = pool.do([ScoreTask(places=(place,), start=None) for place in order])
    expected = [int(np.diff(ROLL.held_out.edges)[place]) for place in order]
    assert [one.citizens[1] for (one,) in scored] == expected


@needs_ray
def test_a_mistake_in_a_task_is_raised_as_it_is(pool: RayPool) -> None:
    with pytest.raises(IndexError):
        pool.do([ScoreTask(places=(len(SITES),), start=None)])


@needs_ray
def test_a_process_that_dies_is_told_in_one_line(pool: RayPool) -> None:
    victim, _ = [one for one in children() if one.name().startswith("ray::Worker")]
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(RunError, match="engine=ray: expected its processes to go on, one ended; ") as caught:
        pool.do([ScoreTask(places=(place,), start=None) for place in range(len(SITES))])
    assert "\n" not in str(caught.value)
    pool.close()
    assert not [one for one in children() if one.name().startswith(("ray", "gcs"))]


@needs_ray
def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunError, match=r"^RAY_ADDRESS=127.0.0.1:1: expected a cluster of Ray, connection refused; "):
        RayPool(CARD, ROLL, SEED, None).start()


# what is refused before any data is read; without Ray


def refused(**changes: Any) -> str:
    config = SimulationConfig(usecase="bicycle-repair", strategy=StrategyConfig(name="fedavg"), **changes)
    with pytest.raises(ConfigError) as caught:
        engines.check_engine(config)
    return str(caught.value)


@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_ray_that_is_not_installed_is_told_in_one_line(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    expected = f"engine={engine}: expected Ray, it is not installed; pip install 'faelles[flower]'"
    assert refused(engine=engine) == expected


@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_a_graphics_card_is_refused(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(engines, "check_ray", lambda engine: None)
    assert refused(engine=engine, device="cuda").startswith(f"engine={engine}: expected device=cpu, device=cuda came")
