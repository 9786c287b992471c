"""A store that an earlier version wrote goes on as if this one had written it."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client import chain, head, journal, ledger, outbox
from client.ledger import HELD_OUT, TRAINING, moment
from client.migrations import VERSION
from client.store import Store
from faelles.errors import LedgerError
from faelles.records import Code, Kind
from tests.books import NOW
from tests.builders import FEDERATION, OTHER_FEDERATION, Agent, build_policy, code_of, content_bytes, personal_card

CARD = personal_card()
RULES = build_policy(CARD, epsilon_cap=5.0)
VERSION_1 = """
CREATE TABLE secret (key BLOB NOT NULL);
CREATE TABLE reservation (
    federation TEXT NOT NULL, part TEXT NOT NULL, population TEXT NOT NULL, card TEXT NOT NULL, terms TEXT NOT NULL,
    curve BLOB NOT NULL, open INTEGER NOT NULL, PRIMARY KEY (federation, part));
CREATE TABLE event (
    id INTEGER PRIMARY KEY, population TEXT NOT NULL, part TEXT NOT NULL, federation TEXT NOT NULL,
    server_round INTEGER NOT NULL, kind TEXT NOT NULL, sampling_rate REAL NOT NULL, noise_multiplier REAL NOT NULL,
    steps INTEGER NOT NULL, curve BLOB NOT NULL);
CREATE TABLE outbox (
    federation TEXT NOT NULL, server_round INTEGER NOT NULL, kind TEXT NOT NULL, request TEXT NOT NULL,
    answer BLOB, PRIMARY KEY (federation, server_round, kind));
CREATE TABLE local_state (
    federation TEXT NOT NULL, server_round INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (federation, server_round));
CREATE TABLE model (federation TEXT PRIMARY KEY, card TEXT NOT NULL, parameters BLOB NOT NULL);
PRAGMA user_version = 1;
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Be an agent of this version with a closed run and an open one, in its third round."""
    (tmp_path / "new").mkdir()
    agent = Agent(tmp_path / "new", CARD, policy=RULES)
    agent.ready(federation=OTHER_FEDERATION)
    agent.train(1, federation=OTHER_FEDERATION)
    agent.ask(Kind.FINAL, 1, arrays=agent.start(), federation=OTHER_FEDERATION)
    agent.ask(Kind.CLOSE, 1, federation=OTHER_FEDERATION)
    agent.ready()
    for number in (1, 2, 3):
        agent.train(number)
    agent.ask(Kind.EVALUATE, 3, arrays=agent.start())
    yield agent
    agent.store.close()


@pytest.fixture
def path(agent: Agent, tmp_path: Path) -> Path:
    """Write what that agent's store holds as version 1 did."""
    (tmp_path / "old").mkdir()
    path = tmp_path / "old" / "0101.sqlite"
    database = sqlite3.connect(path)
    database.executescript(VERSION_1)
    new = agent.store.database
    runs = [(federation, part) for federation in (OTHER_FEDERATION, FEDERATION) for part in (TRAINING, HELD_OUT)]
    for one in filter(None, (ledger.reservation(new, *run) for run in runs)):
        database.execute(
            "INSERT INTO reservation VALUES (?, ?, ?, ?, ?, ?, ?)",
            (one.federation, one.part, one.population, one.card_sha256, one.terms, one.curve.tobytes(), not one.freed),
        )
    for row in new.execute("SELECT population, part, federation, detail, curve FROM ledger WHERE kind = 'spend'"):
        said = json.loads(row[3])
        names = ("round", "kind", "sampling_rate", "noise_multiplier", "steps")
        database.execute(
            "INSERT INTO event VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row[:3], *map(said.get, names), row[4])
        )
    for statement, rows in (
        ("INSERT INTO secret VALUES (?)", new.execute("SELECT key FROM secret")),
        ("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", new.execute("SELECT * FROM outbox")),
        ("INSERT INTO local_state VALUES (?, ?, ?)", new.execute("SELECT * FROM local_state")),
        ("INSERT INTO model VALUES (?, ?, ?)", new.execute("SELECT federation, card, parameters FROM model")),
    ):
        database.executemany(statement, rows)
    database.commit()
    database.close()
    return path


def test_the_accounts_are_the_same(agent: Agent, path: Path) -> None:
    migrated = Store(path)
    assert ledger.accounts(migrated.database) == ledger.accounts(agent.store.database)
    for part in (TRAINING, HELD_OUT):
        was, now = (ledger.account(one.database, "cyclists", part, NOW) for one in (agent.store, migrated))
        np.testing.assert_array_equal(now.spent, was.spent)
        np.testing.assert_array_equal(now.total, was.total)
        for federation in (FEDERATION, OTHER_FEDERATION):
            before, after = (ledger.reservation(one.database, federation, part) for one in (agent.store, migrated))
            assert before is not None
            assert after is not None
            np.testing.assert_array_equal(after.curve, before.curve)
            assert replace(after, curve=before.curve) == before
            assert ledger.rounds_spent(migrated.database, federation, part) == agent.releases(part, federation)
    assert chain.verify(migrated.database, "ledger")[0] == 2 * 2 + 5 + 2
    migrated.close()


