"""A key is its owner's alone, and no nonsense passes for a signature."""

import base64
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from client.keys import PREFIX, Signer, create, decode, encode, fingerprint, load, verify
from faelles.errors import KeyFileError
from tests.books import SEED

SIGNER, OTHER = Signer.from_seed(SEED), Signer.from_seed(SEED[::-1])
SIGNATURE = SIGNER.sign(b"words")
PEM = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_a_signature_is_of_these_words_and_this_key_alone() -> None:
    assert verify(SIGNER.public, b"words", SIGNATURE)
    assert not verify(SIGNER.public, b"other words", SIGNATURE)
    assert not verify(OTHER.public, b"words", SIGNATURE)
    assert not verify(SIGNER.public, b"words", OTHER.sign(b"words"))
    assert not verify(SIGNER.public.removeprefix(PREFIX), b"words", SIGNATURE)


@given(st.text(max_size=90), st.text(max_size=90))
def test_nonsense_of_any_kind_is_a_no(public: str, signature: str) -> None:
    assert not verify(public, b"words", SIGNATURE)
    assert not verify(PREFIX + public, b"words", SIGNATURE)
    assert not verify(SIGNER.public, b"words", signature)


def test_a_key_and_a_signature_have_one_spelling() -> None:
    # The last letter has bits to spare, so that four or sixteen texts would say the same bytes.
    for whole in (SIGNER.public.removeprefix(PREFIX), SIGNATURE):
        data = decode(whole)
        lax = [whole[:-1] + letter for letter in LETTERS]
        same = [text for text in lax if base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == data]
        assert len(same) > 1
        assert [text for text in same if spells(text, data)] == [whole]
    twin = SIGNER.public[:-1] + LETTERS[LETTERS.index(SIGNER.public[-1]) + 1]
    assert not verify(twin, b"words", SIGNATURE)


def spells(text: str, data: bytes) -> bool:
    try:
        return decode(text) == data
    except ValueError:
        return False


@given(st.binary(max_size=70))
def test_bytes_come_back_as_they_were_written(data: bytes) -> None:
    assert decode(encode(data)) == data
    assert set(encode(data)) <= set(LETTERS)


@pytest.mark.parametrize("text", ["a", "ab==", "a+b/", "+_-/", "ab c", "ab\n", "é", "a===", "\ud800"])
def test_text_that_was_not_written_so_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_a_public_key_is_text_that_two_people_can_compare() -> None:
    assert SIGNER.public == Signer.from_seed(SEED).public != OTHER.public
    assert len(SIGNER.public) == len(PREFIX) + 43
    groups = fingerprint(SIGNER.public).split()
    assert [len(group) for group in groups] == [4] * 8
    assert fingerprint(OTHER.public) != fingerprint(SIGNER.public)


def test_secrets_of_different_purposes_and_keys_differ() -> None:
    secrets = {one.secret(purpose) for one in (SIGNER, OTHER) for purpose in (b"seal", b"other")}
    assert len(secrets) == 4
    assert {len(secret) for secret in secrets} == {32}
    assert SIGNER.secret(b"seal") == Signer.from_seed(SEED).secret(b"seal")


# files


def test_a_new_key_lies_in_a_file_of_its_owners_and_is_read_back(tmp_path: Path) -> None:
    made = create(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert load(tmp_path / "key.pem").public == made.public
    assert create(tmp_path / "another.pem").public != made.public


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    made = create(tmp_path / "key.pem")
    with pytest.raises(KeyFileError, match=r"key\.pem: expected a place for a new key, file exists;"):
        create(tmp_path / "key.pem")
    assert load(tmp_path / "key.pem").public == made.public
    with pytest.raises(KeyFileError, match="no such file or directory"):
        create(tmp_path / "absent" / "key.pem")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    create(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(mode)
    with pytest.raises(KeyFileError, match="only its owner can read, others can too; run chmod 600"):
        load(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o400)
    load(tmp_path / "key.pem")


def rsa() -> bytes:
    return generate_private_key(65537, 2048).private_bytes(*PEM, serialization.NoEncryption())


def locked() -> bytes:
    return SIGNER.private.private_bytes(*PEM, serialization.BestAvailableEncryption(b"password"))


def public() -> bytes:
    spki = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return SIGNER.private.public_key().public_bytes(*spki)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"-----BEGIN PRIVATE KEY-----\n", rsa(), locked(), public()])
def test_what_is_no_ed25519_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pem").touch(mode=0o600)
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(KeyFileError, match="expected an Ed25519 key in PEM, something else came") as caught:
        load(tmp_path / "key.pem")
    assert "skulle være en Ed25519-nøgle" in caught.value.text("da")


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pem", tmp_path):
        with pytest.raises(KeyFileError, match="expected a key that can be read, found none"):
            load(path)
