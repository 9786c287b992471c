"""Hold what a contract check saw, and write it for the municipality's own screen in Danish or English.

Even there it holds counts, names of columns and what the card declares, and never a value: so it may be shown to a
colleague who may not see the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from client.contract_findings import LOOKS, TYPES_DA, Finding, Severity, Type, figure, shown
from client.contract_personal import Suspicion
from faelles.card import UseCaseCard


@dataclass(frozen=True, kw_only=True)
class ColumnReport:
    """Hold what one column of the contract looks like, in rows.

    Args:
        name: The contract's name of it.
        found: The type that it has in the source; None where it is not there, or several are.
        missing: Rows without a value.
        no_numbers: Rows whose value is not a number; None where numbers are not expected.
        outside: Rows whose number is outside the declared range and will be clipped; None as above.
        undeclared: Rows whose value the card does not declare; None where it declares no values.
        suspicions: What values look like and should not, with the rows that do.
    """

    name: str
    found: Type | None
    missing: int
    no_numbers: int | None = None
    outside: int | None = None
    undeclared: int | None = None
    suspicions: tuple[tuple[Suspicion, int], ...] = ()

    @property
    def without(self) -> int:
        """Count the rows that have no value which can be used."""
        return self.missing + (self.no_numbers or 0) + (self.undeclared or 0)


@dataclass(frozen=True, kw_only=True)
class CitizensReport:
    """Hold who the rows are about, among the rows with a citizen and a declared label.

    Args:
        training: Citizens of the training part.
        held_out: Citizens that are held out.
        rows_median: Rows of the citizen in the middle.
        rows_largest: Rows of the citizen that has the most.
        rows_used: Rows that will be used.
        rows_beyond: Different rows beyond the card's max_rows_per_unit, which will not be used.
        declared_size: The band that the training part suggests; 0 where there is nobody to learn from.
    """

    training: int
    held_out: int
    rows_median: float
    rows_largest: int
    rows_used: int
    rows_beyond: int
    declared_size: int

    @property
    def count(self) -> int:
        """Count the citizens of both parts."""
        return self.training + self.held_out


@dataclass(frozen=True, kw_only=True)
class ContractReport:
    """Hold what a check of a card's contract saw.

    Args:
        card: The use case.
        rows: All rows.
        duplicates: Rows that repeat another in every column of the contract.
        columns: What each column looks like, in the contract's order.
        classes: Each declared class with its rows.
        citizens: Who the rows are about.
        findings: What does not fit.
    """

    card: UseCaseCard
    rows: int
    duplicates: int
    columns: tuple[ColumnReport, ...]
    classes: tuple[tuple[str, int], ...]
    citizens: CitizensReport
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Choose the findings that block an approval, or those that are only good to know."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def fits(self) -> bool:
        """Say whether nothing blocks an approval."""
        return not self.of("blocks")


def render(report: ContractReport, language: str) -> str:
    """Write a report as lines of plain text.

    Guarantees: the text holds no data value, one finding is one line, and no name from the card steers the terminal.

    Args:
        report: What a check saw.
        language: `da` or `en`.
    """
    parts = (
        _head(report, language),
        _findings(report, language),
        _columns(report, language),
        _rows(report, language),
        _classes(report, language),
    )
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _head(report: ContractReport, language: str) -> list[str]:
    card = f"{report.card.id} {report.card.version}"
    blocking, notes = (figure(len(report.of(severity)), language) for severity in ("blocks", "notes"))
    if language == "da":
        verdict = "Dataene passer til kortet" if report.fits else f"Dataene passer ikke til kortet: {blocking} blokerer"
        return [f"Kontraktkontrol af {card}", f"{verdict}; bemærkninger: {notes}.", "Intet herfra forlader kommunen."]
    verdict = "The data fit the card" if report.fits else f"The data do not fit the card: {blocking} blocking"
    return [f"Contract check of {card}", f"{verdict}; notes: {notes}.", "Nothing of this leaves the municipality."]


def _findings(report: ContractReport, language: str) -> list[str]:
    words: dict[Severity, str] = {"blocks": "BLOKERER" if language == "da" else "BLOCKS", "notes": "note"}
    if language == "da":
        words["notes"] = "bemærk"
    width = max(map(len, words.values()))
    found = [*report.of("blocks"), *report.of("notes")]
    return [f"{words[finding.severity]:<{width}}  {finding.text(language)}" for finding in found]


def _columns(report: ContractReport, language: str) -> list[str]:
    danish = language == "da"
    head = ("column", "type", "missing", "no number", "outside range", "not declared", "looks like")
    head_da = ("kolonne", "type", "tomme", "ikke tal", "uden for", "ukendte", "ligner")
    lines: list[Sequence[str]] = [head_da if danish else head]
    for column in report.columns:
        found = "–" if column.found is None else TYPES_DA[column.found] if danish else column.found
        counts = (column.missing, column.no_numbers, column.outside, column.undeclared)
        looks = ", ".join(f"{LOOKS[kind][danish]}: {figure(rows, language)}" for kind, rows in column.suspicions)
        lines.append((shown(column.name), found, *(_or_dash(count, language) for count in counts), looks))
    return _aligned(lines, left=(0, 1, 6))


def _rows(report: ContractReport, language: str) -> list[str]:
    card, citizens = report.card, report.citizens
    da, en = card.unit_name.da, card.unit_name.en
    median = citizens.rows_median
    lines = (
        ("rækker", "rows", figure(report.rows, language)),
        ("rækker, der gentager en anden", "rows that repeat another", figure(report.duplicates, language)),
        (f"enheder ({da}) med et kendt svar", f"units ({en}) with a declared label", figure(citizens.count, language)),
        (f"  rækker pr. {da}, median", f"  rows per {en}, median", figure(median, language, 1 if median % 1 else 0)),
        (f"  rækker pr. {da}, flest", f"  rows per {en}, most", figure(citizens.rows_largest, language)),
        ("  rækker, der bruges", "  rows that are used", figure(citizens.rows_used, language)),
        (
            f"  rækker ud over {figure(card.max_rows_per_unit, 'da')} pr. {da}, som ikke bruges",
            f"  rows beyond {figure(card.max_rows_per_unit, 'en')} per {en}, not used",
            figure(citizens.rows_beyond, language),
        ),
        ("  i træningsdelen", "  in the training part", figure(citizens.training, language)),
        ("  holdt ude til evaluering", "  held out for evaluation", figure(citizens.held_out, language)),
        (
            "foreslået erklæret størrelse",
            "suggested declared size",
            _or_dash(citizens.declared_size or None, language),
        ),
    )
    return _aligned([(danish if language == "da" else english, value) for danish, english, value in lines], left=(0,))


def _classes(report: ContractReport, language: str) -> list[str]:
    label = shown(report.card.label.column)
    total = sum(rows for _, rows in report.classes)
    lines = [(label, "rækker" if language == "da" else "rows", "")]
    for value, rows in report.classes:
        share = f"{figure(100 * rows / total, language, 1)} %" if total else "–"
        lines.append((f"  {shown(value)}", figure(rows, language), share))
    return _aligned(lines, left=(0,))


def _or_dash(count: int | None, language: str) -> str:
    return "–" if count is None else figure(count, language)


def _aligned(lines: Sequence[Sequence[str]], left: tuple[int, ...]) -> list[str]:
    """Set cells in columns as wide as their widest, some to the left and the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    set_lines = (
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return [line.rstrip() for line in set_lines]
