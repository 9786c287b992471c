"""Do to a store what the agent does to it, with neither torch nor Flower, and check what must always hold of it.

`Custodian` mirrors `client.node`: the same questions in the same order, the same writes in the same transactions; its
noise is random bytes, so that an answer which is made twice is seen to be another one.
"""

import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from client import chain, consent, head, journal, ledger, outbox
from client.consent import Approval, Population, Standing
from client.journal import Line
from client.keys import Signer
from client.ledger import HELD_OUT, TRAINING, Budget, Run, Spending
from client.policy import Policy
from client.store import Store
from faelles.card import UseCaseCard, load_card
from faelles.privacy.accountant import Curve, Event, epsilon, epsilons, rdp_curve

START = datetime(2026, 5, 4, 12, tzinfo=UTC)
DAYS = 30  # that a run may draw on what it reserved
BUDGET = Budget(epsilon=3.0, delta=1e-5)
POLICY = Policy(special=BUDGET, otherwise=BUDGET, cards=None, updates=True, histograms=True)
SIGNER = Signer.from_seed(bytes(range(32)))
TRAIN, EVALUATE = "train", "evaluate"
ROUND = Event(sampling_rate=0.05, noise_multiplier=3.0, steps=2)
EVALUATION = Event(sampling_rate=1.0, noise_multiplier=20.0, steps=1)
EVENTS = {TRAIN: ROUND, EVALUATE: EVALUATION}
CURVES = {kind: rdp_curve(event) for kind, event in EVENTS.items()}
PARTS = {TRAIN: TRAINING, EVALUATE: HELD_OUT}
POPULATIONS = ("elders", "pupils")
_CARD = load_card(Path(__file__).parents[1] / "catalogue" / "elder_admission" / "card.yaml")
CARDS: tuple[UseCaseCard, ...] = tuple(_CARD.model_copy(update={"version": number}) for number in (1, 2, 3))
WITH_STATE = CARDS[0]  # its runs keep a local state
ROUNDING = 1e-9


class Place(NamedTuple):
    """Say what was asked for: nothing may ever be made twice for one place."""

    federation: str
    server_round: int
    kind: str


class Declined(Exception):  # noqa: N818  # as the agent's own: a refusal is an answer
    """Say that a question was refused."""


@dataclass
class Custodian:
    """Answer as the agent does."""

    store: Store
    now: datetime = START

    def prepare(self) -> None:
        """Register the populations and approve the cards, as far as that was not done."""
        with self.store.transaction() as database:
            for name in POPULATIONS:
                if consent.find_population(database, name) is None:
                    consent.register(database, Population(name=name, citizen="cpr"), self.now)
            for card in CARDS:
                if consent.find_approval(database, card.sha256) is None:
                    self._approve(database, card)

    def ready(self, federation: str, card: UseCaseCard, rounds: int) -> str:
        """Reserve a whole run, and return the signed head that leaves."""
        approval = self._admitted(card)
        with self.store.transaction() as database:
            if ledger.reservation(database, federation, TRAINING) is None:
                run = Run(
                    federation=federation, population=approval.population, card_sha256=card.sha256, terms=str(rounds),
                    curves={TRAINING: rounds * CURVES[TRAIN], HELD_OUT: CURVES[EVALUATE]},
                    expires=ledger.moment(self.now + timedelta(days=DAYS)),
                )  # fmt: skip
                if not ledger.reserve(database, run, BUDGET, self.now):
                    raise Declined
            text = head.sign(database, SIGNER, self.now)
            line = _line(journal.CLEARED, Place(federation, 0, "query.ready"), text.encode(), approval)
            journal.write(database, line, self.now)
        return text

    def ask(self, place: Place, card: UseCaseCard) -> tuple[bytes, bool]:
        """Answer a question for something noisy; say whether it left before."""
        approval = self._admitted(card)
        kept = self._kept(place, approval)
        if kept is not None:
            return kept, True
        held = ledger.reservation(self.store.database, place.federation, PARTS[place.kind])
        if held is None or not held.open(self.now) or held.card_sha256 != card.sha256:
            raise Declined
        drawn = ledger.rounds_spent(self.store.database, place.federation, held.part)
        if drawn >= (int(held.terms) if place.kind == TRAIN else 1) or place.server_round > int(held.terms):
            raise Declined
        noise = os.urandom(64 + 3 * os.urandom(1)[0])
        state = os.urandom(40) if card is WITH_STATE and place.kind == TRAIN else None
        return self._commit(place, approval, noise, state), False

    def close(self, federation: str) -> None:
        """End a run."""
        with self.store.transaction() as database:
            held = ledger.reservation(database, federation, TRAINING)
            if held is None:
                raise Declined
            ledger.free(database, federation, "closed", self.now)
            approval = consent.find_approval(database, held.card_sha256)
            assert approval is not None
            journal.write(
                database, _line(journal.CLEARED, Place(federation, 0, "query.close"), b"", approval), self.now
            )

    def withdraw(self, card: UseCaseCard) -> None:
        """Withdraw a card."""
        with self.store.transaction() as database:
            consent.withdraw(database, card.sha256, self.now)

    def approve(self, card: UseCaseCard) -> None:
        """Approve a card anew."""
        with self.store.transaction() as database:
            self._approve(database, card)

    def expire(self) -> None:
        """Close what is overdue."""
        with self.store.transaction() as database:
            ledger.expire(database, self.now)

    def refuse(self, place: Place) -> None:
        """Journal a refusal."""
        line = Line(outcome=journal.REFUSED + "not-ready", recipient="coordinator", kind=place.kind, bytes=9,
                    federation=place.federation, server_round=place.server_round)  # fmt: skip
        with self.store.transaction() as database:
            journal.write(database, line, self.now)

    def present(self, text: str) -> None:
        """Take a head that the coordinator presents."""
        with self.store.transaction() as database:
            head.present(database, SIGNER, text)

    def recover(self) -> int:
        """Charge what is missing."""
        with self.store.transaction() as database:
            return head.recover(database, SIGNER, self.now)

    def _approve(self, database: sqlite3.Connection, card: UseCaseCard) -> None:
        population = POPULATIONS[CARDS.index(card) % len(POPULATIONS)]
        consent.approve(database, Approval(card=card, population=population, declared_size=500, epsilon=3.0), self.now)

    def _admitted(self, card: UseCaseCard) -> Approval:
        database = self.store.database
        approval = consent.find_approval(database, card.sha256)
        if approval is None or consent.standing(database, approval, POLICY, self.now) != Standing.VALID:
            raise Declined
        if head.frozen(database):
            raise Declined
        return approval

    def _kept(self, place: Place, approval: Approval) -> bytes | None:
        database = self.store.database
        kept = outbox.find(database, *place)
        if kept is None:
            if place.server_round < outbox.last_round(database, place.federation, place.kind):
                raise Declined
            return None
        if kept.answer is None or kept.request != digest(place):
            raise Declined
        line = _line(journal.RESENT, place, kept.answer, approval)
        assert journal.left_before(database, line)
        with self.store.transaction() as writing:
            journal.write(writing, line, self.now)
        return kept.answer

    def _commit(self, place: Place, approval: Approval, noise: bytes, state: bytes | None) -> bytes:
        spending = _spending(place)
        with self.store.transaction() as database:
            ledger.spend(database, spending, self.now)
            answer = head.sign(database, SIGNER, self.now).encode() + b"\n" + noise
            line = _line(journal.CLEARED, place, answer, approval)
            after = ledger.spent_beside(database, spending, self.now)
            line = line.costing(epsilon(spending.curve, BUDGET.delta), epsilon(after, BUDGET.delta), BUDGET.delta)
            journal.write(database, line, self.now)
            outbox.put(database, place, digest(place), answer, state)
        return answer


