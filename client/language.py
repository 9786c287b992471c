"""Speak Danish and English: the two languages of a municipality's people."""

import errno
import math
import re
from typing import TYPE_CHECKING, Any, Literal

from faelles.errors import FaellesError

if TYPE_CHECKING:
    from pydantic import ValidationError

Language = Literal["da", "en"]
LANGUAGES: tuple[Language, ...] = ("da", "en")  # the first is the default

REASONS = {
    errno.EACCES: "adgang nægtet",
    errno.EEXIST: "findes allerede",
    errno.EISDIR: "er en mappe",
    errno.ENOENT: "findes ikke",
    errno.ENOSPC: "disken er fuld",
    errno.ENOTDIR: "er ikke en mappe",
    errno.EPERM: "er ikke tilladt",
    errno.EROFS: "kan kun læses",
}
# By pydantic's kinds of mistake; what stands in braces is pydantic's own limit.
MISTAKES = {
    "missing": "mangler; skriv det",
    "extra_forbidden": "kendes ikke; fjern det, eller ret navnet",
    "literal_error": "skal være {expected}",
    "greater_than": "skal være over {gt:g}",
    "greater_than_equal": "skal være mindst {ge:g}",
    "less_than": "skal være under {lt:g}",
    "less_than_equal": "skal være højst {le:g}",
    "string_too_short": "må ikke være tom",
    "string_type": "skal være tekst; sæt anførselstegn om",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "skal være et helt tal"),
    **dict.fromkeys(("float_type", "float_parsing"), "skal være et tal"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "skal være true eller false"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type"), "skal have sine felter under sig, rykket ind"),
    "tuple_type": "skal være en liste",
}


def say(language: Language, da: str, en: str) -> str:
    """Choose the text of a language."""
    return da if language == "da" else en


def decimal(value: float, language: Language, digits: int = 2) -> str:
    """Write a number with its decimals as the language does, rounded up: what is spent is never shown as less."""
    if math.isinf(value):
        return "∞"
    scale = 10**digits
    text = f"{math.ceil(value * scale - 1e-9) / scale:.{digits}f}"
    return text.replace(".", ",") if language == "da" else text


def plain(value: float, language: Language) -> str:
    """Write a number as somebody typed it."""
    text = f"{value:g}"
    return text.replace(".", ",") if language == "da" else text


def percent(share: float, language: Language) -> str:
    """Write a share of one as the language does, rounded up."""
    return decimal(100 * share, language, digits=0) + say(language, " %", "%")


def whole(value: int, language: Language) -> str:
    """Write a whole number with its thousands as the language does."""
    return f"{value:,}".replace(",", ".") if language == "da" else f"{value:,}"


def read_decimal(text: str) -> float:
    """Read a number with a decimal comma or point; one written by `decimal` in either language is read back.

    Raises:
        ValueError: It is no number.
    """
    return float(text.replace(",", "."))


def read_whole(text: str) -> int:
    """Read a whole number, also one whose thousands are separated as `whole` does in either language.

    Raises:
        ValueError: It is no whole number.
    """
    return int(re.sub(r"[.,]", "", text) if re.fullmatch(r"[1-9]\d{0,2}([.,]\d{3})+", text) else text)


def reason(error: OSError, language: Language) -> str:
    """Say why the operating system would not, in a few words."""
    if language == "da":
        return REASONS.get(error.errno or 0, "det går ikke")
    return (error.strerror or type(error).__name__).lower()


def danish_mistakes(error: "ValidationError") -> str:
    """Write every mistake that pydantic found on one line, as `faelles.card.describe_mistakes` does in English.

    Nothing that came is repeated: a municipality's own files may hold what nobody should.
    """
    return "; ".join(_danish(detail) for detail in error.errors(include_url=False))


def _danish(detail: Any) -> str:
    path = ".".join(map(str, detail["loc"])) or "-"
    told = detail.get("ctx", {})
    if isinstance(told.get("error"), ValueError):  # what a validator of ours says itself
        mistake = told["error"].text("da") if isinstance(told["error"], FaellesError) else str(told["error"])
    else:
        mistake = MISTAKES.get(detail["type"], "er ikke skrevet, som det skal være").format_map(told)
    return f"{path if path.isprintable() else '-'}: {mistake.replace(' or ', ' eller ')}"
