"""Small use cases, rows and municipalities for the tests: real cards, real ClientApps and real messages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.task_identity import TaskIdentity

from client import ledger, outbox
from client.app import build_client_app
from client.consent import Approval, Population
from client.journal import lines
from client.keys import Signer
from client.ledger import TRAINING, Budget, utc_now
from client.node import Node
from client.policy import Policy
from client.source import Source, TableSource
from client.store import Store
from faelles.card import UseCaseCard, parse_card
from faelles.models import Arrays, initial_parameters, shared_shapes
from faelles.privacy.accountant import Curve, epsilon
from faelles.privacy.mechanisms import Mechanisms
from faelles.records import PLAN, PROXIMAL_MU, TERMS, Code, Kind, Request, Scalar, request_content
from faelles.terms import RunTerms
from simulations.books import willing_policy
from simulations.mechanisms import SeededMechanisms
from simulations.population import Site
from simulations.worker import consent_once

FEDERATION = "6f1b2a52-3c6f-5d0a-9a53-0f4f1de1c001"
OTHER_FEDERATION = "6f1b2a52-3c6f-5d0a-9a53-0f4f1de1c002"
DECLARED_SIZE = 50
LOCAL = ("output.bias",)

_FIELDS: dict[str, Any] = {
    "id": "bicycle-repair",
    "version": 1,
    "title": {"da": "Cykelreparationer", "en": "Bicycle repairs"},
    "category": "forecasting",
    "model_type": "specific",
    "unit": "citizen",
    "max_rows_per_unit": 2,
    "label": {"column": "repaired", "kind": "binary", "values": ["no", "yes"]},
    "features": [
        {"name": "age", "kind": "number", "min": 0, "max": 30},
        {"name": "brand", "kind": "category", "values": ["cargo", "city"]},
    ],
    "model": {"kind": "logistic"},
    "training": {"rounds": 3, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5},
    "privacy": {"epsilon": 2.0, "delta": 1e-5, "clipping_norm": 1.0},
    "law": {"special_categories": False, "ai_act": "minimal", "basis": {}},
}


def build_card(**changes: Mapping[str, Any]) -> UseCaseCard:
    """Build the bicycle card; a change replaces some fields of one of its parts: `model={"local": [...]}`."""
    fields = dict(_FIELDS)
    for part, change in changes.items():
        fields[part] = {**fields.get(part, {}), **change}
    return parse_card(fields)


def personal_card() -> UseCaseCard:
    """Build the bicycle card with a parameter that never leaves."""
    return build_card(model={"local": list(LOCAL)})


def build_table(citizens: int, seed: int = 0) -> pa.Table:
    """Draw citizens with one or two rows each; older bicycles are repaired more often."""
    rng = np.random.default_rng(seed)
    citizen = np.repeat(np.arange(citizens), rng.integers(1, 3, citizens))
    age = rng.uniform(0, 30, len(citizen))
    repaired = rng.random(len(citizen)) < 1 / (1 + np.exp(3 - age / 5))
    return pa.table({
        "citizen": [f"c{number}" for number in citizen],
        "age": age,
        "brand": rng.choice(["cargo", "city"], len(citizen)),
        "repaired": np.where(repaired, "yes", "no"),
    })  # fmt: skip


def build_sites(labels: Mapping[str, int]) -> list[Site]:
    """Build simulated municipalities from their numbers of citizens; all state the same band, the empty ones none."""
    return [
        Site(
            label=label,
            name=label,
            table=build_table(citizens, seed=number),
            citizens=citizens,
            declared_size=DECLARED_SIZE if citizens else 0,
        )
        for number, (label, citizens) in enumerate(sorted(labels.items()))
    ]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Hold all that a municipality has decided: its policy, one population and its approvals by card hash."""

    municipality: str
    policy: Policy
    population: Population
    approvals: Mapping[str, Approval]


def build_policy(
    card: UseCaseCard,
    municipality: str = "0101",
    *,
    population: str = "cyclists",
    declared_size: int = DECLARED_SIZE,
    epsilon_cap: float | None = None,
    **policy: Any,
) -> Rules:
    """Approve a card, with room for exactly one run unless another cap is given; `policy` changes its other fields."""
    epsilon = card.privacy.epsilon if epsilon_cap is None else epsilon_cap
    approval = Approval(card=card, population=population, declared_size=declared_size, epsilon=epsilon)
    budget = Budget(epsilon=epsilon, delta=card.privacy.delta)
    return Rules(
        municipality=municipality,
        policy=replace(willing_policy(budget), **policy),
        population=Population(name=population, citizen="citizen", held_out=card.evaluation.held_out),
        approvals={card.sha256: approval},
    )


def identify() -> None:
    """Give this process the identity that Flower's messages need; conftest takes it back after the test."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def message_of(request: Request, node_id: int = 1001) -> Message:
    """Make the message that carries a request."""
    identify()
    return Message(request_content(request), node_id, request.kind)


def over_the_wire(message: Message) -> Message:
    """Send a message through the bytes that Flower puts on the wire."""
    return message_from_proto(MessageProto.FromString(message_to_proto(message).SerializeToString()))


def content_bytes(message: Message) -> bytes:
    """Render a message's content as the bytes that leave."""
    data: bytes = recorddict_to_proto(message.content).SerializeToString(deterministic=True)
    return data


