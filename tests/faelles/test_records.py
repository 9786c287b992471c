"""What is sent comes back as it was, and whatever else arrives is refused as a wire error and nothing worse."""

import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from faelles.errors import WireError
from faelles.records import (
    ALLOWED,
    ANSWERED,
    ARRAYS,
    CARD,
    COMMON,
    CONFIG,
    DECLARED_SIZE,
    FEDERATION,
    LARGEST_HEAD,
    LARGEST_INTEGER,
    LEDGER_HEAD,
    MODEL_SHA256,
    MUNICIPALITY,
    PLAN,
    PROXIMAL_MU,
    SCHEMA,
    SCHEMA_VERSION,
    SERVED,
    SERVER_ROUND,
    TERMS,
    Answer,
    Code,
    Constants,
    Kind,
    Refusal,
    Request,
    answer_message,
    model_sha256,
    pack,
    parse_answer,
    parse_request,
    refusal_message,
    refusal_text,
    request_content,
    unpack,
)

NODE = 7
UUID = "6f1b2a52-3c6f-5d0a-9a53-0f4f1de1c001"
EXTRA: dict[Kind, dict[str, Any]] = {Kind.READY: {TERMS: "{}"}, Kind.TRAIN: {PLAN: "{}", PROXIMAL_MU: 0.5}}
REQUEST = Request(
    kind=Kind.TRAIN,
    federation=UUID,
    server_round=3,
    card_sha256="ab" * 32,
    extra=EXTRA[Kind.TRAIN],
    arrays={"output.weight": np.array([[1.5, -2]], np.float32), "output.bias": np.zeros(1, np.float32)},
)


