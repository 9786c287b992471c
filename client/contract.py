"""Check whether a municipality's rows fit a card's contract: locally, at approval, and nothing of it leaves.

`examine` tells a municipality everything on its own screen, from rows as its source has them; `check_contract` refuses
rows that are read already and do not fit to the letter, as those of a simulation must.

Legend: N rows, F encoded features, C citizens.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from client import contract_findings as findings
from client.contract_findings import Finding, Type, declared, listed
from client.contract_personal import Marks, Suspicion, suspect_numbers, suspect_text
from client.contract_report import CitizensReport, ColumnReport, ContractReport, render
from client.dataset import KeyedPartition
from client.population import conform
from faelles.card import NumberFeature, UseCaseCard
from faelles.errors import DataError
from faelles.features import as_text, category_index, column_of, encode_rows, numbers
from faelles.privacy.plan import declared_band

__all__ = ["ColumnReport", "ContractReport", "check_contract", "examine", "render"]

RARE = 0.01
"""A class with a smaller share of the labelled rows is noted."""


def examine(card: UseCaseCard, raw: pa.Table, key: bytes, *, held_out: float | None = None) -> ContractReport:
    """Examine rows as the source has them against a card's contract.

    Guarantees:
        Counts what `client.dataset.build_dataset` will really use of the rows. No data value is in the report, and no
        value makes it raise.

    Args:
        card: The use case.
        raw: The population's rows, its columns under the contract's names.
        key: The municipality's secret key, 32 bytes.
        held_out: The population's share of citizens that are held out; the card's where it is None.
    """
    faults = {name: fault for name in card.columns for fault in _faults(card, raw, name)}
    blank = pa.nulls(raw.num_rows)
    legible = pa.table({name: blank if name in faults else _legible(raw, name) for name in card.columns})
    table = conform(card, legible)
    report = ContractReport(
        card=card,
        rows=raw.num_rows,
        duplicates=raw.num_rows - _distinct(table.select(card.columns)).num_rows,
        columns=tuple(_examine_column(card, raw, legible, table, name) for name in card.columns),
        classes=_examine_classes(card, table),
        citizens=_examine_citizens(card, table, key, card.evaluation.held_out if held_out is None else held_out),
        findings=tuple(faults.values()),
    )
    return replace(report, findings=(*report.findings, *_judge(report, faults.keys())))


def check_contract(card: UseCaseCard, table: pa.Table) -> None:
    """Check that a table fits the contract; local, at approval, nothing of it leaves.

    Raises:
        DataError: Everything that does not fit, each with what was expected and how many rows, never a value.
    """
    problems = [_problem(card, table, name) for name in card.columns]
    found = [problem for problem in problems if problem]
    if found:
        raise DataError("; ".join(found))


def _problem(card: UseCaseCard, table: pa.Table, name: str) -> str:
    wanted = declared(card, name)
    try:
        column = column_of(table, name)
        if wanted is None:
            count = int(_anonymous(column, name).sum())
            return f"column {name}: expected a citizen in every row; {count} have none" if count else ""
        if isinstance(wanted, NumberFeature):
            numbers(column, name)
            return ""
        count = int(_undeclared(column, column, wanted.values, name).sum())
    except DataError as error:
        return str(error)
    advice = "declare them in the card or map them before"
    shown = listed(wanted.values)
    return f"column {name}: expected {shown}; {count} rows hold something else; {advice}" if count else ""


def _anonymous(column: pa.Array, name: str) -> NDArray[np.bool_]:
    """Mark the rows without a citizen."""
    return np.asarray(pc.equal(pc.fill_null(as_text(column, name), ""), "").to_numpy(zero_copy_only=False), dtype=bool)


def _undeclared(came: pa.Array, read: pa.Array, values: tuple[str, ...], name: str) -> NDArray[np.bool_]:
    """Mark the rows in which something came that does not read as a declared value."""
    return ~_missing(came) & (category_index(read, values, name) < 0)


def _missing(column: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False), dtype=bool)


def _faults(card: UseCaseCard, raw: pa.Table, name: str) -> Iterator[Finding]:
    """Find why a column cannot be read at all."""
    times = raw.column_names.count(name)
    if times == 0:
        yield findings.missing_column(name)
    elif times > 1:
        yield findings.repeated_column(name, times)
    else:
        none = _legible(raw.slice(0, 0), name)
        try:
            # Without a row, so that whether it is refused depends on its type alone.
            conform(card, pa.table({other: none if other == name else pa.nulls(0) for other in card.columns}))
        except DataError:
            yield findings.unreadable_column(card, name, _type(none.type))


def _legible(raw: pa.Table, name: str) -> pa.Array:
    """Take a column, with nulls where a text is blank: so a CSV file writes what is missing."""
    column = column_of(raw, name)
    if not _is_text(column.type):
        return column
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _type(kind: pa.DataType) -> Type:
    known: tuple[tuple[Type, bool], ...] = (
        ("text", _is_text(kind)),
        ("whole numbers", pa.types.is_integer(kind)),
        ("numbers", pa.types.is_floating(kind) or pa.types.is_decimal(kind)),
        ("truth values", pa.types.is_boolean(kind)),
        ("dates or times", pa.types.is_temporal(kind)),
        ("nothing", pa.types.is_null(kind)),
    )
    return next((name for name, fits in known if fits), "something else")


def _examine_column(card: UseCaseCard, raw: pa.Table, legible: pa.Table, table: pa.Table, name: str) -> ColumnReport:
    wanted, came, read = declared(card, name), column_of(legible, name), column_of(table, name)
    once = raw.column_names.count(name) == 1
    report = ColumnReport(
        name=name,
        found=_type(column_of(raw.slice(0, 0), name).type) if once else None,
        missing=int(_missing(came).sum()),
    )
    if wanted is None:
        looks = _counts(_suspect(came, ~_missing(came)), but=Suspicion.CPR)
        return replace(report, missing=int(_anonymous(read, name).sum()), suspicions=looks)
    if isinstance(wanted, NumberFeature):
        return _examine_numbers(report, wanted, came, numbers(read, name))
    stray_N = _undeclared(came, read, wanted.values, name)
    return replace(report, undeclared=int(stray_N.sum()), suspicions=_counts(_suspect(came, stray_N)))


def _examine_numbers(
    report: ColumnReport, wanted: NumberFeature, came: pa.Array, value_N: NDArray[np.float64]
) -> ColumnReport:
    number_N, missing_N = np.isfinite(value_N), _missing(came)
    inside_N = (value_N >= wanted.min) & (value_N <= wanted.max)
    marks = dict(suspect_numbers(value_N))
    # Eight digits are nothing strange where the card declares that numbers are that large. Ten may still be a CPR.
    marks |= {kind: marks[kind] & ~inside_N for kind in (Suspicion.CVR, Suspicion.PHONE)}
    text = _suspect(came, ~missing_N & ~number_N) if _is_text(came.type) else {}
    return replace(
        report,
        no_numbers=int((~missing_N & ~number_N).sum()),
        outside=int((number_N & ~inside_N).sum()),
        suspicions=_counts({kind: mark_N | text.get(kind, False) for kind, mark_N in marks.items()}),
    )


def _suspect(column: pa.Array, where_N: NDArray[np.bool_]) -> Marks:
    """Mark what looks personal among some rows of a column."""
    if _is_text(column.type):
        return suspect_text(pc.if_else(pa.array(where_N), column, None))
    if _type(column.type) in ("whole numbers", "numbers"):
        return suspect_numbers(np.where(where_N, numbers(column, ""), np.nan))
    return {}


def _counts(marks: Marks, but: Suspicion | None = None) -> tuple[tuple[Suspicion, int], ...]:
    counts = ((kind, int(mark_N.sum())) for kind, mark_N in marks.items() if kind is not but)
    return tuple((kind, count) for kind, count in counts if count)


def _examine_classes(card: UseCaseCard, table: pa.Table) -> tuple[tuple[str, int], ...]:
    label = card.label
    class_N = category_index(column_of(table, label.column), label.values, label.column)
    class_N = class_N[(class_N >= 0) & _named(card, table)]
    return tuple(zip(label.values, np.bincount(class_N, minlength=len(label.values)).tolist(), strict=True))


def _examine_citizens(card: UseCaseCard, table: pa.Table, key: bytes, share: float) -> CitizensReport:
    x_NF, y_N = encode_rows(card, table)
    usable_N = (y_N >= 0) & _named(card, table)
    if card.unit is None:
        name_C = np.flatnonzero(usable_N).astype(np.str_)
        rows_C = different_C = np.ones(len(name_C), dtype=np.int64)
    else:
        unit = as_text(column_of(table, card.unit), card.unit).filter(pa.array(usable_N)).dictionary_encode()
        name_C = np.asarray(unit.dictionary.to_pylist(), dtype=np.str_)
        rows_C = np.bincount(unit.indices, minlength=len(name_C))
        content = pa.table(
            [unit.indices, y_N[usable_N], *x_NF[usable_N].T], names=[str(i) for i in range(len(x_NF.T) + 2)]
        )
        different_C = np.bincount(_distinct(content).column("0"), minlength=len(name_C))
    used_C = np.minimum(different_C, card.max_rows_per_unit)
    held_C = KeyedPartition(key=key).held_out(table, name_C, share)
    training = int((~held_C).sum())
    return CitizensReport(
        training=training,
        held_out=int(held_C.sum()),
        rows_median=float(np.median(rows_C)) if len(rows_C) else 0.0,
        rows_largest=int(rows_C.max(initial=0)),
        rows_used=int(used_C.sum()),
        rows_beyond=int((different_C - used_C).sum()),
        declared_size=declared_band(training) if training else 0,
    )


def _named(card: UseCaseCard, table: pa.Table) -> NDArray[np.bool_]:
    """Mark the rows that have a citizen."""
    if card.unit is None:
        return np.ones(table.num_rows, dtype=bool)
    return ~_anonymous(column_of(table, card.unit), card.unit)


def _distinct(table: pa.Table) -> pa.Table:
    return table.group_by(table.column_names).aggregate([([], "count_all")])


def _judge(report: ContractReport, unread: Collection[str]) -> Iterator[Finding]:
    """Find what does not fit in the columns that could be read, and in the rows as a whole."""
    card = report.card
    for column in report.columns:
        if column.name not in unread:
            yield from _judge_column(report, column)
    if card.unit not in unread and card.label.column not in unread:
        yield from _judge_classes(report)
    if report.duplicates and card.unit is not None:
        yield findings.duplicates(report.duplicates)


def _judge_column(report: ContractReport, column: ColumnReport) -> Iterator[Finding]:
    card, name = report.card, column.name
    for kind, rows in column.suspicions:
        yield findings.personal(card, name, kind, rows)
    feature = name not in (card.unit, card.label.column)
    if feature and 2 * column.without > report.rows:
        yield findings.sparse_column(card, name, column.without, report.rows)
    else:
        if column.missing:
            yield findings.missing_values(card, name, column.missing)
        if stray := (column.no_numbers or 0) + (column.undeclared or 0):
            yield findings.stray_values(card, name, stray)
    if column.outside:
        yield findings.outside_range(card, name, column.outside)


def _judge_classes(report: ContractReport) -> Iterator[Finding]:
    labelled = sum(rows for _, rows in report.classes)
    present = sum(rows > 0 for _, rows in report.classes)
    if not labelled:
        yield findings.no_citizens(report.card)
    elif present < 2:
        yield findings.too_few_classes(report.card, present)
    else:
        rare = ((value, rows) for value, rows in report.classes if rows < RARE * labelled)
        yield from (findings.imbalance(report.card, value, rows, labelled) for value, rows in rare)
