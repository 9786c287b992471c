"""What Flower's strategies look at besides arrays and replies, held fixed: the nodes and process-wide values."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Never

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from faelles.errors import StrategyError

_SEED = 0


class FixedNodes(Grid):
    """Show a strategy a fixed list of nodes, and carry no messages.

    Args:
        count: Number of nodes; their ids are 1 to `count`.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def get_node_ids(self) -> Iterable[int]:
        """Return the same ids every time."""
        return range(1, self._count + 1)

    @property
    def run(self) -> Run:
        """Refuse: a strategy has no business with the run."""
        self._refuse()

    def set_run(self, run: Run) -> None:
        """Refuse: a strategy has no business with the run."""
        self._refuse()

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Refuse: the server makes the messages."""
        self._refuse()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse: the server sends the messages."""
        self._refuse()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse: the server collects the replies."""
        self._refuse()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Refuse: the server sends the messages and collects the replies."""
        self._refuse()

    def _refuse(self) -> Never:
        raise StrategyError("a strategy may look at the list of nodes only; messages and runs are the server's")


@contextmanager
def fixed_globals() -> Iterator[None]:
    """Fix the process-wide values that Flower reads while it makes messages, and put them back afterwards.

    Python's random generator (node sampling) is seeded. A task identity, which every message needs, is lent where there
    is none, i.e. outside a ServerApp; inside one it is left as it is.
    """
    state = random.getstate()
    identity = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    random.seed(_SEED)
    if None in identity:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 0
    try:
        yield
    finally:
        random.setstate(state)
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = identity
