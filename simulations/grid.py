"""Carry messages between a real ServerApp and simulated municipalities: what every engine's Flower Grid shares.

A simulator is nothing but another Grid. Engines differ in how municipalities answer:

    cohort     all together (`cohort`)
    reference  each with the production ClientApp (`reference`)
    flower     each with the production ClientApp, in Flower's own simulation (`flower_engine`)
    ray        cohorts spread over the processes of a Ray cluster (`ray_pool`)
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from faelles.models import Arrays
from simulations.questions import Question, Scores

RUN_ID, SERVER_NODE_ID, TASK_ID = 1, 1, 1
FIRST_NODE_ID = 1001

Observer = Callable[[str, list[Message]], None]  # what is being sent, before it is
Tick = Callable[[], None]  # one reply came


class SimulationGrid(Grid, ABC):
    """Number messages, keep replies until they are asked for, and let a simulation ask what a live run cannot.

    Args:
        names: Node id to the name that it is registered under.
        observe: Called with the message type and the messages before they are delivered.
        tick: Called for each reply.

    Use it as a context manager: leaving it ends what it started.
    """

    def __init__(self, names: Mapping[int, str], observe: Observer | None = None, tick: Tick | None = None) -> None:
        # Flower's Message constructor takes sender and run from here; a real process has one run, so has this.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE_ID, TASK_ID
        self._run = Run.create_empty(RUN_ID)
        self.names = dict(sorted(names.items()))
        self._observe, self._tick = observe, tick
        self._number = 0
        self._arrived: dict[str, Message] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what was started."""

    @abstractmethod
    def ask_all(self, question: Question) -> dict[int, Scores]:
        """Ask every municipality a question that only a simulation can ask."""

    @abstractmethod
    def local_parameters(self, federation: str, before_round: int) -> dict[int, Arrays]:
        """Return every municipality's local parameters, as the newest round before this one left them."""

    @abstractmethod
    def _deliver(self, messages: list[Message]) -> None:
        """Hand numbered messages to the municipalities."""

    @abstractmethod
    def _receive(self, timeout_s: float | None) -> bool:
        """Take in what has come within some time; whether anything has."""

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Return the run."""
        return self._run

    def create_message(
        self, content: object, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message; Flower keeps this for old code."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)  # type: ignore[call-overload,no-any-return]

    def get_node_ids(self) -> Iterable[int]:
        """List the municipalities' nodes."""
        return list(self.names)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """List the municipalities' nodes with the names they are registered under."""
        return [NodeInfo(node_id=node_id, name=name) for node_id, name in self.names.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages over; return their ids."""
        batch = list(messages)
        if batch and self._observe:
            self._observe(batch[0].metadata.message_type, batch)
        for message in batch:
            self._number += 1
            message.metadata.__dict__["_message_id"] = str(self._number)
        self._deliver(batch)
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that have come."""
        while self._receive(0):
            pass
        return [self._arrived.pop(one) for one in list(message_ids) if one in self._arrived]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and wait for replies until the deadline."""
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            here = waiting & self._arrived.keys()
            if not here:
                self._receive(left)
            replies += [self._arrived.pop(one) for one in here]
            waiting -= here
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def exchange(self, messages: list[Message]) -> list[Message]:
        """Deliver messages that another grid has numbered, and wait for every reply; in the order of the messages."""
        self._deliver(messages)
        numbers = [message.metadata.message_id for message in messages]
        while any(number not in self._arrived for number in numbers):
            self._receive(None)
        return [self._arrived.pop(number) for number in numbers]

    def _arrive(self, number: str, reply: Message) -> None:
        """Keep a reply until it is pulled."""
        self._arrived[number] = reply
        if self._tick:
            self._tick()
