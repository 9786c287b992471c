"""Make, read and use a municipality's keys: those that sign, its own and its people's, and the one that logs in.

A key file is readable by its owner only; one that others can read is refused, for it may have been copied.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from client.language import reason
from faelles.errors import KeyFileError
from faelles.keys import PREFIX, encode

RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
OPENSSH = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Sign with a private key."""

    private: Ed25519PrivateKey

    @classmethod
    def from_seed(cls, seed: bytes) -> "Signer":
        """Make the key that 32 bytes determine."""
        return cls(private=Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def public(self) -> str:
        """Write the public key as text: ed25519: and 43 letters."""
        return PREFIX + encode(self.private.public_key().public_bytes(*RAW))

    def sign(self, data: bytes) -> str:
        """Sign bytes."""
        return encode(self.private.sign(data))

    def secret(self, purpose: bytes) -> bytes:
        """Derive 32 secret bytes that only this key's owner can derive."""
        seed = self.private.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose).derive(seed)


def create(path: Path) -> Signer:
    """Make a new key in a new file that only its owner can read.

    Raises:
        KeyFileError: The file is there already, or its folder cannot be written.
    """
    signer = Signer(private=Ed25519PrivateKey.generate())
    pem = signer.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_new(path, pem)
    return signer


def load(path: Path) -> Signer:
    """Read a key.

    Raises:
        KeyFileError: There is none, others can read it, or it is something else.
    """
    private = _parsed(_read_own(path), serialization.load_pem_private_key)
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(
            f"{path}: expected an Ed25519 key in PEM, something else came; make one with `faelles-agent person`",
            da=f"{path}: skulle være en Ed25519-nøgle i PEM, men er noget andet; lav en med `faelles-agent person`",
        )
    return Signer(private=private)


def create_login(path: Path) -> str:
    """Make the key that the node logs in with, as flower-supernode reads it, and give its public half.

    It does nothing but log in: what signs is another key, so that this one can be replaced at any time.

    Raises:
        KeyFileError: The file is there already, or its folder cannot be written.
    """
    private = ec.generate_private_key(ec.SECP384R1())
    _write_new(path, private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ))  # fmt: skip
    return private.public_key().public_bytes(*OPENSSH).decode()


def load_login(path: Path) -> str:
    """Read a login key and give its public half as OpenSSH writes it.

    Raises:
        KeyFileError: There is none, others can read it, or it is something else.
    """
    private = _parsed(_read_own(path), serialization.load_ssh_private_key)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP384R1):
        raise KeyFileError(
            f"{path}: expected a login key that `faelles-agent enrol` made, something else came; move it away and "
            "enrol again with --rotate",
            da=f"{path}: skulle være den nøgle, som `faelles-agent enrol` lavede, men er noget andet; flyt den, og "
            "tilmeld jer igen med --rotate",
        )
    return private.public_key().public_bytes(*OPENSSH).decode()


def _write_new(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise KeyFileError(
            f"{path}: expected a place for a new key, {reason(error, 'en')}; choose another, no key is overwritten",
            da=f"{path}: her kan en ny nøgle ikke ligge ({reason(error, 'da')}); vælg en anden fil, ingen nøgle "
            "overskrives",
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _read_own(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError:
        raise KeyFileError(
            f"{path}: expected a key that can be read, found none; name the file, or make one",
            da=f"{path}: her skulle ligge en nøgle, der kan læses; angiv filen, eller lav en nøgle",
        ) from None
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: expected a key that only its owner can read, others can too; run chmod 600, consider a new key",
            da=f"{path}: nøglen må kun kunne læses af ejeren, men andre kan også; kør chmod 600, og overvej en ny",
        )
    return data


def _parsed(data: bytes, read: Callable[[bytes, None], object]) -> object:
    """Read a private key without a password; None where it is something else."""
    try:
        return read(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