class CarelessCustodian(Custodian):
    """Keep an answer first and spend for it later, each in a transaction of its own."""

    def _commit(self, place: Place, approval: Approval, noise: bytes, state: bytes | None) -> bytes:
        with self.store.transaction() as database:
            answer = head.sign(database, SIGNER, self.now).encode() + b"\n" + noise
            journal.write(database, _line(journal.CLEARED, place, answer, approval), self.now)
            outbox.put(database, place, digest(place), answer, state)
        with self.store.transaction() as database:
            ledger.spend(database, _spending(place), self.now)
        return answer


def digest(place: Place) -> str:
    """Identify the one request that is ever made for a place."""
    return hashlib.sha256(repr(tuple(place)).encode()).hexdigest()


def head_of(answer: bytes) -> str:
    """Read the signed head of an answer."""
    return answer.split(b"\n")[0].decode()


def next_round(database: sqlite3.Connection, federation: str) -> int:
    """Say which round of training comes next."""
    return outbox.last_round(database, federation, TRAIN) + 1


def audit(
    store: Store, left: Mapping[Place, bytes], resent: Mapping[Place, int], budget: Budget, now: datetime
) -> None:
    """Check everything that must hold of a store whose history was never set back.

    Args:
        store: Just opened.
        left: The bytes of everything that ever left.
        resent: How often each left again.
        budget: Of every account.
        now: The time.
    """
    database = store.database
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for table in chain.CHAINED:
        chain.verify(database, table)
    spent = _spent_once(database)
    kept = _kept_and_cleared_once(database, set(spent))
    cleared = _cleared(database)
    for place, answer in left.items():
        assert place in kept, f"{place} left and is in no outbox"
        assert kept[place] in (None, answer), f"{place} is kept with other bytes"
        assert cleared[place] == [hashlib.sha256(answer).hexdigest()], f"{place} was cleared otherwise"
    again = Counter(_places(database, journal.RESENT))
    assert all(again[place] >= count for place, count in resent.items()), "a resend left without a line"
    check_accounts(store, budget, now)


