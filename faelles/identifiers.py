"""The identifiers of the public sector: kommunekode, CVR and the shape of a CPR number.

A kommunekode and a CVR number are public and are value objects. A CPR number is personal data: it is only ever
*detected*, so that text which may hold one is stopped. No error here repeats what it was given, because a CPR number
may have been put in the wrong field.
"""

import re
import unicodedata
from typing import Final, Self

from faelles.errors import DataError

CVR_WEIGHTS: Final = (2, 7, 6, 5, 4, 3, 2, 1)

# Day 1-31, or 61-91 in a replacement number; month 1-12; two digits of year; four of serial. Modulus 11 takes no part:
# since 2007 numbers are issued that do not satisfy it.
_CPR = re.compile(
    r"(?<![0-9])(?:0[1-9]|[12][0-9]|3[01]|6[1-9]|[78][0-9]|9[01])(?:0[1-9]|1[0-2])[0-9]{2}"
    r"[\s\-\u2010-\u2015\u2212]{0,3}[0-9]{4}(?![0-9])"
)


class Kommunekode(str):
    """Hold the code of a municipality as four digits: `Kommunekode("851")` is `"0851"`.

    Only the form is checked; `faelles.municipalities.by_code` knows the 98 that exist.

    Raises:
        DataError: the text is not three digits, or four of which the first is 0.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check the form and write out the leading zero."""
        if not re.fullmatch(r"0?[1-9][0-9]{2}", text):
            raise DataError(
                f"kommunekode: expected three digits, or four with a leading 0 (Aalborg is 0851), "
                f"got {_shape(text)}. Write the code, not the name",
                da=f"kommunekode: skal være tre cifre eller fire med 0 foran (Aalborg er 0851), ikke {len(text)} tegn; "
                "skriv koden, ikke navnet",
            )
        return super().__new__(cls, text.zfill(4))


class CVR(str):
    """Hold a company or authority number: eight digits whose weighted sum is divisible by 11.

    Raises:
        DataError: the text is not eight digits, or the sum is not divisible by 11.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check the form and modulus 11."""
        if not re.fullmatch(r"[1-9][0-9]{7}", text):
            raise DataError(f"CVR: expected eight digits, the first not 0, got {_shape(text)}. Leave out DK and spaces")
        if sum(weight * int(digit) for weight, digit in zip(CVR_WEIGHTS, text, strict=True)) % 11:
            raise DataError("CVR: expected a number that satisfies modulus 11, got one that does not. Check for a typo")
        return super().__new__(cls, text)


def contains_cpr(text: str) -> bool:
    """Tell whether a text may hold a CPR number, anywhere in it.

    Guarantees:
        Fails closed: whatever has the shape of a date and a serial is reported, also when no such person exists, when
        modulus 11 does not hold, and when dashes, spaces or invisible characters stand between the two parts.
    Assumes:
        The number is written out as text. One that was read as an integer has lost its leading zero and is not seen:
        read such columns as text.

    Args:
        text: Any text, of any length.

    Returns:
        True when the text may hold a CPR number. About 7.4 % of random ten-digit numbers have its shape too: telephone
        and case numbers that are stopped by mistake are the price.

    Source:
        CPR-kontoret, "Personnummeret i CPR"; on modulus 11 and on replacement numbers (day + 60).
    """
    normal = unicodedata.normalize("NFKC", text)  # full-width and other digits become ordinary ones
    visible = "".join(
        str(unicodedata.digit(letter, letter))
        for letter in normal
        if unicodedata.category(letter) != "Cf"  # zero-width space, soft hyphen
    )
    return _CPR.search(visible) is not None


def _shape(text: str) -> str:
    """Describe a text without repeating it."""
    return f"{len(text)} {'digits' if re.fullmatch(r'[0-9]*', text) else 'characters'}"
