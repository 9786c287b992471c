"""Make, read and use Ed25519 keys: the agent's own, which signs ledger heads and receipts, and those of people.

A key file is PEM and readable by its owner only; one that others can read is refused, for it may have been copied.
"""

import base64
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from client.language import reason
from faelles.errors import KeyFileError

PREFIX = "ed25519:"
RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


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


def verify(public: str, data: bytes, signature: str) -> bool:
    """Say whether a signature is of these bytes and made with this key; nonsense of any kind is a no."""
    try:
        key = Ed25519PublicKey.from_public_bytes(decode(public.removeprefix(PREFIX)))
        key.verify(decode(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return public.startswith(PREFIX)


def fingerprint(public: str) -> str:
    """Shorten a public key to what two people can compare over the phone: 8 groups of 4."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public.encode())
    text = digest.finalize().hex()[:32]
    return " ".join(text[place : place + 4] for place in range(0, 32, 4))


def create(path: Path) -> Signer:
    """Make a new key in a new file that only its owner can read.

    Raises:
        KeyFileError: The file is there already, or its folder cannot be written.
    """
    signer = Signer(private=Ed25519PrivateKey.generate())
    pem = signer.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise KeyFileError(
            f"{path}: expected a place for a new key, {reason(error, 'en')}; choose another, no key is overwritten",
            da=f"{path}: her kan en ny nøgle ikke ligge ({reason(error, 'da')}); vælg en anden fil, ingen nøgle "
            "overskrives",
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return signer


def load(path: Path) -> Signer:
    """Read a key.

    Raises:
        KeyFileError: There is none, others can read it, or it is something else.
    """
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
    try:
        private = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(
            f"{path}: expected an Ed25519 key in PEM, something else came; make one with `faelles-agent person`",
            da=f"{path}: skulle være en Ed25519-nøgle i PEM, men er noget andet; lav en med `faelles-agent person`",
        )
    return Signer(private=private)


def encode(data: bytes) -> str:
    """Write bytes as URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Read back what `encode` wrote; bytes have one text only, so that no second one can say more or pass as another.

    Raises:
        ValueError: The text is something else.
    """
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if encode(data) != text:
        raise ValueError("base64: expected the one way to write these bytes")
    return data
