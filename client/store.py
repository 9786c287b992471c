"""Keep what the agent must not forget in one SQLite file: account, outbox and local state change in one transaction.

The file belongs to the machine and not to a coordinator: all federations of a municipality share its accounts.
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faelles.errors import DataError, RunError
from faelles.privacy.accountant import ORDERS, Event

VERSION = 1
ROUNDING = 1e-9
KEPT_ROUNDS = 2  # an answer is kept for the last two rounds; older ones are superseded

SCHEMA = """
CREATE TABLE secret (key BLOB NOT NULL);
CREATE TABLE reservation (
    federation TEXT NOT NULL, part TEXT NOT NULL, population TEXT NOT NULL, card TEXT NOT NULL, terms TEXT NOT NULL,
    curve BLOB NOT NULL, open INTEGER NOT NULL, PRIMARY KEY (federation, part));
CREATE TABLE event (
    id INTEGER PRIMARY KEY, population TEXT NOT NULL, part TEXT NOT NULL, federation TEXT NOT NULL,
    server_round INTEGER NOT NULL, kind TEXT NOT NULL, sampling_rate REAL NOT NULL, noise_multiplier REAL NOT NULL,
    steps INTEGER NOT NULL, curve BLOB NOT NULL);
CREATE TABLE outbox (
    federation TEXT NOT NULL, server_round INTEGER NOT NULL, kind TEXT NOT NULL, request TEXT NOT NULL,
    answer BLOB, PRIMARY KEY (federation, server_round, kind));
CREATE TABLE local_state (
    federation TEXT NOT NULL, server_round INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (federation, server_round));
