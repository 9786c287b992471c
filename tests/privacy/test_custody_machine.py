"""Whatever is asked, in whatever order, and wherever it breaks off: the account holds all that ever left, and once."""

import copy
import hashlib
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from client import chain, head, journal, ledger
from client.ledger import TRAINING
from client.store import Store
from faelles.errors import LedgerError
from faelles.privacy.accountant import epsilons
from tests import custody
from tests.custody import (
    BUDGET,
    CARDS,
    CURVES,
    DAYS,
    EVALUATE,
    PARTS,
    POPULATIONS,
    START,
    TRAIN,
    Custodian,
    Declined,
    Place,
    head_of,
)
from tests.custody_model import Account, Backup, Brittle, Crash, History, LateCrash, Run, Tip, holds

FEDERATIONS = [f"f{number}" for number in range(5)]


class CustodyMachine(RuleBasedStateMachine):
    """Drive a store, and know everything that ever left."""

    opens: type[Custodian] = Custodian

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "store.sqlite"
        self.now = START
        self.history = History()
        self.left: dict[tuple[Place, bytes], Account] = {}
        self.tips: dict[str, Tip] = {}
        self.lost: list[str] = []  # the last heads of histories that were set back
        self.backups: list[Backup] = []
        self.open_store()
        self.custodian.prepare()
        self.back_up()
        for card, federation in enumerate(FEDERATIONS[:2]):
            self.ready(federation, card, 6, None)

    def teardown(self) -> None:
        if not self.history.frozen:
            with pytest.raises(LedgerError, match="nothing to do"):
                self.custodian.recover()
        self.custodian.store.close()
        self.folder.cleanup()

    def open_store(self) -> None:
        store = Store(self.path, durable=False, key=bytes(32))
        self.brittle = Brittle(store.database)
        store._database = cast("sqlite3.Connection", self.brittle)
        self.custodian = self.opens(store, self.now)

    @property
    def database(self) -> sqlite3.Connection:
        return self.brittle.real

    def attempt(self, act: Callable[[], Any], fault: tuple[type[BaseException], int] | None) -> tuple[bool, Any]:
        """Do something that may break off; say whether the store has it, and what came out."""
        before = [chain.head(self.database, table) for table in chain.CHAINED]
        self.custodian.now = self.now
        self.brittle.error, self.brittle.fails_in = fault or (Crash, None)
        out = None
        try:
            out = act()
        except Crash:
            self.custodian.store.close()
            self.open_store()
        except sqlite3.OperationalError:
            assert not self.brittle.in_transaction
        finally:
            self.brittle.fails_in = None
        return before != [chain.head(self.database, table) for table in chain.CHAINED], out

    def admitted(self, card: int) -> bool:
        return not self.history.frozen and card not in self.history.withdrawn

    def leave(self, text: str) -> None:
        """Let a head leave."""
        totals = {
            (population, part): ledger.account(self.database, population, part, self.now).total
            for population, part, _ in ledger.accounts(self.database)
        }
        number = head.read(text, custody.SIGNER).number
        self.tips[text] = Tip(number, frozenset(self.chain()), totals)
        self.history.tip = text

    def chain(self) -> list[str]:
        return [row[0] for row in self.database.execute("SELECT hash FROM ledger ORDER BY number")]

    def covers(self, text: str) -> bool:
        """Say whether the store knows a head, or has charged what it stands for."""
        known = [set(self.chain()), *(self.tips[one].hashes for one in self.history.recovered)]
        return any(head.read(text, custody.SIGNER).hash in hashes for hashes in known)

    def leads_to(self, text: str, later: str) -> bool:
        """Say whether a head lies in the history of a later one."""
        return text != later and head.read(text, custody.SIGNER).hash in self.tips[later].hashes

    faults = st.none() | st.tuples(st.sampled_from([Crash, LateCrash, sqlite3.OperationalError]), st.integers(1, 9))

    @rule(federation=st.sampled_from(FEDERATIONS), card=st.integers(0, 2), rounds=st.integers(1, 6), fault=faults)
    def reserve(self, federation: str, card: int, rounds: int, fault: Any) -> None:
        self.ready(federation, card, rounds, fault)

    def ready(self, federation: str, card: int, rounds: int, fault: Any) -> None:
        known = self.history.runs.get(federation)
        try:
            done, text = self.attempt(lambda: self.custodian.ready(federation, CARDS[card], rounds), fault)
        except Declined:
            full = not self.has_room(card, rounds)
            assert not self.admitted(card) or (known is None and full)
            return
        if not done:
            return
        assert self.admitted(card)
        if known is None:
            expires = self.now + timedelta(days=DAYS)
            self.history.runs[federation] = Run(card, rounds, expires)
            self.close_overdue()
        if text is not None:
            self.leave(text)

    @rule(federation=st.sampled_from(FEDERATIONS), ahead=st.sampled_from([1, 0, 2]), fault=faults)
    def train(self, federation: str, ahead: int, fault: Any) -> None:
        self.ask(Place(federation, max(1, self.history.last(federation) + ahead), TRAIN), fault)

    @rule(federation=st.sampled_from(FEDERATIONS), fault=faults)
    def evaluate(self, federation: str, fault: Any) -> None:
        self.ask(Place(federation, max(1, self.history.last(federation)), EVALUATE), fault)

    @rule(federation=st.sampled_from(FEDERATIONS), card=st.integers(0, 2), rounds=st.integers(1, 6))
    def run(self, federation: str, card: int, rounds: int) -> None:
        self.ready(federation, card, rounds, None)
        for server_round in range(1, rounds + 1):
            self.ask(Place(federation, server_round, TRAIN), None)

    @rule(pick=st.integers(0, 30), fault=faults)
    def resend(self, pick: int, fault: Any) -> None:
        if self.history.kept:
            self.ask(list(self.history.kept)[-1 - pick % len(self.history.kept)], fault)

    def ask(self, place: Place, fault: Any) -> None:
        run = self.history.runs.get(place.federation)
        card = run.card if run else 0
        kept = self.history.kept.get(place)
        keeps = place.server_round > self.history.newest(place.federation) - 2
        expected = self.admitted(card) and (self.history.allows(place, self.now) if kept is None else keeps)
        try:
            done, out = self.attempt(lambda: self.custodian.ask(place, CARDS[card]), fault)
        except (Declined, LedgerError):
            assert not expected, f"{place} was refused"
            return
        if not done:
            return
        assert expected, f"{place} was answered"
        if kept is not None:
            assert out is None or out == (kept, True)
            self.history.resent[place] += 1
            return
        if out is None:  # it was made and did not leave
            row = self.database.execute("SELECT answer FROM outbox WHERE (federation, server_round, kind) = (?, ?, ?)",
                                        tuple(place)).fetchone()  # fmt: skip
            self.history.kept[place] = row[0]
            return
        answer, again = out
        assert not again
        self.history.kept[place] = answer
        self.left[place, answer] = (POPULATIONS[card % 2], PARTS[place.kind])
        self.leave(head_of(answer))

    @rule(federation=st.sampled_from(FEDERATIONS), fault=faults)
    def close(self, federation: str, fault: Any) -> None:
        try:
            done, _ = self.attempt(lambda: self.custodian.close(federation), fault)
        except Declined:
            assert federation not in self.history.runs
            return
        if done:
            self.history.runs[federation].closed = True

    @rule(card=st.integers(0, 2), fault=faults)
    def withdraw(self, card: int, fault: Any) -> None:
        done, _ = self.attempt(lambda: self.custodian.withdraw(CARDS[card]), fault)
        if done:
            self.history.withdrawn.add(card)
            for run in self.history.runs.values():
                run.closed |= run.card == card

    @rule(fault=faults)
    def approve_what_was_withdrawn(self, fault: Any) -> None:
        for card in list(self.history.withdrawn):
            done, _ = self.attempt(lambda card=card: self.custodian.approve(CARDS[card]), fault)  # type: ignore[misc]
            if done:
                self.history.withdrawn.remove(card)

    @rule(days=st.integers(1, 20), fault=faults)
    def let_time_pass(self, days: int, fault: Any) -> None:
        self.now += timedelta(days=days)
        self.custodian.now = self.now
        done, _ = self.attempt(self.custodian.expire, fault)
        if done:
            self.close_overdue()

    @rule()
    def reopen(self) -> None:
        self.custodian.store.close()
        self.open_store()

    @rule()
    def make_a_backup(self) -> None:
        self.back_up()

    def back_up(self) -> None:
        self.backups.append(Backup(bytes(self.database.serialize()), copy.deepcopy(self.history)))

    @rule(pick=st.integers(0, 10))
    def restore(self, pick: int) -> None:
        self.set_back(pick)

    def set_back(self, pick: int) -> None:
        backup = self.backups[-1 - pick % len(self.backups)]
        self.custodian.store.close()
        for end in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        self.path.write_bytes(backup.file)
        if self.history.tip not in ("", *self.lost):
            self.lost.append(self.history.tip)
        self.history = copy.deepcopy(backup.history)
        self.open_store()

    @rule(pick=st.integers(0, 10))
    def restore_and_notice(self, pick: int) -> None:
        self.set_back(pick)
        self.look_at_heads()

    @rule()
    def notice(self) -> None:
        self.look_at_heads()

    def look_at_heads(self) -> None:
        """Present the last head of every history that was set back."""
        unknown = {text for text in self.lost if not self.covers(text)}
        for text in self.lost:
            self.custodian.present(text)
        self.history.presented |= unknown
        frozen = head.frozen(self.database)
        assert frozen or not (unknown or self.history.frozen)
        # A trail may be too coarse to show that a head lies on it; then the store freezes once more than it must.
        self.history.frozen = frozen

    @precondition(lambda self: self.history.frozen)
    @rule(fault=faults)
    def recover(self, fault: Any) -> None:
        done, _ = self.attempt(self.custodian.recover, fault)
        if not done:
            return
        self.history.frozen = False
        self.history.recovered |= self.history.presented
        for run in self.history.runs.values():
            run.closed = True
        for text in self.history.presented:
            if any(self.leads_to(text, later) for later in self.history.presented):
                continue  # what it held may have been freed since
            for (population, part), total in self.tips[text].totals.items():
                have = ledger.account(self.database, population, part, self.now)
                assert not total.any() if have.order is None else holds(have, total)

    def close_overdue(self) -> None:
        for run in self.history.runs.values():
            run.closed |= not run.open(self.now)

    def has_room(self, card: int, rounds: int) -> bool:
        """Say whether a whole run fits, asked of the account's curves."""
        for part, curve in ((TRAINING, rounds * CURVES[TRAIN]), (ledger.HELD_OUT, CURVES[EVALUATE])):
            have = ledger.account(self.database, POPULATIONS[card % 2], part, self.now)
            order = ledger.best_order(have.total + curve, BUDGET) if have.order is None else have.order
            if epsilons(have.total + curve, BUDGET.delta)[order] > BUDGET.epsilon:
                return False
        return True

    @invariant()
    def the_account_holds_all_that_ever_left_once_it_knows_of_it(self) -> None:
        assert head.frozen(self.database) == self.history.frozen
        if self.history.frozen or not all(map(self.covers, self.lost)):
            return
        for account in set(self.left.values()):
            gone = sum((CURVES[place.kind] for (place, _), of in self.left.items() if of == account), ledger.NOTHING)
            assert holds(ledger.account(self.database, *account, self.now), gone), f"{account} fell"

    @invariant()
    def the_store_holds_each_answer_once_and_is_whole(self) -> None:
        store = self.custodian.store
        kept = self.history.kept
        custody.audit(store, kept, self.history.resent, BUDGET, self.now)
        lines = self.database.execute("SELECT outcome, sha256 FROM journal WHERE kind IN (?, ?)", (TRAIN, EVALUATE))
        told = Counter(lines.fetchall())
        expected = Counter({(journal.CLEARED, _sha256(answer)): 1 for answer in kept.values()})
        for place, count in self.history.resent.items():
            expected[journal.RESENT, _sha256(kept[place])] += count
        assert told == expected


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("examples", "steps"), [(50, 40), pytest.param(1000, 80, marks=pytest.mark.soak)])
def test_whatever_happens_the_account_holds_all_that_ever_left_and_each_once(examples: int, steps: int) -> None:
    run_state_machine_as_test(CustodyMachine, settings=settings(max_examples=examples, stateful_step_count=steps))


