"""A Flower Grid whose nodes are Python functions, and a town of honest municipalities to put faults in front of."""

import itertools
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Never

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
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


class Clock:
    """Be a clock that only waiting moves, so that silence costs a test nothing."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        """Tell the time."""
        return self.now_s

    def pause(self, seconds: float) -> None:
        """Let time pass; at least a little, as a sleep does."""
        self.now_s += max(seconds, 1e-6)


class ScriptedGrid(Grid):
    """Carry messages to Python functions, in this process."""

    def __init__(self, nodes: dict[int, tuple[str, Answering]], clock: Clock | None = None) -> None:
        identify()
        self.nodes, self.clock = nodes, clock or Clock()
        self.away: dict[int, float] = {}  # node -> when it connects
        self.sent: list[Message] = []
        self._replies: dict[str, list[Message]] = {}
        self._held: dict[str, tuple[float, Message]] = {}

    def hold(self, message: Message, reply: Message, release_at_s: float) -> None:
        """Keep a reply back until its time has come."""
        self._held[message.metadata.message_id] = (release_at_s, reply)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node_id, name=name) for node_id, (name, _) in reversed(self.nodes.items())]

    def get_node_ids(self) -> list[int]:
        return [node for node in self.nodes if self.away.get(node, 0.0) <= self.clock.now_s]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self.sent.append(message)
            ids.append(str(len(self.sent)))
            message.metadata.__dict__["_message_id"] = ids[-1]
            node = message.metadata.dst_node_id
            away = node not in self.get_node_ids()
            self._replies[ids[-1]] = [_unavailable(message)] if away else self.nodes[node][1](message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = list(message_ids)
        due = [one for one in asked if one in self._held and self._held[one][0] <= self.clock.now_s]
        held = [self._held.pop(one)[1] for one in due]
        return held + [reply for one in asked for reply in self._replies.pop(one, [])]

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

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))


def _unavailable(message: Message) -> Message:
    """Say what Flower says of a node that has left."""
    return Message(Error(code=ErrorCode.NODE_UNAVAILABLE, reason="unavailable"), reply_to=message)


class Town:
    """Hold the municipalities of one test: honest agents, and what stands between them and the server."""

    def __init__(self, folder: Path, card: UseCaseCard) -> None:
        self.folder, self.card, self.clock = folder, card, Clock()
        self.away: dict[int, float] = {}  # node -> when it connects
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
            "deadline_s": 60.0,
            "folder": self.folder / "run",
        }
        return FederationConfig(**(fields | changes))

    def connect(self) -> ScriptedGrid:
        """Make a grid of the nodes as they are."""
        self.grid = ScriptedGrid(self.nodes, self.clock)
        self.grid.away = self.away
        return self.grid

    def run(self, **changes: Any) -> RunRecord:
        return Federation(self.connect(), self.config(**changes), clock=self.clock.now, pause=self.clock.pause).run()


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
