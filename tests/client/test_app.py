"""Whatever comes in, an answer or a constant code goes out, and nothing of what stays inside."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Never

import numpy as np
import pyarrow as pa
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from client import outbox
from client.head import read
from faelles.models import shared_shapes
from faelles.records import ARRAYS, CONFIG, LEDGER_HEAD, TERMS, Code, Kind, Request, parse_answer, unpack
from faelles.terms import RunTerms
from tests.builders import (
    DECLARED_SIZE,
    FEDERATION,
    LOCAL,
    Agent,
    build_card,
    code_of,
    content_bytes,
    message_of,
    over_the_wire,
    personal_card,
)

PRIVATE = "a secret value of a citizen"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path, build_card())


class BrokenSource:
    """Fail with a text that holds data, as drivers of databases do."""

    def read(self) -> Never:
        raise RuntimeError(PRIVATE)


def test_every_kind_is_answered_in_a_whole_run(agent: Agent) -> None:
    ready = parse_answer(agent.ready())
    head = str(ready.extra[LEDGER_HEAD])
    assert ready.extra == {"municipality": "0101", "declared-size": DECLARED_SIZE, LEDGER_HEAD: head}
    for server_round in (1, 2, 3):
        update = parse_answer(agent.train(server_round))
        assert {name: array.shape for name, array in update.arrays.items()} == shared_shapes(agent.card)
        assert all(array.any() for array in update.arrays.values())
    evaluation = parse_answer(agent.ask(Kind.EVALUATE, 3, arrays=agent.start()))
    assert evaluation.arrays["histogram"].shape == (2, agent.card.evaluation.bins)
    final = parse_answer(agent.ask(Kind.FINAL, 3, arrays=agent.start()))
    closed = parse_answer(agent.ask(Kind.CLOSE, 3))
    for answer in (ready, update, evaluation):
        assert read(str(answer.extra[LEDGER_HEAD]), agent.signer).number > 0
    assert dict(update.extra).keys() == dict(evaluation.extra).keys() == {LEDGER_HEAD}
    assert final.extra == closed.extra == {}
    for answer in (ready, update, evaluation, final, closed):
        assert (answer.federation, answer.card_sha256) == (FEDERATION, agent.card.sha256)
    assert [answer.server_round for answer in (ready, update, evaluation, final, closed)] == [0, 3, 3, 3, 3]
    assert not final.arrays
    assert not closed.arrays


def test_the_finished_model_comes_home(agent: Agent) -> None:
    agent.ready()
    home = {name: np.full_like(array, 0.25) for name, array in agent.start().items()}
    agent.ask(Kind.FINAL, 3, arrays=home)
    kept = agent.model()
    assert kept is not None
    parameters = unpack(kept)[1]
    assert {name: array.tolist() for name, array in parameters.items()} == {
        name: array.tolist() for name, array in home.items()
    }


def add_record(message: Message) -> None:
    message.content["more"] = MetricRecord({"rows": 3})


def drop_record(message: Message) -> None:
    del message.content[ARRAYS]


def swap_records(message: Message) -> None:
    message.content[ARRAYS] = ConfigRecord({"a": 1})


def spoil_arrays(message: Message) -> None:
    record = ArrayRecord([np.zeros(3, np.float32)])
    next(iter(record.values())).data = b"no array at all"
    message.content[ARRAYS] = record


def set_key(key: str, value: object) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        message.content.config_records[CONFIG][key] = value  # type: ignore[assignment]

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        add_record,
        drop_record,
        swap_records,
        spoil_arrays,
        set_key("schema-version", 0),
        set_key("schema-version", 3),
        set_key("schema-version", "1"),
        set_key("model-sha256", "ab" * 32),
        set_key("run-as", "root"),
        set_key("plan", "{}"),
        set_key("federation", 5),
        set_key("federation", "f"),
        set_key("federation", FEDERATION.upper()),
        set_key("federation", FEDERATION + "\n"),
        set_key("server-round", -1),
        set_key("server-round", 2**63 - 1),
        set_key("card-sha256", b"bytes"),
        set_key("card-sha256", "0"),
        set_key("card-sha256", "0" * 65),
        set_key("ledger-head", ""),
        set_key("ledger-head", 5),
        set_key("terms", 2.0),
        set_key("terms", [1.0]),
        set_key("terms", '{"epsilon":NaN,"rounds":1}'),
        set_key("terms", '{"epsilon":-1,"rounds":1}'),
        set_key("terms", '{"epsilon":1,"rounds":1}' + " " * 1000),
        set_key("terms", '{"epsilon":1,"rounds":1,"delta":1}'),
    ],
)
def test_a_message_that_does_not_keep_the_contract_is_malformed(agent: Agent, spoil: Callable[[Message], None]) -> None:
    text = RunTerms.of(agent.card).model_dump_json()
    message = message_of(
        Request(
            kind=Kind.READY, federation=FEDERATION, server_round=0, card_sha256=agent.card.sha256, extra={TERMS: text}
        )
    )
    whole = over_the_wire(message)
    spoil(message)
    assert code_of(agent.answer(message)) is Code.MALFORMED
    assert code_of(agent.answer(whole)) is None


def test_a_message_without_content_is_malformed(agent: Agent) -> None:
    message = message_of(Request(kind=Kind.READY, federation=FEDERATION, server_round=0, card_sha256="0" * 64))
    failed = Message(Error(code=1, reason="?"), reply_to=message)
    failed.metadata.dst_node_id = 1001
    assert code_of(agent.answer(failed)) is Code.MALFORMED


@pytest.mark.parametrize("kind", ["train.more", "evaluate.more", "query", "query.read_all", "query.model"])
def test_unknown_message_types_reach_nothing(agent: Agent, kind: str) -> None:
    message = message_of(Request(kind=Kind.READY, federation=FEDERATION, server_round=0, card_sha256=agent.card.sha256))
    message.metadata.message_type = kind
    # Flower's own routing would say that it knows no such function, with the name that came.
    assert code_of(agent.answer(message)) is Code.MALFORMED
    assert [(line["outcome"], line["kind"]) for line in agent.journal()] == [("refused:malformed", "unknown")]


def test_an_exception_leaves_as_a_code_and_nothing_of_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(tmp_path, build_card(), source=BrokenSource())
    assert code_of(agent.ready()) is None
    with caplog.at_level(logging.DEBUG):
        answer = agent.train(1)
    assert code_of(answer) is Code.FAILED
    assert PRIVATE not in repr(answer)
    assert PRIVATE not in caplog.text
    assert "error=RuntimeError" in caplog.text
    assert agent.releases() == 0
    assert not agent.spent().any()


@pytest.mark.parametrize("column", ["age", "brand", "repaired", "citizen"])
def test_a_source_that_lost_a_column_fails_without_a_word(tmp_path: Path, column: str) -> None:
    agent = Agent(tmp_path, build_card())
    agent.ready()
    agent.restart(source=type(agent.source)(table=agent.source.read().drop_columns([column])))  # type: ignore[call-arg]
    assert code_of(agent.train(1)) is Code.FAILED


def test_data_of_any_kind_are_answered_alike(tmp_path: Path) -> None:
    rows = {
        "citizen": pa.array(["c1", None, "c1", "", "c2", "c3"]),
        "age": [float("nan"), 1e300, None, -float("inf"), 5.0, 5.0],
        "brand": ["cargo", "unheard of", None, "city", "", "cargo"],
        "repaired": ["yes", "no", None, "maybe", "no", None],
    }
    agent = Agent(tmp_path, build_card())
    agent.restart(source=type(agent.source)(table=pa.table(rows)))  # type: ignore[call-arg]
    agent.ready()
    assert code_of(agent.train(1)) is None
    assert code_of(agent.ask(Kind.EVALUATE, 3, arrays=agent.start())) is None


def test_a_commit_that_fails_sends_and_spends_nothing(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.ready()
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "put", lambda *_: (_ for _ in ()).throw(OSError(PRIVATE)))
        assert code_of(agent.train(1)) is Code.FAILED
    assert not agent.spent().any()
    assert [line["outcome"] for line in agent.journal()] == ["cleared", "refused:failed"]
    assert PRIVATE not in str(agent.journal())
    assert code_of(agent.train(1)) is None


def test_local_parameters_are_in_no_message(tmp_path: Path) -> None:
    agent = Agent(tmp_path, personal_card())
    agent.ready()
    for server_round in (1, 2, 3):
        agent.train(server_round)
    agent.ask(Kind.EVALUATE, 3, arrays=agent.start())
    agent.ask(Kind.FINAL, 3, arrays=agent.start())
    agent.ask(Kind.CLOSE, 3)
    states = [agent.local_state(before_round) for before_round in (2, 3, 4)]
    values = [unpack(state)[1][LOCAL[0]] for state in states if state]
    assert len(values) == 3
    assert all(value.all() for value in values)
    for message in agent.messages:
        sent = content_bytes(message)
        assert LOCAL[0].encode() not in sent
        assert not [value for value in values if value.tobytes() in sent]


def test_local_parameters_are_refused_where_they_come(tmp_path: Path) -> None:
    agent = Agent(tmp_path, personal_card())
    agent.ready()
    arrays = {**agent.start(), LOCAL[0]: np.zeros(1, np.float32)}
    assert code_of(agent.train(1, arrays)) is Code.MALFORMED


def test_local_state_goes_on_from_round_to_round_and_comes_home(tmp_path: Path) -> None:
    agent = Agent(tmp_path, personal_card())
    agent.ready()
    for server_round in (1, 2, 3):
        agent.train(server_round)
    newest = agent.local_state(4)
    assert newest is not None
    agent.ask(Kind.FINAL, 3, arrays=agent.start())
    home = agent.model()
    assert home is not None
    parameters = unpack(home)[1]
    assert tuple(parameters) == agent.card.model.parameter_names
    np.testing.assert_array_equal(parameters[LOCAL[0]], unpack(newest)[1][LOCAL[0]])


def test_texts_of_refusals_hold_nothing_but_their_name() -> None:
    assert all(re.fullmatch("[a-z-]+", code.text) for code in Code)


def test_an_empty_record_is_no_request(agent: Agent) -> None:
    message = message_of(Request(kind=Kind.CLOSE, federation=FEDERATION, server_round=0, card_sha256="0" * 64))
    message.content = RecordDict()
    assert code_of(agent.answer(message)) is Code.MALFORMED