CREATE TABLE model (federation TEXT PRIMARY KEY, card TEXT NOT NULL, parameters BLOB NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Hold what was set aside for one run on one part of a population."""

    federation: str
    part: str
    population: str
    card_sha256: str
    terms: str
    curve: NDArray[np.float64]
    open: bool = True


@dataclass(frozen=True, kw_only=True)
class Spending:
    """Hold one accounted mechanism and what it was for."""

    population: str
    part: str
    federation: str
    server_round: int
    kind: str
    event: Event
    curve: NDArray[np.float64]


class Store:
    """Own the file.

    Args:
        path: The SQLite file; it is made with mode 0600.
        durable: False gives up surviving a power cut; only simulations do.
        key: The secret key of a new store; drawn from the operating system unless a simulation gives one.

    Raises:
        DataError: The file was written by a newer version.
    """

    def __init__(self, path: Path, durable: bool = True, key: bytes | None = None) -> None:
        path.touch(mode=0o600, exist_ok=True)
        path.chmod(0o600)  # also where it was there before, e.g. copied back from a backup
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        with self._transaction():
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise DataError(f"{path}: expected a store of version {VERSION}, it is {version}; upgrade the agent")
            if version == 0:
                for statement in SCHEMA.split(";"):
                    self._database.execute(statement)
                self._database.execute("INSERT INTO secret VALUES (?)", (key or secrets.token_bytes(32),))
                self._database.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def key(self) -> bytes:
        """Return the key of the hashes that choose citizens and rows; it never leaves."""
        return bytes(self._database.execute("SELECT key FROM secret").fetchone()[0])

    def reservation(self, federation: str, part: str) -> Reservation | None:
        """Find what a run has reserved."""
        row = self._database.execute(
            "SELECT federation, part, population, card, terms, curve, open FROM reservation"
            " WHERE federation = ? AND part = ?",
            (federation, part),
        ).fetchone()
        return _reservation(row) if row else None

    def reservations(self, population: str, part: str) -> list[Reservation]:
        """List every reservation of an account, closed ones too."""
        rows = self._database.execute(
            "SELECT federation, part, population, card, terms, curve, open FROM reservation"
            " WHERE population = ? AND part = ?",
            (population, part),
        )
        return [_reservation(row) for row in rows]

    def spent(self, federation: str, part: str) -> NDArray[np.float64]:
        """Add up the curves of what a run has spent on a part."""
        rows = self._database.execute("SELECT curve FROM event WHERE federation = ? AND part = ?", (federation, part))
        return sum((_curve(row[0]) for row in rows), start=np.zeros(len(ORDERS)))

    def reserve(self, reservations: list[Reservation], fits: Callable[[], bool]) -> bool:
        """Write reservations, all or none, if they fit.

        Args:
            reservations: One for each part.
            fits: Looks at the accounts; no other process can reserve between the look and the writing.

        Returns:
            Whether they did.
        """
        with self._transaction():
            if not fits():
                return False
            for one in reservations:
                self._database.execute(
                    "INSERT INTO reservation VALUES (?, ?, ?, ?, ?, ?, 1)",
                    (one.federation, one.part, one.population, one.card_sha256, one.terms, one.curve.tobytes()),
                )
        return True

    def free(self, federation: str) -> None:
        """Close a run's reservations: what it has not spent is free again."""
        with self._transaction():
            self._database.execute("UPDATE reservation SET open = 0 WHERE federation = ?", (federation,))

    def answer(self, federation: str, server_round: int, kind: str) -> tuple[str, bytes | None] | None:
        """Find the request digest and the bytes that were answered; the bytes are None once superseded."""
        row = self._database.execute(
            "SELECT request, answer FROM outbox WHERE federation = ? AND server_round = ? AND kind = ?",
            (federation, server_round, kind),
        ).fetchone()
        return (row[0], row[1]) if row else None

    def last_round(self, federation: str, kind: str) -> int:
        """Return the last round that was answered, 0 where there is none."""
        row = self._database.execute(
            "SELECT MAX(server_round) FROM outbox WHERE federation = ? AND kind = ?", (federation, kind)
        ).fetchone()
        return int(row[0] or 0)

    def rounds_spent(self, federation: str, kind: str) -> int:
        """Count the requests of a kind that were answered."""
        row = self._database.execute(
            "SELECT COUNT(*) FROM outbox WHERE federation = ? AND kind = ?", (federation, kind)
        ).fetchone()
        return int(row[0])

    def local_state(self, federation: str, before_round: int) -> bytes | None:
        """Find the newest local state that was made before a round."""
        row = self._database.execute(
            "SELECT state FROM local_state WHERE federation = ? AND server_round < ?"
            " ORDER BY server_round DESC LIMIT 1",
            (federation, before_round),
        ).fetchone()
        return row[0] if row else None

    def commit(self, spending: Spending, request: str, answer: bytes, state: bytes | None = None) -> None:
        """Spend, put the answer in the outbox and keep the local state: one transaction, before anything leaves.

        Raises:
            RunError: The reservation was closed while the answer was being made, or does not hold this any more.
        """
        with self._transaction():
            reservation = self.reservation(spending.federation, spending.part)
            if reservation is None or not reservation.open:
                raise RunError("store: expected an open reservation to spend from, it was closed meanwhile")
            # Asked inside the transaction, so that two answers made at once cannot both take the last of it. Thirty
            # rounds' curves add up to the run's only to float64's rounding.
            after = self.spent(spending.federation, spending.part) + spending.curve
            if not (after <= reservation.curve * (1 + ROUNDING)).all():
                raise RunError("store: expected to spend no more than was reserved; nothing was released")
            self._database.execute(
                "INSERT INTO event (population, part, federation, server_round, kind, sampling_rate,"
                " noise_multiplier, steps, curve) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (spending.population, spending.part, spending.federation, spending.server_round, spending.kind,
                 spending.event.sampling_rate, spending.event.noise_multiplier, spending.event.steps,
                 spending.curve.tobytes()),
            )  # fmt: skip
            place = (spending.federation, spending.server_round)
            self._database.execute(
                "INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", (*place, spending.kind, request, answer)
            )
            if state is not None:
                self._database.execute("INSERT INTO local_state VALUES (?, ?, ?)", (*place, state))
            oldest = spending.server_round - KEPT_ROUNDS
            self._database.execute(
                "UPDATE outbox SET answer = NULL WHERE federation = ? AND server_round <= ?",
                (spending.federation, oldest),
            )
            self._database.execute(
                "DELETE FROM local_state WHERE federation = ? AND server_round < ?", (spending.federation, oldest)
            )

    def keep_model(self, federation: str, card_sha256: str, parameters: bytes) -> None:
        """Keep a finished model, joined with the local parameters."""
        self._database.execute("INSERT OR REPLACE INTO model VALUES (?, ?, ?)", (federation, card_sha256, parameters))

    def model(self, federation: str) -> bytes | None:
        """Find a finished model."""
        row = self._database.execute("SELECT parameters FROM model WHERE federation = ?", (federation,)).fetchone()
        return row[0] if row else None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _curve(data: bytes) -> NDArray[np.float64]:
    return np.frombuffer(data, dtype=np.float64)


def _reservation(row: tuple[str, str, str, str, str, bytes, int]) -> Reservation:
    return Reservation(
        federation=row[0], part=row[1], population=row[2], card_sha256=row[3], terms=row[4], curve=_curve(row[5]),
        open=bool(row[6]),
    )  # fmt: skip
