"""Spell the wire contract: message types, record names and keys, codes, schema version; spelled nowhere else.

A request asks a municipality for something; it is answered, or refused with a code. Every message carries two records:
`arrays` (float32 arrays by name; may be empty) and `config` (public terms). A refusal is a Flower error whose code and
text are constants of this file, and at most the policy's public cap, so that they cannot depend on data.

    kind          arrays out             config out beyond the common keys      answer
    query.ready   -                      terms, ledger-head                     municipality, declared-size, ledger-head
    train         shared parameters      plan, the strategy's terms, ledger-head   arrays: the update; ledger-head
    evaluate      shared parameters      ledger-head                            arrays: histogram; ledger-head
    query.final   shared parameters      model-sha256 (from version 2 on)       -
    query.close   -                      -                                      -

A ledger head is what a municipality signed last; the coordinator keeps it and presents it again, so that an account
which was set back is noticed.

Agents do not upgrade on one day: the present version and the one before are served, and an answer is in the version of
its request. The digests that stores hold are of neither: what is asked and answered is digested as version 1 wrote it.
"""

import functools
import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TypeGuard

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from faelles.errors import WireError
from faelles.models import Arrays
from faelles.npy import array_record, arrays_of, filled, to_flower

SCHEMA_VERSION = 2
SERVED = (1, 2)
DIGESTED = 1  # for good: another would be another digest for what stores of version 0.1 hold
ARRAYS = "arrays"
CONFIG = "config"
CONTENTS = "contents.json"
SCHEMA = "schema-version"
FEDERATION = "federation"
SERVER_ROUND = "server-round"  # Flower's own key
CARD = "card-sha256"
TERMS = "terms"
PLAN = "plan"
PROXIMAL_MU = "proximal-mu"  # Flower's own key
LARGEST_PULL = 100.0  # public bound on it, kept by both sides
MUNICIPALITY = "municipality"
DECLARED_SIZE = "declared-size"
MODEL_SHA256 = "model-sha256"
LEDGER_HEAD = "ledger-head"
LARGEST_HEAD = 50_000  # letters; one account takes about a hundred
COMMON = (SCHEMA, FEDERATION, SERVER_ROUND, CARD)
LARGEST_INTEGER = 2**31 - 1  # far above any round; what a database or a float would choke on ends here
Scalar = str | int | float
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CAP = re.compile(r" \(cap ([0-9]{1,4}(?:\.[0-9]{1,6})?)\)")


class Kind(StrEnum):
    """Name the message types."""

    READY = "query.ready"
    TRAIN = "train"
    EVALUATE = "evaluate"
    FINAL = "query.final"
    CLOSE = "query.close"


class Code(IntEnum):
    """Name the reasons a municipality gives; functions of policy, approval, account and declared size only."""

    CARD_NOT_APPROVED = 100
    TERMS_REFUSED = 101
    BUDGET_EXHAUSTED = 102
    NOT_READY = 103
    PLAN_DIFFERS = 104
    REQUEST_CONFLICTS = 105
    SUPERSEDED = 106
    MALFORMED = 107
    NO_DATA = 108
    FAILED = 109
    RELEASE_NOT_ALLOWED = 110
    OUTSIDE_HOURS = 111
    LEDGER_FROZEN = 112
    APPROVAL_EXPIRED = 113
    WITHDRAWN = 114

    @property
    def text(self) -> str:
        """Say the reason in words that hold nothing but this constant."""
        return self.name.lower().replace("_", "-")


