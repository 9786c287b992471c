"""Find what a contract's columns should not hold: CPR and CVR numbers, e-mail addresses, telephone numbers, free text.

Whoever prepares data maps the wrong column sooner or later. What is found here is counted on the municipality's own
screen and never shown. Columns may have a million rows, so the work is done on their distinct values, by Arrow.

Legend: N rows, D distinct values.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from faelles.identifiers import CVR_WEIGHTS, contains_cpr

LONGEST_CATEGORY: Final = 64
"""The most letters that a card's category may have; a longer text cannot be one."""


class Suspicion(StrEnum):
    """Name what a value looks like."""

    CPR = "cpr"
    CVR = "cvr"
    EMAIL = "email"
    PHONE = "phone"
    FREE_TEXT = "free_text"


Marks = Mapping[Suspicion, NDArray[np.bool_]]

# In Arrow's regular expressions, which know neither what comes before nor after: so the neighbours are matched along.
_START, _END = r"(?:^|[^0-9])", r"(?:$|[^0-9])"
_GAP = r"[\t-\r\x1c-\x20\x{A0}\-\x{2010}-\x{2015}\x{2212}]"
_DAY, _MONTH = r"(?:0[1-9]|[12][0-9]|3[01]|6[1-9]|[78][0-9]|9[01])", r"(?:0[1-9]|1[0-2])"
_CPR = rf"{_START}{_DAY}{_MONTH}[0-9]{{2}}{_GAP}{{0,3}}[0-9]{{4}}{_END}"
_CPR_WITHOUT_ZERO = rf"^\s*[1-9]{_MONTH}[0-9]{{6}}(?:[.,]0*)?\s*$"
# Letters, dashes and quotes that neither are digits in disguise nor vanish: here _CPR agrees with contains_cpr.
_ORDINARY = r"^[\x00-\x7F\x{A0}\x{C0}-\x{24F}\x{2010}-\x{2015}\x{2018}-\x{201E}\x{2026}\x{20AC}\x{2212}]*$"  # fmt: skip
_EMAIL = r"[^\s@]+@[^\s@]+\.\pL{2,}"
_EIGHT = rf"{_START}(?P<digits>[1-9][0-9]{{7}}){_END}"
_NO_PHONE = r"(?:^|[^0-9])(?:1[0-9]{7}|20[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])|" + (
    "|".join(digit * 8 for digit in "23456789") + rf"){_END}"  # a date, or a code for what is not known
)
_PHONE = (
    rf"{_START}(?:\+|00)45[ \-]?[0-9]{{2}}(?:[ .\-]?[0-9]{{2}}){{3}}{_END}|"
    rf"{_START}45 ?[2-9][0-9]{{7}}{_END}|{_START}[2-9][0-9](?:(?: [0-9]{{2}}){{3}}|(?:\.[0-9]{{2}}){{3}}|"
    rf"(?:-[0-9]{{2}}){{3}}|[0-9]{{2}} [0-9]{{4}}){_END}"
)
_WORDS = r"(?:\pL\S*\s+(?:[^\pL\s]+\s+)*[^\pL\s]*){3}\pL|\n"


def suspect_text(text: pa.Array) -> Marks:
    """Mark the rows of a text column that hold what looks personal.

    Guarantees:
        Fails closed for CPR numbers: every text is marked in which `contains_cpr` finds one, and every text that is
        one whose leading zero was lost. The others are judged by their common Danish forms. Free text is four words
        or more, a line break, or more letters than a category may have. Eight digits are a CVR number where modulus 11
        holds and a telephone number otherwise, unless they are a date or one digit throughout.

    Args:
        text: A column of text; nulls are never marked.
    """
    encoded = text.dictionary_encode()
    marks = _judge(encoded.dictionary)
    index_N = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    # Position -1, a null's, addresses the last mark.
    return {kind: np.append(mark_D, False)[index_N] for kind, mark_D in marks.items()}


def suspect_numbers(value_N: NDArray[np.float64]) -> Marks:
    """Mark the numbers whose whole part looks personal, written with as many digits as a CPR number or its leading 0.

    Args:
        value_N: Numbers, NaN where missing; NaN is never marked.
    """
    whole_N = np.trunc(np.abs(value_N))
    long_N = (whole_N >= 1e7) & (whole_N < 1e10)
    marks = suspect_text(pa.array(whole_N[long_N].astype(np.int64)).cast(pa.string()))
    return {kind: _spread(mark, long_N) for kind, mark in marks.items()}


def _judge(value_D: pa.Array) -> Marks:
    cvr_D = _satisfies_modulus_11(value_D)
    phone_D = _matches(value_D, _EIGHT) & ~cvr_D & ~_matches(value_D, _NO_PHONE)
    long_D = np.asarray(pc.greater(pc.utf8_length(value_D), LONGEST_CATEGORY).to_numpy(zero_copy_only=False))
    return {
        Suspicion.CPR: _holds_cpr(value_D),
        Suspicion.CVR: cvr_D,
        Suspicion.EMAIL: _matches(value_D, _EMAIL),
        Suspicion.PHONE: phone_D | _matches(value_D, _PHONE),
        Suspicion.FREE_TEXT: long_D | _matches(value_D, _WORDS),
    }


def _holds_cpr(value_D: pa.Array) -> NDArray[np.bool_]:
    mark_D = _matches(value_D, _CPR) | _matches(value_D, _CPR_WITHOUT_ZERO)
    strange_D = ~_matches(value_D, _ORDINARY)
    strange = value_D.filter(pa.array(strange_D)).to_pylist()
    return mark_D | _spread(np.array([contains_cpr(text) for text in strange], dtype=bool), strange_D)


def _satisfies_modulus_11(value_D: pa.Array) -> NDArray[np.bool_]:
    found = pc.extract_regex(value_D, _EIGHT)
    eight_D = np.asarray(pc.is_valid(found).to_numpy(zero_copy_only=False), dtype=bool)
    number = pc.struct_field(found.drop_null(), [0]).cast(pa.int64()).to_numpy(zero_copy_only=False)
    weighted = (number[:, None] // 10 ** np.arange(7, -1, -1) % 10) @ np.array(CVR_WEIGHTS)
    return _spread(weighted % 11 == 0, eight_D)


def _matches(value_D: pa.Array, pattern: str) -> NDArray[np.bool_]:
    return np.array(pc.match_substring_regex(value_D, pattern).to_numpy(zero_copy_only=False), dtype=bool)


def _spread(mark: NDArray[np.bool_], where_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Put the marks of some rows back among all rows."""
    mark_N = np.zeros(len(where_N), dtype=bool)
    mark_N[where_N] = mark
    return mark_N