@pytest.fixture(autouse=True, scope="module")
def _task_identity() -> Iterator[None]:
    """Let this process make messages as a Flower task does, and leave no trace of it."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    yield
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def send(content: RecordDict, kind: str = Kind.TRAIN) -> Message:
    return Message(content, NODE, kind)


def config_of(**changes: Any) -> dict[str, Any]:
    """Give a good config with some keys changed; a key is written with _ for -, and None drops it."""
    config = {SCHEMA: SCHEMA_VERSION, FEDERATION: UUID, SERVER_ROUND: 1, CARD: "ab" * 32}
    config |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in config.items() if value is not None}


def content_of(config: dict[str, Any], arrays: dict[str, Array] | None = None) -> RecordDict:
    return RecordDict({ARRAYS: ArrayRecord(arrays or {}), CONFIG: ConfigRecord(config)})


def same(left: Any, right: Any) -> bool:
    """Compare requests or answers, their arrays by dtype, shape and bytes."""
    listed = [[(n, a.dtype, a.shape, a.tobytes()) for n, a in one.arrays.items()] for one in (left, right)]
    return bool(listed[0] == listed[1] and replace(left, arrays={}) == replace(right, arrays={}))


parameter_names = st.text(st.sampled_from("abz019._/-é"), min_size=1, max_size=20)
float32_arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
named_arrays = st.dictionaries(parameter_names, float32_arrays, max_size=4)
texts = st.text(st.characters(codec="utf-8"), max_size=50)
rounds = st.integers(0, LARGEST_INTEGER)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    kind, schema, arrays = draw(st.sampled_from(Kind)), draw(st.sampled_from(SERVED)), draw(named_arrays)
    digest: dict[str, Any] = {MODEL_SHA256: model_sha256(arrays)} if MODEL_SHA256 in ALLOWED[schema][kind] else {}
    return Request(
        kind=kind,
        federation=draw(st.uuids().map(str)),
        server_round=draw(rounds),
        card_sha256=draw(st.binary(min_size=32, max_size=32)).hex(),
        extra=EXTRA.get(kind, {}) | digest,
        arrays=arrays,
        schema=schema,
    )


answers = st.builds(
    Answer,
    federation=texts,
    server_round=rounds,
    card_sha256=texts,
    extra=st.sampled_from([{}, {MUNICIPALITY: "0851", DECLARED_SIZE: 25_000}, {LEDGER_HEAD: "{}"}]),
    arrays=named_arrays,
    schema=st.sampled_from(SERVED),
)


@given(requests())
def test_a_request_arrives_as_it_was_sent(request: Request) -> None:
    arrived = parse_request(send(request_content(request), request.kind))
    assert same(arrived, request)
    assert arrived.sha256 == request.sha256


@given(answers)
def test_an_answer_arrives_as_it_was_sent(answer: Answer) -> None:
    assert same(parse_answer(answer_message(answer, send(request_content(REQUEST)))), answer)


@given(answers)
def test_an_answer_comes_back_from_the_outbox_byte_for_byte(answer: Answer) -> None:
    back = Answer.unpack(answer.pack())
    assert same(replace(back, schema=answer.schema), answer)
    assert back.pack() == answer.pack()


scalars = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False))


@given(st.dictionaries(st.text(), scalars), st.dictionaries(st.text(), float32_arrays, max_size=4))
def test_whatever_names_there_are_what_is_packed_is_unpacked(config: dict[str, Any], arrays: dict[str, Any]) -> None:
    config_back, arrays_back = unpack(pack(config, arrays))
    assert config_back == config
    assert list(arrays_back) == list(arrays)
    for name, array in arrays.items():
        assert (arrays_back[name].dtype, arrays_back[name].shape) == (array.dtype, array.shape)
        assert arrays_back[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "name", ["hidden.0.weight", "a/b", "a/", "/", "../a", "a\0b", "contents.json", "0.npy", "\ud800"]
)
def test_names_that_an_archive_would_mangle_stay_what_they_are(name: str) -> None:
    arrays = {name: np.ones(2, np.float32), name + "x": np.zeros(1, np.float32)}
    assert list(unpack(pack({}, arrays))[1]) == list(arrays)


def test_packing_is_deterministic() -> None:
    arrays = dict(REQUEST.arrays)
    once = pack({"a": 1, "b": "x"}, arrays)
    assert once == pack({"b": "x", "a": 1}, {name: array.copy() for name, array in arrays.items()})


def test_the_layout_of_an_array_in_memory_does_not_count() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert pack({}, {"a": array}) == pack({}, {"a": np.asfortranarray(array)})
    assert pack({}, {"a": array}) == pack({}, {"a": np.repeat(array, 2, axis=1)[:, ::2]})


BIAS = {"output.bias": np.zeros(1, np.float32)}
OTHER_REQUESTS: dict[str, dict[str, Any]] = {
    "federation": {"federation": UUID[:-1] + "2"},
    "round": {"server_round": 4},
    "card": {"card_sha256": "ac" * 32},
    "plan": {"extra": {PLAN: "{ }", PROXIMAL_MU: 0.5}},
    "pull": {"extra": {PLAN: "{}", PROXIMAL_MU: 0.25}},
    "no pull": {"extra": {PLAN: "{}"}},
    "no arrays": {"arrays": {}},
    "fewer arrays": {"arrays": BIAS},
    "order": {"arrays": dict(reversed(REQUEST.arrays.items()))},
    "name": {"arrays": {"output.weigh": REQUEST.arrays["output.weight"], **BIAS}},
    "value": {"arrays": REQUEST.arrays | {"output.weight": np.array([[1.5, -2.0000002]], np.float32)}},
    "sign of zero": {"arrays": REQUEST.arrays | {"output.bias": -np.zeros(1, np.float32)}},
    "shape": {"arrays": REQUEST.arrays | {"output.weight": np.array([1.5, -2], np.float32)}},
    "dtype": {"arrays": REQUEST.arrays | {"output.bias": np.zeros(1, np.int32)}},
}


def test_the_digest_of_a_request_changes_with_each_of_its_fields() -> None:
    digests = {REQUEST.sha256} | {replace(REQUEST, **changes).sha256 for changes in OTHER_REQUESTS.values()}
    assert len(digests) == len(OTHER_REQUESTS) + 1


def test_the_digest_of_equal_requests_is_equal() -> None:
    copies = {name: array.copy() for name, array in REQUEST.arrays.items()}
    assert replace(REQUEST, arrays=copies, extra={PROXIMAL_MU: 0.5, PLAN: "{}"}).sha256 == REQUEST.sha256


def test_who_presents_another_head_asks_for_the_same() -> None:
    for head in ("{}", "a later one"):
        assert replace(REQUEST, extra={**REQUEST.extra, LEDGER_HEAD: head}).sha256 == REQUEST.sha256


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


class Bomb:
    """Be noticed when unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was loaded",)


def vast_header() -> bytes:
    """Announce far more numbers than come."""
    return npy(np.zeros(1, np.float32)).replace(b"(1,), }          ", b"(9000000000,), } ")


def raw(data: bytes, stype: str = "numpy.ndarray") -> dict[str, Array]:
    return {"output.bias": Array(dtype="float32", shape=(1,), stype=stype, data=data)}


