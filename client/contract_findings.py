"""Word what a contract check found, in Danish and English: what was expected, what came, what to do.

A finding holds counts, names of columns and what the card declares; there is no way to put a data value into one.
"""

from dataclasses import dataclass
from typing import Literal

from client.contract_personal import Suspicion
from faelles.card import CategoryFeature, Label, NumberFeature, UseCaseCard

Severity = Literal["blocks", "notes"]
Type = Literal["text", "whole numbers", "numbers", "truth values", "dates or times", "nothing", "something else"]

TYPES_DA: dict[Type, str] = {
    "text": "tekst",
    "whole numbers": "heltal",
    "numbers": "tal",
    "truth values": "sandt/falsk",
    "dates or times": "datoer eller tider",
    "nothing": "ingenting",
    "something else": "noget andet",
}
LOOKS = {
    Suspicion.CPR: ("CPR numbers", "CPR-numre"),
    Suspicion.CVR: ("CVR numbers", "CVR-numre"),
    Suspicion.EMAIL: ("e-mail addresses", "e-mailadresser"),
    Suspicion.PHONE: ("telephone numbers", "telefonnumre"),
    Suspicion.FREE_TEXT: ("free text", "fri tekst"),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Hold one thing that a check found.

    Args:
        severity: Whether it blocks an approval or is only good to know.
        column: Where; None where it is about the rows.
        en: One line in English.
        da: The same in Danish.
    """

    severity: Severity
    column: str | None
    en: str
    da: str

    def text(self, language: str) -> str:
        """Say it in `da` or `en`."""
        return self.da if language == "da" else self.en


def missing_column(name: str) -> Finding:
    """Say that a column is not there."""
    return _finding(
        "blocks", name,
        "expected by the card, not found; say in agent.yaml what it is called here",
        "kortet kræver den, men den findes ikke; skriv i agent.yaml, hvad den hedder hos jer",
    )  # fmt: skip


def repeated_column(name: str, times: int) -> Finding:
    """Say that a column is there more than once."""
    return _finding(
        "blocks", name,
        f"expected once, found {figure(times, 'en')} times; rename or drop the others",
        f"skulle findes én gang, men findes {figure(times, 'da')} gange; omdøb eller fjern de andre",
    )  # fmt: skip


def unreadable_column(card: UseCaseCard, name: str, found: Type) -> Finding:
    """Say that a column has a type that its kind cannot be read from."""
    en, da = _expected(card, name)
    return _finding(
        "blocks", name,
        f"expected {en}, came {found}; convert it in the source",
        f"skulle være {da}, men er {TYPES_DA[found]}; konvertér den i kilden",
    )  # fmt: skip


def personal(card: UseCaseCard, name: str, kind: Suspicion, rows: int) -> Finding:
    """Say that values look personal; in the column of the unit, or where they look like CVR numbers, it only notes."""
    (en, da), (looks_en, looks_da) = _expected(card, name), LOOKS[kind]
    severity: Severity = "notes" if kind is Suspicion.CVR or name == card.unit else "blocks"
    return _finding(
        severity, name,
        f"expected {en}, what looks like {looks_en} came in {rows_en(rows)}; clean the source or choose another column",
        f"skulle være {da}, men ligner {looks_da} i {rows_da(rows)}; ret kilden, eller vælg en anden kolonne",
    )  # fmt: skip


def sparse_column(card: UseCaseCard, name: str, without: int, rows: int) -> Finding:
    """Say that more than half of a feature's rows have no value that can be used."""
    en, da = _expected(card, name)
    return _finding(
        "blocks", name,
        f"expected {en} in at least half of the rows, missing in {figure(without, 'en')} of {rows_en(rows)}; "
        "fill it or decline the card",
        f"skulle være {da} i mindst halvdelen af rækkerne, men mangler i {figure(without, 'da')} af {rows_da(rows)}; "
        "udfyld den, eller sig nej til kortet",
    )  # fmt: skip


def missing_values(card: UseCaseCard, name: str, rows: int) -> Finding:
    """Say that some rows have no value; a feature's count as not known, others are not used."""
    used = name != card.unit and name != card.label.column
    return _finding(
        "notes", name,
        f"expected a value in every row, missing in {rows_en(rows)}; "
        + ("there it counts as not known" if used else "rows without it are not used"),
        f"skulle være udfyldt i alle rækker, men mangler i {rows_da(rows)}; "
        + ("dér tæller den som ikke oplyst" if used else "rækker uden den bruges ikke"),
    )  # fmt: skip


def stray_values(card: UseCaseCard, name: str, rows: int) -> Finding:
    """Say that some rows hold no number, or nothing that the card declares."""
    en, da = _expected(card, name)
    used = name != card.label.column
    return _finding(
        "notes", name,
        f"expected {en}, something else came in {rows_en(rows)}; map it in the source, or "
        + ("it counts as not known" if used else "such rows are not used"),
        f"skulle være {da}, men er noget andet i {rows_da(rows)}; oversæt det i kilden, ellers "
        + ("tæller det som ikke oplyst" if used else "bruges de rækker ikke"),
    )  # fmt: skip


def outside_range(card: UseCaseCard, name: str, rows: int) -> Finding:
    """Say that some numbers are outside the declared range."""
    en, da = _expected(card, name)
    return _finding(
        "notes", name,
        f"expected {en}, outside in {rows_en(rows)}, where the nearest end counts; correct what is a mistake",
        f"skulle være {da}, men er udenfor i {rows_da(rows)}, hvor nærmeste grænse tæller; ret det, der er en fejl",
    )  # fmt: skip


def no_citizens(card: UseCaseCard) -> Finding:
    """Say that there is nobody to learn from."""
    label = shown(card.label.column)
    return _finding(
        "blocks", None,
        f"expected rows with a {card.unit_name.en} and a declared value of {label}, came none; check the source and "
        "the columns in agent.yaml",
        f"der skal være rækker med {card.unit_name.da} og en kendt værdi af {label}, men der er ingen; tjek kilden og "
        "kolonnerne i agent.yaml",
    )  # fmt: skip


def too_few_classes(card: UseCaseCard, classes: int) -> Finding:
    """Say that the label does not vary."""
    en, da = _expected(card, card.label.column)
    return _finding(
        "blocks", card.label.column,
        f"expected two or more of {en}, came {figure(classes, 'en')}; check the source and the columns in agent.yaml",
        f"skulle have to eller flere af {da}, men har {figure(classes, 'da')}; tjek kilden og kolonnerne i agent.yaml",
    )  # fmt: skip


def imbalance(card: UseCaseCard, value: str, rows: int, labelled: int) -> Finding:
    """Say that a declared class is rare."""
    return _finding(
        "notes", card.label.column,
        f"expected every class in 1 % of the rows or more, {shown(value)} is in {figure(rows, 'en')} of "
        f"{rows_en(labelled)}; what is learned about it will be noisy",
        f"hver klasse skulle være i mindst 1 % af rækkerne, men {shown(value)} er i {figure(rows, 'da')} af "
        f"{rows_da(labelled)}; det, der læres om den, bliver usikkert",
    )  # fmt: skip


def duplicates(rows: int) -> Finding:
    """Say that some rows repeat another."""
    return Finding(
        severity="notes", column=None,
        en=f"expected each row once, another repeated in {rows_en(rows)}; of equal rows one is used",
        da=f"hver række skulle findes én gang, men en anden er gentaget i {rows_da(rows)}; af ens rækker bruges én",
    )  # fmt: skip


def figure(value: float, language: str, digits: int = 0) -> str:
    """Write a number with its thousands and decimals as people of a language do."""
    text = f"{value:,.{digits}f}".replace("-", "−")
    return text.translate(str.maketrans(",.", ".,")) if language == "da" else text


def rows_en(count: int) -> str:
    """Count rows in English."""
    return f"{figure(count, 'en')} row{'' if count == 1 else 's'}"


def rows_da(count: int) -> str:
    """Count rows in Danish."""
    return f"{figure(count, 'da')} række{'' if count == 1 else 'r'}"


def shown(name: str) -> str:
    """Show a name from a card, in which a control character could steer the terminal."""
    return name if name.isprintable() else repr(name)


def listed(values: tuple[str, ...]) -> str:
    """List the first of the declared values."""
    return ", ".join(values[:8]) + (", ..." if len(values) > 8 else "")


def declared(card: UseCaseCard, name: str) -> NumberFeature | CategoryFeature | Label | None:
    """Find what a card declares of a column; None for the one that tells citizens apart."""
    if name == card.label.column:
        return card.label
    return next((feature for feature in card.features if feature.name == name), None)


def _expected(card: UseCaseCard, name: str) -> tuple[str, str]:
    """Say what a card expects of a column, in English and Danish."""
    wanted = declared(card, name)
    if isinstance(wanted, NumberFeature):
        low, high = (f"{end:.15g}".replace("-", "−") for end in (wanted.min, wanted.max))
        return f"numbers from {low} to {high}", f"tal fra {low} til {high}".replace(".", ",")
    if wanted is None:
        return f"an id of each {card.unit_name.en}", f"et id ({card.unit_name.da})"
    values = shown(listed(wanted.values))
    return values, values


def _finding(severity: Severity, name: str | None, en: str, da: str) -> Finding:
    where_en, where_da = ("", "") if name is None else (f"column {shown(name)}: ", f"kolonne {shown(name)}: ")
    return Finding(severity=severity, column=name, en=where_en + en, da=where_da + da)
