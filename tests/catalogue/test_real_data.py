"""The files that need no adapter fit their cards as they are."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet
import pytest

from catalogue import shelf
from client.contract import check_contract


@pytest.mark.parametrize(
    ("usecase", "data_set", "sites"),
    [("income", "acs_income", 47), ("exam-grades", "chem97", 131), ("heart-disease", "heart_disease", 4)],
)
def test_the_published_file_keeps_the_contract(
    usecase: str, data_set: str, sites: int, real_data: Callable[[str], Path]
) -> None:
    table = pyarrow.parquet.read_table(real_data(data_set))
    check_contract(shelf.find(usecase).card, table)
    assert pc.count_distinct(table.column("site")).as_py() == sites