GOOD = npy(np.zeros(1, np.float32))
HOSTILE_CONTENTS: dict[str, RecordDict] = {
    "nothing": RecordDict({}),
    "no arrays": RecordDict({CONFIG: ConfigRecord(config_of())}),
    "no config": RecordDict({ARRAYS: ArrayRecord({})}),
    "another record": RecordDict({**content_of(config_of()), "more": ConfigRecord({})}),
    "another name": RecordDict({"array": ArrayRecord({}), CONFIG: ConfigRecord(config_of())}),
    "swapped": RecordDict({ARRAYS: ConfigRecord(config_of()), CONFIG: ArrayRecord({})}),
    "metrics for arrays": RecordDict({ARRAYS: MetricRecord({"loss": 0.5}), CONFIG: ConfigRecord(config_of())}),
    "metrics for config": RecordDict({ARRAYS: ArrayRecord({}), CONFIG: MetricRecord({SCHEMA: 1})}),
    "empty config": content_of({}),
    **{f"without {key}": content_of({k: v for k, v in config_of().items() if k != key}) for key in COMMON},
    "newer schema": content_of(config_of(schema_version=SERVED[-1] + 1)),
    "older schema": content_of(config_of(schema_version=SERVED[0] - 1)),
    "schema as text": content_of(config_of(schema_version="1")),
    "schema as truth": content_of(config_of(schema_version=True)),
    "unknown key": content_of(config_of(clip="off")),
    "round below 0": content_of(config_of(server_round=-1)),
    "round as truth": content_of(config_of(server_round=True)),
    "round as a float": content_of(config_of(server_round=1.0)),
    "round as text": content_of(config_of(server_round="1")),
    "round as a list": content_of(config_of(server_round=[1])),
    "round beyond a database": content_of(config_of(server_round=2**63)),
    "federation as a number": content_of(config_of(federation=1)),
    "federation as bytes": content_of(config_of(federation=UUID.encode())),
    "federation without end": content_of(config_of(federation="f" * 100_001)),
    "card as a list": content_of(config_of(card_sha256=["c"])),
    "plan as truth": content_of(config_of(plan=True)),
    "plan as bytes": content_of(config_of(plan=b"{}")),
    "pull as NaN": content_of(config_of(proximal_mu=float("nan"))),
    "pull as infinity": content_of(config_of(proximal_mu=float("inf"))),
    "pull beyond a float": content_of(config_of(proximal_mu=10**400)),
    "pull as a list": content_of(config_of(proximal_mu=[0.5])),
    "no bytes": content_of(config_of(), raw(b"")),
    "garbage": content_of(config_of(), raw(b"\x00\x01garbage" * 10)),
    "cut off": content_of(config_of(), raw(GOOD[:-2])),
    "cut in its header": content_of(config_of(), raw(GOOD[:20])),
    "vast": content_of(config_of(), raw(vast_header())),
    "pickle": content_of(config_of(), raw(pickle.dumps(Bomb()))),
    "pickle in npy": content_of(config_of(), raw(npy(np.array([Bomb()], object), allow_pickle=True))),
    "zip": content_of(config_of(), raw(npz(np.zeros(1, np.float32)))),
    "another kind of bytes": content_of(config_of(), raw(GOOD, stype="torch.tensor")),
}


def test_the_vast_header_is_one() -> None:
    assert b"9000000000" in vast_header()


@pytest.mark.parametrize("name", HOSTILE_CONTENTS)
def test_a_hostile_message_is_a_wire_error_for_either_side(name: str) -> None:
    message = send(HOSTILE_CONTENTS[name])
    for parse in (parse_request, parse_answer):
        with pytest.raises(WireError) as caught:
            parse(message)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


def test_the_contents_that_the_hostile_ones_start_from_are_good() -> None:
    assert parse_request(send(content_of(config_of(), raw(GOOD)))).arrays["output.bias"].tolist() == [0]
    assert parse_answer(send(content_of(config_of(), raw(GOOD)))).arrays["output.bias"].tolist() == [0]


def test_a_message_of_another_type_is_refused() -> None:
    for kind in ("query", "query.secrets", "train.other"):
        with pytest.raises(WireError, match=r"message type: expected one of query\.ready, train, "):
            parse_request(send(content_of(config_of()), kind))


@pytest.mark.parametrize(
    "federation", ["", "f", UUID.upper(), UUID[:-1], UUID + "0", UUID + "\n", "{" + UUID + "}", UUID.replace("-", "")]
)
def test_a_federation_is_a_uuid_in_its_one_spelling(federation: str) -> None:
    with pytest.raises(WireError, match="federation: expected a UUID, something else came"):
        parse_request(send(content_of(config_of(federation=federation))))