def code_of(reply: Message) -> Code | None:
    """Read a refusal, and check that its text is a constant of its code; None where the reply is an answer."""
    if not reply.has_error():
        return None
    code = Code(reply.error.code)
    assert re.fullmatch(re.escape(code.text) + r"( \(cap [0-9.]+\))?", str(reply.error.reason))
    return code


class Agent:
    """Be one municipality: the real ClientApp on a store in a folder, reached by messages only."""

    def __init__(
        self,
        folder: Path,
        card: UseCaseCard,
        *,
        municipality: str = "0101",
        policy: Rules | None = None,
        source: Source | None = None,
        seed: int = 7,
        mechanisms: Mechanisms | None = None,
    ) -> None:
        self.card, self.seed, self.mechanisms = card, seed, mechanisms
        self.now = utc_now
        self.policy = policy or build_policy(card, municipality)
        self.source = source or TableSource(table=build_table(60, seed=int(municipality)))
        self.signer = Signer.from_seed(municipality.encode().zfill(32))
        self.store = Store(folder / f"{municipality}.sqlite", durable=False, key=municipality.encode())
        self.app = self._app()
        self.messages: list[Message] = []  # all that came and all that left

    def _app(self) -> ClientApp:
        self.node = self.build_node()
        return build_client_app(self.node)

    def build_node(self) -> Node:
        """Build what answers, on the store as it is."""
        for approval in self.policy.approvals.values():
            consent_once(self.store, self.policy.population, approval)
        return Node(
            municipality=self.policy.municipality,
            signer=self.signer,
            mechanisms=self.mechanisms or SeededMechanisms(seed=self.seed, municipality=self.policy.municipality),
            store=self.store,
            policy=lambda: self.policy.policy,
            rows=lambda population, card: self.source.read(),
            clock=lambda: self.now(),
        )

    def restart(self, **changes: Any) -> None:
        """Start the app anew on the same store, with another policy, source or seed."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.app = self._app()

    def answer(self, message: Message) -> Message:
        """Answer a message over the wire."""
        context = Context(
            run_id=1, node_id=message.metadata.dst_node_id, node_config={}, state=RecordDict(), run_config={}
        )
        reply = over_the_wire(self.app(over_the_wire(message), context))
        self.messages += [message, reply]
        return reply

    def ask(
        self,
        kind: Kind,
        server_round: int = 0,
        extra: Mapping[str, Scalar] | None = None,
        arrays: Arrays | None = None,
        federation: str = FEDERATION,
        card_sha256: str | None = None,
    ) -> Message:
        """Ask anything."""
        request = Request(
            kind=kind, federation=federation, server_round=server_round,
            card_sha256=card_sha256 or self.card.sha256, extra=extra or {}, arrays=arrays or {},
        )  # fmt: skip
        return self.answer(message_of(request))

    def ready(self, terms: RunTerms | None = None, federation: str = FEDERATION) -> Message:
        """Ask whether it takes part; on the card's own terms unless others are given."""
        text = (terms or RunTerms.of(self.card)).model_dump_json()
        return self.ask(Kind.READY, 0, {TERMS: text}, federation=federation)

    def train(
        self,
        server_round: int,
        arrays: Arrays | None = None,
        *,
        terms: RunTerms | None = None,
        federation: str = FEDERATION,
        mu: Scalar | None = None,
    ) -> Message:
        """Ask for an update of the start, or of other arrays."""
        plan = (terms or RunTerms.of(self.card)).plan(self.card, DECLARED_SIZE).to_json()
        shared = self.start() if arrays is None else arrays
        return self.ask(
            Kind.TRAIN, server_round, {PLAN: plan} | ({} if mu is None else {PROXIMAL_MU: mu}), shared, federation
        )

    def spent(self, part: str = TRAINING, federation: str = FEDERATION) -> Curve:
        """Add up what a run has spent."""
        return ledger.spent(self.store.database, federation, part)

    def releases(self, part: str = TRAINING, federation: str = FEDERATION) -> int:
        """Count a run's releases."""
        return ledger.rounds_spent(self.store.database, federation, part)

    def account(self, part: str = TRAINING) -> float:
        """Say what the population's account holds: what is spent, and what open runs reserved."""
        database, policy, population = self.store.database, self.policy.policy, self.policy.population
        have = ledger.account(database, population.name, part, self.now(), policy.period(self.now()))
        return epsilon(have.total, self.card.privacy.delta)

    def journal(self) -> list[dict[str, Any]]:
        """Read every line of the journal."""
        return list(lines(self.store.database))

    def local_state(self, before_round: int) -> bytes | None:
        """Find the newest local state made before a round."""
        return outbox.local_state(self.store.database, FEDERATION, before_round)

    def model(self) -> bytes | None:
        """Find the finished model that came home."""
        return outbox.model(self.store.database, FEDERATION)

    def start(self) -> Arrays:
        """Draw the shared parameters that every run starts from."""
        start = initial_parameters(self.card)
        return {name: start[name] for name in shared_shapes(self.card)}
