"""Flower's own simulation carries the production ClientApp's answers, bit for bit those of the reference."""

import gc
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from faelles.errors import RunError
from faelles.models import Arrays
from faelles.records import Kind, Request
from server.rounds import Federation
from simulations import flower_run
from simulations.flower_app import MunicipalitiesApp, opened
from simulations.flower_engine import FlowerGrid
from simulations.flower_run import FlowerRun
from simulations.grid import RUN_ID, SimulationGrid
from simulations.questions import Question
from simulations.reference import ReferenceGrid
from simulations.roll import build_roll
from tests.builders import FEDERATION, identify, message_of, personal_card
from tests.federations import build_config, build_crews

CARD, SEED = personal_card(), 7
# Ray closes no file that its own processes write to, and does not wait for them; the session does.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning"),
]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install -e '.[flower]'")


@pytest.fixture
def _nothing_is_left() -> Iterator[None]:
    before = list(logging.getLogger("flwr").filters)
    yield
    gc.collect()  # while the warnings about what Ray left open are not errors
    names = [one.name() for one in psutil.Process().children(recursive=True)]
    assert not [name for name in names if name.startswith(("ray", "gcs"))]
    assert logging.getLogger("flwr").filters == before


def flower_grid(folder: Path, **changes: Any) -> FlowerGrid:
    (crew,) = build_crews(folder, CARD)
    return FlowerGrid(crew, build_roll(CARD, list(crew.sites.values()), SEED, None), workers=2, **changes)


def last_model(folder: Path) -> Arrays:
    with np.load(folder / "run" / "model.npz") as archive:
        return {name: archive[name] for name in archive.files}


def play(grid: SimulationGrid, folder: Path) -> dict[str, Any]:
    """Run a federation and tell all that can be told of it."""
    record = Federation(grid, build_config(folder, CARD, "fedadam")).run()
    assert record.status == "completed", record.why
    final = Question(kind="score", federation=FEDERATION, before_round=4, shared=last_model(folder))
    scores = {kind: grid.ask_all(one) for kind, one in {"final": final, "alone": Question(kind="alone")}.items()}
    local = grid.local_parameters(FEDERATION, before_round=4)
    return {
        "model": record.model_sha256,
        "evaluation": record.evaluation,
        "scores": {(kind, node): one.p_NK.tobytes() for kind, found in scores.items() for node, one in found.items()},
        "local": {(node, name): array.tobytes() for node, one in local.items() for name, array in one.items()},
    }


@needs_ray
@pytest.mark.usefixtures("_nothing_is_left")
def test_everything_is_the_same_to_the_bit_and_leaving_waits_for_nobody(tmp_path: Path) -> None:
    ticks: list[None] = []
    with ReferenceGrid(build_crews(tmp_path / "reference", CARD)) as reference:
        expected = play(reference, tmp_path / "reference")
    with flower_grid(tmp_path / "flower", tick=lambda: ticks.append(None)) as grid:
        assert play(grid, tmp_path / "flower") == expected
        assert TaskIdentity.run_id == RUN_ID
        assert len(ticks) == 7 * len(grid.names)
        ready = Request(kind=Kind.READY, federation=FEDERATION, server_round=0, card_sha256=CARD.sha256)
        grid.push_messages([message_of(ready, node) for node in grid.names])
    assert len(ticks) == 7 * len(grid.names)


# without Ray


def test_a_municipality_is_open_in_one_place_at_a_time(tmp_path: Path) -> None:
    (crew,) = build_crews(tmp_path, CARD)
    node = min(crew.sites)
    for _ in range(2):
        with opened(crew, node) as municipality:
            assert municipality.node.municipality == crew.sites[node].label
            assert crew.folder / f"{node:05d}.sqlite" == municipality.node.store.path
    assert len(list(crew.folder.glob("*.sqlite"))) == 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ErrorCode.UNKNOWN, "engine=flower: expected its processes to go on, one ended; give them more memory"),
        (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "engine=flower: expected every municipality to answer, why came"),
    ],
)
def test_an_answer_that_is_flowers_own_ends_the_run_in_one_line(code: int, expected: str) -> None:
    asked = message_of(Request(kind=Kind.CLOSE, federation=FEDERATION, server_round=0, card_sha256=CARD.sha256))
    with pytest.raises(RunError) as caught:
        flower_run._returned(asked, Message(Error(code, "why\nand where"), reply_to=asked))
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_nothing_is_left")
def test_a_simulation_that_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise RuntimeError("no room\nfor it")

    monkeypatch.setattr(flower_run, "run_simulation", fail)
    identify()
    run = FlowerRun(MunicipalitiesApp(None), nodes=2)
    with pytest.raises(RunError, match=r"^engine=flower: expected Flower's simulation to go on, no room; mend that$"):
        run.start()
    run.close()
