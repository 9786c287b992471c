"""The same question gets the very same bytes, and a round that is over cannot be had again."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import outbox
from client.outbox import Kept
from client.store import Store


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    store = Store(tmp_path / "agent.sqlite", durable=False)
    yield store.database
    store.close()


def put(
    database: sqlite3.Connection,
    server_round: int,
    kind: str = "train",
    federation: str = "f",
    state: bytes | None = None,
) -> None:
    place = (federation, server_round, kind)
    outbox.put(database, place, f"request {server_round}", b"answer %d" % server_round, state)


def test_what_was_answered_is_found_by_run_round_and_kind(database: sqlite3.Connection) -> None:
    put(database, 2)
    assert outbox.find(database, "f", 2, "train") == Kept(request="request 2", answer=b"answer 2")
    for place in (("g", 2, "train"), ("f", 1, "train"), ("f", 2, "evaluate")):
        assert outbox.find(database, *place) is None


def test_an_answer_cannot_be_written_twice(database: sqlite3.Connection) -> None:
    put(database, 1)
    with pytest.raises(sqlite3.IntegrityError):
        outbox.put(database, ("f", 1, "train"), "request 1", b"another answer", None)
    assert outbox.find(database, "f", 1, "train") == Kept(request="request 1", answer=b"answer 1")


def test_the_bytes_are_kept_for_two_rounds_and_what_was_asked_for_good(database: sqlite3.Connection) -> None:
    for number in range(1, 5):
        put(database, number)
    put(database, 9, federation="g")
    kept = [outbox.find(database, "f", number, "train") for number in range(1, 5)]
    assert [one and one.answer for one in kept] == [None, None, b"answer 3", b"answer 4"]
    assert [one and one.request for one in kept] == [f"request {number}" for number in range(1, 5)]


def test_the_last_round_is_counted_by_run_and_kind(database: sqlite3.Connection) -> None:
    assert outbox.last_round(database, "f", "train") == 0
    for number in (2, 5, 3):
        put(database, number)
    put(database, 7, federation="g")
    put(database, 6, kind="evaluate")
    assert outbox.last_round(database, "f", "train") == 5
    assert outbox.last_round(database, "f", "evaluate") == 6
    assert outbox.last_round(database, "g", "evaluate") == 0


def test_the_local_state_of_a_round_is_read_by_later_rounds_only(database: sqlite3.Connection) -> None:
    for number in range(1, 5):
        put(database, number, state=b"state %d" % number)
    # Round 1 is over for good: nothing that is asked from now on may read what it made.
    found = [outbox.local_state(database, "f", before) for before in range(1, 6)]
    assert found == [None, None, b"state 2", b"state 3", b"state 4"]
    assert outbox.local_state(database, "g", 9) is None


def test_a_round_without_local_parameters_keeps_no_state(database: sqlite3.Connection) -> None:
    put(database, 1, state=b"state 1")
    put(database, 2)
    assert outbox.local_state(database, "f", 3) == b"state 1"


def test_a_finished_model_takes_the_place_of_an_earlier_one_of_its_run(database: sqlite3.Connection) -> None:
    assert outbox.model(database, "f") is None
    outbox.keep_model(database, "g", "d" * 64, b"other", "2026-01-01T00:00:00Z")
    outbox.keep_model(database, "f", "c" * 64, b"first", "2026-02-01T00:00:00Z")
    outbox.keep_model(database, "f", "c" * 64, b"second", "2026-03-01T00:00:00Z")
    assert outbox.model(database, "f") == b"second"
    assert outbox.models(database) == [
        ("g", "d" * 64, "2026-01-01T00:00:00Z"),
        ("f", "c" * 64, "2026-03-01T00:00:00Z"),
    ]