_FIRST: Mapping[Kind, tuple[str, ...]] = {
    Kind.READY: (TERMS, LEDGER_HEAD),
    Kind.TRAIN: (PLAN, PROXIMAL_MU, LEDGER_HEAD),
    Kind.EVALUATE: (LEDGER_HEAD,),
    Kind.FINAL: (),
    Kind.CLOSE: (),
}
# By version, what a request may hold beyond the common keys; the digest of a finished model it must hold where it may.
ALLOWED: Mapping[int, Mapping[Kind, tuple[str, ...]]] = {
    1: _FIRST,
    2: {**_FIRST, Kind.FINAL: (MODEL_SHA256,)},
}
ANSWERED: Mapping[Kind, tuple[str, ...]] = {
    Kind.READY: (MUNICIPALITY, DECLARED_SIZE, LEDGER_HEAD),
    Kind.TRAIN: (LEDGER_HEAD,),
    Kind.EVALUATE: (LEDGER_HEAD,),
    Kind.FINAL: (),
    Kind.CLOSE: (),
}


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Hold the public constants that may leave beside a release; there are no others.

    Args:
        municipality: The kommunekode, which is public.
        declared_size: The band that the municipality stated when it approved the card.
        ledger_head: The signed head of its ledger, a function of policy, approvals and account.
    """

    municipality: str | None = None
    declared_size: int | None = None
    ledger_head: str | None = None

    @property
    def config(self) -> dict[str, Scalar]:
        """Render those that are there, under their keys."""
        values: dict[str, Scalar | None] = {
            MUNICIPALITY: self.municipality, DECLARED_SIZE: self.declared_size, LEDGER_HEAD: self.ledger_head,
        }  # fmt: skip
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Hold why a municipality refuses: a code, and the policy's cap on epsilon where that is the reason."""

    code: Code
    epsilon_cap: float | None = None

    @property
    def text(self) -> str:
        """Say it in words that hold nothing but constants."""
        return self.code.text if self.epsilon_cap is None else f"{self.code.text} (cap {self.epsilon_cap:g})"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Hold one request of the coordinator, in one of the versions served."""

    kind: Kind
    federation: str
    server_round: int
    card_sha256: str
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    @property
    def sha256(self) -> str:
        """Identify the request by its arrays and config: equal requests have equal digests.

        A ledger head is no part of what is asked: who asks again may know a later one by then. Neither is the version,
        nor what it adds about the arrays: either side may be upgraded in the middle of a run.
        """
        asked = {key: value for key, value in _config(self).items() if key not in (LEDGER_HEAD, MODEL_SHA256)}
        return hashlib.sha256(pack({**asked, SCHEMA: DIGESTED}, self.arrays)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Hold a municipality's answer: it repeats what was asked and adds arrays or public constants."""

    federation: str
    server_round: int
    card_sha256: str
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def pack(self) -> bytes:
        """Render the answer as the bytes that the outbox keeps; the same ones in whatever version it leaves."""
        return pack({**_config(self), SCHEMA: DIGESTED}, self.arrays)

    @classmethod
    def unpack(cls, data: bytes) -> "Answer":
        """Read back what `pack` made; in which version it leaves is for whoever answers with it to say."""
        config, arrays = unpack(data)
        return _answer(config, arrays)


class Parcel:
    """Hold a model as it is sent, rendered once however many are sent it."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self.record = array_record(arrays)

    @functools.cached_property
    def sha256(self) -> str:
        """Identify the model."""
        return model_sha256(self._arrays)


def request_content(request: Request, parcel: Parcel | None = None) -> RecordDict:
    """Render a request as a Flower message's content; `parcel` holds its arrays where others are sent the same."""
    sent = Parcel(request.arrays) if parcel is None else parcel
    config = _config(request)
    if MODEL_SHA256 in ALLOWED[request.schema][request.kind] and MODEL_SHA256 not in config:
        config[MODEL_SHA256] = sent.sha256
    return _content(config, sent.record)


def parse_request(message: Message, read: Callable[[ArrayRecord], Arrays] = arrays_of) -> Request:
    """Read a request, whoever sent it.

    Args:
        message: The request.
        read: Reads its arrays.

    Raises:
        WireError: It does not keep the contract; the text holds nothing of it.
    """
    try:
        kind = Kind(message.metadata.message_type)
    except ValueError:
        raise WireError(f"message type: expected one of {', '.join(Kind)}, another came") from None
    config, arrays = _read(message, read)
    schema = _integer(config, SCHEMA)
    allowed = ALLOWED[schema][kind]
    if set(config) - {*COMMON, *allowed}:
        raise WireError(f"{kind}: expected config keys {', '.join((*COMMON, *allowed))}, others came")
    if MODEL_SHA256 in allowed:
        _match(config, MODEL_SHA256, _SHA256, "a SHA-256 in hexadecimal")
    return Request(
        kind=kind,
        federation=_match(config, FEDERATION, _UUID, "a UUID"),
        server_round=_integer(config, SERVER_ROUND),
        card_sha256=_match(config, CARD, _SHA256, "a SHA-256 in hexadecimal"),
        extra={key: config[key] for key in allowed if key in config},
        arrays=arrays,
        schema=schema,
    )


def pull_of(request: Request) -> float:
    """Read the pull that FedProx asks for; 0 where there is none.

    Raises:
        WireError: It is beyond the public bound.
    """
    mu = request.extra.get(PROXIMAL_MU, 0.0)
    if not isinstance(mu, (int, float)) or not 0 <= mu < LARGEST_PULL:
        raise WireError(f"{PROXIMAL_MU}: expected a number from 0 to below {LARGEST_PULL:g}, another came")
    return float(mu)


def answer_message(answer: Answer, request: Message, render: Callable[..., Array] = to_flower) -> Message:
    """Render an answer as the reply to a message, and each of its arrays as `render` does."""
    return Message(_content(_config(answer), array_record(answer.arrays, render)), reply_to=request)


def refusal_message(refusal: Refusal, request: Message) -> Message:
    """Render a refusal as the reply to a message."""
    return Message(Error(code=int(refusal.code), reason=refusal.text), reply_to=request)


