"""Keep the account of each population: what is spent, what is reserved, and whether a run still fits under the cap.

An account belongs to a population, a part of it and, where the policy says so, a period. It is the sum of RDP curves,
each kept with its event. The training and the held-out part of a population are disjoint, so each has an account of its
own (parallel composition). A run reserves its whole curve before round one and draws on it.

The coordinator chooses runs after seeing earlier ones, so the cap is a Renyi filter at one order, pinned by the first
reservation of an account, before anything of it is released.
Source: Feldman and Zrnic 2021, Individual Privacy Accounting via a Renyi Filter, theorem 4.3 with a constant bound.

Every change is one row of a hash chain: reserve, spend, free, charge, recover, and what people decided (population,
approve, countersign, withdraw). Every function takes a database; those that write want a transaction around them.
"""

import json
import math
import secrets
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from client import chain
from faelles.errors import LedgerError
from faelles.privacy.accountant import ORDERS, Curve, Event, epsilon, epsilons

TRAINING = "training"
HELD_OUT = "held-out"
RECOVER = chain.RECOVER
ROUNDING = 1e-9  # thirty rounds' curves add up to the run's only to float64's rounding
DRAWS = ("spend", "charge")  # the kinds of row that an account adds up
NOTHING: Curve = np.zeros(len(ORDERS))


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Hold what the policy lets an account spend: epsilon at delta."""

    epsilon: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """Hold what one run reserves: what it will cost, by part, until when."""

    federation: str
    population: str
    card_sha256: str
    terms: str
    curves: Mapping[str, Curve]
    period: str = ""
    expires: str = ""  # a time in UTC; empty where it never does


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Hold what was set aside for one run on one part of a population."""

    federation: str
    part: str
    population: str
    period: str
    card_sha256: str
    terms: str
    curve: Curve
    expires: str
    freed: bool

    def open(self, now: datetime) -> bool:
        """Say whether it can still be drawn on."""
        return not self.freed and (not self.expires or moment(now) < self.expires)


@dataclass(frozen=True, kw_only=True)
class Spending:
    """Hold one accounted mechanism and what it was for."""

    federation: str
    part: str
    server_round: int
    kind: str
    event: Event
    curve: Curve


@dataclass(frozen=True, kw_only=True)
class Account:
    """Hold one account: its curves, and the order that its filter is pinned to; None before the first reservation."""

    spent: Curve
    total: Curve  # spent, and what open runs may still spend
    order: int | None  # a place in ORDERS


def utc_now() -> datetime:
    """Read the machine's clock."""
    return datetime.now(UTC)


def rest(reserved: Curve, drawn: Curve) -> Curve:
    """Return what may still be drawn of a reservation after what was."""
    finite = np.where(np.isinf(drawn), 0, drawn)  # what was reserved without a bound stays without one
    return np.where(np.isinf(reserved), np.inf, np.maximum(reserved - finite, 0))


