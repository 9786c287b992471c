"""Every municipality is spoken to in the version it understands, and the model reaches also who was away."""

import logging
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from faelles.records import CARD as CARD_KEY
from faelles.records import (
    CONFIG,
    FEDERATION,
    LEDGER_HEAD,
    PLAN,
    PROXIMAL_MU,
    SCHEMA,
    SERVER_ROUND,
    TERMS,
    Code,
    Kind,
    model_sha256,
)
from server.dialogue import Dialogue
from server.heads import FILE, LedgerHeads
from tests.builders import OTHER_FEDERATION, build_card, build_policy
from tests.scripted import NAMES, Answering, Town, only, silence

CARD = build_card()
OLD = 1003  # the node of 0751
COMMON_1 = {SCHEMA, FEDERATION, SERVER_ROUND, CARD_KEY}
ALLOWED_1 = {  # what version 1 of the wire contract let a request hold, as the agents of 0.1 have it
    "query.ready": {TERMS, LEDGER_HEAD},
    "train": {PLAN, PROXIMAL_MU, LEDGER_HEAD},
    "evaluate": {LEDGER_HEAD},
    "query.final": set(),
    "query.close": set(),
}


def of_the_version_before(answering: Answering) -> Answering:
    """Be an agent that speaks the wire schema before: another version is malformed to it, and so is a key too many."""

    def answer(message: Message) -> list[Message]:
        config = message.content.config_records[CONFIG]
        known = COMMON_1 | ALLOWED_1[message.metadata.message_type]
        if config[SCHEMA] != 1 or set(config) - known:
            return [Message(Error(code=Code.MALFORMED, reason="malformed"), reply_to=message)]
        (reply,) = answering(message)
        assert reply.has_error() or reply.content.config_records[CONFIG][SCHEMA] == 1
        return [reply]

    return answer


def schemas(town: Town, node: int) -> list[tuple[str, int]]:
    """List what a node was asked, and in which version."""
    sent = [one for one in town.grid.sent if one.metadata.dst_node_id == node]
    return [(one.metadata.message_type, int(str(one.content.config_records[CONFIG][SCHEMA]))) for one in sent]


def refusing(code: int) -> Callable[[Message, Message], list[Message]]:
    return lambda message, reply: [Message(Error(code=code, reason="x"), reply_to=message)]


# versions


@pytest.mark.parametrize("quorum", [0.5, 1.0])
def test_an_agent_of_the_version_before_takes_part_in_all_of_a_run(tmp_path: Path, quorum: float) -> None:
    plain = Town(tmp_path / "a", CARD).run(quorum=quorum)
    town = Town(tmp_path / "b", CARD).at("0751", of_the_version_before)
    record = town.run(quorum=quorum)
    assert record.status == "completed"
    assert not record.sits_out
    assert [one.contributing for one in record.rounds] == [list(NAMES)] * 3
    assert record.evaluation is not None
    assert record.evaluation.contributing == list(NAMES)
    assert record.delivered == list(NAMES)
    assert town.agents["0751"].model()
    assert record.model_sha256 == plain.model_sha256
    kinds = ["train", "train", "train", "evaluate", "query.final", "query.close"]
    assert schemas(town, OLD) == [("query.ready", 2), ("query.ready", 1), *((kind, 1) for kind in kinds)]
    assert schemas(town, 1001) == [("query.ready", 2), *((kind, 2) for kind in kinds)]
    assert town.clock.now_s < 1.0  # and nobody waited for it


