"""What `tests.privacy.test_custody_machine` knows of a store, and the connection with which it makes one break off."""

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from client import ledger
from faelles.privacy.accountant import Curve
from tests.custody import ROUNDING, TRAIN, Place

WRITES = ("BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT")
Account = tuple[str, str]  # population, part


class Crash(BaseException):
    """End the process, in the model of it."""


class LateCrash(Crash):
    """End it when the statement was carried out."""


class Brittle:
    """Stand between a store and SQLite, and fail at a statement that was chosen before."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.real = database
        self.fails_in: int | None = None
        self.error: type[BaseException] = Crash
        self.dead = False

    @property
    def in_transaction(self) -> bool:
        return self.real.in_transaction

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        # What is on disk is the same before and after a read.
        if self.fails_in is not None and statement[0].split()[0] in WRITES:
            self.fails_in -= 1
            if self.fails_in == 0:
                self.fails_in, self.dead = None, self.error is not sqlite3.OperationalError
                if self.error is LateCrash:
                    self.real.execute(*statement)
                raise self.error("chosen to fail here")
        if self.dead:
            raise Crash  # a process that has ended takes nothing back
        return self.real.execute(*statement)

    def close(self) -> None:
        self.real.close()


@dataclass
class Run:
    """Hold what is known of one run."""

    card: int
    rounds: int
    expires: datetime
    closed: bool = False

    def open(self, now: datetime) -> bool:
        return not self.closed and now < self.expires


@dataclass
class History:
    """Hold what one copy of the store must know."""

    runs: dict[str, Run] = field(default_factory=dict)
    kept: dict[Place, bytes] = field(default_factory=dict)  # also what is superseded
    resent: Counter[Place] = field(default_factory=Counter)
    withdrawn: set[int] = field(default_factory=set)
    tip: str = ""  # the newest head that left of it
    frozen: bool = False
    presented: set[str] = field(default_factory=set)
    recovered: set[str] = field(default_factory=set)

    def last(self, federation: str, kind: str = TRAIN) -> int:
        rounds = [place.server_round for place in self.kept if (place.federation, place.kind) == (federation, kind)]
        return max(rounds, default=0)

    def newest(self, federation: str) -> int:
        return max((place.server_round for place in self.kept if place.federation == federation), default=0)

    def allows(self, place: Place, now: datetime) -> bool:
        """Say whether something new may be made for a place."""
        run = self.runs.get(place.federation)
        if run is None or not run.open(now) or place in self.kept or place.server_round > run.rounds:
            return False
        made = [one for one in self.kept if (one.federation, one.kind) == (place.federation, place.kind)]
        return place.server_round >= self.last(*place[::2]) and len(made) < (run.rounds if place.kind == TRAIN else 1)


@dataclass(frozen=True)
class Tip:
    """Hold what a head that left rests on: every row before it, and what the accounts held."""

    number: int
    hashes: frozenset[str]
    totals: dict[Account, Curve]


@dataclass(frozen=True)
class Backup:
    """Hold a copy of the file and of what it knows."""

    file: bytes
    history: History


def holds(have: ledger.Account, curve: Curve) -> bool:
    """Say whether an account has spent a curve, at the order that it is held to its budget at."""
    return have.order is not None and bool(have.spent[have.order] >= curve[have.order] * (1 - ROUNDING))