def test_answers_local_states_models_and_key_are_the_same(agent: Agent, path: Path) -> None:
    migrated = Store(path)
    assert migrated.key == agent.store.key
    for number in (1, 2, 3):
        kept = [outbox.find(one.database, FEDERATION, number, Kind.TRAIN) for one in (agent.store, migrated)]
        assert kept[0] == kept[1] != None  # noqa: E711  # both, and not nothing
    states = [outbox.local_state(one.database, FEDERATION, 4) for one in (agent.store, migrated)]
    assert states[0] == states[1] != b""
    assert outbox.model(migrated.database, OTHER_FEDERATION) == outbox.model(agent.store.database, OTHER_FEDERATION)
    assert [one[:2] for one in outbox.models(migrated.database)] == [(OTHER_FEDERATION, CARD.sha256)]
    migrated.close()


def test_an_open_run_goes_on_and_its_kept_answers_are_sent_again(agent: Agent, path: Path) -> None:
    later = Agent(path.parent, CARD, policy=RULES, seed=8)
    for number in (2, 3):
        assert content_bytes(later.train(number)) == content_bytes(agent.train(number))
    assert code_of(later.train(1)) is Code.SUPERSEDED
    assert code_of(later.train(1, federation=OTHER_FEDERATION)) is None
    assert code_of(later.ready()) is None
    assert code_of(later.train(2, federation=OTHER_FEDERATION)) is Code.NOT_READY
    later.ask(Kind.CLOSE, 3)
    third = "6f1b2a52-3c6f-5d0a-9a53-0f4f1de1c003"
    assert code_of(later.ready(federation=third)) is None
    assert code_of(later.train(1, federation=third)) is None
    later.store.close()


def test_each_answer_that_left_has_a_line(agent: Agent, path: Path) -> None:
    migrated = Store(path)
    lines = list(journal.lines(migrated.database))
    assert [(line["kind"], line["server_round"], line["outcome"]) for line in lines] == [
        ("train", 1, "cleared"), ("train", 1, "cleared"), ("train", 2, "cleared"), ("train", 3, "cleared"),
        ("evaluate", 3, "cleared"),
    ]  # fmt: skip
    was = {(one["federation"], one["server_round"], one["kind"]): one for one in agent.journal() if one["epsilon"]}
    for line in lines:
        before = was[line["federation"], line["server_round"], line["kind"]]
        superseded = (line["federation"], line["server_round"]) == (FEDERATION, 1)
        assert (line["bytes"], line["sha256"]) == ((0, "") if superseded else (before["bytes"], before["sha256"]))
        assert line["card"] == CARD.sha256
    assert str(lines[0]["time"]) <= moment(ledger.utc_now())
    migrated.close()


def test_every_account_is_held_to_one_order_from_now_on_and_stands_in_the_head(agent: Agent, path: Path) -> None:
    migrated = Store(path)
    accounts = [ledger.account(migrated.database, "cyclists", part, NOW) for part in (TRAINING, HELD_OUT)]
    assert None not in [one.order for one in accounts]
    sealed = head._unseal(json.loads(head.sign(migrated.database, agent.signer, NOW))["accounts"], agent.signer)
    assert len(sealed) == 2
    migrated.close()


def test_it_is_migrated_once(path: Path) -> None:
    Store(path).close()
    before = sqlite3.connect(path).execute("SELECT * FROM ledger").fetchall()
    again = Store(path)
    assert again.database.execute("SELECT * FROM ledger").fetchall() == before
    assert again.database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    tables = {row[0] for row in again.database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"secret", "ledger", "freeze", "journal", "outbox", "local_state", "model"}
    again.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE event",
        "UPDATE reservation SET curve = x'00'",
        "UPDATE reservation SET curve = 'text'",
        "ALTER TABLE outbox ADD COLUMN more TEXT",
    ],
)
def test_a_damaged_old_store_is_left_as_it_was(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute(statement)
    before = list(sqlite3.connect(path).iterdump())
    with pytest.raises(LedgerError, match="expected the agent's store, it cannot be read as one"):
        Store(path)
    assert list(sqlite3.connect(path).iterdump()) == before


def test_a_spend_whose_run_nobody_reserved_still_counts(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM reservation WHERE federation = ?", (FEDERATION,))
    migrated = Store(path)
    have = ledger.account(migrated.database, "cyclists", TRAINING, NOW)
    assert have.total[0] == pytest.approx(ledger.spent(migrated.database, FEDERATION, TRAINING)[0] * 4 / 3)
    migrated.close()
