"""Be some of the municipalities: answer their messages with the production ClientApp, in one process of a simulation.

Beside Flower messages a worker answers what only a simulation can ask, since it holds all the data: how good a model is
exactly, how good each municipality's own model is, and which parameters stay there.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

from client import consent
from client.app import build_client_app
from client.consent import Approval, Population
from client.dataset import Partition
from client.keys import Signer
from client.ledger import Budget, utc_now
from client.node import Node
from client.store import Store
from faelles.card import UseCaseCard
from faelles.models import Arrays, build_model, load_parameters
from simulations.books import willing_policy
from simulations.fit import fit_alone
from simulations.mechanisms import SeededMechanisms, seeded_bytes
from simulations.normals import compile_normals
from simulations.population import Site
from simulations.questions import LocalParameters, Question, Scores, score, site_key

POPULATION = "simulated"


@dataclass(frozen=True, kw_only=True)
class Municipality:
    """Hold one municipality of a simulation."""

    card: UseCaseCard
    node: Node
    app: ClientApp
    context: Context

    def answer(self, data: bytes) -> bytes:
        """Answer a Flower message, both as protobuf bytes: nothing else passes between server and client."""
        message = message_from_proto(MessageProto.FromString(data))
        reply = self.app(message, self.context)
        data_out: bytes = message_to_proto(reply).SerializeToString()
        return data_out

    def ask(self, question: Question) -> Scores:
        """Answer a simulation's question."""
        dataset = self.node.dataset(self.card, POPULATION)
        model = build_model(self.card)
        if question.kind == "alone":
            fit_alone(self.card, model, dataset.training)
        else:
            before = question.before_round
            load_parameters(model, self.node.parameters(self.card, question.federation, before, question.shared))
        return score(model, dataset)

    def local_parameters(self, question: LocalParameters) -> Arrays:
        """Return what stays here, as the newest round before the question's left it."""
        every = dict.fromkeys(self.card.model.parameter_names, np.zeros(0, np.float32))
        shared = {name: array for name, array in every.items() if name not in self.card.model.local}
        found = self.node.parameters(self.card, question.federation, question.before_round, shared)
        return {name: found[name] for name in self.card.model.local}


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Hold what one worker process needs to be its municipalities."""

    card: UseCaseCard
    sites: dict[int, Site]  # node id -> site
    folder: Path
    seed: int
    epsilon_cap: float
    partition: Partition | None

    def build(self) -> dict[int, Municipality]:
        """Build every municipality."""
        return {node_id: self._municipality(node_id, site) for node_id, site in self.sites.items()}

    def _municipality(self, node_id: int, site: Site) -> Municipality:
        store = Store(self.folder / f"{node_id:05d}.sqlite", durable=False, key=site_key(self.seed, site.label))
        population = Population(name=POPULATION, citizen=self.card.unit or "", held_out=self.card.evaluation.held_out)
        approval = Approval(
            card=self.card, population=POPULATION, declared_size=site.declared_size, epsilon=self.epsilon_cap
        )
        consent_once(store, population, approval)
        policy = willing_policy(Budget(epsilon=self.epsilon_cap, delta=self.card.privacy.delta))
        node = Node(
            municipality=site.label,
            signer=Signer.from_seed(seeded_bytes("signer", self.seed, site.label)),
            mechanisms=SeededMechanisms(seed=self.seed, municipality=site.label),
            store=store,
            policy=lambda: policy,
            rows=lambda population, card: site.table,
            partition=self.partition,
        )
        context = Context(run_id=1, node_id=node_id, node_config={}, state=RecordDict(), run_config={})
        return Municipality(card=self.card, node=node, app=build_client_app(node), context=context)


def consent_once(store: Store, population: Population, approval: Approval) -> None:
    """Register a population and approve a card, unless a resumed store knows both already."""
    with store.transaction() as database:
        if consent.find_population(database, population.name) is None:
            consent.register(database, population, utc_now())
        known = consent.find_approval(database, approval.card.sha256)
        if known is None or replace(known, number=0) != approval:
            consent.approve(database, approval, utc_now())


@functools.cache
def prepare() -> None:
    """Load what training loads when it is first done, so that processes forked later find it ready."""
    compile_normals()
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # the first optimizer imports half of torch


def serve(crew: Crew, sent: Iterator[Any], answer: Callable[[object], None]) -> None:
    """Answer lists of (number, node id, bytes or question), one reply each, until the process is ended."""
    torch.set_num_threads(1)
    handlers: dict[type, Callable[[Municipality, object], object]] = {
        bytes: lambda one, data: one.answer(data),  # type: ignore[arg-type]
        Question: lambda one, question: one.ask(question),  # type: ignore[arg-type]
        LocalParameters: lambda one, question: one.local_parameters(question),  # type: ignore[arg-type]
    }
    municipalities = crew.build()
    for items in sent:
        for number, node_id, item in items:
            answer((number, handlers[type(item)](municipalities[node_id], item)))