@pytest.mark.parametrize("card", ["", "c", "AB" * 32, "ab" * 31, "ab" * 33, "ab" * 32 + "\n", "zz" * 32, "٣" * 64])
def test_a_card_is_a_sha256_in_its_one_spelling(card: str) -> None:
    with pytest.raises(WireError, match="card-sha256: expected a SHA-256 in hexadecimal, something else came"):
        parse_request(send(content_of(config_of(card_sha256=card))))


def test_a_ledger_head_has_a_largest_size() -> None:
    parse_answer(send(content_of(config_of(ledger_head="x" * LARGEST_HEAD))))
    with pytest.raises(WireError, match="ledger-head: expected at most 50000 letters, more came"):
        parse_answer(send(content_of(config_of(ledger_head="x" * (LARGEST_HEAD + 1)))))
    with pytest.raises(WireError, match="ledger-head: expected text, none came"):
        parse_answer(send(content_of(config_of(ledger_head=5))))


def test_an_error_is_neither_a_request_nor_an_answer() -> None:
    message = refusal_message(Refusal(code=Code.FAILED), send(content_of(config_of())))
    for parse in (parse_request, parse_answer):
        with pytest.raises(WireError, match="expected the records arrays and config"):
            parse(message)


array_bytes = st.binary(max_size=200) | st.binary(max_size=40).map(lambda tail: GOOD[:100] + tail)
values = st.one_of(st.booleans(), st.integers(-(2**63), 2**63), st.floats(), st.text(), st.binary())


@given(st.dictionaries(st.sampled_from([*COMMON, PLAN, "other"]), values), array_bytes)
def test_whatever_arrives_is_a_request_or_a_wire_error(config: dict[str, Any], data: bytes) -> None:
    try:
        request = parse_request(send(content_of({SCHEMA: SCHEMA_VERSION} | config, raw(data))))
    except WireError:
        return
    assert not any(array.dtype.hasobject for array in request.arrays.values())


@pytest.mark.parametrize("code", Code)
def test_a_refusal_holds_its_code_and_a_constant_text(code: Code) -> None:
    refusal = refusal_message(Refusal(code=code), send(request_content(REQUEST)))
    assert refusal.has_error()
    text = code.name.lower().replace("_", "-")
    assert (refusal.error.code, refusal.error.reason) == (code.value, text)
    assert refusal_text(refusal.error) == text


@pytest.mark.parametrize(("cap", "text"), [(3.0, "3"), (1.9, "1.9"), (0.125, "0.125"), (0.0, "0"), (9999.0, "9999")])
def test_a_refusal_may_say_the_policys_cap(cap: float, text: str) -> None:
    refusal = refusal_message(Refusal(code=Code.TERMS_REFUSED, epsilon_cap=cap), send(request_content(REQUEST)))
    assert refusal.error.reason == f"terms-refused (cap {text})"
    assert refusal_text(refusal.error) == f"terms-refused (cap {text})"


@pytest.mark.parametrize(
    "said",
    [
        "", "what a municipality says", "terms-refused (cap 3) and more", "terms-refused (cap 0101701234)",
        "terms-refused (cap 3.1234567)", "terms-refused (cap -3)", "terms-refused (cap inf)", "terms-refused(cap 3)",
        "not-ready (cap 3)", "terms-refused (cap ٣)", "terms-refused (cap 3)\n", "terms-refused\n (cap 3)",
    ],
)  # fmt: skip
def test_of_what_an_error_says_only_the_contracts_own_words_are_repeated(said: str) -> None:
    assert refusal_text(Error(code=Code.TERMS_REFUSED, reason=said)) == "terms-refused"


@pytest.mark.parametrize("code", [0, 1, 99, 115, -1, 2**31])
def test_an_error_of_an_unknown_code_is_told_by_its_number_alone(code: int) -> None:
    assert refusal_text(Error(code=code, reason="what a municipality says")) == f"error {code}"


def test_constants_are_rendered_under_their_keys_in_the_order_of_the_contract() -> None:
    whole = Constants(ledger_head="{}", declared_size=50, municipality="0101")
    assert list(whole.config.items()) == [(MUNICIPALITY, "0101"), (DECLARED_SIZE, 50), (LEDGER_HEAD, "{}")]
    assert tuple(whole.config) == ANSWERED[Kind.READY]
    assert Constants(ledger_head="{}").config == {LEDGER_HEAD: "{}"}
    assert Constants().config == {}
