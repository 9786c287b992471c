"""Measure what custody costs: `python -m simulations.custody` prints the rows of docs/results.md.

Custody is all that a municipality's node does around the mechanism: policy, account, signature, gate, outbox, journal,
and a commit that is on disk before anything leaves.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catalogue import shelf
from client import ledger, node
from client.consent import Approval, Population
from client.desk.whatif import what_if
from client.keys import Signer
from client.ledger import Budget, Run, Spending, utc_now
from client.node import Node
from client.store import Store
from faelles.card import UseCaseCard
from faelles.models import initial_parameters
from faelles.privacy.accountant import Event, rdp_curve
from faelles.privacy.mechanisms import SecureMechanisms
from faelles.privacy.update import release_update
from faelles.records import PLAN, TERMS, Answer, Kind, Request
from faelles.terms import RunTerms
from simulations.books import willing_policy
from simulations.worker import consent_once

CITIZENS, BATCH, ROUNDS = 20_000, 64, 9
EVENTS = 10_000
FEDERATION = "6f1b2a52-3c6f-5d0a-9a53-0f4f1de1c001"


@dataclass
class Stopwatch:
    """Time a function that it stands in for."""

    inner: Callable[..., Any]
    seconds: list[float] = field(default_factory=list)

    def __call__(self, *arguments: Any) -> Any:
        """Call it and note how long it took."""
        began = time.perf_counter()
        result = self.inner(*arguments)
        self.seconds.append(time.perf_counter() - began)
        return result


def card_of_one_epoch() -> UseCaseCard:
    """Take the elder-admission card with one epoch of 20,000 citizens a round, at batch 64."""
    card = shelf.find("elder-admission").card
    training = card.training.model_copy(
        update={"rounds": ROUNDS, "local_steps": -(-CITIZENS // BATCH), "local_epochs": None, "batch_size": BATCH}
    )
    return card.model_copy(update={"training": training})


def rows_of(card: UseCaseCard) -> pa.Table:
    """Repeat the twin's rows until there are enough citizens in the training part."""
    twin = pa.concat_tables(shelf.find("elder-admission").twin(1).values())  # type: ignore[misc]  # it has a twin
    citizens = round(CITIZENS / (1 - card.evaluation.held_out))
    rows = twin.take(np.arange(citizens) % twin.num_rows)
    place = rows.column_names.index(str(card.unit))
    return rows.set_column(place, str(card.unit), pa.array([f"c{number}" for number in range(citizens)]))


def time_messages(folder: Path) -> tuple[list[float], list[float]]:
    """Train round by round through a node; return seconds of the mechanism and of all that is around it."""
    card = card_of_one_epoch()
    table, budget = rows_of(card), Budget(epsilon=10.0, delta=card.privacy.delta)
    store = Store(folder / "store.sqlite")
    declared = 25_000
    population = Population(name="p", citizen=str(card.unit), held_out=card.evaluation.held_out)
    consent_once(store, population, Approval(card=card, population="p", declared_size=declared, epsilon=10.0))
    policy = willing_policy(budget)
    one = Node(
        municipality="0101", signer=Signer.from_seed(bytes(32)), mechanisms=SecureMechanisms(), store=store,
        policy=lambda: policy, rows=lambda population, card: table,
    )  # fmt: skip
    terms = RunTerms.of(card)
    _ask(one, card, Kind.READY, 0, {TERMS: terms.model_dump_json()})
    one.dataset(card, "p")  # read once for a run, and no part of a message
    inside, whole = Stopwatch(release_update), []
    setattr(node, release_update.__name__, inside)
    for number in range(1, ROUNDS + 1):
        began = time.perf_counter()
        _ask(one, card, Kind.TRAIN, number, {PLAN: terms.plan(card, declared).to_json()})
        whole.append(time.perf_counter() - began)
    setattr(node, release_update.__name__, release_update)
    store.close()
    return inside.seconds, [all_of_it - mechanism for all_of_it, mechanism in zip(whole, inside.seconds, strict=True)]


def _ask(one: Node, card: UseCaseCard, kind: Kind, number: int, extra: dict[str, Any]) -> None:
    arrays = {} if kind is Kind.READY else initial_parameters(card)
    request = Request(kind=kind, federation=FEDERATION, server_round=number, card_sha256=card.sha256, extra=extra,
                      arrays=arrays)  # fmt: skip
    answer = one.answer(request)
    assert isinstance(answer, Answer)


def fill(store: Store, card: UseCaseCard, budget: Budget) -> None:
    """Write a ledger of 10,000 events of different plans."""
    now = utc_now()
    events = [Event(sampling_rate=0.01, noise_multiplier=50 + number / 10, steps=10) for number in range(100)]
    with store.transaction() as database:
        for run in range(EVENTS // 100):
            federation = f"{run:08d}-0000-0000-0000-000000000000"
            curve = sum(rdp_curve(event) for event in events)
            ledger.reserve(database, Run(federation=federation, population="p", card_sha256=card.sha256, terms="{}",
                                         curves={ledger.TRAINING: np.asarray(curve)}), budget, now)  # fmt: skip
            for number, event in enumerate(events):
                ledger.spend(database, Spending(federation=federation, part=ledger.TRAINING, server_round=number,
                                                kind="train", event=event, curve=rdp_curve(event)), now)  # fmt: skip
            ledger.free(database, federation, "closed", now)


def time_what_if(folder: Path) -> tuple[float, float]:
    """Answer what-if on a ledger of 10,000 events; return seconds of the answer and of opening the store."""
    card = shelf.find("elder-admission").card
    budget = Budget(epsilon=1e6, delta=card.privacy.delta)
    path = folder / "large.sqlite"
    store = Store(path, durable=False)
    population = Population(name="p", citizen=str(card.unit), held_out=card.evaluation.held_out)
    consent_once(store, population, Approval(card=card, population="p", declared_size=5000, epsilon=1e6))
    fill(store, card, budget)
    store.close()
    began = time.perf_counter()
    store = Store(path)
    opened = time.perf_counter()
    what_if(store.database, willing_policy(budget), "30 more rounds", utc_now())
    answered = time.perf_counter()
    store.close()
    return answered - opened, opened - began


def main() -> None:
    """Measure and print."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        mechanism, custody = time_messages(Path(folder))
        answer_s, open_s = time_what_if(Path(folder))
    epoch_s, around_s = statistics.median(mechanism), statistics.median(custody)
    print(f"one local epoch, {CITIZENS} citizens, batch {BATCH}: {epoch_s:.3f} s (median of {ROUNDS})")
    print(f"custody around it: {around_s * 1000:.1f} ms, at most {max(custody) * 1000:.1f} ms")
    print(f"custody over the epoch: {around_s / epoch_s:.1%}")
    print(f"ledger of {EVENTS} events: what-if {answer_s:.3f} s, opening with both chains verified {open_s:.3f} s")


if __name__ == "__main__":
    main()
