"""What a contract check saw is written in two languages, and no value is ever in it."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.contract import ContractReport, check_contract, render
from client.contract_findings import Finding
from client.contract_personal import Suspicion
from faelles.card import parse_card
from faelles.errors import DataError
from tests.contracts import (
    CARD,
    COLUMNS,
    CPR,
    FIELDS,
    LANGUAGES,
    Row,
    crowd,
    csv_of,
    everything_said,
    report_of,
    table_with,
)

GOLDEN = Path(__file__).parent / "golden"


# On the screen


def messy() -> ContractReport:
    rows: list[Row] = [(f"c{i // 3}", f"{10 + i % 91}", "fm"[i % 2], ("no", "yes")[i % 400 == 7]) for i in range(1200)]
    rows[:3] = ("c0", "0,1", "f", "no"), ("c0", "ukendt", "x", "?"), (None, "", None, None)
    rows[3:6] = ("c1", CPR, "f", "no"), ("c1", "30", "anna@aalborg.dk", "no"), ("c1", "101", "m", "no")
    return report_of(csv_of([*rows, *rows[900:1000]]))


def fitting() -> ContractReport:
    return report_of(csv_of([(f"c{i}", f"{i % 80 + 1}", "fm"[i % 2], ("no", "yes")[i % 3 % 2]) for i in range(1500)]))


def absent() -> ContractReport:
    features = [{"name": "a\x1b[2J", "kind": "number", "min": -1.5, "max": 2.5}, *FIELDS["features"]]
    return report_of(table_with(sex=pa.array([[1]] * 40)), parse_card(FIELDS | {"features": features}))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("make", [messy, fitting, absent])
def test_the_report_is_the_golden_one(make: Callable[[], ContractReport], language: str) -> None:
    path, text = GOLDEN / f"contract-{make.__name__}.{language}.txt", render(make(), language)
    if os.environ.get("FAELLES_GOLDEN") == "write":  # after a deliberate change; then read the files
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_name_in_the_card_cannot_steer_the_terminal() -> None:
    for language in LANGUAGES:
        assert all(line.isprintable() for line in render(absent(), language).splitlines())


def test_a_finding_is_one_line_in_two_languages() -> None:
    for finding in (*messy().findings, *absent().findings):
        assert isinstance(finding, Finding)
        assert finding.text("en").isprintable()
        assert finding.text("da").isprintable()
        assert finding.text("en") != finding.text("da")


# No value, ever

GAPS = ("", "-", " ", "\N{NO-BREAK SPACE}", "\N{SOFT HYPHEN}")


@st.composite
def cpr_numbers(draw: st.DrawFn) -> str:
    day, month = draw(st.integers(1, 31) | st.integers(61, 91)), draw(st.integers(1, 12))
    serial = draw(st.integers(1000, 9999))
    return f"{day:02}{month:02}{draw(st.integers(10, 99))}{draw(st.sampled_from(GAPS))}{serial}"


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 39), st.sampled_from(COLUMNS), cpr_numbers()), min_size=1, max_size=8))
def test_cpr_numbers_are_found_wherever_they_are_and_are_nowhere_in_the_report(
    planted: list[tuple[int, str, str]],
) -> None:
    rows = [list(row) for row in crowd()]
    for position, name, number in planted:
        rows[position][COLUMNS.index(name)] = number
    table = csv_of([tuple(row) for row in rows])  # type: ignore[misc]  # a list of four is a row
    report = report_of(table)
    wanted = {name: len({p for p, other, _ in planted if other == name}) for _, name, _ in planted if name != "citizen"}
    assert {c.name: dict(c.suspicions).get(Suspicion.CPR, 0) for c in report.columns if c.name in wanted} == wanted
    assert {f.column for f in report.of("blocks") if "CPR" in f.en} == set(wanted)
    said = everything_said(report)
    try:
        check_contract(CARD, table)
    except DataError as error:
        said += str(error)
    assert not [number for _, _, number in planted if number in said]


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.text(max_size=12) | st.none()] * 4), max_size=12))
def test_no_value_makes_it_raise(rows: list[Row]) -> None:
    report = report_of(csv_of(rows))
    for language in LANGUAGES:
        render(report, language)
