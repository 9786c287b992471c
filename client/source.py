"""Read a population's rows from where the municipality keeps them."""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa


class Source(Protocol):
    """Yield all rows of one population."""

    def read(self) -> pa.Table:
        """Return the rows; every column the contract names, under its name."""
        ...


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Serve rows that are already in memory."""

    table: pa.Table

    def read(self) -> pa.Table:
        """Return the table."""
        return self.table
