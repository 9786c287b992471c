"""The present version of the wire and the one before are spoken, and stores hold the same digests in both."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from faelles.errors import WireError
from faelles.records import (
    ALLOWED,
    ANSWERED,
    CONFIG,
    DECLARED_SIZE,
    LEDGER_HEAD,
    MODEL_SHA256,
    MUNICIPALITY,
    PLAN,
    PROXIMAL_MU,
    SCHEMA,
    SCHEMA_VERSION,
    SERVED,
    TERMS,
    Answer,
    Kind,
    Request,
    Scalar,
    answer_message,
    model_sha256,
    pack,
    parse_answer,
    parse_request,
)
from tests.builders import content_bytes, message_of, over_the_wire

UUID = "6f1b2a52-3c6f-5d0a-9a53-0f4f1de1c001"
MODEL = {"output.weight": np.array([[1.5, -2]], np.float32), "output.bias": np.zeros(1, np.float32)}
EXTRA: dict[Kind, dict[str, Scalar]] = {Kind.READY: {TERMS: "{}"}, Kind.TRAIN: {PLAN: "{}", PROXIMAL_MU: 0.5}}
HOME = Request(kind=Kind.FINAL, federation=UUID, server_round=3, card_sha256="ab" * 32, arrays=MODEL)


@pytest.mark.parametrize("schema", SERVED)
@pytest.mark.parametrize("kind", Kind)
def test_a_request_takes_the_keys_of_its_version_and_kind_only(kind: Kind, schema: int) -> None:
    for key in (TERMS, PLAN, PROXIMAL_MU, LEDGER_HEAD, MUNICIPALITY, DECLARED_SIZE, MODEL_SHA256):
        message = message_of(replace(HOME, kind=kind, schema=schema, arrays={}))
        config = message.content.config_records[CONFIG]
        needed = {MODEL_SHA256: config[MODEL_SHA256]} if (kind, schema) == (Kind.FINAL, 2) else {}
        config[key] = "ab" * 32
        if key in ALLOWED[schema][kind]:
            arrived = parse_request(message)
            assert (arrived.extra, arrived.schema) == ({**needed, key: "ab" * 32}, schema)
        else:
            with pytest.raises(WireError, match=f"{kind}: expected config keys"):
                parse_request(message)


@pytest.mark.parametrize("digest", ["", "AB" * 32, "ab" * 31, 5, None])
def test_a_finished_model_comes_with_its_digest_from_version_2_on(digest: Any) -> None:
    message = message_of(HOME if digest is None else replace(HOME, extra={MODEL_SHA256: digest}))
    if digest is None:
        del message.content.config_records[CONFIG][MODEL_SHA256]
    with pytest.raises(WireError, match=r"model-sha256: expected (text|a SHA-256 in hexadecimal), "):
        parse_request(message)


def test_version_1_knows_no_digest() -> None:
    message = message_of(replace(HOME, schema=1, extra={MODEL_SHA256: model_sha256(MODEL)}))
    with pytest.raises(WireError, match=r"query\.final: expected config keys [a-z0-9, -]*card-sha256, others came"):
        parse_request(message)


def test_a_request_is_rendered_with_what_its_version_wants() -> None:
    digest = hashlib.sha256(pack({}, MODEL)).hexdigest()
    assert parse_request(over_the_wire(message_of(HOME))).extra == {MODEL_SHA256: digest}
    assert parse_request(over_the_wire(message_of(replace(HOME, schema=1)))).extra == {}
    claimed = {MODEL_SHA256: "ab" * 32}  # also a wrong one: whoever receives it checks
    assert parse_request(message_of(replace(HOME, extra=claimed))).extra == claimed


@pytest.mark.parametrize("other", [
    dict(reversed(MODEL.items())), MODEL | {"output.bias": -np.zeros(1, np.float32)},
    MODEL | {"output.bias": np.zeros((1, 1), np.float32)}, MODEL | {"output.bias": np.zeros(1, np.float64)},
    MODEL | {"more": np.zeros(0, np.float32)}, {},
])  # fmt: skip
def test_another_model_has_another_digest(other: Any) -> None:
    assert model_sha256(other) != model_sha256(MODEL)
    assert model_sha256({name: np.asfortranarray(array) for name, array in MODEL.items()}) == model_sha256(MODEL)


# What version 0.1 made of one request of each kind, then of the answer to it: the digest that stores hold, and the
# SHA-256 of the bytes on the wire.
FIRST: dict[Kind, tuple[str, str, str, str]] = {
    Kind.READY: (
        "262ba10c9d6c7a3ade27fbd846a22ae6c2d931e6ac9d8bdc101ccab3bc38100f",
        "46c82e508bc966e0f5865fabae27a0fbe06bd8879500737bf08548852e619f92",
        "5549147a20e07994648ce765acb77e9ae0ad752a136724f47c30f370695c8a56",
        "217751aa4ee944cad4de88f0181d0ca37e66737d2c003115d0f4adb16c0161ae",
    ),
    Kind.TRAIN: (
        "a15bdfbde0bae7b82cab279d2190350f00f52393114711438056df28ffd0da9e",
        "7abc904d57bbc3ab6c770266c73dcad322dbda8b73f6025813b5d8a209a7ef03",
        "16245493aecbf218b10f0cadb8516e9c6a1177ef97813dc45d2af91e24e084a4",
        "f1178a24531cc8e919074c3786f3c028e6d56420c0a9e5b180fad0ce4802adde",
    ),
    Kind.EVALUATE: (
        "65e276fb1ddcbb8211d610c439fe94260e06d821a4bb3425d1f38088ab021994",
        "e66681340da0f707338f5b1e24dba249c5d0848252fd5b2f903598ebf6d887a6",
        "16245493aecbf218b10f0cadb8516e9c6a1177ef97813dc45d2af91e24e084a4",
        "f1178a24531cc8e919074c3786f3c028e6d56420c0a9e5b180fad0ce4802adde",
    ),
    Kind.FINAL: (
        "65e276fb1ddcbb8211d610c439fe94260e06d821a4bb3425d1f38088ab021994",
        "e66681340da0f707338f5b1e24dba249c5d0848252fd5b2f903598ebf6d887a6",
        "07b6305dc9d7372c14c1d677f1e1f61ff7977dcd06f9bd7808e5f7ac736dc7ed",
        "1601f26a9967bfe486ab43db6a12504588cbc7bfb126a362e6cd0e7ecc704efe",
    ),
    Kind.CLOSE: (
        "07b6305dc9d7372c14c1d677f1e1f61ff7977dcd06f9bd7808e5f7ac736dc7ed",
        "1601f26a9967bfe486ab43db6a12504588cbc7bfb126a362e6cd0e7ecc704efe",
        "07b6305dc9d7372c14c1d677f1e1f61ff7977dcd06f9bd7808e5f7ac736dc7ed",
        "1601f26a9967bfe486ab43db6a12504588cbc7bfb126a362e6cd0e7ecc704efe",
    ),
}


def asked_and_answered(kind: Kind, schema: int) -> tuple[Request, Answer]:
    """Make the request that FIRST tells of, and the answer."""
    request = replace(HOME, kind=kind, extra=EXTRA.get(kind, {}), schema=schema)
    everything: dict[str, Any] = {MUNICIPALITY: "0851", DECLARED_SIZE: 25_000, LEDGER_HEAD: "{}"}
    answer = Answer(
        federation=UUID, server_round=3, card_sha256="ab" * 32, schema=schema,
        extra={key: everything[key] for key in ANSWERED[kind]},
        arrays=MODEL if kind in (Kind.TRAIN, Kind.EVALUATE) else {},
    )  # fmt: skip
    return replace(request, arrays={}) if kind in (Kind.READY, Kind.CLOSE) else request, answer


def on_the_wire(message: Message) -> str:
    return hashlib.sha256(content_bytes(message)).hexdigest()


@pytest.mark.parametrize("kind", Kind)
def test_version_1_is_written_as_version_0_1_wrote_it(kind: Kind) -> None:
    request, answer = asked_and_answered(kind, 1)
    message = message_of(request)
    reply = answer_message(answer, message)
    digests = (request.sha256, on_the_wire(message), hashlib.sha256(answer.pack()).hexdigest(), on_the_wire(reply))
    assert digests == FIRST[kind]
    assert (parse_request(message).schema, parse_answer(reply).schema) == (1, 1)


@pytest.mark.parametrize("kind", Kind)
def test_the_digests_that_stores_hold_are_the_same_in_every_version(kind: Kind) -> None:
    for schema in SERVED:
        request, answer = asked_and_answered(kind, schema)
        message = message_of(request)
        arrived = parse_request(message)
        assert arrived.schema == schema
        assert arrived.sha256 == request.sha256 == FIRST[kind][0]
        assert hashlib.sha256(parse_answer(answer_message(answer, message)).pack()).hexdigest() == FIRST[kind][2]


def test_the_version_before_the_present_one_is_served() -> None:
    assert SERVED == (SCHEMA_VERSION - 1, SCHEMA_VERSION)
    assert tuple(ALLOWED) == SERVED
    for version in (0, 3):
        message = message_of(replace(HOME, kind=Kind.CLOSE, arrays={}))
        message.content.config_records[CONFIG][SCHEMA] = version
        for parse in (parse_request, parse_answer):
            with pytest.raises(WireError, match=r"schema-version: expected 1 or 2, another came; upgrade the older"):
                parse(message)
