"""What looks personal is found among a million ordinary values, and the ordinary ones are left alone."""

import string

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.contract_personal import LONGEST_CATEGORY, Suspicion, suspect_numbers, suspect_text
from faelles.identifiers import contains_cpr

DAYS = (*range(1, 32), *range(61, 92))
GAPS = ("", "-", " ", " - ", "\N{EN DASH}", "\N{NO-BREAK SPACE}", "\N{SOFT HYPHEN}", "\N{ZERO WIDTH SPACE}", "\x1c")
NEAR_CPR = (
    string.digits
    + "- abcæøå@.,\n\t\x1c\x85\xa0\xad\N{EN DASH}\N{MINUS SIGN}\N{SUPERSCRIPT TWO}\N{CIRCLED NUMBER TEN}"
    + ("\N{FULLWIDTH DIGIT ZERO}\N{ARABIC-INDIC DIGIT ONE}\N{ZERO WIDTH SPACE}\N{COMBINING RING ABOVE}")
)
texts = st.text(string.ascii_letters + "æøå.,;: ", max_size=8)


@st.composite
def cpr_shaped(draw: st.DrawFn) -> tuple[str, str]:
    day, month = draw(st.sampled_from(DAYS)), draw(st.integers(1, 12))
    return f"{day:02}{month:02}{draw(st.integers(0, 99)):02}", f"{draw(st.integers(0, 9999)):04}"


def found(text: str | None) -> set[str]:
    return {str(kind) for kind, mark_N in suspect_text(pa.array([text], pa.string())).items() if mark_N[0]}


def found_in_number(value: float) -> set[str]:
    return {str(kind) for kind, mark_N in suspect_numbers(np.array([value], np.float64)).items() if mark_N[0]}


@given(cpr_shaped(), st.sampled_from(GAPS), texts, texts)
def test_a_cpr_number_is_found_wherever_it_stands(parts: tuple[str, str], gap: str, before: str, after: str) -> None:
    assert Suspicion.CPR in found(before + gap.join(parts) + after)


@given(cpr_shaped())
def test_a_cpr_number_is_found_that_was_read_as_a_number(parts: tuple[str, str]) -> None:
    number = int("".join(parts))
    assert Suspicion.CPR in found_in_number(number)
    assert Suspicion.CPR in found_in_number(-number - 0.5)
    for text in (str(number), f"{number}.0", f" {number},00 "):
        assert Suspicion.CPR in found(text)


@given(st.text(NEAR_CPR, max_size=20) | st.text(max_size=20))
def test_no_text_escapes_in_which_the_kernel_finds_a_cpr_number(text: str) -> None:
    if contains_cpr(text):
        assert Suspicion.CPR in found(text)
    elif not text.strip(" \t\n.,0").isdigit():  # which may have lost its leading zero
        assert Suspicion.CPR not in found(text)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("borger@aalborg.dk", {"email"}),
        ("Skriv til <anna.b+c@post.aalborg.dk>", {"email"}),
        ("22334456", {"phone"}),
        ("22 33 44 55", {"phone"}),
        ("22.33.44.55", {"phone"}),
        ("22-33-44-55", {"phone"}),
        ("2233 4455", {"phone"}),
        ("+45 22334455", {"phone"}),
        ("+45 12 34 56 78", {"phone"}),
        ("004522334455", {"phone"}),
        ("4522334455", {"phone"}),
        ("tlf 22334456 dag", {"phone"}),
        ("13748136", {"cvr"}),
        ("DK13748136", {"cvr"}),
        ("Hun bor i eget hus", {"free_text"}),
        ("falder tit; bange", set()),
        ("to\nlinjer", {"free_text"}),
        ("x" * LONGEST_CATEGORY, set()),
        ("x" * (LONGEST_CATEGORY + 1), {"free_text"}),
        ("Ring 22334456 eller skriv a@b.dk", {"phone", "email", "free_text"}),
    ],
)
def test_the_common_forms_are_told_apart(text: str, kinds: set[str]) -> None:
    assert found(text) == kinds


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "nursing-home", "0101", "3.5", "1.234.567,89", "2024-12-31", "20241231", "2010-2020", "99999999"),
        *("1", "12345678", "85.15.00", "31.12.2024 10:00", "a@b", "ikke_oplyst_af_borgeren", "20260101T120000"),
        "1 2 3 4",
    ],
)
def test_ordinary_values_are_left_alone(text: str | None) -> None:
    assert found(text) == set()


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        *((13748136, {"cvr"}), (22334456, {"phone"}), (1.5, set()), (0.2512484916, set()), (99999999, set())),
        *((float("nan"), set()), (float("inf"), set()), (1e300, set()), (25_124_849_160, set())),
    ],
)
def test_numbers_are_judged_by_their_whole_part(value: float, kinds: set[str]) -> None:
    assert found_in_number(value) == kinds


def test_marks_stand_where_their_rows_stand() -> None:
    text = pa.array([None, "f", "a@b.dk", "f", "2512484916", None, "a@b.dk"])
    marks = suspect_text(text)
    assert np.flatnonzero(marks[Suspicion.EMAIL]).tolist() == [2, 6]
    assert np.flatnonzero(marks[Suspicion.CPR]).tolist() == [4]
    numbers = suspect_numbers(np.array([1, np.nan, 2512484916, 3]))
    assert np.flatnonzero(numbers[Suspicion.CPR]).tolist() == [2]


def test_an_empty_column_has_no_marks() -> None:
    for marks in (suspect_text(pa.array([], pa.string())), suspect_text(pa.array([None], pa.string()))):
        assert not any(mark_N.any() for mark_N in marks.values())
    assert not any(mark_N.any() for mark_N in suspect_numbers(np.array([])).values())
