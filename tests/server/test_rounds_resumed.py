"""A federation that was interrupted goes on from its checkpoint as if it had not been."""

from pathlib import Path
from typing import Any

import pytest

from faelles.errors import RunError
from faelles.records import Kind
from server.federation import StrategyChoice
from tests.builders import Agent, build_card, personal_card
from tests.scripted import NAMES, Town, honest, only, silence

CARD = build_card()


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedavgm"])
@pytest.mark.parametrize("card", [CARD, personal_card()], ids=["federated", "personalised"])
def test_an_incomplete_run_goes_on_to_the_same_model(tmp_path: Path, strategy: str, card: Any) -> None:
    choice = StrategyChoice(name=strategy)
    whole = Town(tmp_path / "a", card).run(strategy=choice)
    town = Town(tmp_path / "b", card)
    nodes = dict(town.nodes)
    for name in NAMES[1:]:
        town.at(name, only(Kind.TRAIN, 2, silence))
    assert town.run(strategy=choice).status == "incomplete"
    town.nodes = nodes
    record = town.run(strategy=choice, resume=True)
    assert record.status == "completed"
    assert record.why == ""
    assert record.model_sha256 == whole.model_sha256
    assert [one.number for one in record.rounds] == [1, 2, 3]
    for agent in town.agents.values():
        assert agent.releases() == 3


def test_a_finished_run_resumed_repeats_nothing(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    first = town.run()
    again = town.run(resume=True)
    assert not town.grid.sent
    assert again == first


def test_a_finished_run_resumed_delivers_to_those_only_who_lack_the_model(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    node = town.nodes[1004]
    town.at("0851", only(Kind.FINAL, None, silence))
    first = town.run()
    assert (first.status, first.delivered, first.undelivered) == ("completed", ["0101", "0147", "0751"], ["0851"])
    town.nodes[1004] = node
    again = town.run(resume=True)
    assert again == first.model_copy(update={"delivered": list(NAMES), "undelivered": []})
    assert [(one.metadata.message_type, one.metadata.dst_node_id) for one in town.grid.sent] == [
        ("query.final", 1004),
        ("query.close", 1004),
    ]


def test_a_run_without_its_evaluation_is_taken_up_there(tmp_path: Path) -> None:
    whole = Town(tmp_path / "a", CARD).run()
    town = Town(tmp_path / "b", CARD)
    nodes = dict(town.nodes)
    for name in NAMES[1:]:
        town.at(name, only(Kind.EVALUATE, None, silence))
    assert town.run().status == "incomplete"
    town.nodes = nodes
    record = town.run(resume=True)
    assert town.grid.kinds() == ["query.ready", "evaluate", "query.final", "query.close"]
    assert (record.status, record.evaluation) == ("completed", whole.evaluation)
    assert record.model_sha256 == whole.model_sha256


def test_a_longer_deadline_is_no_other_federation(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    town.run(deadline_s=1.0)
    assert town.run(deadline_s=60.0, resume=True).status == "completed"


def broken_off(folder: Path) -> Town:
    """Run a federation that only 0101 stayed with, and bring all the others back."""
    town = Town(folder, CARD)
    nodes = dict(town.nodes)
    for name in NAMES[1:]:
        town.at(name, only(Kind.TRAIN, 2, silence))
    town.run()
    town.nodes = nodes
    return town


def test_a_municipality_whose_store_was_set_back_sits_out_and_is_named(tmp_path: Path) -> None:
    town = broken_off(tmp_path)
    agent = Agent(tmp_path / "run", CARD, municipality="0147")  # as a new machine with an empty store would be
    town.nodes[1002] = ("0147", honest(agent))
    record = town.run(resume=True)
    assert record.sits_out == {"0147": "ledger-frozen"}
    assert record.status == "completed"
    assert [one.contributing for one in record.rounds] == [list(NAMES), *[["0101", "0751", "0851"]] * 2]
    assert agent.releases() == 0


def test_who_is_gone_when_a_run_is_resumed_is_named(tmp_path: Path) -> None:
    town = broken_off(tmp_path)
    del town.nodes[1004]
    town.at("0751", only(Kind.READY, None, silence))
    record = town.run(resume=True)
    assert record.sits_out == {"0751": "silent", "0851": "no longer connected"}
    assert record.expected == list(NAMES)
    assert record.status == "completed"
    assert [one.contributing for one in record.rounds] == [list(NAMES), ["0101", "0147"], ["0101", "0147"]]


@pytest.mark.parametrize(
    "changes",
    [{"resume": True, "seed": 5}, {"resume": True, "strategy": StrategyChoice(name="median")}, {"resume": False}],
)
def test_a_folder_of_another_federation_is_refused_before_anybody_is_asked(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    town = Town(tmp_path, CARD)
    town.run()
    with pytest.raises(RunError, match=r"checkpoints: (holds another federation|expected no checkpoints)"):
        town.run(**changes)
    assert not town.grid.sent


def test_nothing_to_resume_starts_from_the_beginning(tmp_path: Path) -> None:
    assert Town(tmp_path / "a", CARD).run(resume=True).model_sha256 == Town(tmp_path / "b", CARD).run().model_sha256
