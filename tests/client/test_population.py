"""A population is read as the contract names it, whatever Danish systems make of numbers and citizens."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from client.dataset import build_dataset
from client.population import PopulationSettings, citizen_hashes, conform, overlap, read, read_raw
from faelles.card import UseCaseCard, parse_card
from faelles.errors import DataError, FaellesError, PolicyError
from tests.builders import build_card
from tests.postgres import Postgres

CARD = build_card()
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
CPRS = st.builds(
    "{:02d}{:02d}{:02d}{:04d}".format,
    st.one_of(st.integers(1, 31), st.integers(61, 91)), st.integers(1, 12), st.integers(0, 99), st.integers(0, 9999),
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CSV = "cpr;alder;mærke;repareret\n010190-1234;1.234,5;C;ja\n0202902345;;L;nej\n;3;X;\n"


def population(location: str = "rows.csv", **fields: Any) -> PopulationSettings:
    source = {"location": location, **fields.pop("source", {})}
    return PopulationSettings.model_validate({"citizen": "cpr", "source": source, **fields})


MAPPED: dict[str, Any] = {
    "columns": {"age": "alder", "brand": "mærke", "repaired": "repareret"},
    "values": {"brand": {"C": "city", "L": "cargo"}, "repaired": {"ja": "yes", "nej": "no"}},
}


def write(folder: Path, rows: Mapping[str, object], name: str = "rows.parquet") -> PopulationSettings:
    pq.write_table(pa.table(dict(rows)), folder / name)
    return population(name)


def number(value: str) -> float | None:
    raw = pa.table({"citizen": ["c"], "age": [value], "brand": ["city"], "repaired": ["no"]})
    read: float | None = conform(CARD, raw).column("age")[0].as_py()
    return read


def citizen(value: object, kind: pa.DataType | None = None) -> object:
    raw = pa.table({"citizen": pa.array([value], kind), "age": [1], "brand": ["city"], "repaired": ["no"]})
    return conform(CARD, raw).column("citizen")[0].as_py()


# Reading


def test_a_danish_extract_is_read_as_the_contract_names_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(CSV.encode("windows-1252"))
    settings = population(source={"encoding": "windows-1252"}, **MAPPED)
    raw = read_raw(settings, CARD, tmp_path)
    assert raw.to_pydict() == {
        "citizen": ["010190-1234", "0202902345", None], "age": ["1.234,5", None, "3"],
        "brand": ["city", "cargo", "X"], "repaired": ["yes", "no", None],
    }  # fmt: skip
    assert read(settings, CARD, tmp_path).to_pydict() == {
        "citizen": ["0101901234", "0202902345", None], "age": [1234.5, None, 3.0],
        "brand": ["city", "cargo", "X"], "repaired": ["yes", "no", None],
    }  # fmt: skip


def test_rows_that_were_read_build_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV, encoding="utf-8")
    dataset = build_dataset(CARD, read(population(**MAPPED), CARD, tmp_path), KEY)
    assert len(dataset.training) + len(dataset.held_out) == 2


def test_a_table_of_postgresql_is_read(postgres: Postgres, tmp_path: Path) -> None:
    postgres.run(
        "DROP TABLE IF EXISTS cyklister",
        "CREATE TABLE cyklister (cpr numeric(10,0), age numeric(5,1), brand char(9), repaired boolean)",
        "INSERT INTO cyklister VALUES (101901234, 12.5, 'city', true), (202902345, NULL, 'cargo', false)",
    )
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(postgres.password, encoding="utf-8")
    settings = population(
        postgres.address("cyklister"), source={"password_file": "password"},
        values={"repaired": {"true": "yes", "false": "no"}},
    )  # fmt: skip
    assert read(settings, CARD, tmp_path).to_pydict() == {
        "citizen": ["0101901234", "0202902345"], "age": [12.5, None], "brand": ["city", "cargo"],
        "repaired": ["yes", "no"],
    }  # fmt: skip


def test_every_missing_column_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("cpr;mærke\n", encoding="utf-8")
    with pytest.raises(DataError, match="alder, repareret, which") as caught:
        read_raw(population(**MAPPED), CARD, tmp_path)
    assert "alder, repareret" in str(caught.value.da)


def test_the_unit_is_always_the_populations_citizen(tmp_path: Path) -> None:
    settings = write(tmp_path, {"cpr": ["a"], "citizen": ["row 1"], "age": [1], "brand": ["city"], "repaired": ["no"]})
    settings = settings.model_copy(update={"columns": {"citizen": "age"}, "values": {"citizen": {"a": "b"}}})
    assert read(settings, CARD, tmp_path).column("citizen").to_pylist() == ["a"]


def test_a_card_without_a_unit_is_refused(tmp_path: Path) -> None:
    fields = CARD.model_dump() | {"unit": None, "max_rows_per_unit": 1}
    with pytest.raises(PolicyError, match="unit is null") as caught:
        read_raw(population(), parse_card(fields), tmp_path)
    assert caught.value.da


@pytest.mark.parametrize("name", ["age", "repaired"])
@pytest.mark.parametrize("local", ["cpr", "CPR"])
def test_a_card_that_learns_from_the_citizen_column_is_refused(tmp_path: Path, name: str, local: str) -> None:
    with pytest.raises(PolicyError, match=f"{name} is read from it") as caught:
        read_raw(population(columns={name: local}), CARD, tmp_path)
    assert caught.value.da


def test_a_feature_that_is_called_as_the_citizen_column_is_refused(tmp_path: Path) -> None:
    settings = population().model_copy(update={"citizen": "age"})
    with pytest.raises(PolicyError, match="age is read from it"):
        read_raw(settings, CARD, tmp_path)


def test_values_are_mapped_whatever_type_holds_them(tmp_path: Path) -> None:
    fields = {"brand": {1: "city", 2: "cargo"}, "repaired": {"true": "yes", "false": "no"}, "age": {"ukendt": ""}}
    rows = {"cpr": ["a", "b", "c"], "age": ["ukendt", " 2,5 ", "3"]}
    for brand in (["1", " 2", None], [1, 2, None], [1.0, 2.0, None]):
        settings = write(tmp_path, {**rows, "brand": brand, "repaired": [True, False, None]})
        settings = PopulationSettings.model_validate(settings.model_dump() | {"values": fields})
        table = read(settings, CARD, tmp_path).to_pydict()
        assert table["brand"] == ["city", "cargo", None]
        assert table["repaired"] == ["yes", "no", None]
        assert table["age"] == [None, 2.5, 3.0]


def test_a_value_without_a_mapping_stays(tmp_path: Path) -> None:
    settings = write(tmp_path, {"cpr": ["a"] * 3, "age": [1] * 3, "brand": [1.0, 2.5, 7.0], "repaired": ["no"] * 3})
    settings = settings.model_copy(update={"values": {"brand": {"1": "city"}}})
    assert read_raw(settings, CARD, tmp_path).column("brand").to_pylist() == ["city", "2.5", "7"]


def test_a_decimal_point_of_the_source_is_no_thousands_separator(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "cpr,age,brand,repaired\n"
        'a,1.234,1.234,no\nb,"1,234.5",city,no\nc,"12,345",city,no\nd,-.5,city,no\ne,x.y,city,no\nf,1e3,city,no\n',
        encoding="utf-8",
    )
    english = population(source={"delimiter": ",", "decimal": "."})
    table = read(english, CARD, tmp_path)
    assert table.column("age").to_pylist() == [1.234, 1234.5, 12345.0, -0.5, None, 1000.0]
    assert table.column("brand")[0].as_py() == "1.234"
    danish = population(source={"delimiter": ","})
    assert read(danish, CARD, tmp_path).column("age")[0].as_py() == 1234.0


def test_settings_are_checked() -> None:
    for fields in ({"held_out": 0}, {"held_out": 1}, {"citizen": ""}, {"unknown": 1}, {"columns": {"a": 1}}):
        with pytest.raises(ValidationError):
            population(**fields)
    assert population(values={"sex": {1: 2}}).values == {"sex": {"1": "2"}}


# Numbers


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1.234,5", 1234.5), ("1234,5", 1234.5), ("1234.5", 1234.5), ("1 234,5", 1234.5), ("1\u00a0234,5", 1234.5),
        ("1\u202f234.567,25", 1234567.25), ("1.234", 1234.0), ("12.345.678", 12345678.0), ("0.234", 0.234),
        ("1234.567", 1234.567), ("1.23", 1.23), ("1.2345", 1.2345), (" 7 ", 7.0), ("-1,5", -1.5), ("\u22121,5", -1.5),
        ("+2", 2.0), ("007", 7.0), (",5", 0.5), (".5", 0.5), ("5.", 5.0), ("1,5E+03", 1500.0), ("1e-2", 0.01),
        ("-0", 0.0),
    ],
)  # fmt: skip
def test_numbers_are_read_as_danish_people_write_them(text: str, wanted: float) -> None:
    assert number(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-", ",", ".", "e5", "1,", "1,2,3", "1,234.5", "1.2.3", "12 34", "1.234,5,6", "0.234,5", "1..2",
        "kr. 5", "5 kr", "nan", "inf", "-Infinity", "0x10", "1_000", "\u0661", "1e999", "9" * 400, "1e9999", "x", "1;2",
        "1\n2", "true", "1/2", "--1",
    ],
)  # fmt: skip
def test_what_is_no_number_is_missing(text: str) -> None:
    assert number(text) is None


@given(value=st.floats(-1e9, 1e9), decimals=st.integers(0, 6), thousands=st.sampled_from(["", ".", " ", "\u00a0"]))
def test_a_number_written_in_danish_is_read_back(value: float, decimals: int, thousands: str) -> None:
    english = f"{value:,.{decimals}f}"
    danish = english.replace(".", "#").replace(",", thousands).replace("#", ",")
    assert number(danish) == float(english.replace(",", ""))


@given(value=st.integers(-(10**12), 10**12))
def test_a_whole_number_is_read_back(value: int) -> None:
    assert number(str(value)) == float(value)


@given(text=st.one_of(TEXT, st.text("0123456789.,+-eE \u00a0\u2212")))
def test_no_text_makes_reading_raise(text: str) -> None:
    column = pa.array([text, None], pa.string())
    for kind in (pa.string(), pa.large_string()):
        raw = pa.table(dict.fromkeys(CARD.columns, column.cast(kind)))
        table = conform(CARD, raw)
        assert table.num_rows == 2
        assert table.schema.types == [pa.string(), pa.float64(), pa.string(), pa.string()]
        value = table.column("age")[0].as_py()
        assert value is None or np.isfinite(value)


# Types


COLUMNS: dict[str, pa.Array] = {
    "text": pa.array(["1", "x"]),
    "whole": pa.array([1, None], pa.int16()),
    "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
    "float": pa.array([1.0, float("nan")]),
    "half": pa.array(np.array([1.5, np.inf], np.float16)),
    "truth": pa.array([True, None]),
    "decimal": pa.array([1, 2], pa.decimal128(38, 0)),
    "coded": pa.array(["1", None]).dictionary_encode(),
    "nothing": pa.nulls(2),
    "fraction": pa.array([1, 2], pa.decimal128(8, 2)),
    "day": pa.array([datetime.date(2026, 1, 1), None]),
    "bytes": pa.array([b"1", None]),
    "list": pa.array([[1], None]),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("name", CARD.columns)
def test_whether_a_column_can_be_read_depends_on_its_type_alone(name: str, kind: str) -> None:
    def told(column: pa.Array) -> str:
        raw = pa.table({other: column if other == name else pa.nulls(len(column)) for other in CARD.columns})
        try:
            conform(CARD, raw)
        except DataError as error:
            return str(error)
        return ""

    column = COLUMNS[kind]
    assert told(column) == told(column.slice(0, 0)) == told(column[:1])
    number = name == "age"
    refused = (
        {"day", "bytes", "list"} | (set() if number else {"fraction"}) | ({"truth"} if name == "citizen" else set())
    )
    assert bool(told(column)) == (kind in refused)


def test_truth_values_read_as_the_contract_writes_them() -> None:
    rows = {"citizen": ["a", "b"], "age": [1, 2], "brand": ["city", "city"], "repaired": [True, False]}
    for values, wanted in ((["false", "true"], ["true", "false"]), (["0", "1"], ["1", "0"])):
        card: UseCaseCard = build_card(label={"values": values})
        assert conform(card, pa.table(rows)).column("repaired").to_pylist() == wanted


def test_categories_lose_the_blanks_that_fill_them_up() -> None:
    raw = pa.table({"citizen": ["a"], "age": [1], "brand": ["city   "], "repaired": [" no"]})
    assert conform(CARD, raw).to_pylist()[0] == {"citizen": "a", "age": 1.0, "brand": "city", "repaired": "no"}


def test_a_column_that_is_not_there_is_told() -> None:
    with pytest.raises(DataError, match="column age"):
        conform(CARD, pa.table({"citizen": ["a"], "brand": ["city"], "repaired": ["no"]}))


# Citizens


@given(
    cpr=CPRS,
    separator=st.sampled_from(["", "-", " ", " - ", "\u2013", "\u00a0", "\u200b", "\uff0d"]),
    blank=st.sampled_from(["", " ", "\t"]),
)
def test_a_cpr_number_names_one_citizen_however_it_is_written(cpr: str, separator: str, blank: str) -> None:
    forms: list[tuple[object, pa.DataType]] = [
        (blank + cpr[:6] + separator + cpr[6:] + blank, pa.string()),
        (int(cpr), pa.int64()),
        (str(int(cpr)), pa.string()),
        (float(cpr), pa.float64()),
        (f"{int(cpr)}.0", pa.string()),
        (int(cpr), pa.decimal128(10, 0)),
        (cpr, pa.dictionary(pa.int32(), pa.string())),
    ]
    assert {citizen(value, kind) for value, kind in forms} == {cpr}


@given(cpr=CPRS)
def test_a_citizen_keeps_its_part_whatever_type_an_extract_gives_it(cpr: str) -> None:
    def held_out(value: object) -> int:
        raw = pa.table({"citizen": [value], "age": [1], "brand": ["city"], "repaired": ["no"]})
        return len(build_dataset(CARD, conform(CARD, raw), KEY).held_out)

    assert held_out(f"{cpr[:6]}-{cpr[6:]}") == held_out(int(cpr)) == held_out(cpr)


@given(text=TEXT)
def test_a_name_of_a_citizen_is_normal_once_it_was_made_so(text: str) -> None:
    once = citizen(text)
    assert once is None or citizen(once) == once


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("c-17", "c-17"), (" x ", "x"), ("", None), ("  ", None), (None, None), (123456789, "123456789"),
        ("123456-7890", "123456-7890"), ("320190-1234", "320190-1234"), ("12345678", "12345678"), (17, "17"),
    ],
)  # fmt: skip
def test_other_names_of_citizens_stay(value: object, wanted: object) -> None:
    assert citizen(value) == wanted


# The same citizens


def test_hashes_are_sorted_distinct_and_the_same_for_every_extract(tmp_path: Path) -> None:
    rows = {"cpr": ["010190-1234", "0202902345", "0202902345", None, " "]}
    one = citizen_hashes(write(tmp_path, rows), tmp_path, KEY)
    other = citizen_hashes(write(tmp_path, {"cpr": [202902345, 101901234]}), tmp_path, KEY)
    assert one.dtype == np.uint64
    assert one.tolist() == sorted(set(one.tolist())) == other.tolist()
    assert len(one) == 2
    assert overlap(one, other) == 1.0
    assert overlap(one, citizen_hashes(write(tmp_path, rows), tmp_path, OTHER_KEY)) == 0.0


def test_overlap_is_the_share_of_the_smaller_population(tmp_path: Path) -> None:
    large = citizen_hashes(write(tmp_path, {"cpr": [f"c{n}" for n in range(100)]}), tmp_path, KEY)
    small = citizen_hashes(write(tmp_path, {"cpr": [f"c{n}" for n in range(95, 105)]}), tmp_path, KEY)
    none = citizen_hashes(write(tmp_path, {"cpr": pa.array([], pa.string())}), tmp_path, KEY)
    assert overlap(large, small) == overlap(small, large) == 0.5
    assert overlap(large, none) == overlap(none, none) == 0.0


def test_hashes_need_the_citizen_column_in_a_type_that_can_name(tmp_path: Path) -> None:
    for rows in ({"other": ["a"]}, {"cpr": [datetime.date(2026, 1, 1)]}):
        with pytest.raises(FaellesError, match="cpr"):
            citizen_hashes(write(tmp_path, rows), tmp_path, KEY)