def check_accounts(store: Store, budget: Budget, now: datetime) -> None:
    """Check that accounts hold each event once, between what was spent and what was reserved, below the budget."""
    database = store.database
    for population, part, period in ledger.accounts(database):
        have = ledger.account(database, population, part, now, period)
        events = [
            (curve, json.loads(detail))
            for curve, detail in database.execute(
                "SELECT curve, detail FROM ledger WHERE population = ? AND part = ? AND kind = 'spend'",
                (population, part),
            )
        ]
        one_by_one = sum((_curve_of(detail) for _, detail in events), ledger.NOTHING)
        assert all(np.array_equal(np.frombuffer(curve), _curve_of(detail)) for curve, detail in events)
        charged = sum(_curves(database, population, part, "charge"), ledger.NOTHING)
        assert have.order is not None
        np.testing.assert_allclose(have.spent[have.order], (one_by_one + charged)[have.order], rtol=ROUNDING)
        reserved = sum(_curves(database, population, part, "reserve"), ledger.NOTHING)
        assert (have.spent <= have.total * (1 + ROUNDING)).all()
        assert (have.total <= (reserved + charged) * (1 + ROUNDING)).all()
        if not charged.any():
            assert epsilons(have.total, budget.delta)[have.order] <= budget.epsilon * (1 + ROUNDING)
    _runs_keep_to_what_they_reserved(database)


def _curve_of(detail: Mapping[str, float]) -> Curve:
    return rdp_curve(Event(
        sampling_rate=detail["sampling_rate"], noise_multiplier=detail["noise_multiplier"], steps=int(detail["steps"])
    ))  # fmt: skip


def _curves(database: sqlite3.Connection, population: str, part: str, kind: str) -> list[Curve]:
    rows = database.execute(
        "SELECT curve FROM ledger WHERE population = ? AND part = ? AND kind = ?", (population, part, kind)
    )
    return [np.frombuffer(row[0]) for row in rows]


def _runs_keep_to_what_they_reserved(database: sqlite3.Connection) -> None:
    freed: set[tuple[str, str]] = set()
    drawn: dict[tuple[str, str], Curve] = {}
    reserved: dict[tuple[str, str], Curve] = {}
    rows = database.execute("SELECT kind, federation, part, curve FROM ledger ORDER BY number")
    for kind, federation, part, curve in rows:
        run = (federation, part)
        if kind == "reserve":
            assert run not in reserved, f"{run} reserved twice"
            reserved[run] = np.frombuffer(curve)
        elif kind == "spend":
            assert run not in freed, f"{run} spent after it was closed"
            drawn[run] = drawn.get(run, ledger.NOTHING) + np.frombuffer(curve)
            assert (drawn[run] <= reserved[run] * (1 + ROUNDING)).all(), f"{run} drew more than it reserved"
        elif kind == "free":
            assert run not in freed, f"{run} was closed twice"
            freed.add(run)


def _spent_once(database: sqlite3.Connection) -> Counter[Place]:
    rows = database.execute("SELECT federation, detail FROM ledger WHERE kind = 'spend'").fetchall()
    places = Counter(Place(row[0], json.loads(row[1])["round"], json.loads(row[1])["kind"]) for row in rows)
    assert set(places.values()) <= {1}, f"counted twice: {places}"
    return places


def _kept_and_cleared_once(database: sqlite3.Connection, spent: set[Place]) -> dict[Place, bytes | None]:
    """Check that ledger, outbox, journal and local state tell of the same answers; return those of the outbox."""
    kept = {
        Place(*row[:3]): row[3]
        for row in database.execute("SELECT federation, server_round, kind, answer FROM outbox").fetchall()
    }
    cleared = _cleared(database)
    assert set(kept) == spent == set(cleared)
    for place, answer in kept.items():
        digests = cleared[place]
        assert len(digests) == 1, f"{place} was cleared twice"
        assert answer is None or hashlib.sha256(answer).hexdigest() == digests[0], f"{place} was cleared otherwise"
    states = database.execute("SELECT federation, MAX(server_round) FROM local_state GROUP BY federation").fetchall()
    for federation, newest in states:
        assert newest == outbox.last_round(database, federation, TRAIN), "a local state of another round"
    return kept


def _cleared(database: sqlite3.Connection) -> dict[Place, list[str]]:
    found: dict[Place, list[str]] = {}
    for *place, digests in database.execute(
        "SELECT federation, server_round, kind, sha256 FROM journal WHERE outcome = ? AND kind IN (?, ?)",
        (journal.CLEARED, TRAIN, EVALUATE),
    ).fetchall():
        found.setdefault(Place(*place), []).append(digests)
    return found


def _places(database: sqlite3.Connection, outcome: str) -> Iterable[Place]:
    rows = database.execute("SELECT federation, server_round, kind FROM journal WHERE outcome = ?", (outcome,))
    return [Place(*row) for row in rows.fetchall()]


def _spending(place: Place) -> Spending:
    return Spending(
        federation=place.federation, part=PARTS[place.kind], server_round=place.server_round, kind=place.kind,
        event=EVENTS[place.kind], curve=CURVES[place.kind],
    )  # fmt: skip


def _line(outcome: str, place: Place, answer: bytes, approval: Approval) -> Line:
    line = Line(outcome=outcome, recipient="coordinator", kind=place.kind, bytes=len(answer))
    return replace(
        line, sha256=hashlib.sha256(answer).hexdigest(), card=approval.card.sha256, federation=place.federation,
        server_round=place.server_round, approval=approval.number,
    )  # fmt: skip
