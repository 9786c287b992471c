"""A request says who asks and with which keys; whatever else somebody sends is refused in one short line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from client.keys import Signer
from faelles.enrolment import (
    LARGEST_REQUEST,
    OPENSSH,
    EnrolmentRequest,
    parse_request,
    parse_request_file,
    signed_bytes,
)
from faelles.errors import EnrolmentError
from faelles.keys import fingerprint
from tests.books import SEED

SIGNER, OTHER = Signer.from_seed(SEED), Signer.from_seed(SEED[::-1])


def login_key(curve: ec.EllipticCurve | None = None) -> str:
    return ec.derive_private_key(7, curve or ec.SECP384R1()).public_key().public_bytes(*OPENSSH).decode()


FIELDS: dict[str, Any] = {
    "version": 1, "municipality": "0851", "cvr": "29189420", "login_key": login_key(), "signing_key": SIGNER.public,
    "software": "0.2.0", "wire": 2, "extensions": {},
}  # fmt: skip


def signed(**changes: Any) -> dict[str, Any]:
    fields = {**FIELDS, **changes}
    return {**fields, "signature": SIGNER.sign(signed_bytes(fields))}


def refused(text: str | bytes) -> str:
    with pytest.raises(EnrolmentError) as caught:
        parse_request(text, "request.json")
    line, da = str(caught.value), caught.value.text("da")
    assert line.isprintable()
    assert len(line) < 500
    assert line.startswith("request.json: ")
    assert line.endswith("; ask the municipality for a new request")
    assert da != line
    return line


def test_a_request_comes_back_from_its_file_as_it_was_written(tmp_path: Path) -> None:
    request = EnrolmentRequest.model_validate(signed(extensions={"contact": "it@example.dk", "beta": True, "n": 0.5}))
    (tmp_path / "request.json").write_text(request.text(), encoding="utf-8")
    read = parse_request_file(tmp_path / "request.json")
    assert read == request
    assert read.fingerprint == request.fingerprint
    assert read.extensions == {"contact": "it@example.dk", "beta": True, "n": 0.5}


def test_the_fingerprint_is_of_what_is_signed_and_can_be_read_aloud() -> None:
    request = EnrolmentRequest.model_validate(signed())
    assert request.fingerprint == fingerprint(request.signed_bytes)
    assert [len(group) for group in request.fingerprint.split()] == [4] * 8
    again = EnrolmentRequest.model_validate({**signed(), "previous_signature": "x"})
    assert again.fingerprint == request.fingerprint
    assert EnrolmentRequest.model_validate(signed(wire=3)).fingerprint != request.fingerprint


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "version"])
def test_every_field_is_under_the_signature(field: str) -> None:
    others: dict[str, object] = {
        "municipality": "0101", "cvr": "10150817", "signing_key": OTHER.public, "software": "0.2.1", "wire": 3,
        "extensions": {"a": 1},
        "login_key": ec.derive_private_key(8, ec.SECP384R1()).public_key().public_bytes(*OPENSSH).decode(),
    }  # fmt: skip
    assert "signature: expected one by the signing key" in refused(json.dumps({**signed(), field: others[field]}))


WRONG: tuple[tuple[str, object], ...] = (
    ("version", 2), ("version", "1"), ("municipality", "851"), ("municipality", "0999"),
    ("municipality", 851), ("municipality", "0851\n"), ("cvr", "12345678"), ("cvr", 29189420), ("cvr", "DK29189420"),
    ("login_key", ""), ("login_key", "ssh-ed25519 AAAA"), ("login_key", login_key(ec.SECP256R1())),
    ("login_key", login_key() + " a comment"), ("login_key", login_key() + "\n"), ("login_key", "\x1b[31m"),
    ("login_key", ed25519.Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes(*OPENSSH).decode()),
    ("signing_key", "no key"), ("signing_key", SIGNER.public.removeprefix("ed25519:")), ("signing_key", None),
    ("signing_key", SIGNER.public + "A"),
    ("software", ""), ("software", "0.2.0\x1b[31m"), ("software", "1" * 65), ("wire", 0), ("wire", "1"), ("wire", True),
    ("wire", 10**400), ("extensions", None), ("extensions", []), ("extensions", {"a": {"b": 1}}),
    ("extensions", {"a": [1]}), ("extensions", {"A": 1}), ("extensions", {"a\x1b": 1}),
    ("extensions", {"a": "\x1b[31m"}), ("extensions", {"a": "x" * 1025}),
    ("extensions", {f"a{n}": n for n in range(33)}),
    ("previous_signature", 1), ("more", "field"),
)  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda one: repr(one)[:30])
def test_a_field_that_is_wrong_is_named_and_not_repeated(field: str, value: object) -> None:
    line = refused(json.dumps(signed(**{field: value})))
    assert field in line
    if isinstance(value, str) and len(value) > 6:
        assert value not in line


@pytest.mark.parametrize("change", [{"version": True}, {"extensions": {"a": 2**60}}, {"extensions": {"a": -(2**60)}}])
def test_a_number_that_some_reader_would_change_is_not_what_was_signed(change: dict[str, object]) -> None:
    refused(json.dumps(signed(**change)))


@pytest.mark.parametrize("field", [*FIELDS, "signature"])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    if field == "extensions":  # is empty then, which is what was signed
        request = parse_request(json.dumps({name: one for name, one in signed().items() if name != field}))
        assert request.extensions == {}
        return
    assert f"{field}: is missing" in refused(json.dumps({name: one for name, one in signed().items() if name != field}))


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "1", '"text"', "{", b"\xff\xfe", b"\x00" * 100, "{}", "[" * 60000, '{"a":' * 10000,
        '{"extensions":' + '{"a":' * 9000 + "1" + "}" * 9001, '{"version": NaN}', '{"version": ' + "9" * 60000 + "}",
        '{"extensions": {"a": NaN}}', '{"extensions": {"a": 1e999}}', '{"extensions": {"a": "\\ud800"}}',
        '{"login_key": "\\ud800"}', '{"\\ud800": 1}', json.dumps({"a" * 60000: 1}),
        json.dumps({f"a{number}": 1 for number in range(5000)}), json.dumps({"\x1b[31m": 1}),
        b"x" * (LARGEST_REQUEST + 1),
    ],
    ids=lambda text: repr(text)[:30],
)  # fmt: skip
def test_hostile_text_is_refused_in_one_short_line(text: str | bytes) -> None:
    refused(text)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FIELDS, "x"]), inner, max_size=9),
))  # fmt: skip
def test_no_json_makes_it_fail_otherwise(value: object) -> None:
    refused(json.dumps(value))
    for field in FIELDS:
        try:
            parse_request(json.dumps({**signed(), field: value}))
        except EnrolmentError:
            continue
        assert value == FIELDS[field]


def test_a_file_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").write_bytes(b" " * (LARGEST_REQUEST + 1))
    for name in ("pipe", "huge"):
        with pytest.raises(EnrolmentError, match="ask the municipality for a new request"):
            parse_request_file(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "why", "da"),
    [
        ("absent", "there is no such file", "findes ikke"), (".", "it is a folder", "er en mappe"),
        ("x" * 300, "file name too long", "kan ikke læses"),
    ],
)  # fmt: skip
def test_a_wrong_path_is_not_the_municipalitys_fault(tmp_path: Path, name: str, why: str, da: str) -> None:
    with pytest.raises(EnrolmentError, match=f"expected the file of a request, {why}; check the path") as caught:
        parse_request_file(tmp_path / name)
    assert str(caught.value).isprintable()
    assert "municipality" not in str(caught.value)
    assert f"{da}; se efter stien" in caught.value.text("da")


def test_a_rotation_is_signed_by_the_key_that_is_enrolled() -> None:
    fields = signed()
    request = EnrolmentRequest.model_validate({**fields, "previous_signature": OTHER.sign(signed_bytes(fields))})
    assert request.replaces(OTHER.public)
    assert not request.replaces(SIGNER.public)
    assert not EnrolmentRequest.model_validate(fields).replaces(SIGNER.public)
    other = EnrolmentRequest.model_validate({**signed(wire=3), "previous_signature": request.previous_signature})
    assert not other.replaces(OTHER.public)
