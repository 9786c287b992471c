"""What does not fit a card's contract is told in words and counts, and no value is ever in them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue import shelf
from catalogue.elder_admission import twin
from client.contract import ContractReport, check_contract, examine
from client.dataset import build_dataset
from client.population import conform
from faelles.card import parse_card
from faelles.errors import DataError
from tests.contracts import (
    CARD,
    COLUMNS,
    CPR,
    FIELDS,
    KEY,
    ROWS_CARD,
    Row,
    crowd,
    csv_of,
    everything_said,
    report_of,
    table_with,
    told,
    with_cells,
)

# What fits


def test_ordinary_rows_have_no_findings_whatever_types_hold_them() -> None:
    typed = table_with(
        age=pa.array([20.5 + i for i in range(40)]),
        sex=pa.array(["fm"[i % 2] for i in range(40)]).dictionary_encode(),
        citizen=pa.array([i // 2 for i in range(40)]),
    )
    for table in (csv_of(crowd()), typed):
        report = report_of(table)
        assert report.findings == ()
        assert report.fits
        assert (report.rows, report.duplicates, report.citizens.count) == (40, 0, 20)
    assert [column.found for column in report_of(typed).columns] == ["whole numbers", "numbers", "text", "text"]


@pytest.mark.parametrize(
    ("usecase", "data_set"),
    [
        *(("income", "acs_income"), ("exam-grades", "chem97"), ("heart-disease", "heart_disease")),
        *(("heart-disease-flamby", "heart_disease"), ("mortality-65", "dk_mortality")),
    ],
)
def test_the_published_data_have_nothing_that_blocks(
    usecase: str, data_set: str, real_data: Callable[[str], Path]
) -> None:
    found = shelf.find(usecase)
    table = pyarrow.parquet.read_table(real_data(data_set))
    if found.adapter is not None:
        table = pa.concat_tables(found.adapter(table, 1).values())
    assert report_of(table, found.card).of("blocks") == ()


def test_the_twin_has_nothing_that_blocks() -> None:
    table = pa.concat_tables(twin.make(1).values())
    assert report_of(table, shelf.find("elder-admission").card).of("blocks") == ()


# What blocks


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_that_is_missing_blocks_and_nothing_follows_from_it(name: str) -> None:
    report = report_of(csv_of(crowd()).drop_columns([name]))
    assert [(f.severity, f.column) for f in report.findings if "not found" in f.en] == [("blocks", name)]
    assert len(report.findings) == 1
    assert next(column for column in report.columns if column.name == name).found is None


def test_a_column_that_is_there_twice_blocks() -> None:
    table = csv_of(crowd())
    report = report_of(table.append_column("age", table.column("age")))
    assert told(report) == [("blocks", "age", "column age: expected once, found 2 times")]


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("column", [pa.array([[1]] * 40), pa.array([{CPR: 1}] * 40)])
def test_a_type_that_cannot_be_read_blocks(name: str, column: pa.Array) -> None:
    report = report_of(table_with(**{name: column}))
    assert [(f.severity, f.column) for f in report.findings] == [("blocks", name)]
    assert "came something else; convert it" in report.findings[0].en
    assert CPR not in everything_said(report)


@pytest.mark.parametrize("name", ["age", "sex", "answer"])
@pytest.mark.parametrize(
    ("cell", "looks"),
    [
        *((CPR, "CPR numbers"), ("251248-4916", "CPR numbers"), ("hun er 251248 4916", "CPR numbers")),
        *(("101010123", "CPR numbers"), ("101010123.0", "CPR numbers"), ("anna@aalborg.dk", "e-mail addresses")),
        *(("22334456", "telephone numbers"), ("+45 22 33 44 56", "telephone numbers")),
        ("Hun bor i eget hus", "free text"),
    ],
)
def test_what_looks_personal_in_a_feature_or_the_label_blocks(name: str, cell: str, looks: str) -> None:
    report = report_of(with_cells(name, cell, cell))
    blocking = report.of("blocks")
    assert [finding.column for finding in blocking] == [name]
    assert f"what looks like {looks} came in 2 rows" in blocking[0].en
    assert cell not in everything_said(report)


@pytest.mark.parametrize("name", ["age", "sex", "answer"])
def test_a_cpr_number_that_was_read_as_a_number_blocks(name: str) -> None:
    for column in (pa.array([101010123] * 40), pa.array([float(CPR)] * 40), pa.array([int(CPR)] * 40, pa.uint64())):
        report = report_of(table_with(**{name: column}))
        assert f"column {name}" in report.of("blocks")[0].en
        assert "what looks like CPR numbers came in 40 rows" in report.of("blocks")[0].en


def test_values_that_the_card_declares_are_never_suspected() -> None:
    values = [CPR, "22334456", "bor hjemme uden nogen hjælp"]
    features = [{"name": "sex", "kind": "category", "values": values}]
    card = parse_card(FIELDS | {"features": [*features, {"name": "age", "kind": "number", "min": 0, "max": 1e8}]})
    table = table_with(sex=pa.array((values * 14)[:40]), age=pa.array([22_334_456 + i for i in range(40)]))
    assert report_of(table, card).findings == ()


def test_a_cpr_number_is_suspected_also_within_a_declared_range() -> None:
    card = parse_card(FIELDS | {"features": [{"name": "age", "kind": "number", "min": 0, "max": 1e10}]})
    assert report_of(with_cells("age", CPR), card).of("blocks")[0].column == "age"


@pytest.mark.parametrize(
    ("name", "cell"), [("age", None), ("age", " "), ("age", "ukendt"), ("sex", None), ("sex", ""), ("sex", "x")]
)
def test_a_feature_without_value_in_more_than_half_of_the_rows_blocks(name: str, cell: str | None) -> None:
    assert report_of(with_cells(name, *[cell] * 20)).of("blocks") == ()
    report = report_of(with_cells(name, *[cell] * 21))
    assert [(f.severity, f.column) for f in report.findings] == [("blocks", name)]
    assert "in at least half of the rows, missing in 21 of 40 rows" in report.findings[0].en


@pytest.mark.parametrize("table", [csv_of([]), with_cells("citizen", *[None] * 40), with_cells("answer", *["?"] * 40)])
def test_rows_without_citizens_block(table: pa.Table) -> None:
    report = report_of(table)
    assert [finding.en.split(",")[0] for finding in report.of("blocks")] == [
        "expected rows with a citizen and a declared value of answer"
    ]
    assert (report.citizens.count, report.citizens.declared_size) == (0, 0)


def test_a_label_of_one_class_blocks() -> None:
    report = report_of(with_cells("answer", *["no"] * 40))
    assert told(report) == [("blocks", "answer", "column answer: expected two or more of no, yes, came 1")]


def test_a_class_that_no_citizen_has_does_not_count() -> None:
    table = with_cells("answer", *["yes"] * 10, *["no"] * 30)
    table = table_with(table, citizen=pa.array([None] * 10 + [f"c{i}" for i in range(30)]))
    assert [finding.column for finding in report_of(table).of("blocks")] == ["answer"]


# What is only noted


def notes_of(report: ContractReport) -> list[str]:
    assert report.fits
    return [finding.en for finding in report.findings]


def test_numbers_outside_the_range_are_noted() -> None:
    assert notes_of(report_of(with_cells("age", "0,4", "100,5", "-7", "0,5", "100"))) == [
        "column age: expected numbers from 0.5 to 100, outside in 3 rows, where the nearest end counts; "
        "correct what is a mistake"
    ]


def test_missing_and_stray_values_are_noted_apart() -> None:
    assert notes_of(report_of(with_cells("age", None, "", "ukendt"))) == [
        "column age: expected a value in every row, missing in 2 rows; there it counts as not known",
        "column age: expected numbers from 0.5 to 100, something else came in 1 row; map it in the source, or it "
        "counts as not known",
    ]
    assert notes_of(report_of(with_cells("sex", None, "x", "y"))) == [
        "column sex: expected a value in every row, missing in 1 row; there it counts as not known",
        "column sex: expected f, m, something else came in 2 rows; map it in the source, or it counts as not known",
    ]


def test_rows_without_label_or_citizen_are_noted_and_not_used() -> None:
    label = report_of(with_cells("answer", None, "?"))
    assert [note.split("; ")[1] for note in notes_of(label)] == [
        "rows without it are not used",
        "map it in the source, or such rows are not used",
    ]
    citizen = report_of(with_cells("citizen", None, ""))
    assert notes_of(citizen) == [
        "column citizen: expected a value in every row, missing in 2 rows; rows without it are not used"
    ]
    assert (label.citizens.rows_used, citizen.citizens.rows_used) == (38, 38)


def test_cvr_numbers_are_noted() -> None:
    for name in ("age", "sex"):
        report = report_of(with_cells(name, "13748136"))
        assert any("what looks like CVR numbers came in 1 row" in note for note in notes_of(report))


def test_the_column_of_the_citizen_may_hold_cpr_numbers_and_anything_else_in_it_is_noted() -> None:
    assert report_of(with_cells("citizen", CPR, "251248-4917")).findings == ()
    report = report_of(with_cells("citizen", "a@b.dk"))
    assert ["e-mail addresses" in note for note in notes_of(report)] == [True]


def test_rows_that_repeat_are_noted_where_a_citizen_may_have_several() -> None:
    table = pa.concat_tables([csv_of(crowd()), csv_of(crowd(10))])
    report = report_of(table)
    assert notes_of(report) == ["expected each row once, another repeated in 10 rows; of equal rows one is used"]
    assert (report.duplicates, report.citizens.rows_used, report.citizens.rows_beyond) == (10, 40, 0)
    without = report_of(table, ROWS_CARD)
    assert without.findings == ()
    assert (without.duplicates, without.citizens.rows_used) == (10, 50)


def test_a_rare_class_is_noted() -> None:
    rows: list[Row] = [(f"c{i}", "50", "f", "yes" if i < 9 else "no") for i in range(1000)]
    assert notes_of(report_of(csv_of(rows))) == [
        "column answer: expected every class in 1 % of the rows or more, yes is in 9 of 1,000 rows; what is learned "
        "about it will be noisy"
    ]
    rows[9] = ("c9", "50", "f", "yes")
    assert notes_of(report_of(csv_of(rows))) == []


# What will be used


@settings(max_examples=30)
@given(st.lists(st.tuples(*map(st.sampled_from, (
    ["a", "b", "c", "d", " a", "", None], ["1", "1,0", "99", "100", "101", "200", "x", None], ["f", "m", "?", None],
    ["no", "yes", "?", None],
))), max_size=30))  # fmt: skip
def test_the_report_counts_what_the_data_set_will_hold(rows: list[Row]) -> None:
    for card in (CARD, ROWS_CARD):
        table = csv_of(rows)
        dataset = build_dataset(card, conform(card, table), KEY)
        citizens = report_of(table, card).citizens
        assert (citizens.training, citizens.held_out) == (len(dataset.training), len(dataset.held_out))
        used = dataset.training.mask_BR.sum() + dataset.held_out.mask_BR.sum()
        assert citizens.rows_used == used
        named = [row for row in rows if card.unit is None or (row[0] or "").strip()]
        assert report_of(table, card).classes == tuple(
            (value, sum(row[3] == value for row in named)) for value in card.label.values
        )


def test_rows_per_citizen_and_the_declared_size_are_told() -> None:
    rows: list[Row] = [
        *[("a", str(20 + i), "f", "no") for i in range(5)],
        ("b", "1", "f", "yes"),
        ("c", "2", "m", "no"),
    ]
    citizens = report_of(csv_of(rows)).citizens
    assert (citizens.count, citizens.rows_median, citizens.rows_largest) == (3, 1.0, 5)
    assert (citizens.rows_used, citizens.rows_beyond) == (4, 3)
    assert citizens.declared_size in (0, 10)
    many = [(f"c{i}", "20", "f", ("no", "yes")[i % 2]) for i in range(2000)]
    assert report_of(csv_of(many)).citizens.declared_size == 1000


def test_the_share_held_out_may_be_the_populations() -> None:
    for share in (0.1, 0.9):
        citizens = examine(CARD, csv_of(crowd(400)), KEY, held_out=share).citizens
        assert citizens.held_out / citizens.count == pytest.approx(share, abs=0.1)


# The contract to the letter


def typed(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    kinds = {"citizen": pa.string(), "age": pa.float64(), "sex": pa.string(), "answer": pa.string()}
    columns = zip(*rows, strict=True) if rows else [[]] * 4
    return pa.table({n: pa.array(list(c), k) for (n, k), c in zip(kinds.items(), columns, strict=True)})


def test_a_table_that_fits_passes() -> None:
    check_contract(CARD, typed([(f"c{i}", 7.0 * i, "fm"[i % 2], ("no", "yes")[i % 3 % 2]) for i in range(5)]))
    check_contract(CARD, typed([]))
    check_contract(CARD, typed([("c", None, None, None)]))


def test_every_problem_is_told_at_once_with_a_count_and_without_a_value() -> None:
    cpr = "2512484916"
    table = pa.table(
        {
            "citizen": [None, "", "c1", cpr],
            "age": [cpr] * 4,
            "sex": [cpr, "f", None, "x"],
            "answer": ["no", cpr, cpr, cpr],
            cpr: [1, 2, 3, 4],
        }
    )
    with pytest.raises(DataError) as caught:
        check_contract(CARD, table)
    assert str(caught.value).split("; column ") == [
        "column citizen: expected a citizen in every row; 2 have none",
        "age: expected numbers, its type is string; convert it or declare it a category",
        "sex: expected f, m; 2 rows hold something else; declare them in the card or map them before",
        "answer: expected no, yes; 3 rows hold something else; declare them in the card or map them before",
    ]
    assert cpr not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_missing_column_is_told_beside_the_other_problems() -> None:
    with pytest.raises(DataError) as caught:
        check_contract(CARD, typed([(None, 1.0, "f", "no")]).drop_columns("age"))
    assert "column citizen: expected a citizen in every row; 1 have none; column age: expected by the" in str(
        caught.value
    )


@pytest.mark.parametrize("column", [pa.array([[1]]), pa.array([b"\xff"]), pa.array([1], pa.date32())])
def test_a_citizen_column_of_another_type_is_refused_in_words(column: pa.Array) -> None:
    table = typed([("c", 1.0, "f", "no")]).drop_columns("citizen").append_column("citizen", column)
    for read in (lambda: check_contract(CARD, table), lambda: build_dataset(CARD, table, KEY)):
        with pytest.raises(DataError, match="column citizen: expected text or whole numbers, its type is"):
            read()


def test_a_long_list_of_values_is_cut_short() -> None:
    fields = FIELDS | {"features": [{"name": "sex", "kind": "category", "values": [str(i) for i in range(100)]}]}
    with pytest.raises(DataError, match=r"expected 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.; 1 rows hold something else"):
        check_contract(parse_card(fields), typed([("c", 1.0, "x", "no")]))
