"""A strategy sees a fixed list of nodes and can send nothing."""

import pytest
from flwr.app import RecordDict

from faelles.errors import StrategyError
from strategies.nodes import FixedNodes


def test_the_list_is_fixed() -> None:
    nodes = FixedNodes(3)
    assert [list(nodes.get_node_ids()) for _ in range(2)] == [[1, 2, 3], [1, 2, 3]]


def test_nothing_can_be_sent_or_asked() -> None:
    nodes = FixedNodes(3)
    for attempt in (
        lambda: nodes.run,
        lambda: nodes.push_messages([]),
        lambda: nodes.pull_messages([]),
        lambda: nodes.send_and_receive([]),
        lambda: nodes.create_message(RecordDict(), "train", 1, ""),
    ):
        with pytest.raises(StrategyError, match="messages and runs are the server's"):
            attempt()
