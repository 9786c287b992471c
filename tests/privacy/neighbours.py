"""Municipalities that differ by one citizen, under attack side by side, and what must be the same of both.

All are the production ClientApp over the same key, clock and approvals, so whatever differs comes from the data.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from client import chain, consent, head, journal, ledger
from client.keys import Signer
from client.policy import Hours, Policy
from client.source import TableSource
from client.store import Store
from faelles.models import MAX_MAGNITUDE
from faelles.privacy.accountant import epsilon, epsilons
from faelles.records import Code, parse_answer
from simulations.worker import consent_once
from tests.builders import DECLARED_SIZE, FEDERATION, LOCAL, Agent, build_card, build_policy, build_table
from tests.crafted import Known
from tests.hostile import Coordinator, Happening, seen
from tests.privacy.real_path import KEY, names
from tests.scripted import ScriptedGrid, honest

# Steps enough for a pull that grows to go beyond every bound.
CARD = build_card(model={"local": list(LOCAL)}, training={"local_steps": 6})
START = datetime(2026, 3, 2, 10, tzinfo=UTC)
CAP = 2.5  # room for one run of the card, and for part of another
RULES = build_policy(CARD, epsilon_cap=CAP, reservation_days=30)
APPROVAL = replace(RULES.approvals[CARD.sha256], until=(START + timedelta(days=60)).date())
OTHERS = tuple(f"6f1b2a52-3c6f-5d0a-9a53-0f4f1de1c1{number:02}" for number in range(6))
NOBODY = build_table(0)
MANY = build_table(60)
Row = tuple[float | None, str | None, str | None]

CITIZENS: Mapping[str, Sequence[Row]] = {
    "ordinary": [(12.0, "city", "yes")],
    "not a number": [(float("nan"), "cargo", "no")],
    "beyond the range": [(1e308, "cargo", "yes")],
    "infinite": [(float("-inf"), "city", "no"), (float("inf"), "cargo", "yes")],
    "undeclared": [(5.0, "hovercraft", "yes"), (5.0, "\0" * 5_000, "no")],
    "undeclared label": [(5.0, "city", "maybe")],
    "missing": [(None, None, None)],
    "missing but the label": [(None, None, "yes")],
    "many rows": [(float(age), "city", ("yes", "no")[age % 2]) for age in range(40)] * 2,
}
WILD: Sequence[Row] = [row for rows in CITIZENS.values() for row in rows]


def rows_of(name: str, rows: Sequence[Row]) -> pa.Table:
    """Give one citizen's rows."""
    age, brand, repaired = zip(*rows, strict=True)
    columns = {"age": pa.array(age, pa.float64()), "brand": pa.array(brand, pa.string())}
    return pa.table({"citizen": [name] * len(rows), **columns, "repaired": pa.array(repaired, pa.string())})


def with_one_more(rows: Sequence[Row], held_out: bool, others: pa.Table = MANY) -> pa.Table:
    """Add a citizen whom the key puts into one of the two parts, in front of the others."""
    one = rows_of(names(200, held_out)[-1], rows)
    return pa.concat_tables([one, others]) if others.num_rows else one


