"""Jobs share what was read from the same file under the same contract, and nothing else."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalogue.shelf import Tables, UseCase
from configs.schema import DataConfig, SimulationConfig, StrategyConfig
from faelles.card import UseCaseCard
from faelles.errors import DataError
from simulations import cache, population
from simulations.cache import load_sites
from simulations.population import Site
from simulations.study import resolve
from tests.builders import build_card, build_table

CARD = build_card()


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what is really loaded, by its seed."""
    found: list[int] = []
    load = population.load_sites

    def counted(usecase: UseCase, card: UseCaseCard, path: Path | None, site_column: str, seed: int) -> list[Site]:
        found.append(seed)
        return load(usecase, card, path, site_column, seed)

    monkeypatch.setattr(population, "load_sites", counted)
    for kept in ("_kept", "_rolls"):
        monkeypatch.setattr(cache, kept, {})
    return found


def usecase(
    folder: Path, twin: Callable[[int], Tables] | None = None, adapter: Callable[[pa.Table, int], Tables] | None = None
) -> UseCase:
    return UseCase(card=CARD, folder=folder, twin=twin, adapter=adapter)


def write(path: Path, citizens: int = 40) -> Path:
    table = build_table(citizens)
    codes = pa.array(["0101", "0147"] * table.num_rows)[: table.num_rows]
    pq.write_table(table.append_column("site", codes).append_column("town", codes), path)
    return path


def test_the_same_file_is_read_once_whatever_is_learned_from_it(tmp_path: Path, loads: list[int]) -> None:
    path = write(tmp_path / "rows.parquet")
    first = load_sites(usecase(tmp_path), CARD, path, "site", 1)
    changes: list[dict[str, Any]] = [
        {"training": {"rounds": 9, "learning_rate": 0.1}},
        {"privacy": {"epsilon": 9.0}},
        {"model": {"kind": "mlp", "hidden": [4]}},
        {"evaluation": {"epsilon": 0.9, "bins": 10}},
    ]
    for change in changes:
        again = load_sites(usecase(tmp_path), build_card(**change), path, "site", 2)
        assert all(one is other for one, other in zip(first, again, strict=True))
    assert loads == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation": {"held_out": 0.5}},
        {"label": {"column": "brand", "kind": "binary", "values": ["cargo", "city"]}},
    ],
)
def test_another_contract_is_checked_anew(tmp_path: Path, loads: list[int], change: dict[str, Any]) -> None:
    path = write(tmp_path / "rows.parquet")
    first = load_sites(usecase(tmp_path), CARD, path, "site", 1)
    card = CARD.model_copy(update={"features": CARD.features[:1]}) if "label" in change else build_card(**change)
    other = load_sites(usecase(tmp_path), card, path, "site", 1)
    assert loads == [1, 1]
    assert first[0] is not other[0]


def test_a_file_that_was_changed_is_read_again(tmp_path: Path, loads: list[int]) -> None:
    path = write(tmp_path / "rows.parquet")
    first = load_sites(usecase(tmp_path), CARD, path, "site", 1)
    write(path, 30)
    second = load_sites(usecase(tmp_path), CARD, path, "site", 1)
    os.utime(path, ns=(1, 1))
    load_sites(usecase(tmp_path), CARD, path, "site", 1)
    assert second[0].table.num_rows < first[0].table.num_rows
    assert loads == [1, 1, 1]


def test_another_column_or_folder_is_something_else(tmp_path: Path, loads: list[int]) -> None:
    path = write(tmp_path / "rows.parquet")
    load_sites(usecase(tmp_path), CARD, path, "site", 1)
    load_sites(usecase(tmp_path), CARD, path, "town", 1)
    load_sites(usecase(tmp_path / "other"), CARD, path, "town", 1)
    assert loads == [1, 1, 1]


def test_a_seed_matters_where_rows_are_drawn(tmp_path: Path, loads: list[int]) -> None:
    def twin(seed: int) -> Tables:
        return {"0101": build_table(20, seed)}

    def adapter(table: pa.Table, seed: int) -> Tables:
        return {f"{seed}": table}

    path = write(tmp_path / "rows.parquet")
    for one, where in ((usecase(tmp_path, twin=twin), None), (usecase(tmp_path, adapter=adapter), path)):
        loads.clear()
        found = [load_sites(one, CARD, where, "site", seed)[0] for seed in (1, 1, 2, 2)]
        assert loads == [1, 2]
        assert found[0] is found[1]
        assert found[1] is not found[2]


def test_two_populations_are_kept_and_the_oldest_goes(tmp_path: Path, loads: list[int]) -> None:
    held: list[int] = []

    def twin(seed: int) -> Tables:
        held.append(len(cache._kept))
        return {"0101": build_table(20, seed)}

    for seed in (1, 2, 1, 3, 1, 2):
        load_sites(usecase(tmp_path, twin=twin), CARD, None, "site", seed)
    assert loads == [1, 2, 3, 2]  # 1 was used again, so that 2 was the one to go
    assert held == [0, 1, 1, 1]  # room was made before the next was loaded
    assert len(cache._kept) == cache.KEPT


def test_what_cannot_be_loaded_is_told_each_time(tmp_path: Path, loads: list[int]) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="found none there"):
            load_sites(usecase(tmp_path), CARD, tmp_path / "rows.parquet", "site", 1)
    write(tmp_path / "rows.parquet")
    assert len(load_sites(usecase(tmp_path), CARD, tmp_path / "rows.parquet", "site", 1)) == 2


def test_citizens_are_encoded_once_for_each_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet")

    def loaded(seed: int = 1, **changes: Any) -> cache.Loaded:
        config = SimulationConfig(
            usecase=str(tmp_path), strategy=StrategyConfig(name="fedavg"), data=DataConfig(path=str(path)), seed=seed
        )
        study = resolve(usecase(tmp_path), config)
        return cache.load(replace(study, card=build_card(**changes)), config)

    first = loaded()
    assert loaded(training={"rounds": 9}).roll is first.roll
    assert loaded(model={"kind": "mlp", "hidden": [4]}).roll is first.roll
    assert loaded(evaluation={"held_out": 0.5}).roll is not first.roll
    other = loaded(seed=2)
    assert other.roll is not first.roll  # its keys hold out others
    assert other.sites[0] is first.sites[0]
