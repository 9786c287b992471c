"""Keep what was answered, so that the same question gets the very same bytes; and the local state that goes with it.

An answer is kept for the last two rounds; older ones are superseded, and only their digests remain.
"""

import sqlite3
from dataclasses import dataclass

KEPT_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Hold what was answered to one request: the digest of the request, and the bytes, None once superseded."""

    request: str
    answer: bytes | None


def find(database: sqlite3.Connection, federation: str, server_round: int, kind: str) -> Kept | None:
    """Find what was answered."""
    row = database.execute(
        "SELECT request, answer FROM outbox WHERE federation = ? AND server_round = ? AND kind = ?",
        (federation, server_round, kind),
    ).fetchone()
    return Kept(request=row[0], answer=row[1]) if row else None


def last_round(database: sqlite3.Connection, federation: str, kind: str) -> int:
    """Return the last round that was answered, 0 where there is none."""
    row = database.execute(
        "SELECT MAX(server_round) FROM outbox WHERE federation = ? AND kind = ?", (federation, kind)
    ).fetchone()
    return int(row[0] or 0)


def put(
    database: sqlite3.Connection, place: tuple[str, int, str], request: str, answer: bytes, state: bytes | None
) -> None:
    """Keep an answer and the local state that the same mechanism made; within the transaction that spends.

    Args:
        database: In a transaction.
        place: Federation, round and kind.
        request: The request's digest.
        answer: The bytes that may leave.
        state: The local parameters after the round; None where the card has none.
    """
    federation, server_round, _ = place
    database.execute("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", (*place, request, answer))
    if state is not None:
        database.execute("INSERT INTO local_state VALUES (?, ?, ?)", (federation, server_round, state))
    oldest = server_round - KEPT_ROUNDS
    database.execute(
        "UPDATE outbox SET answer = NULL WHERE federation = ? AND server_round <= ? AND answer IS NOT NULL",
        (federation, oldest),
    )
    database.execute("DELETE FROM local_state WHERE federation = ? AND server_round < ?", (federation, oldest))


def local_state(database: sqlite3.Connection, federation: str, before_round: int) -> bytes | None:
    """Find the newest local state that was made before a round."""
    row = database.execute(
        "SELECT state FROM local_state WHERE federation = ? AND server_round < ? ORDER BY server_round DESC LIMIT 1",
        (federation, before_round),
    ).fetchone()
    return row[0] if row else None


def keep_model(database: sqlite3.Connection, federation: str, card_sha256: str, parameters: bytes, time: str) -> None:
    """Keep a finished model, joined with the local parameters."""
    database.execute(
        "INSERT OR REPLACE INTO model (federation, card, parameters, time) VALUES (?, ?, ?, ?)",
        (federation, card_sha256, parameters, time),
    )


def model(database: sqlite3.Connection, federation: str) -> bytes | None:
    """Find a finished model."""
    row = database.execute("SELECT parameters FROM model WHERE federation = ?", (federation,)).fetchone()
    return row[0] if row else None


def models(database: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """List the finished models: federation, card hash and time."""
    rows = database.execute("SELECT federation, card, time FROM model ORDER BY time, federation").fetchall()
    return [(row[0], row[1], row[2]) for row in rows]
