"""Every engine is a Flower Grid: nodes with names, numbered messages, replies that wait to be asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.supercore.run import Run

from faelles.records import Kind, Request, parse_answer
from simulations.grid import FIRST_NODE_ID, SimulationGrid
from simulations.parity import ParityGrid
from simulations.reference import ReferenceGrid
from tests.builders import FEDERATION, build_card, message_of
from tests.cohorts import build_cohort
from tests.federations import CITIZENS, build_crews

CARD = build_card()
CLOSE = Request(kind=Kind.CLOSE, federation=FEDERATION, server_round=0, card_sha256=CARD.sha256)
NODES = list(range(FIRST_NODE_ID, FIRST_NODE_ID + len(CITIZENS)))
Build = Callable[..., SimulationGrid]


@pytest.fixture(params=["cohort", "reference", "parity"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    """Give what builds an engine."""

    def cohort(**changes: Any) -> SimulationGrid:
        return build_cohort(tmp_path / "cohort", CARD, **changes)

    def reference(**changes: Any) -> SimulationGrid:
        return ReferenceGrid(build_crews(tmp_path, CARD, workers=2), **changes)

    def parity(**changes: Any) -> SimulationGrid:
        return ParityGrid(cohort(), reference(), **changes)

    builders: dict[str, Build] = {"cohort": cohort, "reference": reference, "parity": parity}
    return builders[request.param]


def closes(*nodes: int) -> list[Message]:
    return [message_of(CLOSE, node) for node in nodes]


def pulled(grid: SimulationGrid, ids: list[str]) -> list[Message]:
    """Pull until every reply has come."""
    replies: list[Message] = []
    while len(replies) < len(ids):
        replies += grid.pull_messages(ids)
    return replies


def test_nodes_are_listed_under_the_names_they_are_registered_for(build: Build) -> None:
    grid = build()
    assert {node.node_id: node.name for node in grid.get_nodes()} == dict(zip(NODES, sorted(CITIZENS), strict=True))
    with grid:
        assert list(grid.get_node_ids()) == NODES


def test_messages_can_be_pushed_and_pulled_one_by_one(build: Build) -> None:
    ticks: list[None] = []
    with build(tick=lambda: ticks.append(None)) as grid:
        ids = [one for node in NODES[:2] for one in grid.push_messages(closes(node))]
        assert len(set(ids)) == 2
        (second,) = pulled(grid, ids[1:])
        assert (second.metadata.src_node_id, second.metadata.reply_to_message_id) == (NODES[1], ids[1])
        (first,) = pulled(grid, ids[:1])
        assert first.metadata.reply_to_message_id == ids[0]
        assert parse_answer(first).federation == FEDERATION
        assert not list(grid.pull_messages(ids))
    assert len(ticks) == 2


def test_replies_come_in_the_order_of_nodes(build: Build) -> None:
    with build() as grid:
        replies = list(grid.send_and_receive(closes(*NODES[::-1])))
        assert [reply.metadata.src_node_id for reply in replies] == NODES
        assert list(grid.send_and_receive([])) == []


def test_what_is_exchanged_stays_in_the_order_of_the_messages(build: Build) -> None:
    with build() as grid:
        messages = closes(*NODES[::-1])
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(100 + number)  # as another grid numbers them
        replies = grid.exchange(messages)
        assert [reply.metadata.src_node_id for reply in replies] == NODES[::-1]
        assert [reply.metadata.reply_to_message_id for reply in replies] == [str(100 + place) for place in range(5)]


def test_nobody_waits_beyond_a_deadline(build: Build) -> None:
    with build() as grid:
        assert list(grid.send_and_receive(closes(NODES[0]), timeout=-1)) == []
        assert len(list(grid.send_and_receive(closes(NODES[0]), timeout=60))) == 1


def test_what_is_sent_is_seen_before_anybody_answers(build: Build) -> None:
    seen: list[tuple[str, int, int]] = []
    ticks: list[None] = []

    def observe(kind: str, messages: list[Message]) -> None:
        seen.append((kind, len(messages), len(ticks)))

    with build(observe=observe, tick=lambda: ticks.append(None)) as grid:
        for _ in range(2):
            list(grid.send_and_receive(closes(*NODES[:3])))
    assert seen == [(Kind.CLOSE, 3, 0), (Kind.CLOSE, 3, 3)]


def test_a_run_can_be_set_and_a_message_made_as_old_code_does(build: Build) -> None:
    with build() as grid:
        other = Run.create_empty(5)
        grid.set_run(other)
        assert grid.run is other
        (reply,) = grid.send_and_receive(closes(NODES[0]))
        made = grid.create_message(reply.content, Kind.CLOSE, NODES[0], "group")
    assert (made.metadata.dst_node_id, made.metadata.group_id) == (NODES[0], "group")
