"""The adapter keeps FLamby's protocol: rows, split, columns, standardisation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from catalogue import shelf
from catalogue.heart_disease_flamby import adapter
from client.contract import check_contract
from faelles.errors import DataError

CARD = shelf.find("heart-disease-flamby").card
SPLIT = {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}


@pytest.fixture
def published(real_data: Callable[[str], Path]) -> pa.Table:
    return pyarrow.parquet.read_table(real_data("heart_disease"))


def test_the_split_has_the_protocols_sizes(published: pa.Table) -> None:
    tables = adapter.load(published, 1)
    sets = {name: table.column("set").to_pylist() for name, table in tables.items()}
    assert {name: (marks.count("train"), marks.count("test")) for name, marks in sets.items()} == SPLIT


def test_the_split_is_fixed_whatever_the_seed(published: pa.Table) -> None:
    assert adapter.load(published, 1) == adapter.load(published, 2)


def test_the_complete_cases_are_those_that_the_source_marks(published: pa.Table) -> None:
    complete = adapter._complete(published.select(["site", "y", *adapter.NUMBERS, *adapter.INDICATORS]))
    assert np.array_equal(complete, published.column("in_flamby").to_numpy() == 1)


def test_columns_are_standardised_by_the_training_rows_alone(published: pa.Table) -> None:
    for table in adapter.load(published, 1).values():
        training_N = np.array(table.column("set").to_pylist()) == "train"
        for name in (feature.name for feature in CARD.features):
            values_N = table.column(name).to_numpy()[training_N]
            assert abs(values_N.mean()) < 1e-9
            assert values_N.std(ddof=1) == pytest.approx(1) or not values_N.any()


def test_the_rows_keep_the_contract(published: pa.Table) -> None:
    check_contract(CARD, pa.concat_tables(adapter.load(published, 1).values()))


def test_missing_columns_are_named_in_one_line(published: pa.Table) -> None:
    with pytest.raises(DataError, match="found no chol, cp; give") as hit:
        adapter.load(published.drop_columns(["cp", "chol"]), 1)
    assert "\n" not in str(hit.value)


def test_another_set_of_patients_is_refused(published: pa.Table) -> None:
    with pytest.raises(DataError, match=r"261 of hungarian.*found others"):
        adapter.load(published.slice(1), 1)
