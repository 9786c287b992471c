"""Parity finds what differs between two engines, and names the municipality and the array."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, Message

from faelles.errors import RunError
from faelles.models import Arrays
from faelles.records import ARRAYS, Code, Kind, Refusal, refusal_message
from simulations.cohort import CohortGrid
from simulations.grid import FIRST_NODE_ID
from simulations.parity import ParityGrid, largest
from simulations.questions import Question
from tests.builders import FEDERATION, LOCAL, personal_card
from tests.cohorts import build_cohort, build_parity, run_grid
from tests.federations import CITIZENS

CARD = personal_card()
SECOND, NAME = FIRST_NODE_ID + 1, sorted(CITIZENS)[1]
Spoil = Callable[[Message, Message], Message]  # a request and its reply -> another reply


def spoiled(grid: CohortGrid, kind: Kind, spoil: Spoil, monkeypatch: pytest.MonkeyPatch) -> CohortGrid:
    """Let an engine answer one kind of request of the second municipality in another way."""
    exchange = grid.exchange

    def other(messages: list[Message]) -> list[Message]:
        return [
            spoil(message, reply)
            if message.metadata.dst_node_id == SECOND and message.metadata.message_type == kind
            else reply
            for message, reply in zip(messages, exchange(messages), strict=True)
        ]

    monkeypatch.setattr(grid, "exchange", other)
    return grid


def shifted(name: str, by: float) -> Spoil:
    """Move one number of an array."""

    def spoil(message: Message, reply: Message) -> Message:
        array = reply.content.array_records[ARRAYS][name].numpy().copy()
        array.flat[-1] += by
        reply.content.array_records[ARRAYS][name] = Array(array)
        return reply

    return spoil


def refused(message: Message, reply: Message) -> Message:
    return refusal_message(Refusal(code=Code.FAILED), message)


def check_largest(grid: ParityGrid, expected: float, array: str) -> None:
    apart, *where = largest(grid.differences)
    assert apart == pytest.approx(expected, rel=1e-4)
    assert where == [NAME, array]


def twins(folder: Path) -> tuple[CohortGrid, CohortGrid]:
    return build_cohort(folder / "one", CARD), build_cohort(folder / "two", CARD)


def test_equal_engines_differ_in_nothing(tmp_path: Path) -> None:
    grid = ParityGrid(*twins(tmp_path))
    record = run_grid(grid, tmp_path, CARD, "fedadam")
    assert record.status == "completed"
    arrays = {"histogram", "output.weight", LOCAL[0]}
    assert grid.differences == {label: dict.fromkeys(arrays, 0.0) for label in CITIZENS}
    assert largest(grid.differences)[0] == 0


@pytest.mark.parametrize(("kind", "name"), [(Kind.TRAIN, "output.weight"), (Kind.EVALUATE, "histogram")])
@pytest.mark.parametrize("by", [0.25, -0.25])
@pytest.mark.parametrize("fast", [True, False])
def test_a_number_that_differs_is_found_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, name: str, by: float, fast: bool
) -> None:
    ours, theirs = twins(tmp_path)
    spoiled(ours if fast else theirs, kind, shifted(name, by), monkeypatch)
    grid = ParityGrid(ours, theirs)
    run_grid(grid, tmp_path, CARD)
    check_largest(grid, 0.25, name)
    assert sum(apart > 0 for arrays in grid.differences.values() for apart in arrays.values()) == 1


def test_a_local_parameter_that_differs_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = twins(tmp_path)
    local_parameters = theirs.local_parameters

    def other(federation: str, before_round: int) -> dict[int, Arrays]:
        found = local_parameters(federation, before_round)
        # In one round only: a difference of any round counts.
        by = np.float32(before_round == 3)
        return {node: {LOCAL[0]: one[LOCAL[0]] + by * (node == SECOND)} for node, one in found.items()}

    monkeypatch.setattr(theirs, "local_parameters", other)
    grid = ParityGrid(ours, theirs)
    run_grid(grid, tmp_path, CARD)
    check_largest(grid, 1.0, LOCAL[0])


@pytest.mark.parametrize("kind", [Kind.READY, Kind.TRAIN, Kind.EVALUATE, Kind.FINAL])
@pytest.mark.parametrize("fast", [True, False])
def test_another_refusal_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, fast: bool
) -> None:
    ours, theirs = twins(tmp_path)
    spoiled(ours if fast else theirs, kind, refused, monkeypatch)
    with pytest.raises(RunError) as caught:
        run_grid(ParityGrid(ours, theirs), tmp_path, CARD)
    words = "failed came, from the reference an answer" if fast else "an answer came, from the reference failed"
    assert str(caught.value) == f"parity: expected {NAME} to answer alike, {words}"


def test_equal_refusals_are_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = (spoiled(one, Kind.TRAIN, refused, monkeypatch) for one in twins(tmp_path))
    grid = ParityGrid(ours, theirs)
    record = run_grid(grid, tmp_path, CARD)
    assert record.rounds[0].contributing == sorted(CITIZENS.keys() - {NAME})
    assert largest(grid.differences)[0] == 0


def test_the_model_is_made_of_the_fast_engines_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run_grid(build_cohort(tmp_path / "alone", CARD), tmp_path / "alone", CARD).model_sha256
    ours, theirs = twins(tmp_path)
    spoiled(theirs, Kind.TRAIN, shifted("output.weight", 1.0), monkeypatch)
    assert run_grid(ParityGrid(ours, theirs), tmp_path / "a", CARD).model_sha256 == alone


def test_questions_and_replies_go_through(tmp_path: Path) -> None:
    observed: list[str] = []
    ticks: list[None] = []
    grid = ParityGrid(*twins(tmp_path), lambda kind, messages: observed.append(kind), lambda: ticks.append(None))
    run_grid(grid, tmp_path, CARD)
    assert observed == [Kind.READY, *[Kind.TRAIN] * 3, Kind.EVALUATE, Kind.FINAL, Kind.CLOSE]
    assert len(ticks) == 7 * len(CITIZENS)
    with build_parity(tmp_path / "both", CARD) as both:
        assert both.ask_all(Question(kind="alone")).keys() == both.names.keys()
        assert both.local_parameters(FEDERATION, 1).keys() == both.names.keys()
        assert [node.name for node in both.get_nodes()] == sorted(CITIZENS)


def test_the_largest_of_nothing_is_nothing() -> None:
    assert largest({}) == largest({"0101": {}}) == (0.0, "", "")
    assert largest({"0101": {"a": 1.0, "b": 3.0}, "0147": {"a": 2.0}}) == (3.0, "0101", "b")
