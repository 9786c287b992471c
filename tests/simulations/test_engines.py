"""An engine is chosen by its name; what cannot be is told in one line, and what it does not know the reference runs."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from configs.schema import SimulationConfig, StrategyConfig
from faelles.card import UseCaseCard
from faelles.errors import ConfigError
from faelles.features import input_width
from faelles.models import Network
from server.result import RunRecord
from simulations import engines
from simulations.cohort import CohortGrid
from simulations.engines import Cast, build_grid, check_engine
from simulations.grid import SimulationGrid
from simulations.parity import ParityGrid, largest
from simulations.reference import ReferenceGrid
from simulations.roll import build_roll
from tests.builders import build_card, build_sites
from tests.cohorts import SEED, nodes_of, run_grid
from tests.federations import CITIZENS

CARD = build_card()


def config_of(**changes: Any) -> SimulationConfig:
    fields: dict[str, Any] = {
        "usecase": "x",
        "strategy": StrategyConfig(name="fedavg"),
        "seed": SEED,
        "device": "cpu",
        "workers": 1,
    }
    return SimulationConfig(**(fields | changes))


def build(folder: Path, **changes: Any) -> tuple[SimulationGrid, str]:
    """Build an engine for the usual municipalities, and read what it had to say."""
    folder.mkdir(parents=True, exist_ok=True)
    sites = build_sites(CITIZENS)
    cast = Cast(
        card=CARD, sites=nodes_of(sites), roll=build_roll(CARD, sites, SEED, None), partition=None,
        epsilon_cap=CARD.privacy.epsilon, folder=folder,
    )  # fmt: skip
    said = io.StringIO()
    return build_grid(cast, config_of(**changes), Console(file=said, width=200)), said.getvalue()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"engine": "fast"}, "engine=fast: expected cohort, reference, flower, ray; choose one"),
        ({"engine": ""}, "engine=: expected cohort"),
        ({"workers": 0}, "workers=0: expected 1 or more processes"),
        ({"workers": -2}, "workers=-2: expected 1 or more processes"),
        ({"device": "gpu"}, "device=gpu: expected auto, cpu or cuda; choose one"),
        ({"device": "cuda"}, "device=cuda: expected a graphics card that PyTorch can use, found none"),
        ({"engine": "reference", "parity": True}, "parity=true: expected a fast engine to compare, engine=reference"),
        ({"engine": "flower", "parity": True}, "parity=true: expected a fast engine to compare, engine=flower"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], text: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        check_engine(config_of(**changes))
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{}, {"engine": "reference"}, {"parity": True}, {"workers": None}, {"workers": 400}, {"device": "auto"}]
)
def test_what_can_be_is_let_through(changes: dict[str, Any]) -> None:
    check_engine(config_of(**changes))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({}, CohortGrid), ({"engine": "reference"}, ReferenceGrid), ({"parity": True}, ParityGrid)],
)
def test_the_engine_is_the_one_that_was_named(
    tmp_path: Path, changes: dict[str, Any], kind: type[SimulationGrid]
) -> None:
    grid, said = build(tmp_path, **changes)
    assert type(grid) is kind
    assert said == ""
    assert [node.name for node in grid.get_nodes()] == sorted(CITIZENS)


def run(folder: Path, **changes: Any) -> tuple[RunRecord, SimulationGrid, str]:
    grid, said = build(folder / "nodes", **changes)
    return run_grid(grid, folder, CARD), grid, said


@pytest.mark.parametrize("engine", ["cohort", "reference"])
def test_workers_change_nothing_and_more_than_municipalities_are_not_started(tmp_path: Path, engine: str) -> None:
    digests = {run(tmp_path / str(count), engine=engine, workers=count)[0].model_sha256 for count in (1, 2, 50)}
    assert len(digests) == 1


def test_parity_runs_both_and_ends_as_the_fast_one_does(tmp_path: Path) -> None:
    record, grid, _ = run(tmp_path / "both", parity=True)
    assert isinstance(grid, ParityGrid)
    apart, name, array = largest(grid.differences)
    assert 0 <= apart < 1e-5, f"{array} of {name}"
    assert record.model_sha256 == run(tmp_path / "fast")[0].model_sha256


class Novel(Network):
    """Be a model of a kind that came later."""


@pytest.mark.parametrize("engine", ["cohort", "ray"])
@pytest.mark.parametrize("parity", [False, True])
def test_a_model_that_no_fast_engine_knows_is_run_by_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, parity: bool
) -> None:
    def novel(card: UseCaseCard) -> Network:
        return Novel(input_width(card), card.model.hidden, 1)

    monkeypatch.setattr(engines, "build_model", novel)
    record, grid, said = run(tmp_path, engine=engine, parity=parity)
    assert isinstance(grid, ReferenceGrid)
    assert said == f"engine={engine} does not know models of kind logistic: engine=reference runs it\n"
    assert record.status == "completed"


def test_the_reference_says_nothing_of_a_model_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "build_model", lambda card: Novel(input_width(card), (), 1))
    assert build(tmp_path, engine="reference")[1] == ""
