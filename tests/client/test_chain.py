"""No row can be changed, removed, put in between or reordered without the chain showing it."""

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import chain
from client.chain import GENESIS, RECOVER, check, link
from client.ledger import record
from client.store import Store
from faelles.errors import LedgerError
from tests.books import CURVE, NOW, rows

BROKEN = r"row \d+: expected it to continue the chain, it was changed or one is missing; restore the newest backup"
CELLS = st.one_of(st.text(max_size=5), st.integers(-5, 9), st.none(), st.binary(max_size=4), st.floats(allow_nan=False))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.sqlite", durable=False)
    with opened.transaction() as database:
        for number in range(5):
            record(database, NOW, "reserve", federation=f"f{number}", detail={"æ": number}, curve=number * CURVE)
    yield opened
    opened.close()


def test_rows_are_numbered_from_one_and_each_continues_the_one_before(store: Store) -> None:
    chained = rows(store)
    assert [row["number"] for row in chained] == [1, 2, 3, 4, 5]
    previous = GENESIS
    for row in chained:
        assert row["hash"] == link(previous, {name: value for name, value in row.items() if name != "hash"})
        previous = row["hash"]
    assert chain.verify(store.database, "ledger") == chain.head(store.database, "ledger") == (5, previous)


def test_a_table_without_rows_has_a_head_too(store: Store) -> None:
    assert chain.verify(store.database, "journal") == chain.head(store.database, "journal") == (0, GENESIS)


@pytest.mark.parametrize("column", ["time", "kind", "population", "part", "period", "federation", "card", "detail"])
def test_every_column_is_covered(store: Store, column: str) -> None:
    chained = rows(store)
    chained[2][column] += "x"
    with pytest.raises(LedgerError, match=BROKEN):
        check(chained)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_any_cell_that_is_changed_is_noticed(store: Store, data: st.DataObject) -> None:
    chained = rows(store)
    row = data.draw(st.sampled_from(chained))
    column = data.draw(st.sampled_from(sorted(row)))
    value = data.draw(CELLS.filter(lambda cell: (type(cell), cell) != (type(row[column]), row[column])))
    row[column] = value
    with pytest.raises(LedgerError, match=BROKEN):
        check(chained)


def test_a_blob_is_not_told_by_a_text_that_says_its_digest(store: Store) -> None:
    chained = rows(store)
    chained[2]["curve"] = hashlib.sha256(chained[2]["curve"]).hexdigest()
    with pytest.raises(LedgerError, match=BROKEN):
        check(chained)


@pytest.mark.parametrize("missing", range(4))
def test_a_row_that_is_missing_is_noticed_unless_it_was_the_last(store: Store, missing: int) -> None:
    chained = rows(store)
    del chained[missing]
    with pytest.raises(LedgerError, match=BROKEN):
        check(chained)
    assert check(rows(store)[:-1])[0] == 4  # which is what a signed head is for


@pytest.mark.parametrize("change", ["swapped", "doubled", "more", "fewer"])
def test_rows_in_another_order_or_of_another_form_are_noticed(store: Store, change: str) -> None:
    chained: list[dict[str, Any]] = rows(store)
    if change == "swapped":
        chained[1], chained[2] = chained[2], chained[1]
    elif change == "doubled":
        chained.insert(2, chained[1])
    elif change == "more":
        chained[1]["extra"] = None
    else:
        del chained[1]["period"]
    with pytest.raises(LedgerError, match=BROKEN):
        check(chained)


def test_a_chain_can_be_followed_from_any_row_whose_hash_is_known(store: Store) -> None:
    chained = rows(store)
    assert check(chained[3:], 3, chained[2]["hash"]) == (5, chained[4]["hash"])
    for number, previous in ((3, chained[1]["hash"]), (2, chained[2]["hash"]), (0, GENESIS)):
        with pytest.raises(LedgerError, match=BROKEN):
            check(chained[3:], number, previous)


# numbers go on higher after a recovery only


def test_numbers_go_on_higher_after_a_recovery(store: Store) -> None:
    with store.transaction() as database:
        assert record(database, NOW, RECOVER, above=11) == 12
        assert record(database, NOW, "reserve") == 13
        assert record(database, NOW, RECOVER, above=3) == 14
    assert chain.verify(store.database, "ledger")[0] == 14


def test_no_other_row_may_leave_a_gap(store: Store) -> None:
    with store.transaction() as database:
        record(database, NOW, "reserve", above=11)
    with pytest.raises(LedgerError, match=BROKEN):
        chain.verify(store.database, "ledger")


def test_a_recovery_hides_no_row_before_it(store: Store) -> None:
    with store.transaction() as database:
        record(database, NOW, RECOVER, above=11)
    chained = rows(store)
    del chained[4]
    with pytest.raises(LedgerError, match=BROKEN):
        check(chained)


def test_what_a_broken_transaction_appended_is_no_link(store: Store) -> None:
    before = chain.head(store.database, "ledger")
    store.database.execute("CREATE TRIGGER full AFTER INSERT ON journal BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        _both(store)
    assert chain.head(store.database, "ledger") == before


def _both(store: Store) -> None:
    with store.transaction() as database:
        record(database, NOW, "reserve")
        chain.append(database, "journal", {
            "time": "", "outcome": "", "recipient": "", "kind": "", "bytes": 0, "sha256": "", "epsilon": None,
            "delta": None, "epsilon_after": None, "card": "", "federation": "", "server_round": 0, "approval": 0,
        })  # fmt: skip
