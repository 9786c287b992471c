"""Carry messages between a real ServerApp and many real ClientApps on one machine: a Flower Grid without a network.

Municipalities are spread over worker processes and stay where they are. Each has its own randomness and store, so the
result is the same for any number of workers and any order in which they answer.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from faelles.errors import RunError
from simulations.questions import Question, Scores
from simulations.worker import Crew, serve

RUN_ID, SERVER_NODE_ID, TASK_ID = 1, 1, 1
FIRST_NODE_ID = 1001
ENDED = "simulation: a worker process ended; see its message above, or give it more memory"

Observer = Callable[[str, list[Message]], None]  # what is being sent, before it is
Tick = Callable[[], None]  # one reply came


class InProcessGrid(Grid):
    """Run municipalities in worker processes.

    Args:
        crews: What each worker is; their node ids are disjoint.
        observe: Called with the message type and the messages before they are delivered.
        tick: Called for each reply.

    Use it as a context manager: leaving it ends the workers.
    """

    def __init__(self, crews: list[Crew], observe: Observer | None = None, tick: Tick | None = None) -> None:
        # Flower's Message constructor takes sender and run from here; a real process has one run, so has this.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE_ID, TASK_ID
        self._run = Run.create_empty(RUN_ID)
        self._crews = crews
        self._observe, self._tick = observe, tick
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._home: dict[int, Connection] = {}
        self._number = 0
        self._arrived: dict[str, Message] = {}

    def __enter__(self) -> Self:
        # A fork starts in no time and shares the tables; other systems cannot fork a process that uses torch.
        linux = sys.platform == "linux"
        context = multiprocessing.get_context("fork") if linux else multiprocessing.get_context("spawn")
        for crew in self._crews:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, crew), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
            self._home |= dict.fromkeys(crew.sites, ours)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Without waiting for what a slow municipality still computes: its store is whole whenever it is stopped.
        for process in self._processes:
            process.terminate()
        for connection, process in zip(self._connections, self._processes, strict=True):
            process.join()
            connection.close()

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
        return sorted(self._home)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """List the municipalities' nodes with the names they are registered under."""
        named = {node_id: site.label for crew in self._crews for node_id, site in crew.sites.items()}
        return [NodeInfo(node_id=node_id, name=name) for node_id, name in sorted(named.items())]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to the workers; return their ids."""
        batch = list(messages)
        if batch and self._observe:
            self._observe(batch[0].metadata.message_type, batch)
        for message in batch:
            self._number += 1
            message.metadata.__dict__["_message_id"] = str(self._number)
        self._send([
            (int(message.metadata.message_id), message.metadata.dst_node_id,
             message_to_proto(message).SerializeToString())
            for message in batch
        ])  # fmt: skip
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
            self._receive(left)
            here = waiting & self._arrived.keys()
            replies += [self._arrived.pop(one) for one in here]
            waiting -= here
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def ask_all(self, question: Question) -> dict[int, Scores]:
        """Ask every municipality a question that only a simulation can ask."""
        first = self._number + 1
        nodes = sorted(self._home)
        self._number += len(nodes)
        self._send([(first + place, node_id, question) for place, node_id in enumerate(nodes)])
        found: dict[int, Scores] = {}
        while len(found) < len(nodes):
            for number, item in self._read(None):
                if isinstance(item, Scores):
                    found[nodes[number - first]] = item
        return found

    def _send(self, items: list[tuple[int, int, object]]) -> None:
        for connection in self._connections:
            mine = [item for item in items if self._home[item[1]] is connection]
            try:
                if mine:
                    connection.send(mine)
            except (BrokenPipeError, ConnectionResetError):
                raise RunError(ENDED) from None

    def _receive(self, timeout_s: float | None) -> bool:
        """Take in what has come; whether anything has."""
        read = self._read(timeout_s)
        for number, item in read:
            if isinstance(item, bytes):
                self._arrived[str(number)] = message_from_proto(MessageProto.FromString(item))
                if self._tick:
                    self._tick()
        return bool(read)

    def _read(self, timeout_s: float | None) -> list[tuple[int, object]]:
        ready = wait(self._connections, timeout_s)
        try:
            return [connection.recv() for connection in ready if isinstance(connection, Connection)]
        except (EOFError, ConnectionResetError):
            raise RunError(ENDED) from None
