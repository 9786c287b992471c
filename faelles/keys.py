"""Check what Ed25519 keys signed, and write keys and signatures as text: the public half, which both sides need.

The private half is the agent's alone: `client.keys`.
"""

import base64
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PREFIX = "ed25519:"


def verify(public: str, data: bytes, signature: str) -> bool:
    """Say whether a signature is of these bytes and made with this key; nonsense of any kind is a no."""
    try:
        key = Ed25519PublicKey.from_public_bytes(decode(public.removeprefix(PREFIX)))
        key.verify(decode(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return public.startswith(PREFIX)


def fingerprint(public: str | bytes) -> str:
    """Shorten a public key, or other bytes, to what two people can compare over the phone: 8 groups of 4."""
    text = hashlib.sha256(public.encode() if isinstance(public, str) else public).hexdigest()
    return " ".join(text[place : place + 4] for place in range(0, 32, 4))


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
