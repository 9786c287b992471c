"""A card and rows whose contract the tests check."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from client.contract import ContractReport, examine, render
from client.contract_findings import Severity
from faelles.card import UseCaseCard, parse_card

KEY = bytes(range(32))
CPR = "2512484916"
FIELDS: dict[str, Any] = {
    "id": "contract",
    "version": 1,
    "title": {"da": "Kontrakt", "en": "Contract"},
    "category": "forecasting",
    "model_type": "general",
    "unit": "citizen",
    "max_rows_per_unit": 2,
    "label": {"column": "answer", "kind": "binary", "values": ["no", "yes"]},
    "features": [
        {"name": "age", "kind": "number", "min": 0.5, "max": 100},
        {"name": "sex", "kind": "category", "values": ["f", "m"]},
    ],
    "model": {"kind": "logistic"},
    "training": {"rounds": 1, "local_steps": 1, "batch_size": 1, "learning_rate": 1},
    "privacy": {"epsilon": 1, "delta": 1e-5, "clipping_norm": 1},
    "evaluation": {"held_out": 0.4},
    "law": {"special_categories": False, "ai_act": "none", "basis": {}},
}
CARD = parse_card(FIELDS)
ROWS_CARD = parse_card(FIELDS | {"unit": None, "max_rows_per_unit": 1})
COLUMNS = ("citizen", "age", "sex", "answer")
LANGUAGES = ("da", "en")
Row = tuple[str | None, str | None, str | None, str | None]


def csv_of(rows: Sequence[Row]) -> pa.Table:
    """Hold rows as a CSV file gives them: text throughout."""
    cells = zip(*rows, strict=True) if rows else [[]] * len(COLUMNS)
    return pa.table({name: pa.array(list(column), pa.string()) for name, column in zip(COLUMNS, cells, strict=True)})


def crowd(count: int = 40) -> list[Row]:
    return [(f"c{i // 2}", f"{20 + i},5", "fm"[i % 2], ("no", "yes")[i % 3 % 2]) for i in range(count)]


def table_with(table: pa.Table | None = None, **columns: pa.Array) -> pa.Table:
    table = csv_of(crowd()) if table is None else table
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def with_cells(column: str, *cells: str | None) -> pa.Table:
    """Change the first cells of a column of an ordinary table."""
    values = csv_of(crowd()).column(column).to_pylist()
    return table_with(**{column: pa.array([*cells, *values[len(cells) :]], pa.string())})


def report_of(table: pa.Table, card: UseCaseCard = CARD) -> ContractReport:
    return examine(card, table, KEY)


def told(report: ContractReport) -> list[tuple[Severity, str | None, str]]:
    """Name findings by severity, column and the middle of their English text."""
    return [(finding.severity, finding.column, finding.en.split("; ")[0]) for finding in report.findings]


def everything_said(report: ContractReport) -> str:
    return "\n".join([repr(report), str(asdict(report)), *(render(report, language) for language in LANGUAGES)])
