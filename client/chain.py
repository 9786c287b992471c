"""Chain the rows of a table by their hashes, so that none can be changed, removed or put in between unnoticed.

Each row's hash covers the hash before it and every other column of its own. Whoever knows one hash knows all that came
before it; what a signed head adds is that nobody can cut the end off either.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping

from faelles.errors import LedgerError

GENESIS = "0" * 64  # what stands before the first row
RECOVER = "recover"  # the kind of row after which numbers may go on higher
CHAINED = ("ledger", "journal")  # the tables that this module appends to
Column = str | int | float | bytes | None


def link(previous: str, columns: Mapping[str, Column]) -> str:
    """Compute a row's hash from the one before it and its own columns."""
    plain = {name: {"sha256": hashlib.sha256(value).hexdigest()} if isinstance(value, bytes) else value
             for name, value in columns.items()}  # fmt: skip
    text = json.dumps([previous, plain], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def head(database: sqlite3.Connection, table: str) -> tuple[int, str]:
    """Return the number and the hash of a table's last row, (0, GENESIS) where it has none."""
    assert table in CHAINED
    row = database.execute(f"SELECT number, hash FROM {table} ORDER BY number DESC LIMIT 1").fetchone()  # noqa: S608  # from CHAINED
    return (int(row[0]), str(row[1])) if row else (0, GENESIS)


def append(database: sqlite3.Connection, table: str, columns: Mapping[str, Column], above: int = 0) -> int:
    """Append a row within the caller's transaction.

    Args:
        database: In a transaction that holds the write lock.
        table: One of CHAINED.
        columns: Every column but number and hash.
        above: A number that the row's must exceed, for a row of the kind RECOVER.

    Returns:
        The row's number.
    """
    last, previous = head(database, table)
    number = max(last, above) + 1
    row = {"number": number, **columns}
    row["hash"] = link(previous, row)
    marks = ", ".join("?" * len(row))
    database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))  # noqa: S608  # names of ours
    return number


def check(rows: Iterable[Mapping[str, Column]], number: int = 0, previous: str = GENESIS) -> tuple[int, str]:
    """Follow a chain from the row after `number` and return the number and hash of its last row.

    Raises:
        LedgerError: A row is missing, was changed, or stands where it does not belong.
    """
    for row in rows:
        columns = {name: value for name, value in row.items() if name != "hash"}
        place = row.get("number")
        # Numbers have no gaps but where an account was recovered: it goes on above the numbers that were lost.
        follows = place == number + 1 or (row.get("kind") == RECOVER and isinstance(place, int) and place > number)
        if not follows or row.get("hash") != link(previous, columns):
            raise LedgerError(
                f"row {number + 1}: expected it to continue the chain, it was changed or one is missing; "
                "restore the newest backup and run `faelles-agent ledger recover`",
                da=f"række {number + 1}: skulle fortsætte kæden, men den er ændret, eller én mangler; "
                "genskab den nyeste sikkerhedskopi og kør `faelles-agent ledger recover`",
            )
        assert isinstance(place, int)
        number, previous = place, str(row["hash"])
    return number, previous


def verify(database: sqlite3.Connection, table: str) -> tuple[int, str]:
    """Follow a table's whole chain; see `check`."""
    assert table in CHAINED
    cursor = database.execute(f"SELECT * FROM {table} ORDER BY number")  # noqa: S608  # from CHAINED
    names = [column[0] for column in cursor.description]
    return check(dict(zip(names, row, strict=True)) for row in cursor)
