"""The adapter draws person-years that agree with the published counts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from catalogue import shelf
from catalogue.mortality_65 import adapter
from client.contract import check_contract
from faelles.errors import DataError

CARD = shelf.find("mortality-65").card


def cells(**changed: list[object]) -> pa.Table:
    columns: dict[str, list[object]] = {
        "kommune_kode": ["0101", "0101", "0751", "0751"], "year": [2010, 2011, 2010, 2011], "sex": ["f", "m", "f", "m"],
        "age": [64, 80, 70, 90], "exposure": [5000.0, 40000.5, 20000.0, 0.5], "deaths": [10, 2000, 200, 2],
    }  # fmt: skip
    return pa.table(columns | changed)


def test_rows_are_drawn_at_the_published_rates() -> None:
    tables = adapter.load(cells(), 1)
    assert list(tables) == ["0101", "0751"]
    rows = tables["0101"].num_rows
    assert abs(rows - 4000) < 5 * np.sqrt(4000 * 0.9)
    assert abs(sum(tables["0101"].column("died").to_pylist()) - 0.05 * rows) < 5 * np.sqrt(0.05 * rows)
    assert set(tables["0101"].column("age").to_pylist()) == {80}


def test_the_draw_is_the_seeds() -> None:
    assert adapter.load(cells(), 1) == adapter.load(cells(), 1)
    assert adapter.load(cells(), 1) != adapter.load(cells(), 2)


def test_more_deaths_than_exposed_are_clipped() -> None:
    everybody = cells(exposure=[0.5, 2000.5, 2000.5, 0.5], deaths=[9, 2500, 2001, 9])
    died = pa.concat_tables(adapter.load(everybody, 3).values()).column("died")
    assert set(died.to_pylist()) == {1}


def test_a_line_without_exposure_gives_no_rows() -> None:
    tables = adapter.load(cells(exposure=[0.0, 0.0, 20000.0, 0.0], deaths=[0, 0, 200, 0]), 1)
    assert list(tables) == ["0751"]


def test_missing_columns_are_named_in_one_line() -> None:
    with pytest.raises(DataError, match="found no exposure, deaths; give") as hit:
        adapter.load(cells().drop_columns(["exposure", "deaths"]), 1)
    assert "\n" not in str(hit.value)


def test_a_file_of_the_young_is_refused() -> None:
    with pytest.raises(DataError, match="expected lines of age 65 or more"):
        adapter.load(cells(age=[20, 30, 40, 50]), 1)


def test_the_real_file_gives_all_98_their_rows(real_data: Callable[[str], Path]) -> None:
    published = pyarrow.parquet.read_table(real_data("dk_mortality"))
    tables = adapter.load(published, 1)
    whole = pa.concat_tables(tables.values())
    check_contract(CARD, whole)
    assert len(tables) == 98
    assert min(table.num_rows for table in tables.values()) > 500
    assert abs(whole.num_rows / 10_430_496.5 - adapter.THINNING) < 0.001
    assert abs(np.mean(whole.column("died").to_numpy()) - 0.0423) < 0.001
