"""Peers of a coordinator that nobody invited, and the coordinator's listeners without the processes of its runs."""

import contextlib
import socket
import ssl
import threading
import time
import warnings
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import httpx
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from client.keys import Signer
from faelles.enrolment import OPENSSH, VERSION, EnrolmentRequest, signed_bytes
from faelles.loopback import HOST, free_port, prepare
from server.doors import LOOPBACK, PUBLIC, Door
from server.home import Home, Wish, create
from server.superlink import build_superlink, known_to
from tests.coordinators import wait_until

PROTOBUF = {"content-type": PROTOBUF_MEDIA_TYPE}
CHUNK = 64 * 1024
ANSWER_S = 30.0


class Words(Protocol):
    """Be one of Flower's messages, or what else can be written as bytes."""

    def SerializeToString(self) -> bytes:
        """Write it."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """Hold what came back."""

    status: int
    body: bytes = b""


@dataclass(frozen=True)
class Applicant:
    """Ask to be let in, with keys of one's own."""

    code: str
    login: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    signer: Signer = field(default_factory=lambda: Signer.from_seed(ec.generate_private_key(
        ec.SECP256R1()).private_numbers().private_value.to_bytes(32)))  # fmt: skip

    def request(self, previous: "Applicant | None" = None) -> EnrolmentRequest:
        """Write a request, where keys are replaced signed by the previous ones too."""
        fields = {
            "version": VERSION, "municipality": self.code, "cvr": "29189420", "signing_key": self.signer.public,
            "login_key": self.login.public_key().public_bytes(*OPENSSH).decode(), "software": "0.2.0", "wire": 2,
            "extensions": {},
        }  # fmt: skip
        data = signed_bytes(fields)
        more = {} if previous is None else {"previous_signature": previous.signer.sign(data)}
        return EnrolmentRequest.model_validate({**fields, "signature": self.signer.sign(data), **more})

    def rotated(self) -> "Applicant":
        """Replace the login key."""
        return replace(self, login=ec.generate_private_key(ec.SECP384R1()))


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Speak with a listener over TLS, whoever listens.

    Args:
        address: HOST:PORT.
        trust: The certificate, or its authority's.
    """

    address: str
    trust: Path

    def post(
        self, path: str, body: Words | bytes = b"", headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> Response:
        """Send one request of reasonable size."""
        data = body if isinstance(body, bytes) else body.SerializeToString()
        context = ssl.create_default_context(cafile=self.trust)
        with httpx.Client(verify=context, trust_env=False, timeout=ANSWER_S) as client:
            answer = client.request(
                method, f"https://{self.address}{path}", content=data, headers={**PROTOBUF, **(headers or {})}
            )
        return Response(status=answer.status_code, body=answer.content)

    def flood(self, path: str, size: int, stated: bool, headers: Mapping[str, str] | None = None) -> tuple[int, int]:
        """Send a body of zeros until it is whole or an answer comes.

        Returns:
            The answer's status, and how many bytes of body were sent.
        """
        length = f"content-length: {size}" if stated else "transfer-encoding: chunked"
        more = "".join(f"{name}: {value}\r\n" for name, value in {**PROTOBUF, **(headers or {})}.items())
        head = f"POST {path} HTTP/1.1\r\nhost: {self.address}\r\n{more}{length}\r\n\r\n"
        chunk = b"\0" * CHUNK
        framed = chunk if stated else b"%x\r\n%s\r\n" % (CHUNK, chunk)
        sent, patience_s = 0, 0.5 if stated else 0.0  # before the body, where its length alone can be refused
        with self.connected() as wire, contextlib.suppress(OSError):  # it may hang up as soon as it has answered
            wire.send(head.encode())
            while sent < size and not wire.heard(patience_s):
                wire.send(framed)
                sent, patience_s = sent + CHUNK, 0.0
            if sent >= size and not stated:
                wire.send(b"0\r\n\r\n")
            wire.heard(ANSWER_S)
        return wire.status, sent

    def raw(self, data: bytes) -> int:
        """Send bytes as they are; return the answer's status, 0 where there is none."""
        with self.connected() as wire, contextlib.suppress(OSError):
            wire.send(data)
            wire.heard(ANSWER_S)
        return wire.status

    @contextmanager
    def connected(self) -> Iterator["Wire"]:
        """Open a connection."""
        host, _, port = self.address.rpartition(":")
        context = ssl.create_default_context(cafile=self.trust)
        with (
            socket.create_connection((host, int(port)), timeout=ANSWER_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as wire,
        ):
            yield Wire(wire)


class Wire:
    """Send and listen on one connection."""

    def __init__(self, wire: ssl.SSLSocket) -> None:
        self._wire, self._answer, self._over = wire, b"", False

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._wire.settimeout(ANSWER_S)
        self._wire.sendall(data)

    def heard(self, patience_s: float) -> bool:
        """Say whether a first line of an answer is here, or the other side hung up, by then."""
        ends = time.monotonic() + patience_s
        while b"\r\n" not in self._answer and not self._over:
            try:
                self._wire.settimeout(max(0.0, ends - time.monotonic()))
                more = self._wire.recv(CHUNK)
                self._answer, self._over = self._answer + more, not more
            except (TimeoutError, ssl.SSLWantReadError, BlockingIOError):
                return False
        return True

    @property
    def status(self) -> int:
        """Read the answer's status; 0 where there was none."""
        words = self._answer.split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def signed_headers(
    key: ec.EllipticCurvePrivateKey, at: datetime | None = None, shown: ec.EllipticCurvePrivateKey | None = None
) -> dict[str, str]:
    """Sign as Flower's node does, now or at another time, and perhaps show another's key."""
    timestamp = (at or datetime.now(UTC)).isoformat()
    signature = sign_message(key, timestamp.encode("ascii"))
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes((shown or key).public_key())).decode(),
        TIMESTAMP_HEADER: timestamp,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode(),
    }


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the key that an agent's node logs in with."""
    key = serialization.load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


class Listening:
    """Be a coordinator without the processes of its runs: its SuperLink and its two doors, in this process.

    Args:
        folder: Its own.
    """

    def __init__(self, folder: Path) -> None:
        wish = Wish(address=f"{HOST}:{free_port()}", loopback_port=free_port(), health_port=free_port())
        self.home = create(folder, wish)

    @contextmanager
    def serving(self) -> Iterator[Home]:
        """Serve until the block ends."""
        prepare()
        home = self.home
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of alembic, about Flower's settings
            app = build_superlink(home)
        inner = Door(app=app, name="loopback", routes=LOOPBACK, token=home.secret("control.token"))
        files = (
            (
                Door(app=app, name="public", routes=PUBLIC, known=known_to(app)),
                home.settings.listen,
                home.certificate,
                home.key,
            ),
            (inner, home.loopback_address, home.loopback_certificate, home.folder / "loopback.key"),
        )
        with contextlib.ExitStack() as stack:
            for door, address, certificate, key in files:
                stack.enter_context(listening(door, int(address.rpartition(":")[2]), certificate, key))
            yield home


@contextmanager
def listening(door: Door, port: int, certificate: Path, key: Path) -> Iterator[None]:
    """Listen behind a door until the block ends."""
    server = uvicorn.Server(uvicorn.Config(
        door, host=HOST, port=port, log_config=None, access_log=False, lifespan="off", ws="none",
        ssl_certfile=certificate, ssl_keyfile=key,
    ))  # fmt: skip
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), 10, "listener")
    assert server.started
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
