"""Reach a mechanism as a coordinator does: by messages to the production ClientApp, with randomness of our choice."""

import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.dataset import KeyedPartition
from client.source import TableSource
from faelles.card import Evaluation, UseCaseCard, parse_card
from faelles.models import Arrays
from faelles.privacy.mechanisms import Mechanisms, Randomness
from faelles.privacy.plan import PrivacyPlan
from faelles.records import Kind, parse_answer, unpack
from faelles.terms import RunTerms
from simulations.mechanisms import SeededMechanisms
from tests.builders import DECLARED_SIZE, FEDERATION, Agent, build_card, code_of

Floats = NDArray[np.float64]
KEY = b"0101"  # with which the builders' agents choose who is held out
HELD_OUT = Evaluation().held_out
SEEDED = SeededMechanisms(seed=11, municipality="0101")


class Wrap(Protocol):
    """Make a source of randomness out of another one."""

    def __call__(self, inner: Randomness) -> Randomness: ...


@dataclass(frozen=True)
class Wrapped:
    """Open the releases of some mechanisms, each wrapped."""

    inner: Mechanisms
    wrap: Wrap

    def open_release(self, federation: str, server_round: int, kind: str) -> Randomness:
        return self.wrap(self.inner.open_release(federation, server_round, kind))


@dataclass
class Altered:
    """Pass on what another source draws; the faults of the tests override one of the two."""

    inner: Randomness

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        return self.inner.include(units, rate)

    def gaussian(self, size: int, std: float) -> Floats:
        return self.inner.gaussian(size, std)


class WithoutNoise(Altered):
    def gaussian(self, size: int, std: float) -> Floats:
        return np.zeros(size)


class Nobody(Altered):
    """Leave every batch empty."""

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        return np.zeros(units, dtype=bool)


class Municipality(Agent):
    """Be an agent that remembers where its store is."""

    def __init__(self, folder: Path, card: UseCaseCard, table: pa.Table, mechanisms: Mechanisms) -> None:
        super().__init__(folder, card, source=TableSource(table=table), mechanisms=mechanisms)
        self.folder = folder


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Make agents: each has a store of its own and the mechanisms of this bench."""

    folder: Path
    mechanisms: Mechanisms = field(default=SEEDED)

    def agent(self, card: UseCaseCard, table: pa.Table, wrap: Wrap = Altered) -> Municipality:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        agent = Municipality(folder, card, table, Wrapped(self.mechanisms, wrap))
        assert code_of(agent.ready()) is None
        return agent


def card_of(features: list[dict[str, Any]], **changes: Any) -> UseCaseCard:
    """Build the bicycle card on other features, and with other parts."""
    return parse_card(build_card(**changes).model_dump(mode="json") | {"features": features})


def names(count: int, held_out: bool = False) -> list[str]:
    """Name citizens who all belong to one part for life, so that a test knows whom it looks at."""
    name_N = np.array([f"c{number}" for number in range(10 * count + 100)])
    part_N = KeyedPartition(key=KEY).held_out(pa.table({}), name_N, HELD_OUT)
    return [str(name) for name in name_N[part_N == held_out][:count]]


def plan_of(card: UseCaseCard) -> PrivacyPlan:
    return RunTerms.of(card).plan(card, DECLARED_SIZE)


def released(agent: Agent, server_round: int, start: Arrays | None = None) -> Arrays:
    """Train a round and give the update that left."""
    reply = agent.train(server_round, start)
    assert code_of(reply) is None
    return dict(parse_answer(reply).arrays)


def histogram(agent: Agent, server_round: int = 1) -> Floats:
    """Evaluate the start and give the score histogram that left."""
    reply = agent.ask(Kind.EVALUATE, server_round, arrays=agent.start())
    assert code_of(reply) is None
    (counts_KH,) = parse_answer(reply).arrays.values()
    return counts_KH.astype(np.float64)


def local_state(agent: Municipality, server_round: int) -> Arrays:
    """Read from the municipality's disk what a round left there, as an intruder would."""
    with closing(sqlite3.connect(agent.folder / "0101.sqlite")) as database:
        rows = database.execute(
            "SELECT state FROM local_state WHERE federation = ? AND server_round = ?", (FEDERATION, server_round)
        ).fetchall()
    return unpack(rows[0][0])[1] if rows else {}
