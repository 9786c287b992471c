"""Kommunekode, CVR and the CPR detector."""

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faelles.errors import DataError
from faelles.identifiers import CVR, CVR_WEIGHTS, Kommunekode, contains_cpr

DAYS = (*range(1, 32), *range(61, 92))
NO_DAYS = (0, *range(32, 61), *range(92, 100))
SEPARATORS = ("", "-", " ", " - ", "\N{NON-BREAKING HYPHEN}", "\N{EN DASH}", "\N{NO-BREAK SPACE}", "\N{SOFT HYPHEN}")
words = st.text(alphabet=string.ascii_letters + "æøåÆØÅ.,:;()\n ", max_size=20)


@st.composite
def cpr_shaped(draw: st.DrawFn, days: tuple[int, ...] = DAYS, months: tuple[int, ...] = tuple(range(1, 13))) -> str:
    day, month = draw(st.sampled_from(days)), draw(st.sampled_from(months))
    year, serial = draw(st.integers(0, 99)), draw(st.integers(0, 9999))
    return f"{day:02}{month:02}{year:02}{draw(st.sampled_from(SEPARATORS))}{serial:04}"


@given(words, cpr_shaped(), words)
def test_a_cpr_number_is_found_wherever_it_stands(before: str, number: str, after: str) -> None:
    assert contains_cpr(before + number + after)


@given(cpr_shaped())
def test_a_cpr_number_is_found_in_full_width_digits(number: str) -> None:
    assert contains_cpr(number.translate({ord(d): ord("\N{FULLWIDTH DIGIT ZERO}") + int(d) for d in string.digits}))


@given(cpr_shaped())
def test_a_cpr_number_is_found_with_invisible_characters_between_its_digits(number: str) -> None:
    assert contains_cpr("\N{ZERO WIDTH SPACE}".join(number))


@given(words, st.one_of(cpr_shaped(days=NO_DAYS), cpr_shaped(months=(0, *range(13, 100)))), words)
def test_ten_digits_that_are_no_date_pass(before: str, number: str, after: str) -> None:
    assert not contains_cpr(before + number + after)


@given(st.integers(0, 9), cpr_shaped())
def test_a_longer_run_of_digits_passes(digit: int, number: str) -> None:
    assert not contains_cpr(f"{digit}{number}")
    assert not contains_cpr(f"{number}{digit}")


def test_modulus_11_takes_no_part() -> None:
    weights = (4, 3, 2, 7, 6, 5, 4, 3, 2, 1)
    numbers = [f"010165{serial:04}" for serial in range(9990, 10_000)]
    remainders = {sum(w * int(d) for w, d in zip(weights, n, strict=True)) % 11 for n in numbers}
    assert {True, False} == {remainder == 0 for remainder in remainders}
    assert all(contains_cpr(number) for number in numbers)


def test_the_share_of_false_alarms_is_the_documented_one() -> None:
    dates = sum(contains_cpr(f"{day_month:04}001111") for day_month in range(10_000))
    assert dates / 10_000 == pytest.approx(0.074, abs=0.0005)


@given(st.integers(100, 999))
def test_a_kommunekode_has_one_spelling(code: int) -> None:
    assert Kommunekode(f"{code}") == Kommunekode(f"0{code}") == f"0{code}"
    assert pickle.loads(pickle.dumps(Kommunekode(f"{code}"))) == f"0{code}"  # noqa: S301  # our own bytes


@pytest.mark.parametrize("text", ["", "85", "08511", "1084", "0051", "Aalborg", "851\n", "٨٥١", "-851"])
def test_what_is_no_kommunekode_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected three digits"):
        Kommunekode(text)


def test_a_known_cvr_number_is_accepted() -> None:
    assert CVR("13748136") == "13748136"


@given(st.integers(0, 7), st.integers(1, 9))
def test_a_cvr_number_with_one_wrong_digit_is_refused(position: int, shift: int) -> None:
    digits = [int(digit) for digit in "13748136"]
    digits[position] = (digits[position] + shift) % 10
    assert sum(w * d for w, d in zip(CVR_WEIGHTS, digits, strict=True)) % 11
    with pytest.raises(DataError, match="CVR"):
        CVR("".join(map(str, digits)))


@pytest.mark.parametrize("text", ["", "1374813", "137481366", "DK13748136", "03748136", "1374 8136"])
def test_what_is_no_cvr_number_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected eight digits"):
        CVR(text)


@given(cpr_shaped())
def test_no_error_repeats_what_it_was_given(number: str) -> None:
    for identifier in (Kommunekode, CVR):
        with pytest.raises(DataError) as caught:
            identifier(number)
        assert number not in str(caught.value)
        assert not contains_cpr(str(caught.value))
        assert "\n" not in str(caught.value)