class Side:
    """Be one of the municipalities, with the coordinator that attacks it."""

    def __init__(self, folder: Path, table: pa.Table) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.now, self.first = START, 0
        self._decide()
        rules = replace(RULES, approvals={CARD.sha256: APPROVAL})
        self.agent = Agent(self.folder, CARD, policy=rules, source=TableSource(table=table))
        self.agent.now = lambda: self.now
        foreign = head.sign(self.agent.store.database, Signer.from_seed(b"0147".zfill(32)), START)
        known = Known(
            card=CARD, declared_size=DECLARED_SIZE, federation=FEDERATION, others=OTHERS, foreign=foreign
        )  # fmt: skip
        self.coordinator = Coordinator(ScriptedGrid({1001: ("0101", honest(self.agent))}), 1001, known)

    def happen(self, happening: Happening) -> None:
        """Bring something about."""
        doings: dict[Happening, Callable[[], object]] = {
            Happening.NOTHING: lambda: None,
            Happening.WITHDRAWN: self._withdraw,
            Happening.APPROVAL_EXPIRED: lambda: self._wait(61),
            Happening.RESERVATION_EXPIRED: lambda: self._wait(31),
            Happening.OUTSIDE_HOURS: lambda: self._rule(hours=Hours(days=())),
            Happening.NO_UPDATES: lambda: self._rule(updates=False),
            Happening.NO_HISTOGRAMS: lambda: self._rule(histograms=False),
            Happening.POLICY_LOST: lambda: self._rule(**vars(Policy())),
            Happening.SET_BACK: self._set_back,
            Happening.RESTARTED: self.agent.restart,
        }
        doings[happening]()

    def rows(self, table: str, *but: str) -> list[dict[str, Any]]:
        """Read a table of the store without some of its columns."""
        cursor = self.agent.store.database.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")  # noqa: S608  # ours
        columns = [one[0] for one in cursor.description]
        rows = [dict(zip(columns, row, strict=True)) for row in cursor]
        return [{name: value for name, value in row.items() if name not in but} for row in rows]

    def close(self) -> None:
        self.agent.store.close()
        shutil.rmtree(self.folder)

    def _decide(self) -> None:
        store = Store(self.folder / "0101.sqlite", durable=False, key=KEY)
        with store.transaction() as database:
            consent.register(database, RULES.population, START)
            consent.approve(database, APPROVAL, START)
        consent_once(store, RULES.population, APPROVAL)  # as the agent does: it finds both and adds nothing
        store.close()

    def _withdraw(self) -> None:
        with self.agent.store.transaction() as database:
            consent.withdraw(database, CARD.sha256, self.now)

    def _wait(self, days: int) -> None:
        self.now += timedelta(days=days)

    def _rule(self, **changes: Any) -> None:
        self.agent.policy = replace(self.agent.policy, policy=replace(self.agent.policy.policy, **changes))

    def _set_back(self) -> None:
        self.agent.store.close()
        for path in self.folder.glob("0101.sqlite*"):
            path.unlink()
        self._decide()
        self.first = len(self.coordinator.replies)  # what the journal tells of begins here
        self.agent.restart(store=Store(self.folder / "0101.sqlite", durable=False, key=KEY))


def both(folder: Path, *tables: pa.Table) -> Iterator[list[Side]]:
    """Set municipalities side by side, and take them away."""
    sides = [Side(folder, table) for table in tables]
    yield sides
    for side in sides:
        side.close()


def check_same(sides: Sequence[Side]) -> None:
    """Check that nothing that leaves or is written tells one side's data from another's.

    The ledger is the same but for the nonce of each spending, and so the hashes. The journal and the outbox are but for
    what hashes a release's numbers.
    """
    first, *others = [_shown(side) for side in sides]
    for other in others:
        for shown, expected in zip(other, first, strict=True):
            assert shown == expected


def check_guarded(side: Side) -> None:
    """Check that all that left is journalled, charged where it is a release and constant where not, within the cap."""
    database, replies = side.agent.store.database, side.coordinator.replies[side.first :]
    lines = list(journal.lines(database))
    released: set[tuple[object, ...]] = set()
    for reply, line in zip(replies, lines, strict=True):
        if reply.has_error():
            text = Code(reply.error.code).text
            assert line["outcome"] == journal.REFUSED + text
            assert reply.error.reason in (text, f"{text} (cap {CAP:g})")
            continue
        answer = parse_answer(reply)
        data = answer.pack()
        assert line["outcome"] in (journal.CLEARED, journal.RESENT)
        assert (line["bytes"], line["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert all((np.abs(array) <= MAX_MAGNITUDE).all() for array in answer.arrays.values())  # so finite too
        if answer.arrays:
            released.add((line["federation"], line["server_round"], line["kind"], line["sha256"]))
    charged = [line for line in lines if line["epsilon"] is not None]
    assert released == {(one["federation"], one["server_round"], one["kind"], one["sha256"]) for one in charged}
    assert len(released) == len(charged) == sum(row["kind"] == "spend" for row in side.rows("ledger"))
    _check_account(side)
    chain.verify(database, "ledger")
    chain.verify(database, "journal")


def _check_account(side: Side) -> None:
    budget = RULES.policy.special
    for population, part, period in ledger.accounts(side.agent.store.database):
        have = ledger.account(side.agent.store.database, population, part, side.now, period)
        assert epsilon(have.spent, budget.delta) <= epsilon(have.total, budget.delta) <= CAP
        assert have.order is not None
        assert epsilons(have.total, budget.delta)[have.order] <= CAP


def _shown(side: Side) -> tuple[object, ...]:
    outbox = [{**row, "answer": row["answer"] and len(row["answer"])} for row in side.rows("outbox")]
    state = [{**row, "state": len(row["state"])} for row in side.rows("local_state")]
    return (
        [seen(reply) for reply in side.coordinator.replies],
        side.rows("journal", "sha256", "hash"),
        [_without_nonce(row) for row in side.rows("ledger", "hash")],
        outbox,
        state,
        side.rows("model", "parameters"),
        head.frozen(side.agent.store.database),
    )


def _without_nonce(row: dict[str, Any]) -> dict[str, Any]:
    detail = json.loads(row["detail"])
    detail.pop("nonce", None)
    return {**row, "detail": detail}
