"""Keep the last ledger head that each municipality signed, and present it: so an account that was set back is noticed.

Heads are written as they arrive and not with a checkpoint, for what was released in a round that failed counts too. One
database serves every run of a coordinator: an account outlasts the federation that it was spent on.
"""

import json
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from faelles.errors import RunError

FILE = "ledger-heads.sqlite"
TABLE = "CREATE TABLE head (municipality TEXT PRIMARY KEY, number INTEGER NOT NULL, head TEXT NOT NULL)"
BUSY_S = 30.0  # runs of one coordinator write to it at the same time


class LedgerHeads:
    """Own the table of heads.

    Args:
        path: The database; made where there is none.

    Raises:
        RunError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            if not path.exists():
                _create(path)
            self._database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            # SQLite takes an empty file for an empty database; heads that were lost must not pass for none.
            self._database.execute("SELECT municipality, number, head FROM head LIMIT 1")
            self._known: dict[str, str] = {}
            self._version: object = None  # of the database, when what is known was read
        except (OSError, sqlite3.Error):
            raise RunError(
                f"{path}: expected the heads that municipalities signed, it cannot be read; restore it"
            ) from None

    def last(self, municipality: str) -> str | None:
        """Return the last head of a municipality; None where it has sent none."""
        version = self._run("PRAGMA data_version")  # another run of this coordinator may have written
        if version != self._version:
            self._known = {str(name): str(head) for name, head in self._run("SELECT municipality, head FROM head")}
            self._version = version
        return self._known.get(municipality)

    def keep(self, municipality: str, head: str) -> None:
        """Keep a head, unless a later one is known: an answer that is sent again carries the one it had."""
        self._run(
            "INSERT INTO head VALUES (?, ?, ?) ON CONFLICT (municipality) DO UPDATE "
            "SET number = excluded.number, head = excluded.head WHERE excluded.number >= head.number",
            municipality, _number(head), head,
        )  # fmt: skip
        self._version = None  # which of the two stands there is the database's to say

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error:
            raise RunError(
                f"{self._path}: expected to read and write ledger heads there, cannot; look for space and rights"
            ) from None


def _create(path: Path) -> None:
    """Make the database whole or not at all; of several processes that do so at once, one does."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    try:
        database = sqlite3.connect(draft)
        database.execute(TABLE)
        database.close()
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def _number(head: str) -> int:
    """Read which row of the ledger a head names; 0 where it does not say."""
    try:
        number = json.loads(head)["number"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return number if type(number) is int and 0 <= number < 2**63 else 0
