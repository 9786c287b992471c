"""The synthetic twin is what its data sheet says: deterministic, heavy-tailed, skewed, gappy, and not CPR-shaped."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from catalogue import shelf
from catalogue.elder_admission import twin
from client.contract import check_contract
from faelles.features import encode_rows
from faelles.identifiers import contains_cpr
from faelles.metrics import auc
from faelles.municipalities import MUNICIPALITIES

CARD = shelf.find("elder-admission").card
COLUMNS = [name for name in CARD.columns if name not in ("citizen", "admitted")]


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    return twin.make(1)


@pytest.fixture(scope="module")
def whole(tables: dict[str, pa.Table]) -> pa.Table:
    return pa.concat_tables(tables.values())


def citizens(table: pa.Table) -> int:
    return int(pc.count_distinct(table.column("citizen")).as_py())


def test_equal_seeds_make_equal_rows_and_others_do_not(tables: dict[str, pa.Table]) -> None:
    assert twin.make(1) == tables
    assert twin.make(2)["0101"] != tables["0101"]


def test_all_98_municipalities_have_rows(tables: dict[str, pa.Table]) -> None:
    assert list(tables) == [str(one.code) for one in MUNICIPALITIES]
    assert min(table.num_rows for table in tables.values()) > 0


def test_every_row_keeps_the_contract(whole: pa.Table) -> None:
    check_contract(CARD, whole)
    assert set(CARD.columns) == set(whole.column_names)


def test_sizes_have_the_tail_of_the_real_ones(tables: dict[str, pa.Table]) -> None:
    size = {code: citizens(table) for code, table in tables.items()}
    assert 40_000 <= sum(table.num_rows for table in tables.values()) <= 80_000
    assert size.pop("0563") < 10
    assert 24 <= min(size.values()) <= 60
    assert max(size, key=lambda code: size[code]) == "0101"
    pensioners = [one.population_65 for one in MUNICIPALITIES if str(one.code) in size]
    assert np.corrcoef(list(size.values()), pensioners)[0, 1] > 0.999


def test_admission_rates_differ_between_municipalities_more_than_by_chance(tables: dict[str, pa.Table]) -> None:
    large = [table.column("admitted").to_numpy() for table in tables.values() if table.num_rows > 500]
    rates = np.array([column.mean() for column in large])
    chance = np.sqrt(np.mean([column.mean() * (1 - column.mean()) / len(column) for column in large]))
    assert rates.std() > 1.7 * chance


def test_case_mix_differs_between_municipalities(tables: dict[str, pa.Table]) -> None:
    large = [table.column("age").drop_null().to_numpy() for table in tables.values() if table.num_rows > 500]
    means = np.array([column.mean() for column in large])
    assert means.std() > 3 * np.sqrt(np.mean([column.var() / len(column) for column in large]))


def test_ten_municipalities_lack_one_column_and_no_column_is_missing_everywhere(tables: dict[str, pa.Table]) -> None:
    lacking = {
        code: [name for name in COLUMNS if table.column(name).null_count == table.num_rows]
        for code, table in tables.items()
    }
    assert sorted(len(names) for names in lacking.values() if names) == [1] * 10


def test_single_values_are_missing_but_never_the_citizen_or_the_label(whole: pa.Table) -> None:
    assert all(0.02 < whole.column(name).null_count / whole.num_rows < 0.10 for name in COLUMNS)
    assert whole.column("citizen").null_count == whole.column("admitted").null_count == 0


def test_citizens_have_up_to_four_assessments_and_some_rows_twice(whole: pa.Table) -> None:
    rows = np.array(pc.value_counts(whole.column("citizen")).field("counts"))
    assert 1.5 < rows.mean() < 2
    assert rows.max() > CARD.max_rows_per_unit
    distinct = whole.group_by(whole.column_names).aggregate([]).num_rows
    assert 0.005 < 1 - distinct / whole.num_rows < 0.02


def test_a_citizen_belongs_to_one_municipality(tables: dict[str, pa.Table], whole: pa.Table) -> None:
    assert sum(citizens(table) for table in tables.values()) == citizens(whole)


def test_no_citizen_looks_like_a_cpr_number(whole: pa.Table) -> None:
    assert not any(contains_cpr(name) for name in pc.unique(whole.column("citizen")).to_pylist())


def test_the_risk_is_not_additive() -> None:
    base = {
        "age": 80.0, "earlier_admissions": 0.0, "medications": 0.0, "weight_change": 0.0, "falls": 0.0,
        "function_level": 3.0, "home_care_hours": 0.0, "sex": "f", "lives_alone": "yes",
        "dementia": "none", "housing": "home",
    }  # fmt: skip

    def risk(**changed: object) -> float:
        return float(twin._risk({name: np.array([value]) for name, value in (base | changed).items()})[0])

    steps = [risk(medications=float(count)) for count in (7, 8, 9, 10)]
    assert [later > earlier for earlier, later in pairwise(steps)] == [False, True, False]
    assert risk(weight_change=-4.0) == risk(weight_change=4.0) > risk()
    assert risk() > risk(lives_alone="no")
    assert risk(lives_alone="no", function_level=0.0) == risk(function_level=0.0)


def test_there_is_something_to_learn_that_one_small_municipality_cannot(whole: pa.Table) -> None:
    x_NF, y_N = encode_rows(CARD, whole)
    half = len(y_N) // 2
    ridge = 10 * np.eye(x_NF.shape[1])

    def auc_after(rows: slice) -> float:
        weights = np.linalg.solve(x_NF[rows].T @ x_NF[rows] + ridge, x_NF[rows].T @ (y_N[rows] - y_N.mean()))
        return auc((x_NF[half:] @ weights).astype(np.float64), y_N[half:] == 1, np.ones(len(y_N) - half))

    assert 0.75 < auc_after(slice(half)) < 0.82
    assert auc_after(slice(half)) > auc_after(slice(100)) + 0.03