def test_an_answer_that_is_kept_before_it_is_paid_for_is_found_out() -> None:
    class Careless(CustodyMachine):
        opens = custody.CarelessCustodian

    few = settings(max_examples=200, stateful_step_count=40, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Careless, settings=few)


@pytest.mark.parametrize("closed_unspent", [False, True])
def test_what_two_histories_drew_on_one_run_is_charged_for_both(tmp_path: Path, closed_unspent: bool) -> None:
    path = tmp_path / "store.sqlite"
    custodian = Custodian(Store(path, durable=False))
    custodian.prepare()
    custodian.ready("f", CARDS[0], 6)
    copy_of_it = bytes(custodian.store.database.serialize())
    lost = [custodian.ask(Place("f", number, TRAIN), CARDS[0])[0] for number in (1, 2, 3, 4, 5)]
    custodian.store.close()
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    path.write_bytes(copy_of_it)
    custodian = Custodian(Store(path, durable=False))
    drawn = 0 if closed_unspent else 4
    for number in range(1, drawn + 1):
        custodian.ask(Place("f", number, TRAIN), CARDS[0])
    custodian.close("f")
    custodian.present(head_of(lost[-1]))
    custodian.recover()
    have = ledger.account(custodian.store.database, POPULATIONS[0], TRAINING, START)
    custodian.store.close()
    assert holds(have, (len(lost) + drawn) * CURVES[TRAIN])
