"""Keep one of Flower's own simulations running in a thread, for as long as somebody uses its Grid."""

import logging
import math
import queue
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from flwr.app import ConfigRecordValues, Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from flwr.supercore import telemetry
from flwr.supercore.task_identity import TaskIdentity

from faelles.errors import RunError
from simulations.ray_session import LOST

POLL_S, PATIENCE_S = 0.05, 30.0  # asking Flower's state costs its own threads time
EACH: dict[str, ConfigRecordValues] = {"num_cpus": 1, "num_gpus": 0.0}


class FlowerRun:
    """Run Flower's simulation around a ServerApp that does nothing but lend its Grid.

    Args:
        client_app: Answers in every node.
        nodes: How many there are.

    Guarantees: the identity that Flower keeps for this process is what it was, once it has started.
    """

    def __init__(self, client_app: ClientApp, nodes: int) -> None:
        self._client_app, self._nodes = client_app, nodes
        self._lent: queue.SimpleQueue[Grid] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._simulate, daemon=True)
        self._why = "it ended"
        self._grid: Grid | None = None
        self._asked: dict[str, Message] = {}  # by Flower's number

    @property
    def busy(self) -> bool:
        """Whether a node has not answered yet."""
        return bool(self._asked)

    @property
    def grid(self) -> Grid:
        """Return Flower's Grid.

        Raises:
            RunError: Its simulation has ended.
        """
        self._check()
        assert self._grid is not None  # start waits for it
        return self._grid

    def start(self) -> None:
        """Start the simulation, and wait until every node is there: Flower lends its Grid before they are.

        Raises:
            RunError: It does not start.
        """
        telemetry.FLWR_TELEMETRY_ENABLED = "0"  # else Flower's makers hear of each start
        ours = threading.get_ident()
        # Of what fails, and of its own age, Flower writes pages; what matters of them comes as one line from here.
        self._filter = lambda record: bool(record.thread == ours)
        logging.getLogger("flwr").addFilter(self._filter)
        identity = TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id
        self._thread.start()
        while self._grid is None:
            self._check()
            with suppress(queue.Empty):
                self._grid = self._lent.get(timeout=POLL_S)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = identity
        while len(list(self.grid.get_node_ids())) < self._nodes:
            time.sleep(POLL_S)

    def close(self) -> None:
        """End the simulation; what nodes are at must have ended."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
            logging.getLogger("flwr").removeFilter(self._filter)

    def send(self, messages: Iterable[tuple[int, Message]]) -> None:
        """Send each message to one of Flower's nodes."""
        asked = list(messages)
        numbers = self.grid.push_messages([_forwarded(node, message, self.grid) for node, message in asked])
        self._asked |= {number: message for number, (_, message) in zip(numbers, asked, strict=True)}

    def receive(self, timeout_s: float | None) -> list[Message]:
        """Return the answers that have come within some time, as answers to what was sent.

        Raises:
            RunError: Flower has no answer of a municipality.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not (came := list(self.grid.pull_messages(self._asked))) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return [_returned(self._asked.pop(reply.metadata.reply_to_message_id), reply) for reply in came]

    def _check(self) -> None:
        if not self._thread.is_alive():
            raise RunError(f"engine=flower: expected Flower's simulation to go on, {self._why}; mend that")

    def _simulate(self) -> None:
        server_app = ServerApp()

        @server_app.main()
        def lend(grid: Grid, context: Context) -> None:
            self._lent.put(grid)
            self._over.wait()

        try:
            run_simulation(server_app, self._client_app, self._nodes, backend_config={"client_resources": EACH})
        except Exception as error:
            # Whatever it is, who waits for an answer must hear of it.
            self._why = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        finally:
            self._over.set()


def _forwarded(node: int, message: Message, grid: Grid) -> Message:
    """Copy a message as one of Flower's run; Flower keeps what it is given, and writes to it."""
    proto = message_to_proto(message)
    proto.metadata.run_id, proto.metadata.src_node_id = grid.run.run_id, SUPERLINK_NODE_ID
    proto.metadata.dst_node_id = node
    return message_from_proto(proto)


def _returned(asked: Message, reply: Message) -> Message:
    """Copy a reply as one to what was asked.

    Raises:
        RunError: It is Flower's own, for what should have answered did not.
    """
    code = reply.error.code if reply.has_error() else None
    if code == ErrorCode.UNKNOWN:
        raise RunError(LOST.format("flower"))
    if code in (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.CLIENT_APP_RAISED_EXCEPTION):
        reason = str(reply.error.reason).strip().splitlines()[0]
        raise RunError(f"engine=flower: expected every municipality to answer, {reason} came; mend that")
    proto = message_to_proto(reply)
    proto.metadata.run_id, proto.metadata.reply_to_message_id = asked.metadata.run_id, asked.metadata.message_id
    proto.metadata.src_node_id, proto.metadata.dst_node_id = asked.metadata.dst_node_id, asked.metadata.src_node_id
    return message_from_proto(proto)
