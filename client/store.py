"""Keep what the agent must not forget in one SQLite file.

Spend, answer, local state and journal line of one release change in one transaction. The file belongs to the machine
and not to a coordinator: all federations of a municipality share its accounts. What the tables mean is said by those
who write them: `ledger`, `outbox`, `journal`.
"""

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client import chain, migrations
from client.language import reason
from faelles.errors import FaellesError, LedgerError

BUSY_OR_FULL = (
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL,
)  # fmt: skip
BUSY_S = 30.0  # how long a command waits for the agent's transaction, and the other way round


class Store:
    """Own the file.

    Args:
        path: The SQLite file; it is made with mode 0600.
        durable: False gives up surviving a power cut; only simulations do.
        key: The secret key of a new store; drawn from the operating system unless a simulation gives one.
        serving: Whether this process answers messages; only one may. Commands beside it pass False.

    Guarantees: an open store has the present version, sound pages and indexes, the key that it was made with and both
        chains unbroken; a transaction is on disk, whole, before `transaction` ends, or not there at all.

    Raises:
        LedgerError: The file is damaged, was written by a newer version, cannot be written now, or another process
            serves from it.
    """

    def __init__(self, path: Path, durable: bool = True, key: bytes | None = None, serving: bool = True) -> None:
        self.path = path
        self._lock = _only_one(path) if serving else None
        try:
            self._database = _connect(path, durable)
            with self.transaction() as database:
                _check_pages(database)
                migrations.migrate(database, key or secrets.token_bytes(32))
                _check_key(database)
                for table in chain.CHAINED:
                    chain.verify(database, table)
        except (ValueError, TypeError, sqlite3.DatabaseError, OSError) as error:
            self.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in BUSY_OR_FULL:
                raise _busy_or_full(path) from None  # no damage
            if isinstance(error, FaellesError):
                raise _located(path, error) from None
            raise _damaged(path) from None

    def close(self) -> None:
        """Close the file and let another process serve."""
        if hasattr(self, "_database"):
            self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def database(self) -> sqlite3.Connection:
        """Return the connection, for reading."""
        return self._database

    @property
    def key(self) -> bytes:
        """Return the key of the hashes that choose citizens and rows; it never leaves."""
        return bytes(self._database.execute("SELECT key FROM secret").fetchone()[0])

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock; everything written inside is on disk together at the end, or not at all."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            # SQLite may have taken it back itself, e.g. where the disk is full.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


def _connect(path: Path, durable: bool) -> sqlite3.Connection:
    path.touch(mode=0o600, exist_ok=True)
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    path.chmod(0o600)  # also where it was there before, e.g. copied back from a backup; a folder came no further
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    return database


def _check_pages(database: sqlite3.Connection) -> None:
    """See that every page and index is sound: an index that lost an entry would hide a spending from every sum."""
    if database.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
        raise ValueError("a page or an index is damaged")


def _check_key(database: sqlite3.Connection) -> None:
    """See that the key is the one that the store was made with: another would hold out other citizens."""
    rows = database.execute("SELECT key, sha256 FROM secret").fetchall()
    if [row[1] for row in rows] != [migrations.key_digest(row[0]) for row in rows] or len(rows) != 1:
        raise ValueError("the key is damaged")


def _only_one(path: Path) -> int:
    """Lock a file beside the store until the process ends, however it ends."""
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerError(
            f"{path}: expected a folder that can be written, {reason(error, 'en')}; correct it or name another",
            da=f"{path}: mappen skal kunne skrives i ({reason(error, 'da')}); ret det, eller angiv en anden",
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise LedgerError(
            f"{path}: expected no other agent on this store, one is running; stop it first",
            da=f"{path}: en anden agent bruger allerede dette lager; stop den først",
        ) from None
    return descriptor


def _located(path: Path, error: FaellesError) -> LedgerError:
    return LedgerError(f"{path}: {error}", da=f"{path}: {error.text('da')}")


def _busy_or_full(path: Path) -> LedgerError:
    return LedgerError(
        f"{path}: expected a store that can be written, it is busy, full or read-only; look for space and permissions, "
        "and try again",
        da=f"{path}: lageret skal kunne skrives, men er optaget, fuldt eller skrivebeskyttet; se efter plads og "
        "rettigheder, og prøv igen",
    )


def _damaged(path: Path) -> LedgerError:
    return LedgerError(
        f"{path}: expected the agent's store, it cannot be read as one; restore the newest backup and run "
        "`faelles-agent ledger recover`",
        da=f"{path}: skulle være agentens lager, men kan ikke læses; genskab den nyeste sikkerhedskopi, og kør "
        "`faelles-agent ledger recover`",
    )
