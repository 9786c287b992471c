"""A small account for the tests: rounds of one mechanism, reserved and spent on a real store."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from client import chain, ledger
from client.ledger import TRAINING, Account, Budget, Run, Spending
from client.store import Store
from faelles.privacy.accountant import Curve, Event, epsilon, rdp_curve

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
DELTA = 1e-5
ROUND = Event(sampling_rate=0.1, noise_multiplier=2.0, steps=10)
CURVE = rdp_curve(ROUND)
CAP = epsilon(10 * CURVE, DELTA)  # room for ten rounds
BUDGET = Budget(epsilon=CAP, delta=DELTA)
CARD = "c" * 64
SEED = bytes(range(32))


def reserve(
    store: Store,
    federation: str,
    rounds: int = 5,
    *,
    population: str = "p",
    part: str = TRAINING,
    curves: Mapping[str, Curve] | None = None,
    card: str = CARD,
    period: str = "",
    expires: str = "",
    budget: Budget = BUDGET,
    now: datetime = NOW,
) -> bool:
    """Reserve some rounds of the mechanism, or other curves."""
    run = Run(
        federation=federation, population=population, card_sha256=card, terms="{}",
        curves=curves or {part: rounds * CURVE}, period=period, expires=expires,
    )  # fmt: skip
    with store.transaction() as database:
        return ledger.reserve(database, run, budget, now)


def spending(federation: str, server_round: int, event: Event = ROUND, part: str = TRAINING) -> Spending:
    """Make one round's spending."""
    return Spending(
        federation=federation, part=part, server_round=server_round, kind="train", event=event, curve=rdp_curve(event)
    )


def spend(store: Store, federation: str, server_round: int, event: Event = ROUND, now: datetime = NOW) -> None:
    """Spend one round."""
    with store.transaction() as database:
        ledger.spend(database, spending(federation, server_round, event), now)


def free(store: Store, federation: str, now: datetime = NOW) -> None:
    """Close a run."""
    with store.transaction() as database:
        ledger.free(database, federation, "closed", now)


def account(
    store: Store, part: str = TRAINING, *, population: str = "p", period: str = "", now: datetime = NOW
) -> Account:
    """Add up an account."""
    return ledger.account(store.database, population, part, now, period)


def total(store: Store, part: str = TRAINING, *, population: str = "p", period: str = "", now: datetime = NOW) -> float:
    """Say what an account holds, open runs in full."""
    return epsilon(account(store, part, population=population, period=period, now=now).total, DELTA)


def rows(store: Store, table: str = "ledger") -> list[dict[str, Any]]:
    """Read a table, oldest first."""
    assert table in chain.CHAINED
    cursor = store.database.execute(f"SELECT * FROM {table} ORDER BY number")  # noqa: S608  # from CHAINED
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def kinds(store: Store) -> list[str]:
    """List the kinds of the ledger's rows."""
    return [row["kind"] for row in rows(store)]
