"""The store forgets nothing, writes all of an answer or nothing of it, and is its owner's alone."""

import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from client import journal, ledger, outbox
from client.journal import CLEARED, Line
from client.ledger import TRAINING
from client.migrations import VERSION
from client.store import Store
from faelles.errors import LedgerError
from tests.books import CURVE, NOW, kinds, reserve, rows, spend, spending

HOLD = "import sys, pathlib, client.store as s; s.Store(pathlib.Path(sys.argv[1])); print('open', flush=True); input()"
LINE = Line(outcome=CLEARED, recipient="coordinator", kind="train", federation="f", server_round=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    reserve(opened, "f", 5)
    yield opened
    opened.close()


def commit(store: Store, server_round: int, state: bytes | None = b"state", line: Line = LINE) -> None:
    """Spend, keep and journal in one transaction, as the node does."""
    with store.transaction() as database:
        ledger.spend(database, spending("f", server_round), NOW)
        outbox.put(database, ("f", server_round, "train"), "request", b"answer", state)
        journal.write(database, line, NOW)


def tampered(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path)
    with database:
        for statement in statements:
            database.execute(statement)
    database.close()


# whose it is


def test_only_the_owner_can_read_the_file_and_what_lies_beside_it(store: Store, path: Path) -> None:
    commit(store, 1)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert {path.name, f"{path.name}.lock", f"{path.name}-wal"} <= set(modes)
    assert set(modes.values()) == {0o600}


def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    path.touch(mode=0o644)
    Store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_store_draws_its_own_key_and_keeps_it(tmp_path: Path) -> None:
    first = Store(tmp_path / "a.sqlite")
    other = Store(tmp_path / "b.sqlite")
    key = first.key
    first.close()
    again = Store(tmp_path / "a.sqlite", key=b"another")
    assert len(key) == 32
    assert again.key == key != other.key
    again.close()
    other.close()


def test_a_second_agent_is_refused_until_the_first_has_closed(store: Store, path: Path) -> None:
    with pytest.raises(LedgerError, match="expected no other agent on this store, one is running; stop it first"):
        Store(path)
    store.close()
    Store(path).close()


def test_commands_work_beside_the_agent(store: Store, path: Path) -> None:
    beside = Store(path, serving=False)
    reserve(beside, "g", 1)
    commit(store, 1)
    assert kinds(store) == kinds(beside) == ["reserve", "reserve", "spend"]
    beside.close()
    with pytest.raises(LedgerError, match="one is running"):
        Store(path)


def test_the_death_of_an_agent_lets_the_next_one_serve(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(LedgerError, match="one is running"):
            Store(path)
        process.send_signal(signal.SIGKILL)
    Store(path).close()


# what a transaction holds


def test_all_of_it_is_there_after_reopening(store: Store, path: Path) -> None:
    commit(store, 1)
    with store.transaction() as database:
        outbox.keep_model(database, "f", "c", b"model", "2026")
    store.close()
    again = Store(path)
    held = ledger.reservation(again.database, "f", TRAINING)
    assert held is not None
    assert (held.population, held.terms, held.freed) == ("p", "{}", False)
    np.testing.assert_array_equal(held.curve, 5 * CURVE)
    np.testing.assert_array_equal(ledger.spent(again.database, "f", TRAINING), CURVE)
    assert outbox.find(again.database, "f", 1, "train") == outbox.Kept(request="request", answer=b"answer")
    assert outbox.local_state(again.database, "f", 2) == b"state"
    assert outbox.model(again.database, "f") == b"model"
    assert [line["outcome"] for line in journal.lines(again.database)] == [CLEARED]
    again.close()


@pytest.mark.parametrize(
    "broken",
    [
        lambda store: commit(store, 1, line=object()),  # type: ignore[arg-type]  # what cannot be written
        lambda store: commit(store, 1, state=object()),  # type: ignore[arg-type]  # nor this
        lambda store: commit(store, 1, line=Line(outcome=CLEARED, recipient=None, kind="train")),  # type: ignore[arg-type]  # nor this
    ],
)
def test_a_failure_inside_a_transaction_leaves_nothing(store: Store, broken: Callable[[Store], None]) -> None:
    # Each fails where the last but one or the last is written, the others being there already.
    before = rows(store)
    with pytest.raises((sqlite3.Error, TypeError)):
        broken(store)
    assert rows(store) == before
    assert outbox.find(store.database, "f", 1, "train") is None
    assert outbox.local_state(store.database, "f", 9) is None
    assert not rows(store, "journal")
    commit(store, 1)  # and the store goes on
    assert ledger.rounds_spent(store.database, "f", TRAINING) == 1


def test_a_transaction_that_cannot_be_written_at_its_end_is_not_there_and_the_store_goes_on(store: Store) -> None:
    # A constraint that is looked at last of all stands for a disk that is full.
    store.database.execute("PRAGMA foreign_keys = ON")
    store.database.execute("CREATE TABLE one (id INTEGER PRIMARY KEY)")
    store.database.execute("CREATE TABLE two (id INTEGER REFERENCES one DEFERRABLE INITIALLY DEFERRED)")
    store.database.execute("CREATE TRIGGER late AFTER INSERT ON ledger BEGIN INSERT INTO two VALUES (7); END")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        spend(store, "f", 1)
    store.database.execute("DROP TRIGGER late")
    assert kinds(store) == ["reserve"]
    commit(store, 1)
    assert kinds(store) == ["reserve", "spend"]


def test_no_other_process_can_write_between_the_look_and_the_writing(store: Store, path: Path) -> None:
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    with store.transaction(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_what_is_read_beside_a_transaction_is_what_was_there_before_it(store: Store, path: Path) -> None:
    beside = Store(path, serving=False)
    with store.transaction() as database:
        ledger.spend(database, spending("f", 1), NOW)
        assert kinds(beside) == ["reserve"]
    assert kinds(beside) == ["reserve", "spend"]
    beside.close()


# what cannot be trusted


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET federation = 'g' WHERE number = 2",
        "UPDATE ledger SET curve = zeroblob(8) WHERE number = 1",
        "DELETE FROM ledger WHERE number = 1",
        "DELETE FROM ledger WHERE number = 2",
        "UPDATE ledger SET number = 9 WHERE number = 3",
        "UPDATE journal SET bytes = 1 WHERE number = 1",
        "DELETE FROM journal WHERE number = 1",
        "DROP TABLE ledger",
        "PRAGMA user_version = 0",
    ],
)
def test_a_store_that_was_changed_does_not_open(store: Store, path: Path, statement: str) -> None:
    commit(store, 1)
    commit(store, 2)
    store.close()
    tampered(path, statement)
    with pytest.raises(LedgerError, match=r"agent\.sqlite: .*restore the newest backup and run `faelles-agent ledger"):
        Store(path)
    with pytest.raises(LedgerError) as caught:  # nor did the attempt leave a lock behind
        Store(path)
    assert "genskab den nyeste sikkerhedskopi" in caught.value.text("da")


@pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\x00" + bytes(4096), bytes(8192)])
def test_a_file_that_is_no_store_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"agent\.sqlite: expected the agent's store, it cannot be read as one"):
        Store(path)
    assert path.read_bytes() == content


