"""Agents and the coordinator are upgraded on different days; a finished model is the one that was sent, for good."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client import outbox
from faelles.models import Arrays
from faelles.records import (
    ANSWERED,
    CARD,
    CONFIG,
    DECLARED_SIZE,
    FEDERATION,
    LEDGER_HEAD,
    MODEL_SHA256,
    MUNICIPALITY,
    PLAN,
    SCHEMA,
    SCHEMA_VERSION,
    SERVED,
    SERVER_ROUND,
    TERMS,
    Answer,
    Code,
    Kind,
    Request,
    Scalar,
    model_sha256,
    pack,
    parse_answer,
    unpack,
)
from faelles.terms import RunTerms
from tests import builders
from tests.builders import LOCAL, OTHER_FEDERATION, Agent, build_card, code_of, message_of, personal_card

RUN = ((Kind.READY, 0), (Kind.TRAIN, 1), (Kind.TRAIN, 2), (Kind.TRAIN, 3), (Kind.EVALUATE, 3), (Kind.FINAL, 3),
       (Kind.CLOSE, 3))  # fmt: skip


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path, build_card())


def terms_of(agent: Agent, kind: Kind) -> Mapping[str, Scalar]:
    terms = RunTerms.of(agent.card)
    plan = terms.plan(agent.card, builders.DECLARED_SIZE).to_json()
    extra: dict[Kind, dict[str, Scalar]] = {Kind.READY: {TERMS: terms.model_dump_json()}, Kind.TRAIN: {PLAN: plan}}
    return extra.get(kind, {})


def message(
    agent: Agent,
    kind: Kind,
    server_round: int = 3,
    schema: int = SCHEMA_VERSION,
    arrays: Arrays | None = None,
    federation: str = builders.FEDERATION,
    more: Mapping[str, Scalar] | None = None,
) -> Message:
    """Ask what a run asks, in a version of the wire."""
    sent = {} if kind in (Kind.READY, Kind.CLOSE) else agent.start() if arrays is None else arrays
    return message_of(Request(
        kind=kind, federation=federation, server_round=server_round, card_sha256=agent.card.sha256,
        extra={**terms_of(agent, kind), **(more or {})}, arrays=sent, schema=schema,
    ))  # fmt: skip


def ask(agent: Agent, *asked: Any, **changes: Any) -> Message:
    return agent.answer(message(agent, *asked, **changes))


def filled(agent: Agent, value: float) -> Arrays:
    return {name: np.full_like(array, value) for name, array in agent.start().items()}


def shown(arrays: Arrays) -> list[tuple[str, bytes]]:
    return [(name, array.tobytes()) for name, array in arrays.items()]


# versions


@pytest.mark.parametrize("schema", SERVED)
def test_an_agent_answers_in_the_version_it_was_asked_in(agent: Agent, schema: int) -> None:
    constants = {MUNICIPALITY: "0101", DECLARED_SIZE: builders.DECLARED_SIZE}
    for kind, server_round in RUN:
        reply = ask(agent, kind, server_round, schema)
        config = dict(reply.content.config_records[CONFIG])
        assert (LEDGER_HEAD in config) == (LEDGER_HEAD in ANSWERED[kind])
        config.pop(LEDGER_HEAD, None)  # sealed anew each time
        assert config == {
            SCHEMA: schema, FEDERATION: builders.FEDERATION, SERVER_ROUND: server_round, CARD: agent.card.sha256,
            **(constants if kind is Kind.READY else {}),
        }  # fmt: skip
    assert {line["outcome"] for line in agent.journal()} == {"cleared"}


def test_both_versions_get_the_same_answers(tmp_path: Path) -> None:
    answers: list[list[Answer]] = []
    homes = []
    for schema in SERVED:
        folder = tmp_path / str(schema)
        folder.mkdir()
        agent = Agent(folder, personal_card())
        answers.append([parse_answer(ask(agent, kind, number, schema)) for kind, number in RUN])
        homes.append(agent.model())
    for first, second in zip(*answers, strict=True):
        assert (first.schema, second.schema) == SERVED
        assert shown(first.arrays) == shown(second.arrays)
    assert homes[0] == homes[1] is not None


@pytest.mark.parametrize("versions", [(1, 2), (2, 1)], ids=["upgraded", "set back"])
def test_who_is_upgraded_in_the_middle_of_a_run_gets_the_answer_it_had(agent: Agent, versions: tuple[int, int]) -> None:
    before, after = versions
    ask(agent, Kind.READY, 0, before)
    first = parse_answer(ask(agent, Kind.TRAIN, 1, before))
    spent = agent.spent()
    again = parse_answer(ask(agent, Kind.TRAIN, 1, after))
    assert (first.schema, again.schema) == versions
    assert (shown(again.arrays), again.extra) == (shown(first.arrays), first.extra)
    cleared, resent = agent.journal()[-2:]
    assert (cleared["outcome"], resent["outcome"]) == ("cleared", "resent")
    assert (resent["bytes"], resent["sha256"]) == (cleared["bytes"], cleared["sha256"])
    np.testing.assert_array_equal(agent.spent(), spent)
    assert code_of(ask(agent, Kind.READY, 0, after)) is None
    assert code_of(ask(agent, Kind.TRAIN, 2, after)) is None


@pytest.mark.parametrize("schema", SERVED)
def test_a_store_holds_what_version_0_1_would_have_written(agent: Agent, schema: int) -> None:
    ask(agent, Kind.READY, 0, schema)
    answer = parse_answer(ask(agent, Kind.TRAIN, 1, schema))
    kept = outbox.find(agent.store.database, builders.FEDERATION, 1, Kind.TRAIN)
    assert kept is not None
    common: dict[str, Scalar] = {
        "schema-version": 1, "federation": builders.FEDERATION, "server-round": 1, "card-sha256": agent.card.sha256,
    }  # fmt: skip
    asked = pack({**common, **terms_of(agent, Kind.TRAIN)}, agent.start())
    assert kept.request == hashlib.sha256(asked).hexdigest()
    assert kept.answer == pack({**common, LEDGER_HEAD: answer.extra[LEDGER_HEAD]}, answer.arrays)


@pytest.mark.parametrize("schema", [0, 3, -1, 2**31])
def test_a_version_that_is_not_served_is_malformed(agent: Agent, schema: int) -> None:
    agent.ready()
    for kind in Kind:
        asked = message(agent, kind)
        asked.content.config_records[CONFIG][SCHEMA] = schema
        assert code_of(agent.answer(asked)) is Code.MALFORMED
    assert agent.model() is None
    assert agent.releases() == 0


# the finished model


def test_a_digest_that_version_1_does_not_know_is_malformed(agent: Agent) -> None:
    agent.ready()
    more = {MODEL_SHA256: model_sha256(agent.start())}
    assert code_of(ask(agent, Kind.FINAL, schema=1, more=more)) is Code.MALFORMED
    assert agent.model() is None
    assert code_of(ask(agent, Kind.FINAL, schema=2, more=more)) is None


def test_a_finished_model_without_its_digest_is_malformed_in_version_2(agent: Agent) -> None:
    agent.ready()
    asked = message(agent, Kind.FINAL, schema=1)
    asked.content.config_records[CONFIG][SCHEMA] = 2
    assert code_of(agent.answer(asked)) is Code.MALFORMED
    assert agent.model() is None


def test_a_model_that_was_changed_on_its_way_is_not_kept(agent: Agent) -> None:
    agent.ready()
    changed = filled(agent, 0.25)
    for digest in (model_sha256(agent.start()), "0" * 64):
        reply = ask(agent, Kind.FINAL, arrays=changed, more={MODEL_SHA256: digest})
        assert code_of(reply) is Code.MALFORMED
    assert agent.model() is None
    assert [line["outcome"] for line in agent.journal()] == ["cleared", "refused:malformed", "refused:malformed"]
    assert code_of(ask(agent, Kind.FINAL)) is None


@pytest.mark.parametrize("schema", SERVED)
def test_a_federation_ends_in_one_model(agent: Agent, schema: int) -> None:
    agent.ready()
    assert code_of(ask(agent, Kind.FINAL, schema=schema)) is None
    kept = agent.model()
    assert kept is not None
    for server_round in (2, 3, 4):
        reply = ask(agent, Kind.FINAL, server_round, schema, filled(agent, 0.25))
        assert code_of(reply) is Code.REQUEST_CONFLICTS
    for again in SERVED:
        assert code_of(ask(agent, Kind.FINAL, schema=again)) is None
    assert agent.model() == kept
    assert [line["outcome"] for line in agent.journal()[-2:]] == ["cleared", "cleared"]


def test_another_federation_has_a_model_of_its_own(agent: Agent) -> None:
    agent.ready(RunTerms(epsilon=0.5, rounds=3))
    agent.ready(RunTerms(epsilon=0.5, rounds=3, evaluate=False), OTHER_FEDERATION)
    assert code_of(ask(agent, Kind.FINAL)) is None
    assert code_of(ask(agent, Kind.FINAL, arrays=filled(agent, 0.25), federation=OTHER_FEDERATION)) is None
    assert outbox.model(agent.store.database, OTHER_FEDERATION) != agent.model()


def test_a_model_that_comes_again_keeps_the_local_parameters_it_was_joined_with(tmp_path: Path) -> None:
    agent = Agent(tmp_path, personal_card())
    agent.ready()
    agent.train(1)
    home = filled(agent, 0.25)
    assert code_of(ask(agent, Kind.FINAL, arrays=home)) is None
    kept = agent.model()
    assert kept is not None
    assert unpack(kept)[1][LOCAL[0]].all()
    agent.ask(Kind.CLOSE, 3)
    assert code_of(ask(agent, Kind.FINAL, arrays=home)) is None  # for whoever did not hear the answer
    assert agent.model() == kept
