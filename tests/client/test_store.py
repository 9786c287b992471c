"""The store forgets nothing, writes all of an answer or nothing of it, and is its owner's alone."""

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.store import Reservation, Spending, Store
from faelles.errors import DataError, RunError
from faelles.privacy.accountant import Event, rdp_curve

EVENT = Event(sampling_rate=0.5, noise_multiplier=2.0, steps=3)
CURVE = rdp_curve(EVENT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    assert opened.reserve([reservation()], lambda: True)
    yield opened
    opened.close()


def reservation(federation: str = "f", part: str = "training") -> Reservation:
    return Reservation(federation=federation, part=part, population="p", card_sha256="c", terms="{}", curve=5 * CURVE)


def spending(server_round: int, kind: str = "train", federation: str = "f") -> Spending:
    return Spending(
        population="p",
        part="training",
        federation=federation,
        server_round=server_round,
        kind=kind,
        event=EVENT,
        curve=CURVE,
    )


def test_only_the_owner_can_read_the_file_and_what_sqlite_puts_beside_it(store: Store, path: Path) -> None:
    store.commit(spending(1), "request", b"answer")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert path.name in modes
    assert set(modes.values()) == {0o600}


def test_more_than_was_reserved_cannot_be_spent_and_leaves_no_trace(store: Store) -> None:
    for number in range(1, 6):
        store.commit(spending(number), "request", b"answer")
    with pytest.raises(RunError, match="no more than was reserved"):
        store.commit(spending(6), "request", b"answer")
    assert store.answer("f", 6, "train") is None
    np.testing.assert_allclose(store.spent("f", "training"), 5 * CURVE)


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


def test_all_of_it_is_there_after_reopening(store: Store, path: Path) -> None:
    store.commit(spending(1), "request", b"answer", b"state")
    store.keep_model("f", "c", b"model")
    store.close()
    again = Store(path)
    kept = again.reservation("f", "training")
    assert kept is not None
    assert (kept.population, kept.card_sha256, kept.terms, kept.open) == ("p", "c", "{}", True)
    np.testing.assert_array_equal(kept.curve, 5 * CURVE)
    np.testing.assert_array_equal(again.spent("f", "training"), CURVE)
    assert again.answer("f", 1, "train") == ("request", b"answer")
    assert again.local_state("f", 2) == b"state"
    assert again.model("f") == b"model"
    again.close()


def test_a_failure_inside_a_commit_leaves_nothing(store: Store) -> None:
    # SQLite cannot hold an object: it fails where the last of the three is written, the other two being there already.
    with pytest.raises(sqlite3.Error):
        store.commit(spending(1), "request", b"answer", object())  # type: ignore[arg-type]
    assert not store.spent("f", "training").any()
    assert store.answer("f", 1, "train") is None
    assert store.rounds_spent("f", "train") == 0
    assert store.local_state("f", 9) is None
    store.commit(spending(1), "request", b"answer", b"state")  # and the store goes on
    np.testing.assert_array_equal(store.spent("f", "training"), CURVE)


def test_an_answer_cannot_be_written_twice(store: Store) -> None:
    store.commit(spending(1), "request", b"answer")
    with pytest.raises(sqlite3.IntegrityError):
        store.commit(spending(1), "request", b"another answer")
    np.testing.assert_array_equal(store.spent("f", "training"), CURVE)
    assert store.answer("f", 1, "train") == ("request", b"answer")


@pytest.mark.parametrize("federation", ["f", "unknown"])
def test_nothing_is_spent_without_an_open_reservation(store: Store, federation: str) -> None:
    store.free("f")
    with pytest.raises(RunError, match="open reservation"):
        store.commit(spending(1, federation=federation), "request", b"answer")
    assert not store.spent(federation, "training").any()
    assert store.answer(federation, 1, "train") is None


def test_reservations_are_written_all_or_none(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.reserve([reservation("g"), reservation("f")], lambda: True)
    assert store.reservation("g", "training") is None
    assert not store.reserve([reservation("h")], lambda: False)
    assert store.reservation("h", "training") is None


def test_no_other_process_can_reserve_between_the_look_and_the_writing(store: Store, path: Path) -> None:
    other = sqlite3.connect(path, timeout=0, isolation_level=None)

    def fits() -> bool:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        return True

    assert store.reserve([reservation("g")], fits)
    other.close()


def test_answers_and_local_states_of_old_rounds_are_dropped(store: Store) -> None:
    for number in range(1, 5):
        store.commit(spending(number), f"request {number}", b"answer", b"state %d" % number)
    answers = [store.answer("f", number, "train") for number in range(1, 5)]
    # What was asked is remembered for good, so that no round can be had twice; the bytes for two rounds.
    assert answers == [("request 1", None), ("request 2", None), ("request 3", b"answer"), ("request 4", b"answer")]
    assert store.rounds_spent("f", "train") == store.last_round("f", "train") == 4
    assert [store.local_state("f", number) for number in (2, 3, 4, 5)] == [None, b"state 2", b"state 3", b"state 4"]


def test_rounds_are_counted_by_federation_and_kind(store: Store) -> None:
    store.reserve([reservation("g")], lambda: True)
    store.commit(spending(2), "request", b"answer")
    store.commit(spending(2, "evaluate"), "request", b"answer")
    store.commit(spending(7, federation="g"), "request", b"answer")
    assert (store.rounds_spent("f", "train"), store.last_round("f", "train")) == (1, 2)
    assert (store.rounds_spent("g", "train"), store.last_round("g", "train")) == (1, 7)
    assert (store.rounds_spent("g", "evaluate"), store.last_round("g", "evaluate")) == (0, 0)


def test_a_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    Store(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(DataError, match="expected a store of version 1, it is 2; upgrade the agent"):
        Store(path)
