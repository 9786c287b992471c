"""Keep who is enrolled: one row for each key that KOMBIT admitted, also of those that were revoked since.

Flower knows a node by its key and an id; what binds that id to a municipality is this register.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from faelles.enrolment import EnrolmentRequest, parse_request
from faelles.errors import EnrolmentError

BUSY_S = 30.0
TABLE = """
CREATE TABLE IF NOT EXISTS enrolment (
    number INTEGER PRIMARY KEY,
    municipality TEXT NOT NULL,
    login_key TEXT NOT NULL UNIQUE,
    node TEXT NOT NULL,
    request TEXT NOT NULL,
    enrolled_at TEXT NOT NULL,
    revoked_at TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS one_at_a_time ON enrolment (municipality) WHERE revoked_at IS NULL;
"""


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """Hold one key that was admitted.

    Args:
        request: What the municipality asked with.
        node: Flower's id of it; 64 bits without a sign, which SQLite's integers do not hold.
        enrolled_at: When, in UTC.
        revoked_at: When it was turned away; None where it is not.
    """

    request: EnrolmentRequest
    node: int
    enrolled_at: datetime
    revoked_at: datetime | None = None

    @property
    def municipality(self) -> str:
        """Name whose key it is."""
        return self.request.municipality


class Register:
    """Own the table of enrolments.

    Args:
        path: The database; made where there is none.

    Raises:
        EnrolmentError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._words():
            self._database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            self._database.executescript(TABLE)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def add(self, enrolment: Enrolment) -> None:
        """Admit a key, in the place of the municipality's earlier one where there is one."""
        at = enrolment.enrolled_at.isoformat()
        with self._words(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._revoke(enrolment.municipality, at)
            self._database.execute(
                "INSERT INTO enrolment (municipality, login_key, node, request, enrolled_at) VALUES (?, ?, ?, ?, ?)",
                (
                    enrolment.municipality,
                    enrolment.request.login_key,
                    str(enrolment.node),
                    enrolment.request.text(),
                    at,
                ),
            )

    def renumber(self, municipality: str, node: int) -> None:
        """Take note that a municipality's key has another node id."""
        with self._words():
            self._database.execute(
                "UPDATE enrolment SET node = ? WHERE municipality = ? AND revoked_at IS NULL", (str(node), municipality)
            )

    def revoke(self, municipality: str, at: datetime) -> None:
        """Turn a municipality's key away."""
        with self._words():
            self._revoke(municipality, at.isoformat())

    def current(self) -> dict[str, Enrolment]:
        """List those that are admitted now, by municipality."""
        return {one.municipality: one for one in self.history() if one.revoked_at is None}

    def history(self) -> list[Enrolment]:
        """List every key that was ever admitted, the oldest first."""
        with self._words():
            rows = self._database.execute(
                "SELECT request, node, enrolled_at, revoked_at FROM enrolment ORDER BY number"
            ).fetchall()
        return [
            Enrolment(
                request=parse_request(request, str(self._path)), node=int(node),
                enrolled_at=datetime.fromisoformat(enrolled),
                revoked_at=datetime.fromisoformat(revoked) if revoked else None,
            )
            for request, node, enrolled, revoked in rows
        ]  # fmt: skip

    def _revoke(self, municipality: str, at: str) -> None:
        self._database.execute(
            "UPDATE enrolment SET revoked_at = ? WHERE municipality = ? AND revoked_at IS NULL", (at, municipality)
        )

    @contextmanager
    def _words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error:
            raise EnrolmentError(
                f"{self._path}: expected the register of municipalities, it cannot be read or written; look for space "
                "and rights, or restore it from a backup"
            ) from None
