"""Work on a store with the production ClientApp, for `tests.kills`: real messages, real training, secure noise."""

import os
import random
import tempfile
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

# Set before torch is imported: only a process with one thread may be forked.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from flwr.app import Message

from client.keys import Signer
from client.ledger import TRAINING, Budget
from client.source import TableSource
from client.store import Store
from faelles.privacy.mechanisms import SecureMechanisms
from faelles.records import LEDGER_HEAD, Answer, Kind, parse_answer
from tests.builders import Agent, build_policy, build_table, code_of, personal_card
from tests.custody import START, Place, next_round
from tests.kills import WAYS, Outbound

CARD = personal_card()
RULES = build_policy(CARD, epsilon_cap=10.0, reservation_days=5)
SOURCE = TableSource(table=build_table(40))
CODE = "0101"


class NodeWork:
    """Ask one municipality as a coordinator would that never gives up."""

    budget: Budget = RULES.policy.special
    signer = Signer.from_seed(CODE.encode().zfill(32))  # as the builders' agents have it
    ways: Sequence[str] = WAYS

    def __init__(self) -> None:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            agent = _open(Path(folder) / f"{CODE}.sqlite", START)
            # What is solved or built once in a process the children find done.
            agent.ready()
            assert code_of(agent.train(1)) is None
            assert code_of(agent.ask(Kind.EVALUATE, 3, arrays=agent.start())) is None
            agent.store.close()

    def __call__(self, path: Path, rng: random.Random, now: datetime, outbound: Outbound) -> None:
        """Work until killed."""
        agent = _open(path, now)
        while True:
            now += timedelta(minutes=rng.randrange(10))
            reserved = agent.store.database.execute(
                "SELECT federation FROM ledger WHERE kind = 'reserve' AND part = ? ORDER BY number", (TRAINING,)
            )
            federation = rng.choice([row[0] for row in reserved.fetchall()][-2:] or [""])
            last = next_round(agent.store.database, federation) - 1
            kind = rng.choices([Kind.READY, Kind.TRAIN, Kind.EVALUATE, Kind.CLOSE], [2, 10, 1, 1])[0]
            if kind == Kind.READY or not federation:
                agent.ready(federation=str(uuid.UUID(int=rng.getrandbits(128))))
            elif kind == Kind.TRAIN:
                place = Place(federation, max(1, last + rng.choice((1, 1, 0, -1, -2))), kind)
                _leave(outbound, place, _ask(agent, place))
            elif kind == Kind.EVALUATE:
                place = Place(federation, 3, kind)
                _leave(outbound, place, _ask(agent, place))
            else:
                agent.ask(kind, 3, federation=federation)

    def head_of(self, answer: bytes) -> str:
        """Read the signed head of an answer."""
        return str(Answer.unpack(answer).extra[LEDGER_HEAD])

    def again(self, path: Path, place: Place, now: datetime) -> bytes | None:
        """Ask for the same again, after a restart; None where it is refused."""
        agent = _open(path, now)
        reply = _ask(agent, place)
        agent.store.close()
        return None if code_of(reply) is not None else parse_answer(reply).pack()


def _open(path: Path, now: datetime) -> Agent:
    agent = Agent(
        path.parent, CARD, municipality=CODE, policy=RULES, source=SOURCE, mechanisms=SecureMechanisms()
    )  # fmt: skip
    agent.store.close()
    agent.now = lambda: now
    agent.restart(store=Store(path, durable=True))
    return agent


def _ask(agent: Agent, place: Place) -> Message:
    if place.kind == Kind.TRAIN:
        return agent.train(place.server_round, federation=place.federation)
    return agent.ask(Kind.EVALUATE, place.server_round, arrays=agent.start(), federation=place.federation)


def _leave(outbound: Outbound, place: Place, reply: Message) -> None:
    if code_of(reply) is None:
        answer = parse_answer(reply).pack()
        outbound.leave(place, answer, again=False)
