"""A federation says what really happened, and nobody's reply can end it or touch a model it must not touch."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from client import ledger
from faelles.errors import RunError
from faelles.records import ARRAYS, CONFIG, Kind
from faelles.terms import RunTerms
from server.federation import StrategyChoice
from server.result import RunRecord
from tests.builders import FEDERATION, OTHER_FEDERATION, build_card, build_policy, personal_card
from tests.scripted import NAMES, Town, only, silence

CARD = build_card()
CODES = {1001: 103, 1002: 4711, 1003: 3}
FOREIGN = "what a municipality says and nobody should repeat"


def spoilt(change: Callable[[RecordDict], object]) -> Callable[[Message, Message], list[Message]]:
    def instead(message: Message, reply: Message) -> list[Message]:
        change(reply.content)
        return [reply]

    return instead


def put(name: str, array: Any) -> Callable[[RecordDict], object]:
    return lambda content: content.array_records[ARRAYS].__setitem__(name, Array(np.asarray(array)))


def say(key: str, value: Any) -> Callable[[RecordDict], object]:
    return lambda content: content.config_records[CONFIG].__setitem__(key, value)


def scramble(content: RecordDict) -> None:
    content.array_records[ARRAYS]["output.bias"].data = b"\x93NUMPY" + FOREIGN.encode()


def run_json(town: Town) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((town.folder / "run" / "run.json").read_text())
    return read


@pytest.fixture(scope="module")
def silent_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the model of a run in which 0751 was silent in round 2."""
    town = Town(tmp_path_factory.mktemp("silent"), CARD).at("0751", only(Kind.TRAIN, 2, silence))
    return town.run(strategy=StrategyChoice(name="fedadam")).model_sha256


# what an honest run does


def test_an_honest_run_asks_in_order_and_names_everybody(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    record = town.run()
    assert town.grid.kinds() == ["query.ready", "train", "evaluate", "query.final", "query.close"]
    assert len(town.grid.sent) == len(NAMES) * (1 + 3 + 1 + 1 + 1)
    assert town.clock.now_s < 1.0  # nobody is waited for who has answered
    assert record.status == "completed"
    assert record.expected == sorted(record.declared_sizes) == list(NAMES)
    assert not record.sits_out
    assert [(one.number, one.contributing) for one in record.rounds] == [(n, list(NAMES)) for n in (1, 2, 3)]
    assert record.evaluation is not None
    assert record.evaluation.contributing == list(NAMES)
    assert record.model_sha256 == record.rounds[-1].model_sha256
    assert record.delivered == list(NAMES)
    assert record.waited_s == 0.0
    assert RunRecord.model_validate(run_json(town)) == record


def test_the_model_does_not_depend_on_the_order_of_nodes_and_replies(tmp_path: Path) -> None:
    first = Town(tmp_path / "a", CARD).run(weighting="declared")
    other = Town(tmp_path / "b", CARD)
    other.nodes = {2000 - node_id: node for node_id, node in other.nodes.items()}
    assert other.run(weighting="declared").model_sha256 == first.model_sha256


def test_the_finished_model_is_on_disk_and_at_home(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    town.run()
    with np.load(tmp_path / "run" / "model.npz", allow_pickle=False) as archive:
        assert archive.files == ["output.weight", "output.bias"]
    assert all(agent.model() for agent in town.agents.values())
    reservations = [ledger.reservation(one.store.database, FEDERATION, "training") for one in town.agents.values()]
    assert [one.freed for one in reservations if one] == [True] * 4


def test_no_evaluation_where_none_was_asked_for(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    record = town.run(terms=RunTerms(epsilon=2.0, rounds=2, evaluate=False))
    assert town.grid.kinds() == ["query.ready", "train", "query.final", "query.close"]
    assert record.evaluation is None
    assert record.status == "completed"


# faulty replies


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("output.bias", np.zeros(2, np.float32)), "array output.bias"),
        (put("output.bias", np.zeros(1, np.float64)), "array output.bias"),
        (put("output.bias", np.zeros(1, [(FOREIGN, "<f4")])), "array output.bias"),
        (put("output.bias", np.array([np.nan], np.float32)), "array output.bias"),
        (put("output.bias", np.array([np.inf], np.float32)), "array output.bias"),
        (put("output.bias", np.array([1e30], np.float32)), "array output.bias"),
        (put("output.bias", np.array([1e5], np.float32)), "update: expected a norm"),
        (put(FOREIGN, np.zeros(1, np.float32)), "arrays: expected"),
        (lambda content: content.array_records[ARRAYS].clear(), "arrays: expected"),
        (scramble, "arrays: expected numpy arrays"),
        (say("card-sha256", personal_card().sha256), "card-sha256: expected"),
        (say("federation", OTHER_FEDERATION), "federation: expected"),
        (say("federation", FOREIGN), "federation: expected"),
        (say("server-round", 1), "server-round: expected"),
        (say("server-round", -1), "server-round: expected"),
        (say("schema-version", 7), "schema-version: expected"),
        (say(FOREIGN, 1), "answer: expected config keys"),
        (say("federation", [FOREIGN]), "config: expected"),
        (lambda content: content.config_records[CONFIG].clear(), "schema-version: expected"),
        (lambda content: content.pop(ARRAYS), "message: expected the records"),
        (lambda content: content.__setitem__(ARRAYS, ConfigRecord()), "message: expected"),
        (lambda content: content.__setitem__(FOREIGN, ArrayRecord()), "message: expected the records"),
    ],
)
def test_a_faulty_reply_is_rejected_named_and_touches_nothing(
    tmp_path: Path, silent_digest: str, change: Callable[[RecordDict], object], reason: str
) -> None:
    town = Town(tmp_path, CARD).at("0751", only(Kind.TRAIN, 2, spoilt(change)))
    record = town.run(strategy=StrategyChoice(name="fedadam"))
    assert record.status == "completed"
    assert [list(one.rejected) for one in record.rounds] == [[], ["0751"], []]
    assert record.rounds[1].rejected["0751"].startswith(reason)
    assert record.rounds[1].contributing == ["0101", "0147", "0851"]
    assert record.model_sha256 == silent_digest
    assert FOREIGN not in json.dumps(run_json(town))


