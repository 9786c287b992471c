"""Read rows from a file: CSV as Danish systems write it, or Parquet."""

import csv
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from client.source_columns import choose_columns
from faelles.errors import DataError

CHUNK = 20_000
"""Rows that are Python objects at one time."""

LINES_OF_A_ROW = 50
"""How many lines after its first a row may go on for."""

_CSV_HINT = (
    "check the names under columns in agent.yaml, that the first line holds names, the delimiter and the encoding",
    "se efter navnene under columns i agent.yaml, at første linje er navne, skilletegnet og tegnsættet",
)
_PARQUET_HINT = ("check the names under columns in agent.yaml", "se efter navnene under columns i agent.yaml")


@dataclass(frozen=True, kw_only=True)
class CsvSource:
    """Read a text file with a header; every value stays text, so that a CPR number keeps its leading zero.

    A value in quotation marks may go over a few lines. Where a mark is left open its line alone is broken, for what one
    citizen's row holds must not decide about the rows of others.

    Args:
        path: The file.
        encoding: As Python calls it; utf-8 with or without a byte order mark.
        delimiter: One character.
    """

    path: Path
    encoding: str = "utf-8"
    delimiter: str = ";"

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of some columns, or of all, as text; an empty value is null.

        Guarantees: no value makes it raise. A byte that the encoding does not know is replaced, a line with another
            number of values than the header is skipped.

        Raises:
            DataError: There is no such file, no header, a name twice, or a column is missing.
        """
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        with _legible(self.path), self.path.open(encoding=encoding, errors="replace") as file:
            header = [name.strip() for name in self._values(next(file, ""))]
            if not any(header):
                raise DataError(
                    f"{self.path}: expected the names of the columns in the first line, it is empty; write them there",
                    da=f"{self.path}: første linje skal være kolonnernes navne, men er tom; skriv dem dér",
                )
            names = choose_columns(columns, header, str(self.path), _CSV_HINT)
            schema = pa.schema([(name, pa.string()) for name in names])
            return pa.Table.from_batches(self._batches(file, header, schema), schema=schema)

    def _batches(self, file: TextIO, header: Sequence[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        places = [header.index(name) for name in schema.names]
        rows = self._rows(file, len(header))
        while chunk := list(itertools.islice(rows, CHUNK)):
            arrays = [pa.array([row[place] or None for row in chunk], pa.string()) for place in places]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _rows(self, file: TextIO, width: int) -> Iterator[list[str]]:
        ahead: deque[str] = deque()
        while line := ahead.popleft() if ahead else next(file, ""):  # of a file only the end is ""
            values = self._values(line)
            if line.count('"') % 2:
                ahead.extend(itertools.islice(file, LINES_OF_A_ROW - len(ahead)))
                longer, used = self._over_lines(line, ahead)
                if used and len(longer) == width:
                    values = longer
                    ahead = deque(itertools.islice(ahead, used, None))
            if len(values) == width and any(values):
                yield values

    def _values(self, line: str) -> list[str]:
        if '"' not in line:
            return line.rstrip("\n").split(self.delimiter)
        try:
            return next(csv.reader([line.rstrip("\n")], delimiter=self.delimiter), [])
        except csv.Error:  # a value beyond the reader's limit
            return []

    def _over_lines(self, line: str, ahead: Iterable[str]) -> tuple[list[str], int]:
        """Read a row that goes on, and count the lines ahead that it takes; none where its marks do not fit."""
        reader = csv.reader(itertools.chain([line], ahead), delimiter=self.delimiter, strict=True)
        try:
            return next(reader), reader.line_num - 1
        except csv.Error:
            return [], 0


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Read a Parquet file, types as it has them; bytes in a text that are no UTF-8 are replaced."""

    path: Path

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of some columns, or of all.

        Raises:
            DataError: There is no such file, it is no Parquet, a name is there twice, or a column is missing.
        """
        # Not pq.read_table, which reads columns out of the folders' names too.
        with _legible(self.path), pq.ParquetFile(self.path) as file:
            names = choose_columns(columns, file.schema_arrow.names, str(self.path), _PARQUET_HINT)
            table = file.read(columns=names).select(names)
        return pa.table({name: _valid(table.column(name)) for name in names})


@contextmanager
def _legible(path: Path) -> Iterator[None]:
    """Say that a file cannot be read, without what it holds."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"{path}: expected a file with the population's rows, there is none; correct source.location",
            da=f"{path}: her skulle populationens rækker ligge, men filen findes ikke; ret source.location",
        ) from None
    except (OSError, UnicodeError, pa.ArrowException):
        raise DataError(
            f"{path}: expected a file that can be read as its ending says, it cannot; check its rights, or export anew",
            da=f"{path}: filen kan ikke læses som det, dens endelse siger; se efter rettigheder, eller eksportér igen",
        ) from None


def _valid(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace what is no UTF-8, which Parquet readers let through and every use of the text would stumble over."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raw = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
        texts = [value.as_py().decode(errors="replace") if value.is_valid else None for value in raw]
        return pa.chunked_array([pa.array(texts, column.type)])
    return column