def test_a_town_of_the_version_before_is_served_like_any(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    for name in NAMES:
        town.at(name, of_the_version_before)
    record = town.run(quorum=1.0)
    assert (record.status, record.delivered) == ("completed", list(NAMES))


def test_the_wait_for_a_quorum_counts_the_version_before(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0751", of_the_version_before).at("0851", only(Kind.READY, None, silence))
    record = town.run(quorum=0.75, wait_s=3600.0)
    assert (record.status, record.sits_out) == ("completed", {"0851": "silent"})
    assert record.waited_s == 0.0


def test_an_agent_that_is_upgraded_in_a_run_goes_on_in_the_version_it_began(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    plain = town.nodes[OLD][1]
    old = of_the_version_before(plain)
    town.nodes[OLD] = (
        "0751",
        lambda message: (old if message.content.config_records[CONFIG][SERVER_ROUND] < 2 else plain)(message),  # type: ignore[operator]
    )
    record = town.run(quorum=1.0)
    assert (record.status, record.delivered) == ("completed", list(NAMES))
    assert {schema for kind, schema in schemas(town, OLD) if kind != "query.ready"} == {1}


def test_who_is_malformed_in_every_version_is_asked_twice_and_sits_out(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0751", only(Kind.READY, None, refusing(Code.MALFORMED)))
    record = town.run()
    assert record.sits_out == {"0751": "malformed"}
    assert schemas(town, OLD) == [("query.ready", 2), ("query.ready", 1)]


def test_who_has_understood_is_not_asked_in_another_version(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0751", only(Kind.TRAIN, 2, refusing(Code.MALFORMED)))
    record = town.run()
    assert record.rounds[1].refused == {"0751": "malformed"}
    assert {schema for _, schema in schemas(town, OLD)} == {2}


def test_other_refusals_are_no_question_of_versions(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0751", only(Kind.READY, None, refusing(Code.OUTSIDE_HOURS)))
    assert town.run().sits_out == {"0751": "outside-hours"}
    assert schemas(town, OLD) == [("query.ready", 2)]


def test_a_completed_run_is_delivered_to_an_agent_of_the_version_before(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0751", of_the_version_before)
    behind = town.nodes[OLD]
    town.at("0751", only(Kind.FINAL, None, silence))
    assert town.run().delivered == ["0101", "0147", "0851"]
    town.nodes[OLD] = behind
    assert town.run(resume=True).delivered == list(NAMES)
    assert schemas(town, OLD) == [("query.final", 2), ("query.final", 1), ("query.close", 1)]


# words


def test_a_request_that_is_sent_again_asks_for_the_same(tmp_path: Path) -> None:
    left = iter(range(2))
    town = Town(tmp_path, CARD)
    town.at("0751", only(Kind.TRAIN, 2, lambda message, reply: [] if next(left, None) is not None else [reply]))
    record = town.run(deadline_s=600.0)
    assert [one.contributing for one in record.rounds] == [list(NAMES)] * 3
    assert [kind for kind, _ in schemas(town, OLD)].count("train") == 3 + 2
    # Asked three times and answered three times, it spent and released once.
    assert town.agents["0751"].releases() == 3


def test_answers_are_sorted_into_one_place_each(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0101", only(Kind.CLOSE, None, silence))
    town.at("0147", only(Kind.CLOSE, None, refusing(Code.NOT_READY)))
    town.at(
        "0751",
        only(
            Kind.CLOSE, None, lambda message, reply: [Message(RecordDict({CONFIG: ConfigRecord()}), reply_to=message)]
        ),
    )
    town.away = {1009: 1e9}
    town.nodes[1009] = ("0853", town.nodes[1001][1])
    names = {node: name for node, (name, _) in town.nodes.items()}
    config = town.config()
    config.folder.mkdir(parents=True)
    heads = LedgerHeads(config.folder / FILE)
    dialogue = Dialogue(town.connect(), config, names, heads, clock=town.clock.now, pause=town.clock.pause)
    replies = dialogue.ask(Kind.CLOSE, 3, {node: {} for node in names})
    heads.close()
    assert sorted(replies.answers) == ["0851"]
    assert replies.refused == {"0147": "not-ready"}
    assert list(replies.rejected) == ["0751"]
    assert (replies.silent, replies.missing, replies.late) == (["0101"], ["0853"], [])


# the model comes home


def test_who_is_away_at_the_end_gets_the_model_when_it_connects(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)

    def leave(message: Message, reply: Message) -> list[Message]:
        town.grid.away[OLD] = town.clock.now_s + 1000.0
        return [reply]

    town.at("0751", only(Kind.EVALUATE, None, leave))
    record = town.run(deliver_s=7200.0)
    assert (record.status, record.delivered) == ("completed", list(NAMES))
    assert town.agents["0751"].model() == town.agents["0101"].model()
    assert 1000.0 <= town.clock.now_s < 1100.0
    # Once before it was noticed that it had left, once when it was there.
    assert [kind for kind, _ in schemas(town, OLD)].count("query.final") == 2
    assert [kind for kind, _ in schemas(town, 1001)].count("query.final") == 1


def test_who_stays_away_is_given_up_and_the_run_is_completed_all_the_same(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0751", only(Kind.FINAL, None, silence))
    record = town.run(deliver_s=300.0)
    assert (record.status, record.delivered) == ("completed", ["0101", "0147", "0851"])
    assert 300.0 <= town.clock.now_s <= 300.0 + 60.0 + 1.0


@pytest.mark.parametrize(
    ("instead", "unwanted"),
    [
        (refusing(Code.NOT_READY), ["0751"]),
        (refusing(4711), ["0751"]),
        (lambda message, reply: [Message(RecordDict(), reply_to=message)], []),
    ],
    ids=["refused", "unknown-code", "of-no-use"],
)
def test_who_refuses_the_model_is_not_asked_for_ever(
    tmp_path: Path, instead: Callable[[Message, Message], list[Message]], unwanted: list[str]
) -> None:
    town = Town(tmp_path, CARD).at("0751", only(Kind.FINAL, None, instead))
    record = town.run(deliver_s=7200.0)
    assert (record.status, record.delivered) == ("completed", ["0101", "0147", "0851"])
    assert [kind for kind, _ in schemas(town, OLD)].count("query.final") == 1
    assert town.clock.now_s < 1.0
    # Who has refused has said so; an agent that was faulty may be mended by the time that a run is taken up.
    assert record.unwanted == unwanted
    again = town.run(resume=True)
    assert again == record
    assert [kind for kind, _ in schemas(town, OLD)] == ([] if unwanted else ["query.final"])


def test_the_model_that_comes_home_is_the_records(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    record = town.run()
    final = [one for one in town.grid.sent if one.metadata.message_type == Kind.FINAL]
    digests = {
        model_sha256({name: array.numpy() for name, array in one.content.array_records["arrays"].items()})
        for one in final
    }
    assert digests == {record.model_sha256}


def test_no_version_and_no_resend_is_logged_with_more_than_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    town = Town(tmp_path, CARD).at("0751", of_the_version_before)
    with caplog.at_level(logging.DEBUG, logger="server"):
        town.run()
    assert f"event=older-schema node={OLD} schema=1" in caplog.text
    heads = [str(one.content.config_records[CONFIG].get(LEDGER_HEAD, "-")) for one in town.grid.sent]
    assert not [head for head in heads if head != "-" and head in caplog.text]


def test_two_runs_may_meet_an_agent_in_two_versions(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD)
    town.agents["0751"].restart(policy=build_policy(CARD, "0751", epsilon_cap=4.0))
    behind = town.nodes[OLD]
    town.at("0751", of_the_version_before).run()
    town.nodes[OLD] = behind
    record = town.run(federation=uuid.UUID(OTHER_FEDERATION), folder=tmp_path / "second", quorum=0.25)
    assert record.delivered == ["0751"]  # the others had room for one run
    assert {schema for _, schema in schemas(town, OLD)} == {2}