def test_a_replay_of_the_round_before_is_rejected(tmp_path: Path) -> None:
    seen: list[RecordDict] = []

    def replay(message: Message, reply: Message) -> list[Message]:
        seen.append(reply.content)
        return [Message(seen[0], reply_to=message)]

    record = Town(tmp_path, CARD).at("0147", only(Kind.TRAIN, None, replay)).run()
    assert [list(one.rejected) for one in record.rounds] == [[], ["0147"], ["0147"]]


def test_an_errors_text_is_not_repeated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(message: Message, reply: Message) -> list[Message]:
        return [Message(Error(code=CODES[message.metadata.dst_node_id], reason=FOREIGN), reply_to=message)]

    town = Town(tmp_path, CARD)
    for name in NAMES[:3]:
        town.at(name, only(Kind.TRAIN, 1, fail))
    with caplog.at_level(logging.DEBUG):
        record = town.run(quorum=0.25)
    assert record.rounds[0].refused == {"0101": "not-ready", "0147": "error 4711"}
    assert record.rounds[0].silent == ["0751"]  # Flower says of all its requests that they were lost
    assert record.rounds[1].contributing == list(NAMES)
    assert FOREIGN not in json.dumps(run_json(town))
    assert FOREIGN not in caplog.text


def test_a_faulty_histogram_is_left_out_of_the_evaluation(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at(
        "0101", only(Kind.EVALUATE, None, spoilt(put("histogram", np.array([[np.nan]], np.float32))))
    )
    record = town.at("0147", only(Kind.EVALUATE, None, silence)).run()
    assert record.status == "completed"
    assert record.evaluation is not None
    assert list(record.evaluation.rejected) == ["0101"]
    assert record.evaluation.silent == ["0147"]
    assert record.evaluation.contributing == ["0751", "0851"]
    assert record.evaluation.auc is not None


def test_an_evaluation_nobody_answers_has_no_figures(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    for name in NAMES:
        town.at(name, only(Kind.EVALUATE, None, silence))
    record = town.run()
    assert record.status == "incomplete"
    assert record.why == "evaluation: 0 contributed, the quorum is 2"
    assert record.evaluation is not None
    assert record.evaluation.auc is record.evaluation.log_loss is None
    assert record.evaluation.silent == list(NAMES)
    # It can be taken up for its evaluation: the model is the last round's, and no reservation is freed.
    assert record.model_sha256 == record.rounds[-1].model_sha256
    assert town.grid.kinds() == ["query.ready", "train", "evaluate"]
    assert not record.delivered


# who takes part


def test_silent_municipalities_are_named_round_by_round(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0851", only(Kind.TRAIN, 1, silence)).at("0147", only(Kind.TRAIN, 1, silence))
    record = town.run()
    assert [one.silent for one in record.rounds] == [["0147", "0851"], [], []]
    assert [one.contributing for one in record.rounds] == [["0101", "0751"], list(NAMES), list(NAMES)]
    assert record.status == "completed"


def test_those_who_sit_out_are_named_and_asked_no_more(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0851", only(Kind.READY, None, silence))
    for name, policy in {
        "0101": build_policy(CARD, "0101", declared_size=0),
        "0147": build_policy(CARD, "0147", epsilon_cap=1.0),
    }.items():
        town.agents[name].restart(policy=policy)
    record = town.run(quorum=0.25)
    assert record.sits_out == {"0101": "no-data", "0147": "terms-refused (cap 1)", "0851": "silent"}
    assert record.expected == list(NAMES)
    assert record.declared_sizes == {"0751": 50}
    later = [one for one in town.grid.sent if one.metadata.message_type != Kind.READY]
    assert {one.metadata.dst_node_id for one in later} == {1003}
    assert record.status == "completed"


def test_a_node_cannot_speak_for_another_municipality(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0851", only(Kind.READY, None, spoilt(say("municipality", "0101"))))
    record = town.run()
    assert list(record.sits_out) == ["0851"]
    assert record.sits_out["0851"].startswith("ready: expected the municipality that the node was registered for")
    assert record.rounds[0].contributing == ["0101", "0147", "0751"]


def test_two_nodes_registered_for_one_municipality_both_sit_out(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    town.nodes[1009] = ("0101", town.nodes[1001][1])
    record = town.run()
    assert record.expected == list(NAMES)
    assert record.sits_out == {"0101": "several nodes are registered for it"}
    assert not {1001, 1009} & {one.metadata.dst_node_id for one in town.grid.sent}
    assert record.rounds[0].contributing == ["0147", "0751", "0851"]


def test_a_node_without_a_name_is_no_municipality(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    town.nodes[1009] = ("", town.nodes[1001][1])
    record = town.run()
    assert list(record.sits_out) == ["node 1009"]


@pytest.mark.parametrize("size", [0, 51, -50, "50", 1e30])
def test_a_declared_size_outside_the_public_bands_is_rejected(tmp_path: Path, size: Any) -> None:
    record = Town(tmp_path, CARD).at("0101", only(Kind.READY, None, spoilt(say("declared-size", size)))).run()
    assert record.sits_out == {"0101": "ready: expected one of the public declared sizes, another came"}


def test_of_duplicate_replies_the_first_counts(tmp_path: Path) -> None:
    def twice(message: Message, reply: Message) -> list[Message]:
        zero = {
            name: Array(np.zeros_like(array.numpy())) for name, array in reply.content.array_records[ARRAYS].items()
        }
        second = RecordDict({ARRAYS: ArrayRecord(zero), CONFIG: reply.content[CONFIG]})
        return [reply, Message(second, reply_to=message)]

    plain = Town(tmp_path / "a", CARD).run()
    record = Town(tmp_path / "b", CARD).at("0101", only(Kind.TRAIN, None, twice)).run()
    assert record.model_sha256 == plain.model_sha256
    assert [one.contributing for one in record.rounds] == [list(NAMES)] * 3


def test_replies_of_nodes_that_were_not_asked_are_ignored(tmp_path: Path) -> None:
    def stranger(message: Message, reply: Message) -> list[Message]:
        zero = {
            name: Array(np.zeros_like(array.numpy())) for name, array in reply.content.array_records[ARRAYS].items()
        }
        other = Message(RecordDict({ARRAYS: ArrayRecord(zero), CONFIG: reply.content[CONFIG]}), reply_to=message)
        other.metadata.__dict__["_src_node_id"] = 4711
        return [other, reply]

    plain = Town(tmp_path / "a", CARD).run()
    record = Town(tmp_path / "b", CARD).at("0101", only(Kind.TRAIN, None, stranger)).run()
    assert record.model_sha256 == plain.model_sha256
    assert [one.contributing for one in record.rounds] == [list(NAMES)] * 3


def test_nobody_taking_part_is_told_with_the_reasons(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    for agent in town.agents.values():
        agent.restart(policy=build_policy(CARD, agent.policy.municipality, declared_size=0))
    with pytest.raises(RunError, match=r"none does \(no-data\)"):
        town.run()
    town.nodes = {}
    with pytest.raises(RunError, match=r"none does \(no node is connected\)"):
        town.run()


# quorum


@pytest.mark.parametrize(("quorum", "status"), [(0.5, "completed"), (0.51, "incomplete"), (1.0, "incomplete")])
def test_a_round_below_the_quorum_ends_the_run_incomplete(tmp_path: Path, quorum: float, status: str) -> None:
    town = Town(tmp_path, CARD).at("0851", only(Kind.TRAIN, 2, silence)).at("0147", only(Kind.TRAIN, 2, silence))
    record = town.run(quorum=quorum)
    assert record.status == status == run_json(town)["status"]
    if status == "incomplete":
        assert record.why == f"round 2: 2 contributed, the quorum is {3 if quorum < 1 else 4}"
        assert record.rounds[1].silent == ["0147", "0851"]
        assert record.evaluation is None
        # The model of the last good round; the reservations stand, for the run can be resumed.
        assert record.model_sha256 == record.rounds[0].model_sha256 == record.rounds[1].model_sha256
        assert town.grid.kinds() == ["query.ready", "train"]


def test_those_who_sit_out_count_against_the_quorum(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    town.agents["0101"].restart(policy=build_policy(CARD, "0101", declared_size=0))
    record = town.run(quorum=0.8)
    assert record.status == "incomplete"
    assert record.why == "3 take part, the quorum is 4"
    # Found out before anybody has trained and paid for it.
    assert town.grid.kinds() == ["query.ready"]
    assert not any(agent.releases() for agent in town.agents.values())
    assert record.model_sha256 == run_json(town)["model_sha256"] != ""


@pytest.mark.parametrize(("quorum", "expected", "needed"), [(0.55, 100, 55), (0.8, 98, 79), (1.0, 3, 3), (0.01, 5, 1)])
def test_the_quorum_is_a_share_rounded_up(quorum: float, expected: int, needed: int) -> None:
    record = RunRecord(federation="f", quorum=quorum, expected=[str(number) for number in range(expected)])
    assert record.needed == needed


def test_a_strategy_that_cannot_use_the_updates_ends_the_run_incomplete(tmp_path: Path) -> None:
    record = Town(tmp_path, CARD).run(strategy=StrategyChoice(name="krum"))  # it needs five
    assert record.status == "incomplete"
    assert record.why.startswith("round 1: strategy krum needs updates from 5")
    assert record.rounds[0].contributing == list(NAMES)


def test_a_reply_that_comes_rounds_later_is_named_in_its_own_round(tmp_path: Path) -> None:
    def held(message: Message, reply: Message) -> list[Message]:
        town.grid.hold(message, reply, release_at_s=150.0)
        return []

    town = Town(tmp_path, CARD)
    town.at("0851", only(Kind.TRAIN, 1, held)).at("0147", only(Kind.TRAIN, None, silence))
    record = town.run()
    assert [one.silent for one in record.rounds] == [["0147", "0851"], ["0147"], ["0147"]]
    assert [one.late for one in record.rounds] == [["0851"], [], []]
    assert RunRecord.model_validate(run_json(town)) == record


def test_seconds_beyond_deadlines_are_added_up_and_kept_when_a_run_is_taken_up(tmp_path: Path) -> None:
    def held(message: Message, reply: Message) -> list[Message]:
        town.grid.hold(message, reply, release_at_s=200.0)
        return []

    town = Town(tmp_path, CARD)
    nodes = dict(town.nodes)
    town.at("0851", only(Kind.TRAIN, 1, held)).at("0147", only(Kind.TRAIN, 2, silence))
    record = town.run(quorum=1.0, wait_s=300.0)
    assert record.status == "incomplete"
    assert [one.silent for one in record.rounds] == [[], ["0147"]]
    assert record.waited_s == pytest.approx(140.0 + 300.0, abs=1.0)
    assert record.rounds[1].seconds == pytest.approx(360.0, abs=1.0)
    town.nodes = nodes
    again = town.run(quorum=1.0, wait_s=300.0, resume=True)
    assert again.status == "completed"
    assert again.waited_s == pytest.approx(140.0, abs=1.0)  # the second round began anew
