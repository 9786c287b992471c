"""A store that is an older copy of itself is noticed by the head it does not know, and what is missing is charged."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from client import chain, head, ledger
from client.keys import Signer
from client.ledger import HELD_OUT, TRAINING
from client.store import Store
from faelles.errors import LedgerError, WireError
from faelles.privacy.accountant import epsilon, epsilons, rdp_curve
from tests.books import BUDGET, CAP, CURVE, DELTA, NOW, SEED, account, free, kinds, reserve, rows, spend, total
from tests.client.test_ledger import EXACT, LIMITLESS

SIGNER, OTHER = Signer.from_seed(SEED), Signer.from_seed(SEED[::-1])
Step = Callable[[Store], object]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.sqlite", durable=False)
    reserve(opened, "a", 5)
    spend(opened, "a", 1)
    yield opened
    opened.close()


@pytest.fixture
def backup(store: Store, tmp_path: Path) -> Iterator[Store]:
    """Copy the store as it is when the test begins, and serve from the copy."""
    copied = Store(tmp_path / "backup.sqlite", durable=False, serving=False)
    store.database.backup(copied.database)
    yield copied
    copied.close()


def sign(store: Store) -> str:
    return head.sign(store.database, SIGNER, NOW)


def present(store: Store, text: str) -> bool:
    """Present a head and say whether the store is frozen then."""
    with store.transaction() as database:
        head.present(database, SIGNER, text)
    return head.frozen(store.database)


def recover(store: Store) -> int:
    with store.transaction() as database:
        return head.recover(database, SIGNER, NOW)


# what a head says


def test_a_head_names_the_last_row_and_is_signed(store: Store) -> None:
    read = head.read(sign(store), SIGNER)
    assert (read.number, read.hash) == chain.head(store.database, "ledger") == (2, rows(store)[-1]["hash"])
    with pytest.raises(WireError, match="expected one that this agent signed, another came"):
        head.read(sign(store), OTHER)


def test_the_totals_are_sealed_and_nobody_without_the_key_can_read_or_compare_them(store: Store) -> None:
    reserve(store, "b", 1, population="a secret population")
    first, again = json.loads(sign(store)), json.loads(sign(store))
    assert first["accounts"] != again["accounts"]
    assert sorted(first) == ["accounts", "hash", "number", "signature"]
    assert not [word for word in ("secret", "population", "training") if word in first["accounts"]]
    assert head._unseal(first["accounts"], SIGNER) == head._unseal(again["accounts"], SIGNER)
    with pytest.raises(AssertionError):
        head._unseal(first["accounts"], OTHER)


def test_the_totals_are_those_of_every_account_with_open_runs_in_full(store: Store) -> None:
    reserve(store, "b", curves={HELD_OUT: CURVE}, period="2026")
    sealed, _ = head._unseal(json.loads(sign(store))["accounts"], SIGNER)
    wanted = [(account(store, HELD_OUT, period="2026"), "p", HELD_OUT, "2026"), (account(store), "p", TRAINING, "")]
    assert sealed == [
        (population, part, period, have.order, have.total[have.order or 0]) for have, population, part, period in wanted
    ]
    assert sealed[1][4] == pytest.approx(5 * CURVE[sealed[1][3]])


def spoilt() -> list[str]:
    fields = {"number": 9, "hash": "0" * 64, "accounts": "AAAA", "signature": SIGNER.sign(b"something else")}
    nonsense: list[object] = [1, 1.5, None, True, "text", [], {}, [1], {"number": 9}]
    return [
        "", "{", "\x00", "9" * 5000, "[" * 100_000, '"\ud800"', *map(json.dumps, nonsense), json.dumps(fields),
        *(json.dumps({**fields, name: value}) for name in fields for value in nonsense),
    ]  # fmt: skip


@pytest.mark.parametrize("text", spoilt())
def test_garbage_is_no_head_and_freezes_nothing(store: Store, text: str) -> None:
    with pytest.raises(WireError, match="expected one that this agent signed, another came"):
        present(store, text)
    assert not head.frozen(store.database)


def test_a_head_of_another_municipality_is_no_head_and_freezes_nothing(store: Store, backup: Store) -> None:
    spend(store, "a", 2)
    with pytest.raises(WireError):
        present(backup, head.sign(store.database, OTHER, NOW))
    assert not head.frozen(backup.database)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"number":2', '"number":3'),
        lambda text: text.replace('"number":2', '"number":2.0'),
        lambda text: text.replace('"hash":"', '"hash":"0'),
        lambda text: text.replace('"accounts":"', '"accounts":"A'),
        lambda text: text.replace("{", '{"also":"a word that nobody signed",'),
        lambda text: text.replace(",", ", "),
        lambda text: text + " ",
        lambda text: text[:-3] + chr(ord(text[-3]) + 1) + '"}',
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
    ],
)
def test_a_head_has_one_text_and_any_other_is_none(store: Store, change: Callable[[str], str]) -> None:
    text = sign(store)
    assert change(text) != text
    with pytest.raises(WireError):
        present(store, change(text))


# what freezes


def test_heads_that_the_chain_knows_freeze_nothing(store: Store) -> None:
    heads = [sign(store)]
    for number in (2, 3, 4):
        spend(store, "a", number)
        heads.append(sign(store))
    assert not any(present(store, text) for text in heads)


def test_the_head_of_an_empty_ledger_freezes_nothing(tmp_path: Path, store: Store) -> None:
    empty = Store(tmp_path / "empty.sqlite", durable=False)
    assert not present(store, sign(empty))
    assert not present(empty, sign(empty))
    empty.close()


def test_a_later_head_freezes_an_older_copy(store: Store, backup: Store) -> None:
    assert not present(backup, sign(store))
    spend(store, "a", 2)
    assert present(backup, sign(store))
    assert present(backup, sign(backup))  # and a known one does not thaw it
    assert not head.frozen(store.database)


def test_a_head_of_a_fork_freezes_though_its_number_is_known(store: Store, backup: Store) -> None:
    spend(store, "a", 2)
    spend(backup, "a", 3)
    assert present(backup, sign(store))
    assert present(store, sign(backup))


def test_nothing_is_recovered_where_nothing_is_frozen(store: Store) -> None:
    with pytest.raises(LedgerError, match="expected a frozen account, none is; there is nothing to do"):
        recover(store)
    assert kinds(store) == ["reserve", "spend"]


# what recovery charges


def closed_after_spending(store: Store) -> None:
    for number in (2, 3):
        spend(store, "a", number)
    free(store, "a")


def twice(store: Store) -> None:
    closed_after_spending(store)
    reserve(store, "b", 4)
    spend(store, "b", 1)


LATER: dict[str, Step] = {
    "the open run went on": lambda store: spend(store, "a", 2),
    "the open run was closed": closed_after_spending,
    "a new run is open": lambda store: reserve(store, "b", 5),
    "a run was closed and another is open": twice,
    "a new population": lambda store: reserve(store, "b", 5, population="q"),
    "a new period": lambda store: reserve(store, "b", 5, period="2026"),
    "the held-out part": lambda store: reserve(store, "b", curves={HELD_OUT: CURVE, TRAINING: CURVE}),
}


@pytest.mark.parametrize("step", LATER.values(), ids=LATER)
def test_afterwards_each_account_is_at_least_what_it_was_when_the_head_was_signed(
    store: Store, backup: Store, step: Step
) -> None:
    step(store)
    assert present(backup, sign(store))
    recover(backup)
    for population, part, period in ledger.accounts(store.database):
        was = ledger.account(store.database, population, part, NOW, period)
        now = ledger.account(backup.database, population, part, NOW, period)
        assert was.order is not None
        assert now.order == was.order
        assert now.spent[was.order] >= was.total[was.order] * (1 - 1e-12)
    assert chain.verify(backup.database, "ledger")[0] > chain.head(store.database, "ledger")[0]


@pytest.mark.parametrize("step", LATER.values(), ids=LATER)
def test_it_thaws_and_the_same_head_and_those_before_it_freeze_no_more(store: Store, backup: Store, step: Step) -> None:
    heads = []
    for number in range(2, 4):
        spend(store, "a", number)
        heads.append(sign(store))
    step(store)
    heads.append(sign(store))
    present(backup, heads[-1])
    recover(backup)
    assert not head.frozen(backup.database)
    assert not any(present(backup, text) for text in (*heads, sign(backup)))


def test_every_open_run_is_charged_in_full_and_ended_also_where_nothing_else_is_missing(
    store: Store, backup: Store
) -> None:
    reserve(backup, "b", curves={HELD_OUT: 2 * CURVE})
    closed_after_spending(store)
    present(backup, sign(store))
    assert recover(backup) == 0
    assert kinds(backup)[3:] == ["charge", "free", "charge", "free", "recover"]
    np.testing.assert_allclose(account(backup).spent, 5 * CURVE)
    np.testing.assert_allclose(account(backup, HELD_OUT).spent, 2 * CURVE)
    for federation, part in (("a", TRAINING), ("b", HELD_OUT)):
        with pytest.raises(LedgerError, match="open reservation"):
            spend(backup, federation, 9)
        with pytest.raises(LedgerError, match="a run reserves once"):
            reserve(backup, federation, 1, part=part)


def test_what_is_missing_is_charged_once_and_the_rest_can_still_be_used(store: Store, backup: Store) -> None:
    twice(store)  # three rounds spent and four reserved
    present(backup, sign(store))
    assert recover(backup) == 1
    order = account(store).order
    assert order is not None
    assert account(backup).total[order] == pytest.approx(7 * CURVE[order])
    assert total(backup) == pytest.approx(epsilons(7 * CURVE, DELTA)[order])
    assert not reserve(backup, "c", 4)
    assert reserve(backup, "c", 2)
    assert total(backup) < CAP


def test_a_run_without_privacy_is_charged_without_a_warning(store: Store, backup: Store) -> None:
    reserve(backup, "b", curves={HELD_OUT: rdp_curve(EXACT)}, budget=LIMITLESS)
    with backup.transaction() as database:
        spending = ledger.Spending(
            federation="b", part=HELD_OUT, server_round=1, kind="evaluate", event=EXACT, curve=rdp_curve(EXACT)
        )
        ledger.spend(database, spending, NOW)
    spend(store, "a", 2)
    present(backup, sign(store))
    recover(backup)
    assert total(backup, HELD_OUT) == np.inf


def test_an_account_that_the_copy_held_to_another_order_has_no_room_left(store: Store, backup: Store) -> None:
    # The copy knows nothing of population q and pins another order for it than the lost rows had.
    reserve(store, "b", 4, population="q")
    with backup.transaction() as database:
        curve = np.full_like(CURVE, np.inf)
        curve[3] = 0.0
        ledger.record(database, NOW, "charge", population="q", part=TRAINING, detail={"order": 3}, curve=curve)
    present(backup, sign(store))
    recover(backup)
    assert account(backup, population="q").order == 3
    assert not reserve(backup, "c", curves={TRAINING: CURVE / 1000}, population="q")


def test_of_several_heads_the_largest_totals_count(store: Store, backup: Store) -> None:
    heads = []
    for number in (2, 3):
        spend(store, "a", number)
        heads.append(sign(store))
    reserve(store, "b", 3)
    heads.append(sign(store))
    for text in heads:
        assert present(backup, text)
    recover(backup)
    assert epsilon(account(backup).spent, BUDGET.delta) >= total(store)
    assert rows(backup)[-1]["number"] > 5


# a copy that had gone on before anybody noticed


def test_a_fork_that_was_recovered_is_frozen_again_only_by_what_came_later(store: Store, backup: Store) -> None:
    heads = []
    for number in (2, 3, 4):
        spend(store, "a", number)
        heads.append(sign(store))
    for number in (7, 8):
        spend(backup, "a", number)
    assert present(backup, heads[0])
    recover(backup)
    assert not present(backup, heads[0])
    # The copy has another row of this number, but up to it everything was charged.
    assert present(backup, heads[2])
    recover(backup)
    assert not any(present(backup, text) for text in heads)
    assert not present(backup, sign(backup))
    assert account(backup).spent[0] >= 5 * CURVE[0]


def test_a_copy_that_is_restored_again_after_a_recovery_is_noticed_again(store: Store, backup: Store) -> None:
    spend(store, "a", 2)
    present(backup, sign(store))
    recover(backup)
    reserve(backup, "b", 1)
    later = sign(backup)
    assert present(store, later)  # which is what the machine would be if the first copy came back
    recover(store)
    assert not present(store, later)
