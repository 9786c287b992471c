"""Rows become municipalities, and what does not fit is told in one line without a value."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue.shelf import Tables, UseCase
from client.dataset import build_dataset
from faelles.errors import ConfigError, DataError
from simulations.population import ColumnPartition, Site, load_sites, read_table, split_rows
from tests.builders import build_card, build_table

CARD = build_card()
PRIVATE = "a secret value"


def usecase(
    twin: Callable[[int], Tables] | None = None, adapter: Callable[[pa.Table, int], Tables] | None = None
) -> UseCase:
    return UseCase(card=CARD, folder=Path(), twin=twin, adapter=adapter)


def rows(citizens: int = 60) -> pa.Table:
    table = build_table(citizens)
    codes = ["0101", "0147", "0751"]
    return table.append_column("kommune", [[codes[hash_of(name) % 3] for name in table.column("citizen").to_pylist()]])


def hash_of(name: str) -> int:
    return int(name.removeprefix("c"))


def load(table: pa.Table, tmp_path: Path, site: str = "kommune") -> list[Site]:
    pq.write_table(table, tmp_path / "rows.parquet")
    return load_sites(usecase(), CARD, tmp_path / "rows.parquet", site, 1)


def spoil(column: str, values: list[object] | pa.Array) -> pa.Table:
    table = rows()
    return table.set_column(table.column_names.index(column), column, [values])


def test_each_value_of_the_site_column_is_a_municipality(tmp_path: Path) -> None:
    table = rows()
    sites = load(table, tmp_path)
    assert [(site.label, site.name) for site in sites] == [
        ("0101", "København"),
        ("0147", "Frederiksberg"),
        ("0751", "Aarhus"),
    ]
    assert sum(site.table.num_rows for site in sites) == table.num_rows
    assert [site.citizens for site in sites] == [20, 20, 20]
    assert [site.declared_size for site in sites] == [25, 25, 25]  # of a training part of 16
    assert all("kommune" not in site.table.column_names for site in sites)


def test_rows_without_a_municipality_belong_to_none(tmp_path: Path) -> None:
    table = rows()
    codes: list[str | None] = table.column("kommune").to_pylist()
    codes[:3] = [None, "", None]
    sites = load(spoil("kommune", codes), tmp_path)
    assert [site.label for site in sites] == ["0101", "0147", "0751"]
    assert sum(site.table.num_rows for site in sites) == table.num_rows - 3


@pytest.mark.parametrize("kind", [pa.int64(), pa.dictionary(pa.int32(), pa.string())])
def test_the_site_column_may_be_of_any_plain_type(tmp_path: Path, kind: pa.DataType) -> None:
    codes = pa.array([int(code) for code in rows().column("kommune").to_pylist()])
    values = codes if kind == pa.int64() else codes.cast(pa.string()).dictionary_encode()
    sites = load(spoil("kommune", values), tmp_path)
    assert [site.label for site in sites] == ["101", "147", "751"]


@given(
    chunks=st.lists(
        st.lists(st.tuples(st.sampled_from(["0101", "0147", "Ærø", "", None]), st.none() | st.integers(0, 9))),
        min_size=1,
        max_size=4,
    )
)
def test_a_split_is_what_a_filter_for_each_label_gives(chunks: list[list[tuple[str | None, int | None]]]) -> None:
    kinds = pa.schema([("kommune", pa.string()), ("n", pa.int64()), ("text", pa.dictionary(pa.int32(), pa.string()))])
    parts = [
        pa.table([[label for label, _ in part], [n for _, n in part], [f"{n}" for _, n in part]], schema=kinds)
        for part in chunks
    ]
    table = pa.concat_tables(parts)
    labels = [label for part in chunks for label, _ in part if label]
    if not labels:
        with pytest.raises(DataError, match="every row is missing"):
            list(split_rows(table, "kommune"))
        return
    found = dict(split_rows(table, "kommune"))
    assert list(found) == list(dict.fromkeys(labels))
    for label, rows_of_it in found.items():
        expected = table.filter(pc.equal(table.column("kommune"), label)).drop_columns(["kommune"])
        assert rows_of_it.schema == expected.schema
        assert rows_of_it.select(["n"]).equals(expected.select(["n"]))
        assert rows_of_it.to_pylist() == expected.to_pylist()


def test_a_site_holds_its_own_rows_only() -> None:
    rows_of_it = dict(split_rows(rows(3000), "kommune"))["0101"]
    whole = rows(3000).get_total_buffer_size()
    assert len(pickle.dumps(rows_of_it)) < whole / 2


def test_csv_is_read_like_parquet(tmp_path: Path) -> None:
    pyarrow.csv.write_csv(rows(), tmp_path / "rows.csv")
    sites = load_sites(usecase(), CARD, tmp_path / "rows.csv", "kommune", 1)
    assert [site.citizens for site in sites] == [20, 20, 20]


def test_a_municipality_without_labels_has_no_size(tmp_path: Path) -> None:
    table = rows()
    labels = [
        None if code == "0147" else label
        for code, label in zip(table.column("kommune").to_pylist(), table.column("repaired").to_pylist(), strict=True)
    ]
    by_label = {site.label: site for site in load(spoil("repaired", labels), tmp_path)}
    assert (by_label["0147"].citizens, by_label["0147"].declared_size) == (0, 0)
    assert by_label["0101"].declared_size == 25


def test_a_twin_is_made_from_the_seed() -> None:
    made: list[int] = []

    def twin(seed: int) -> Tables:
        made.append(seed)
        return {"0147": build_table(30, seed), "0101": build_table(20, seed)}

    sites = load_sites(usecase(twin=twin), CARD, None, "site", 5)
    assert made == [5]
    assert [(site.label, site.citizens) for site in sites] == [("0101", 20), ("0147", 30)]


def test_an_adapter_turns_a_file_into_municipalities(tmp_path: Path) -> None:
    pq.write_table(rows(), tmp_path / "rows.parquet")
    adapted = usecase(adapter=lambda table, seed: {f"site {seed}": table})
    (site,) = load_sites(adapted, CARD, tmp_path / "rows.parquet", "no such column", 5)
    assert (site.label, site.name, site.citizens) == ("site 5", "site 5", 60)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (spoil("kommune", [None] * rows().num_rows), "data.site=kommune: .* every row is missing; fill it"),
        (spoil("kommune", [""] * rows().num_rows), "data.site=kommune: .* every row is missing; fill it"),
        (spoil("kommune", [[PRIVATE]] * rows().num_rows), "column kommune: expected text or whole numbers"),
        (rows().drop_columns(["kommune"]), "data.site=kommune: expected a column that names the municipality; have"),
        (rows().drop_columns(["age"]), "column age: expected by the contract, not found"),
        (spoil("age", [PRIVATE] * rows().num_rows), "column age: expected numbers"),
        (
            spoil("brand", [PRIVATE] * rows().num_rows),
            "column brand: expected cargo, city; .* hold something else",
        ),
        (spoil("citizen", [None] * rows().num_rows), "column citizen: expected a citizen in every row"),
        (spoil("repaired", ["yes"] * rows().num_rows), "column repaired: expected two classes or more"),
        (spoil("repaired", [None] * rows().num_rows), "column repaired: expected two classes or more"),
        (spoil("age", [float("nan")] * rows().num_rows), "column age: expected values, every row is missing"),
        (spoil("brand", pa.nulls(rows().num_rows)), "column brand: expected values, every row is missing"),
        (rows().slice(0, 0), "data.site=kommune: .* every row is missing"),
    ],
)
def test_rows_that_do_not_fit_are_told_in_one_line(tmp_path: Path, table: pa.Table, expected: str) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        load(table, tmp_path)
    assert "\n" not in str(caught.value)
    assert PRIVATE not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("missing.parquet", None, "expected a Parquet or CSV file, found none there; correct the path"),
        ("text.parquet", b"a secret value", "expected Parquet, it cannot be read as that; convert it"),
        ("empty.csv", b"", "expected CSV with a header line, it cannot be read as that; convert it"),
        ("ragged.csv", b"a,b\n1,2\na secret value\n", "expected CSV with a header line, it cannot be read"),
        ("twice.csv", b"age,sex,age\n1,2,3\n", "expected every column once, age came again; rename them"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, name: str, data: bytes | None, expected: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"data.path=.*{name}: {expected}") as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert PRIVATE not in str(caught.value)


def test_without_file_and_twin_the_file_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"expected data.path=FILE, for it has no synthetic twin"):
        load_sites(usecase(), CARD, None, "site", 1)


def test_a_published_protocol_decides_who_is_held_out() -> None:
    table = build_table(40)
    mark = np.where(np.arange(40) % 4 == 0, "test", "train")
    marks = pa.array([mark[hash_of(name)] for name in table.column("citizen").to_pylist()])
    marked = table.append_column("part", marks)
    partition = ColumnPartition(column="part", value="test")
    parts = build_dataset(CARD, marked, key=bytes(32), partition=partition)
    assert (len(parts.training), len(parts.held_out)) == (30, 10)
    other_key = build_dataset(CARD, marked, key=bytes(31) + b"1", partition=partition)
    assert (len(other_key.training), len(other_key.held_out)) == (30, 10)


def test_rows_without_a_mark_are_not_held_out() -> None:
    table = pa.table({"part": pa.array(["test", None, "train"])})
    partition = ColumnPartition(column="part", value="test")
    assert partition.held_out(table, np.array(["a", "b", "c"]), 0.2).tolist() == [True, False, False]
