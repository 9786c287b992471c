"""Look at everything a municipality answers: a release that was paid for, a public constant or a code; nothing else."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from client import head, ledger
from client.journal import BLOCKED, CLEARED, REFUSED, RESENT
from client.ledger import HELD_OUT, TRAINING
from client.store import Store
from faelles.metrics import HISTOGRAM, histogram_columns
from faelles.models import shared_shapes
from faelles.privacy.accountant import Curve
from faelles.records import (
    ANSWERED,
    ARRAYS,
    CARD,
    CONFIG,
    DECLARED_SIZE,
    FEDERATION,
    LEDGER_HEAD,
    MUNICIPALITY,
    SCHEMA,
    SERVER_ROUND,
    Answer,
    Kind,
    parse_answer,
)
from tests import builders
from tests.builders import Agent, build_policy, code_of, personal_card
from tests.custody import Place

CODE_OF_IT = "0101"
LEARNED = personal_card()
RULES = build_policy(LEARNED, CODE_OF_IT, epsilon_cap=10.0)
SHAPES = {
    Kind.TRAIN: shared_shapes(LEARNED),
    Kind.EVALUATE: {HISTOGRAM: (2, histogram_columns(2, LEARNED.evaluation.bins))},
}
PARTS = {Kind.TRAIN: TRAINING, Kind.EVALUATE: HELD_OUT}
ECHOED = {SCHEMA, FEDERATION, SERVER_ROUND, CARD}


def open_agent(folder: Path) -> Agent:
    """Open a municipality with room for several runs, which keeps some of its parameters to itself."""
    return Agent(folder, LEARNED, municipality=CODE_OF_IT, policy=RULES)


class Scrutiny:
    """Know everything that one store's municipality ever answered, and look at each answer."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.left: dict[Place, bytes] = {}
        self.heads: list[str] = []

    def send(self, message: Message) -> Message:
        """Send a message and look at what comes, at the account and at the journal."""
        before, lines = spent(self.agent.store), _count(self.agent.store)
        reply = self.agent.answer(message)
        after = spent(self.agent.store)
        told = self.agent.journal()[lines:]
        assert len(told) == 1, "each message has one line"
        assert all((after[part] >= before[part]).all() for part in before), "spent fell"
        code = code_of(reply)
        paid = {part for part in after if (after[part] != before[part]).any()}
        if code is not None:
            assert not reply.has_content()
            assert told[0]["outcome"] in (REFUSED + code.text, BLOCKED)
            assert not paid
        else:
            assert paid == self._look(parse_answer(reply), reply, told[0])
        return reply

    def _look(self, answer: Answer, reply: Message, line: dict[str, Any]) -> set[str]:
        """Look at an answer; return the parts of the population that it must have been paid from."""
        kind = Kind(line["kind"])
        assert set(reply.content) == {ARRAYS, CONFIG}
        assert set(reply.content.config_records[CONFIG]) == {*ECHOED, *ANSWERED[kind]}
        constants = {MUNICIPALITY: CODE_OF_IT, DECLARED_SIZE: builders.DECLARED_SIZE}
        for key, value in answer.extra.items():
            if key == LEDGER_HEAD:
                head.read(str(value), self.agent.signer)
            else:
                assert value == constants[key]
        assert {name: array.shape for name, array in answer.arrays.items()} == SHAPES.get(kind, {})
        assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in answer.arrays.values())
        packed = answer.pack()
        assert (line["sha256"], line["bytes"]) == (hashlib.sha256(packed).hexdigest(), len(packed))
        if kind not in PARTS:
            assert line["outcome"] == CLEARED
            self.heads += [str(answer.extra[key]) for key in (LEDGER_HEAD,) if key in answer.extra]
            return set()
        place = Place(answer.federation, answer.server_round, kind)
        again = place in self.left
        assert line["outcome"] == (RESENT if again else CLEARED)
        assert self.left.setdefault(place, packed) == packed, "the same question has two answers"
        if not again:
            self.heads.append(str(answer.extra[LEDGER_HEAD]))
        return set() if again else {PARTS[kind]}


def spent(store: Store) -> dict[str, Curve]:
    """Add up what the population's two accounts have spent."""
    population, now = RULES.population.name, ledger.utc_now()
    return {part: ledger.account(store.database, population, part, now).spent for part in (TRAINING, HELD_OUT)}


def hashes(database: sqlite3.Connection) -> list[str]:
    """List the hashes of the ledger's rows."""
    return [row[0] for row in database.execute("SELECT hash FROM ledger ORDER BY number")]


def _count(store: Store) -> int:
    return int(store.database.execute("SELECT COUNT(*) FROM journal").fetchone()[0])
