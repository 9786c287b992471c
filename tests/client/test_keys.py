"""A key is its owner's alone."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from client.keys import Signer, create, create_login, load, load_login
from faelles.errors import KeyFileError
from tests.books import SEED

SIGNER, OTHER = Signer.from_seed(SEED), Signer.from_seed(SEED[::-1])
PEM = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
OPENSSH = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())


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


# the key that logs in


def test_a_login_key_is_what_flower_supernode_reads(tmp_path: Path) -> None:
    public = create_login(tmp_path / "login.key")
    assert stat.S_IMODE((tmp_path / "login.key").stat().st_mode) == 0o600
    private = serialization.load_ssh_private_key((tmp_path / "login.key").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp384r1"
    assert public.startswith("ecdsa-sha2-nistp384 ")
    assert load_login(tmp_path / "login.key") == public != create_login(tmp_path / "other.key")


def test_a_login_key_is_never_overwritten(tmp_path: Path) -> None:
    public = create_login(tmp_path / "login.key")
    with pytest.raises(KeyFileError, match="no key is overwritten"):
        create_login(tmp_path / "login.key")
    assert load_login(tmp_path / "login.key") == public


def test_a_login_key_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    create_login(tmp_path / "login.key")
    (tmp_path / "login.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="others can too; run chmod 600"):
        load_login(tmp_path / "login.key")


def smaller() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(*OPENSSH)


@pytest.mark.parametrize("content", [b"", b"\xff", rsa(), smaller(), SIGNER.private.private_bytes(*OPENSSH)])
def test_what_is_no_login_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "login.key").touch(mode=0o600)
    (tmp_path / "login.key").write_bytes(content)
    with pytest.raises(KeyFileError, match="expected a login key that `faelles-agent enrol` made") as caught:
        load_login(tmp_path / "login.key")
    assert "tilmeld jer igen med --rotate" in caught.value.text("da")