def test_a_folder_is_no_store_and_stays_as_open_as_it_was(path: Path) -> None:
    path.mkdir(mode=0o755)
    with pytest.raises(LedgerError, match="cannot be read as one"):
        Store(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"expected a folder that can be written, no such file or directory"):
        Store(tmp_path / "absent" / "agent.sqlite")


def test_a_file_of_a_newer_version_is_left_alone(store: Store, path: Path) -> None:
    store.close()
    tampered(path, f"PRAGMA user_version = {VERSION + 1}")
    wanted = rf"agent\.sqlite: expected a store of version {VERSION} or older, it is {VERSION + 1}; upgrade the agent"
    with pytest.raises(LedgerError, match=wanted):
        Store(path)


def test_a_spend_is_on_disk_before_the_transaction_ends(store: Store, path: Path) -> None:
    spend(store, "f", 1)
    copy = path.with_name("copy.sqlite")
    for ending in ("", "-wal"):
        Path(f"{copy}{ending}").write_bytes(Path(f"{path}{ending}").read_bytes())
    again = Store(copy)
    assert kinds(again) == ["reserve", "spend"]
    again.close()


@pytest.mark.parametrize("change", ["DROP TABLE freeze", "ALTER TABLE freeze RENAME TO thaw", "CREATE TABLE more (x)"])
def test_a_store_with_other_tables_is_noticed(path: Path, change: str) -> None:
    Store(path).close()
    database = sqlite3.connect(path)
    database.execute(change)
    database.close()
    with pytest.raises(LedgerError, match="expected the tables of this version, others are there"):
        Store(path)