def moment(now: datetime) -> str:
    """Write a time as the rows hold it: in UTC, so that texts compare as times do."""
    if now.utcoffset() is None:
        raise ValueError("moment: expected a time with its zone")
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def record(
    database: sqlite3.Connection,
    now: datetime,
    kind: str,
    *,
    population: str = "",
    part: str = "",
    period: str = "",
    federation: str = "",
    card: str = "",
    detail: Mapping[str, Any] | None = None,
    curve: Curve | None = None,
    above: int = 0,
) -> int:
    """Append a row and return its number.

    A row that draws on an account carries what the account has spent after it, so that asking an account of many
    thousand events is reading one row.
    """
    drawn = spent_at(database, (population, part, period)) + curve if kind in DRAWS and curve is not None else None
    return chain.append(database, "ledger", {
        "time": moment(now), "kind": kind, "population": population, "part": part, "period": period,
        "federation": federation, "card": card,
        "detail": json.dumps(detail or {}, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
        "curve": b"" if curve is None else curve.tobytes(),
        "spent": b"" if drawn is None else drawn.tobytes(),
    }, above)  # fmt: skip


def reservation(database: sqlite3.Connection, federation: str, part: str) -> Reservation | None:
    """Find what a run has reserved on a part, closed or not."""
    return next(_reservations(database, "r.federation = ? AND r.part = ?", (federation, part)), None)


def spent(database: sqlite3.Connection, federation: str, part: str) -> Curve:
    """Add up the curves of what a run has spent on a part."""
    rows = database.execute(
        "SELECT curve FROM ledger WHERE federation = ? AND part = ? AND kind IN ('spend', 'charge')", (federation, part)
    )
    return _sum([row[0] for row in rows])


def spent_beside(database: sqlite3.Connection, spending: Spending, now: datetime) -> Curve:
    """Add up what the account that a spending was drawn from has spent, by all runs."""
    held = reservation(database, spending.federation, spending.part)
    assert held is not None  # it was just drawn on
    return account(database, held.population, held.part, now, held.period).spent


def rounds_spent(database: sqlite3.Connection, federation: str, part: str) -> int:
    """Count the releases of a run on a part."""
    row = database.execute(
        "SELECT COUNT(*) FROM ledger WHERE federation = ? AND part = ? AND kind = 'spend'", (federation, part)
    ).fetchone()
    return int(row[0])


def account(database: sqlite3.Connection, population: str, part: str, now: datetime, period: str = "") -> Account:
    """Add up an account: open runs with all they reserved, closed and expired runs with what they spent.

    Guarantees: `total` is never below `spent`, and `spent` never below what was released.
    """
    place = (population, part, period)
    drawn = spent_at(database, place)
    total = drawn
    where = "r.population = ? AND r.part = ? AND r.period = ?"
    for one in _reservations(database, where, place):
        if one.open(now):
            total = total + rest(one.curve, spent(database, one.federation, part))
    return Account(spent=drawn, total=total, order=_pinned(database, place))


def card_curve(database: sqlite3.Connection, card: str, population: str, part: str, now: datetime) -> Curve:
    """Add up what runs of one card have spent on a part of a population, and what its open runs may still spend."""
    found = _reservations(database, "r.card = ? AND r.population = ? AND r.part = ?", (card, population, part))
    total = NOTHING
    for one in found:
        drawn = spent(database, one.federation, part)
        total = total + (np.maximum(one.curve, drawn) if one.open(now) else drawn)
    return total


def accounts(database: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """List every account that anything was ever reserved on: population, part, period."""
    rows = database.execute(
        "SELECT DISTINCT population, part, period FROM ledger WHERE kind IN ('reserve', 'charge') ORDER BY 1, 3, 2"
    )
    return [(row[0], row[1], row[2]) for row in rows]


def present_accounts(database: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """List the accounts that anything was reserved on: population, part, and of its periods the last."""
    rows = database.execute(
        "SELECT population, part, period, MAX(number) FROM ledger WHERE kind IN ('reserve', 'charge')"
        " GROUP BY population, part ORDER BY 1, 2"
    )
    return [(row[0], row[1], row[2]) for row in rows]


def spent_at(database: sqlite3.Connection, place: tuple[str, str, str], number: int = sys.maxsize) -> Curve:
    """Return what an account had spent after a row; what it has spent where none is given."""
    row = database.execute(
        "SELECT spent FROM ledger WHERE population = ? AND part = ? AND period = ? AND kind IN ('spend', 'charge')"
        " AND number <= ? ORDER BY number DESC LIMIT 1",
        (*place, number),
    ).fetchone()
    return NOTHING if row is None else _curves([row[0]])[0]


def ended(database: sqlite3.Connection, place: tuple[str, str, str], parted: int, since: int) -> Curve:
    """Add up what rows after `since` charged for open runs that were reserved up to the row `parted`."""
    rows = database.execute(
        "SELECT c.curve FROM ledger c JOIN ledger r ON r.kind = 'reserve' AND r.federation = c.federation"
        " AND r.part = c.part WHERE c.population = ? AND c.part = ? AND c.period = ? AND c.kind = 'charge'"
        " AND r.number <= ? AND c.number > ?",
        (*place, parted, since),
    ).fetchall()
    return _sum([row[0] for row in rows])


def reserve(database: sqlite3.Connection, run: Run, budget: Budget, now: datetime) -> bool:
    """Set a whole run's curves aside if every part's account stays within the budget; all parts or none.

    Guarantees: the order at which an account is held to its budget is fixed before anything of it is released, by the
        first reservation from which something is, so the budget bounds the account also where runs are chosen after
        seeing earlier ones.

    Returns:
        Whether there was room; if not, nothing was reserved.

    Raises:
        LedgerError: The run has reserved before.
    """
    if any(reservation(database, run.federation, part) for part in run.curves):
        raise LedgerError("ledger: expected a run that has reserved nothing yet; a run reserves once")
    expire(database, now)
    orders: dict[str, int] = {}
    for part, curve in run.curves.items():
        have = account(database, run.population, part, now, run.period)
        pinned = have.order if have.total.any() else None
        orders[part] = best_order(have.total + curve, budget) if pinned is None else pinned
        if not epsilons(have.total + curve, budget.delta)[orders[part]] <= budget.epsilon:
            return False
    for part, curve in run.curves.items():
        record(
            database, now, "reserve", population=run.population, part=part, period=run.period,
            federation=run.federation, card=run.card_sha256, curve=curve,
            detail={"terms": run.terms, "expires": run.expires, "order": orders[part]},
        )  # fmt: skip
    return True


def spend(database: sqlite3.Connection, spending: Spending, now: datetime) -> None:
    """Draw on a reservation.

    Raises:
        LedgerError: The reservation was closed while the answer was being made, or does not hold this any more.
    """
    held = reservation(database, spending.federation, spending.part)
    if held is None or not held.open(now):
        raise LedgerError("ledger: expected an open reservation to spend from, it was closed meanwhile")
    # Asked inside the transaction, so that two answers made at once cannot both take the last of it.
    after = spent(database, spending.federation, spending.part) + spending.curve
    if not (after <= held.curve * (1 + ROUNDING)).all():
        raise LedgerError("ledger: expected to spend no more than was reserved; nothing was released")
    event = spending.event
    record(
        database, now, "spend", population=held.population, part=held.part, period=held.period,
        federation=held.federation, card=held.card_sha256, curve=spending.curve,
        detail={
            "round": spending.server_round, "kind": spending.kind, "sampling_rate": event.sampling_rate,
            "noise_multiplier": event.noise_multiplier, "steps": event.steps,
            # A copy that draws other noise for the same question, within the same second, has another row.
            "nonce": secrets.token_hex(8),
        },
    )  # fmt: skip


def free(database: sqlite3.Connection, federation: str, reason: str, now: datetime) -> None:
    """Close a run's reservations: what it has not spent is free again."""
    for one in _reservations(database, "r.federation = ?", (federation,)):
        if not one.freed:
            _free(database, one, reason, now)


def expire(database: sqlite3.Connection, now: datetime) -> None:
    """Close every reservation whose time is over."""
    overdue = [one for one in open_reservations(database) if not one.open(now)]
    for one in overdue:
        _free(database, one, "expired", now)


def open_reservations(database: sqlite3.Connection) -> list[Reservation]:
    """List every reservation that was not closed yet; some may have expired."""
    return [one for one in _reservations(database, "TRUE", ()) if not one.freed]


def best_order(curve: Curve, budget: Budget) -> int:
    """Choose the order at which an account filled up with more of the same spends least of its budget."""
    low, high = 1.0, 1.0
    while high < 2.0**60 and epsilon(high * curve, budget.delta) < budget.epsilon < math.inf:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon(middle * curve, budget.delta) <= budget.epsilon else (low, middle)
    return int(np.argmin(epsilons(low * curve, budget.delta)))


def share_used(have: Account, budget: Budget) -> float:
    """Say which share of the budget an account has used, open runs in full: 1 is where nothing more fits."""
    if have.order is None:
        return 0.0
    # At one order epsilon is the curve's value and a constant, so what is used of it adds up linearly.
    constant = float(epsilons(np.ones(len(ORDERS)), budget.delta)[have.order]) - 1
    room = budget.epsilon - constant
    used = float(have.total[have.order])
    return used / room if room > 0 else float(used > 0)


def _free(database: sqlite3.Connection, one: Reservation, reason: str, now: datetime) -> None:
    record(
        database, now, "free", population=one.population, part=one.part, period=one.period, federation=one.federation,
        card=one.card_sha256, detail={"reason": reason},
    )  # fmt: skip


def _pinned(database: sqlite3.Connection, place: tuple[str, str, str]) -> int | None:
    """Find the order of the last reservation, which each takes over from the one before; else that of a recovery."""
    row = database.execute(
        "SELECT json_extract(detail, '$.order') FROM ledger WHERE population = ? AND part = ? AND period = ?"
        " AND kind IN ('reserve', 'charge') AND json_extract(detail, '$.order') IS NOT NULL"
        " ORDER BY CASE kind WHEN 'reserve' THEN -number ELSE number END LIMIT 1",
        place,
    ).fetchone()
    return None if row is None else int(row[0])


def _reservations(database: sqlite3.Connection, where: str, values: tuple[str, ...]) -> Iterator[Reservation]:
    rows = database.execute(
        "SELECT federation, part, population, period, card, detail, curve, EXISTS (SELECT 1 FROM ledger f WHERE"  # noqa: S608  # constants of this module
        " f.kind = 'free' AND f.federation = r.federation AND f.part = r.part) FROM ledger r"
        f" WHERE r.kind = 'reserve' AND {where} ORDER BY number",
        values,
    ).fetchall()
    for federation, part, population, period, card, detail, curve, freed in rows:
        terms = json.loads(detail)
        yield Reservation(
            federation=federation, part=part, population=population, period=period, card_sha256=card,
            terms=terms["terms"], expires=terms["expires"], curve=_curves([curve])[0], freed=bool(freed),
        )  # fmt: skip


def _sum(curves: list[bytes]) -> Curve:
    total: Curve = _curves(curves).sum(axis=0)
    return total


def _curves(curves: list[bytes]) -> Curve:
    return np.frombuffer(b"".join(curves), dtype=np.float64).reshape(len(curves), len(ORDERS))
