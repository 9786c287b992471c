"""Bring a store's tables to the present version; a store of every earlier version can be brought here."""

import functools
import hashlib
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from client import journal, ledger
from faelles.errors import LedgerError

VERSION = 2
PINNED_FOR = ledger.Budget(epsilon=3.0, delta=1e-5)  # version 1 pinned no order; this one wastes little up to 10

SCHEMA = """
CREATE TABLE secret (key BLOB NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, population TEXT NOT NULL, part TEXT NOT NULL,
    period TEXT NOT NULL, federation TEXT NOT NULL, card TEXT NOT NULL, detail TEXT NOT NULL, curve BLOB NOT NULL,
    spent BLOB NOT NULL, hash TEXT NOT NULL);
CREATE INDEX ledger_account ON ledger (population, part, period, kind);
CREATE INDEX ledger_run ON ledger (federation, part, kind);
CREATE INDEX ledger_card ON ledger (kind, card);
CREATE TABLE freeze (head TEXT PRIMARY KEY);
CREATE TABLE journal (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, outcome TEXT NOT NULL, recipient TEXT NOT NULL, kind TEXT NOT NULL,
    bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, epsilon REAL, delta REAL, epsilon_after REAL, card TEXT NOT NULL,
    federation TEXT NOT NULL, server_round INTEGER NOT NULL, approval INTEGER NOT NULL, hash TEXT NOT NULL);
CREATE INDEX journal_request ON journal (federation, server_round, kind);
CREATE TABLE outbox (
    federation TEXT NOT NULL, server_round INTEGER NOT NULL, kind TEXT NOT NULL, request TEXT NOT NULL,
    answer BLOB, PRIMARY KEY (federation, server_round, kind));
CREATE TABLE local_state (
    federation TEXT NOT NULL, server_round INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (federation, server_round));
CREATE TABLE model (
    federation TEXT PRIMARY KEY, card TEXT NOT NULL, parameters BLOB NOT NULL, time TEXT NOT NULL);
"""


def migrate(database: sqlite3.Connection, key: bytes) -> None:
    """Make the tables of a new store, or bring an old one up; within the caller's transaction.

    Args:
        database: In a transaction that holds the write lock.
        key: The secret key of a new store.

    Raises:
        LedgerError: A newer version wrote it, or its tables are not this version's.
    """
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise LedgerError(
            f"expected a store of version {VERSION} or older, it is {version}; upgrade the agent",
            da=f"lageret har version {version}, denne agent kender til og med {VERSION}; opgradér agenten",
        )
    if version == 0:
        _create(database)
        _keep_key(database, key)
    elif version == 1:
        _from_version_1(database)
    database.execute(f"PRAGMA user_version = {VERSION}")
    if _tables(database) != _tables_of_this_version():
        raise LedgerError(
            "expected the tables of this version, others are there; restore the newest backup and run "
            "`faelles-agent ledger recover`",
            da="tabellerne er ikke dem, som denne version har; genskab den nyeste sikkerhedskopi, og kør "
            "`faelles-agent ledger recover`",
        )


def _tables(database: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    return set(database.execute("SELECT type, name, sql FROM sqlite_master"))


@functools.cache
def _tables_of_this_version() -> set[tuple[str, str, str | None]]:
    database = sqlite3.connect(":memory:")
    _create(database)
    found = _tables(database)
    database.close()
    return found


def key_digest(key: bytes) -> str:
    """Return what is kept beside the key, so that another one is noticed."""
    return hashlib.sha256(b"faelles key\n" + key).hexdigest()


def _keep_key(database: sqlite3.Connection, key: bytes) -> None:
    database.execute("INSERT INTO secret VALUES (?, ?)", (key, key_digest(key)))


def _create(database: sqlite3.Connection) -> None:
    for statement in filter(str.strip, SCHEMA.split(";")):
        database.execute(statement)


def _from_version_1(database: sqlite3.Connection) -> None:
    """Turn version 1's reservations and events, which had no chain, into the ledger's first rows.

    Guarantees: the same accounts, answers, local states, models and key; each answer that left has a line.
    """
    old = ("secret", "reservation", "event", "outbox", "local_state", "model")
    for table in old:
        database.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    _create(database)
    _keep_key(database, database.execute("SELECT key FROM old_secret").fetchone()[0])
    database.execute("INSERT INTO outbox SELECT * FROM old_outbox")
    database.execute("INSERT INTO local_state SELECT * FROM old_local_state")
    now = datetime.now(UTC)
    model = "INSERT INTO model SELECT federation, card, parameters, ? FROM old_model"
    database.execute(model, (ledger.moment(now),))
    cards = _ledger_from_version_1(database, now)
    _journal_from_version_1(database, cards, now)
    for table in old:
        database.execute(f"DROP TABLE old_{table}")


def _ledger_from_version_1(database: sqlite3.Connection, now: datetime) -> dict[tuple[str, str], str]:
    """Write the rows, and return the card of each run on each part."""
    reservations = database.execute(
        "SELECT population, part, federation, card, terms, curve, open FROM old_reservation ORDER BY rowid"
    ).fetchall()
    for population, part, federation, card, terms, curve, _ in reservations:
        beside = [np.frombuffer(row[5]) for row in reservations if row[:2] == (population, part)]
        detail = {"terms": terms, "expires": "", "order": ledger.best_order(np.sum(beside, axis=0), PINNED_FOR)}
        _append(database, now, "reserve", (population, part, federation, card), detail, curve)
    cards = {(row[2], row[1]): row[3] for row in reservations}
    events = database.execute(
        "SELECT population, part, federation, server_round, kind, sampling_rate, noise_multiplier, steps, curve"
        " FROM old_event ORDER BY id"
    ).fetchall()
    for population, part, federation, server_round, kind, rate, noise, steps, curve in events:
        detail = {"round": server_round, "kind": kind, "sampling_rate": rate, "noise_multiplier": noise, "steps": steps}
        card = cards.get((federation, part), "")
        _append(database, now, "spend", (population, part, federation, card), detail, curve)
    for population, part, federation, card, _, _, still_open in reservations:
        if not still_open:
            _append(database, now, "free", (population, part, federation, card), {"reason": "closed"}, b"")
    return cards


def _journal_from_version_1(database: sqlite3.Connection, cards: dict[tuple[str, str], str], now: datetime) -> None:
    """Write a line for each answer, or none of those that are kept could ever be sent again."""
    answers = database.execute(
        "SELECT federation, server_round, kind, answer FROM old_outbox ORDER BY rowid"
    ).fetchall()
    for federation, server_round, kind, answer in answers:
        data = answer or b""  # of a superseded answer the bytes are gone
        line = journal.Line(
            outcome=journal.CLEARED, recipient="coordinator", kind=kind, bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest() if data else "", card=cards.get((federation, ledger.TRAINING), ""),
            federation=federation, server_round=server_round,
        )  # fmt: skip
        journal.write(database, line, now)


def _append(
    database: sqlite3.Connection,
    now: datetime,
    kind: str,
    what: tuple[str, str, str, str],
    detail: Mapping[str, object],
    curve: bytes,
) -> None:
    population, part, federation, card = what
    ledger.record(
        database, now, kind, population=population, part=part, federation=federation, card=card, detail=detail,
        curve=np.frombuffer(curve) if curve else None,
    )  # fmt: skip