def refusal_text(error: Error) -> str:
    """Say why a reply is an error; of the sender's words only those of the contract are repeated."""
    if error.code not in set(Code):
        return f"error {error.code}"
    text = Code(error.code).text
    cap = _CAP.fullmatch(str(error.reason).removeprefix(text))
    return text if cap is None else f"{text} (cap {float(cap[1]):g})"


def parse_answer(message: Message) -> Answer:
    """Read an answer, whoever sent it.

    Raises:
        WireError: It does not keep the contract.
    """
    config, arrays = _read(message)
    unknown = set(config) - {*COMMON, MUNICIPALITY, DECLARED_SIZE, LEDGER_HEAD}
    if unknown:
        raise WireError(f"answer: expected config keys {', '.join(COMMON)}, others came")
    return _answer(config, arrays)


def pack(config: Mapping[str, Scalar], arrays: Arrays) -> bytes:
    """Render config and arrays as one zip archive of JSON and npy files; equal contents give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # Names stand in the JSON: a zip archive would cut or refuse some of what a foreign message can call an array.
        contents = {CONFIG: dict(config), ARRAYS: list(arrays)}
        archive.writestr(zipfile.ZipInfo(CONTENTS), json.dumps(contents, sort_keys=True, separators=(",", ":")))
        for number, array in enumerate(arrays.values()):
            part = io.BytesIO()
            np.save(part, np.asarray(array, order="C"), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{number}.npy"), part.getvalue())
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Scalar], Arrays]:
    """Read back what `pack` made."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = json.loads(archive.read(CONTENTS))
        parts = (archive.read(f"{number}.npy") for number in range(len(contents[ARRAYS])))
        arrays = {name: np.load(io.BytesIO(part)) for name, part in zip(contents[ARRAYS], parts, strict=True)}
    return contents[CONFIG], arrays


def model_sha256(arrays: Arrays) -> str:
    """Identify a model by its parameters: their names, types, shapes, values and order."""
    return hashlib.sha256(pack({}, arrays)).hexdigest()


def _config(part: Request | Answer) -> dict[str, Scalar]:
    return {
        SCHEMA: part.schema,
        FEDERATION: part.federation,
        SERVER_ROUND: part.server_round,
        CARD: part.card_sha256,
        **part.extra,
    }


def _content(config: Mapping[str, Scalar], record: ArrayRecord) -> RecordDict:
    return filled(RecordDict(), {ARRAYS: record, CONFIG: filled(ConfigRecord(), config)})


def _answer(config: Mapping[str, Scalar], arrays: Arrays) -> Answer:
    if LEDGER_HEAD in config and len(_text(config, LEDGER_HEAD)) > LARGEST_HEAD:
        raise WireError(f"{LEDGER_HEAD}: expected at most {LARGEST_HEAD} letters, more came")
    return Answer(
        federation=_text(config, FEDERATION),
        server_round=_integer(config, SERVER_ROUND),
        card_sha256=_text(config, CARD),
        extra={key: config[key] for key in (MUNICIPALITY, DECLARED_SIZE, LEDGER_HEAD) if key in config},
        arrays=arrays,
        schema=_integer(config, SCHEMA),
    )


def _read(message: Message, read: Callable[[ArrayRecord], Arrays] = arrays_of) -> tuple[dict[str, Scalar], Arrays]:
    if not message.has_content() or set(message.content) != {ARRAYS, CONFIG}:
        raise WireError(f"message: expected the records {ARRAYS} and {CONFIG}, others came")
    record, config = message.content[ARRAYS], message.content[CONFIG]
    if not isinstance(record, ArrayRecord) or not isinstance(config, ConfigRecord):
        raise WireError(f"message: expected {ARRAYS} to be an array record and {CONFIG} a config record")
    if _integer(config, SCHEMA) not in SERVED:
        raise WireError(f"{SCHEMA}: expected {' or '.join(map(str, SERVED))}, another came; upgrade the older side")
    values = {key: value for key, value in config.items() if _is_scalar(value)}
    if len(values) != len(config):
        raise WireError(f"{CONFIG}: expected text and finite numbers, something else came")
    return values, read(record)


def _is_scalar(value: object) -> TypeGuard[Scalar]:
    if isinstance(value, bool) or not isinstance(value, Scalar):
        return False
    return isinstance(value, str) or abs(value) <= sys.float_info.max


def _text(config: Mapping[str, object], key: str) -> str:
    value = config.get(key)
    if not isinstance(value, str) or len(value) > 100_000:
        raise WireError(f"{key}: expected text, none came")
    return value


def _match(config: Mapping[str, object], key: str, form: re.Pattern[str], noun: str) -> str:
    value = _text(config, key)
    if not form.fullmatch(value):
        # It stands in journals, where only what has this form may stand.
        raise WireError(f"{key}: expected {noun}, something else came")
    return value


def _integer(config: Mapping[str, object], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_INTEGER:
        raise WireError(f"{key}: expected a whole number from 0 to {LARGEST_INTEGER}, none came")
    return value
