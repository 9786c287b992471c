"""A line for each thing that left, and an export that anybody can check and nobody can change."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import chain, journal
from client.journal import CLEARED, REFUSED, RESENT, Line, export, left_before, lines, verify_export, write
from client.keys import Signer
from client.ledger import moment
from client.store import Store
from faelles.errors import LedgerError
from tests.books import NOW, SEED

SIGNER = Signer.from_seed(SEED)
LINE = Line(
    outcome=CLEARED, recipient="coordinator", kind="train", bytes=120, sha256="ab" * 32, card="cd" * 32,
    federation="f", server_round=1, approval=2,
).costing(0.25, 0.5, 1e-5)  # fmt: skip
HOURS = 5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.sqlite", durable=False)
    with opened.transaction() as database:
        for hour in range(HOURS):
            number = Line(outcome=REFUSED + "not-ready", recipient="kommunen Ærø", kind="train", server_round=hour)
            write(database, LINE if hour == 1 else number, NOW + timedelta(hours=hour))
    yield opened
    opened.close()


def exported(store: Store, since: str = "") -> list[str]:
    return list(export(store.database, SIGNER, since))


def test_a_line_says_what_left_to_whom_and_at_what_cost(store: Store) -> None:
    line = list(lines(store.database))[1]
    assert {name: line[name] for name in asdict(LINE)} == asdict(LINE)
    assert (line["number"], line["time"]) == (2, "2026-05-04T13:00:00Z")
    assert (LINE.epsilon, LINE.epsilon_after, LINE.delta) == (0.25, 0.5, 1e-5)
    refused = next(lines(store.database))
    assert (refused["epsilon"], refused["epsilon_after"], refused["delta"], refused["sha256"]) == (None, None, None, "")


def test_lines_are_read_from_a_time_on(store: Store) -> None:
    for hour in range(HOURS):
        since = moment(NOW + timedelta(hours=hour))
        assert [line["number"] for line in lines(store.database, since)] == list(range(hour + 1, HOURS + 1))
    assert not list(lines(store.database, "2027"))
    assert len(list(lines(store.database, "2026-05-04"))) == HOURS


def test_no_line_is_left_out_where_a_clock_was_set_back(store: Store) -> None:
    with store.transaction() as database:
        write(database, LINE, NOW - timedelta(days=1))
        write(database, LINE, NOW + timedelta(days=1))
    since = moment(NOW + timedelta(hours=3))
    assert [line["number"] for line in lines(store.database, since)] == [4, 5, 6, 7]
    assert verify_export(exported(store, since))[0] == 4


def test_bytes_have_left_before_only_where_the_same_were_cleared_for_the_same_request(store: Store) -> None:
    assert left_before(store.database, LINE)
    for change in ({"sha256": "00" * 32}, {"federation": "g"}, {"server_round": 2}, {"kind": "evaluate"}):
        assert not left_before(store.database, Line(**(asdict(LINE) | change)))
    for outcome in (RESENT, REFUSED + "failed", journal.BLOCKED):
        other = Line(**(asdict(LINE) | {"outcome": outcome, "server_round": 9}))
        with store.transaction() as database:
            write(database, other, NOW)
        assert not left_before(store.database, other)


# export


@pytest.mark.parametrize("hour", range(HOURS + 1))
def test_an_export_is_checked_without_the_store(store: Store, hour: int) -> None:
    texts = exported(store, moment(NOW + timedelta(hours=hour)))
    assert verify_export(texts) == (HOURS - hour, SIGNER.public)
    assert verify_export(f"{text}\n" for text in texts) == (HOURS - hour, SIGNER.public)
    assert len(texts) == HOURS - hour + 2
    assert json.loads(texts[0]) == {"journal": 1, "after": hour, "hash": json.loads(texts[0])["hash"]}


def test_the_export_of_an_empty_journal_is_checked_too(tmp_path: Path) -> None:
    empty = Store(tmp_path / "empty.sqlite", durable=False)
    assert verify_export(export(empty.database, SIGNER)) == (0, SIGNER.public)
    empty.close()


def test_what_is_written_while_an_export_is_read_does_not_spoil_it(store: Store) -> None:
    texts = export(store.database, SIGNER)
    read = [next(texts)]
    with store.transaction() as database:
        write(database, LINE, NOW)
    assert verify_export([*read, *texts]) == (HOURS, SIGNER.public)


def test_an_export_can_be_compared_with_the_store_by_its_last_hash(store: Store) -> None:
    end = json.loads(exported(store)[-1])
    assert (end["rows"], end["hash"]) == chain.head(store.database, "journal")


def test_an_export_that_somebody_else_signs_bears_another_key(store: Store) -> None:
    other = Signer.from_seed(SEED[::-1])
    assert verify_export(export(store.database, other)) == (HOURS, other.public)


def fails(texts: list[str]) -> None:
    with pytest.raises(LedgerError, match="expected an export as it was written, this one was changed or cut"):
        verify_export(texts)


@pytest.mark.parametrize("since", ["", moment(NOW + timedelta(hours=2))])
def test_a_line_that_is_cut_doubled_or_moved_is_noticed(store: Store, since: str) -> None:
    texts = exported(store, since)
    for place in range(len(texts)):
        fails(texts[:place] + texts[place + 1 :])
        fails(texts[: place + 1] + texts[place:])
        if place:
            fails([*texts[: place - 1], texts[place], texts[place - 1], *texts[place + 1 :]])


def test_lines_cannot_be_cut_off_at_either_end_by_writing_a_new_start_or_end(store: Store) -> None:
    texts = exported(store)
    later, earlier = exported(store, moment(NOW + timedelta(hours=2))), texts[:4]
    fails([later[0], *texts[3:]])
    fails([*texts[:1], *later[1:]])
    last = json.loads(earlier[-1])
    end = json.loads(texts[-1]) | {"rows": last["number"], "hash": last["hash"]}
    fails([*earlier, json.dumps(end, sort_keys=True, separators=(",", ":"))])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("{", '{"also":1,', 1),
        lambda text: text.replace(":", ": ", 1),
        lambda text: " " + text,
        lambda text: text + " ",
        lambda text: text.replace('"hash"', '"h\\u0061sh"'),
        lambda text: text.replace("{", '{"hash":"0",', 1),
        lambda text: "null",
        lambda text: "[]",
        lambda text: "",
        lambda text: "\ud800",
    ],
)
@pytest.mark.parametrize("place", [0, 2, -1])
def test_a_line_that_reads_otherwise_is_noticed(store: Store, change: Callable[[str], str], place: int) -> None:
    texts = exported(store)
    texts[place] = change(texts[place])
    fails(texts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_any_letter_that_is_changed_is_noticed(store: Store, data: st.DataObject) -> None:
    texts = exported(store)
    line = data.draw(st.integers(0, len(texts) - 1))
    place = data.draw(st.integers(0, len(texts[line]) - 1))
    letter = data.draw(st.characters(codec="utf-8", exclude_characters=texts[line][place] + "\r\n"))
    texts[line] = texts[line][:place] + letter + texts[line][place + 1 :]
    fails(texts)


@pytest.mark.parametrize("texts", [[], [""], ["{}"], ["{}", "{}"], ["[" * 100_000] * 2, ["\x00", "\xff"]])
def test_what_is_no_export_is_refused(texts: list[str]) -> None:
    fails(texts)
