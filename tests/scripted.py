"""A Flower Grid whose nodes are Python functions, and a town of honest municipalities to put faults in front of."""

import itertools
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Never

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from faelles.card import UseCaseCard
from faelles.records import CONFIG, Kind
from faelles.terms import RunTerms
from server.federation import FederationConfig, StrategyChoice
from server.result import RunRecord
from server.rounds import Federation
from tests.builders import FEDERATION, Agent, identify

NAMES = ("0101", "0147", "0751", "0851")
Answering = Callable[[Message], list[Message]]


class ScriptedGrid(Grid):
    """Carry messages to Python functions, in this process."""

    def __init__(self, nodes: dict[int, tuple[str, Answering]]) -> None:
        identify()
        self.nodes = nodes
        self.sent: list[Message] = []
        self.timeouts: set[float | None] = set()

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node_id, name=name) for node_id, (name, _) in reversed(self.nodes.items())]

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        batch = list(messages)
        self.sent += batch
        self.timeouts.add(timeout)
        return [reply for one in reversed(batch) for reply in self.nodes[one.metadata.dst_node_id][1](one)]

    def kinds(self) -> list[str]:
        """List the kinds of messages in the order they went out, a batch of one kind once."""
        return [kind for kind, _ in itertools.groupby(one.metadata.message_type for one in self.sent)]

    def _refuse(self) -> Never:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        self._refuse()

    def set_run(self, run: Run) -> None:
        self._refuse()

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        self._refuse()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._refuse()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._refuse()


class Town:
    """Hold the municipalities of one test: honest agents, and what stands between them and the server."""

    def __init__(self, folder: Path, card: UseCaseCard) -> None:
        self.folder, self.card = folder, card
        (folder / "nodes").mkdir(parents=True)
        self.agents = {name: Agent(folder / "nodes", card, municipality=name) for name in NAMES}
        self.nodes: dict[int, tuple[str, Answering]] = {
            1001 + place: (name, honest(agent)) for place, (name, agent) in enumerate(self.agents.items())
        }

    def at(self, name: str, change: Callable[[Answering], Answering]) -> "Town":
        """Put something in front of one municipality."""
        node_id = 1001 + NAMES.index(name)
        self.nodes[node_id] = (name, change(self.nodes[node_id][1]))
        return self

    def config(self, **changes: Any) -> FederationConfig:
        fields: dict[str, Any] = {
            "federation": uuid.UUID(FEDERATION),
            "card": self.card,
            "terms": RunTerms.of(self.card),
            "strategy": StrategyChoice(name="fedavg"),
            "quorum": 0.5,
            "folder": self.folder / "run",
        }
        return FederationConfig(**(fields | changes))

    def run(self, **changes: Any) -> RunRecord:
        self.grid = ScriptedGrid(self.nodes)
        return Federation(self.grid, self.config(**changes)).run()


def honest(agent: Agent) -> Answering:
    return lambda message: [agent.answer(message)]


def only(
    kind: Kind, server_round: int | None, instead: Callable[[Message, Message], list[Message]]
) -> Callable[[Answering], Answering]:
    """Replace an honest reply to one kind of message, in one round or in all."""

    def change(answering: Answering) -> Answering:
        def answer(message: Message) -> list[Message]:
            (reply,) = answering(message)
            config = message.content.config_records[CONFIG]
            hit = message.metadata.message_type == kind and server_round in (None, config["server-round"])
            return instead(message, reply) if hit else [reply]

        return answer

    return change


def silence(message: Message, reply: Message) -> list[Message]:
    """Say nothing."""
    return []
