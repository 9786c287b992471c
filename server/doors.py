"""Stand before Flower's app: only the routes a caller needs, bodies of a bounded size, and a token for Control.

Flower 1.41 serves everything on one port and asks nobody who calls Control. Here municipalities reach only the Fleet
API and health; Control and Runtime are on loopback, and Control wants the token. What is refused is refused before
anything of it is parsed, and who shows no enrolled key may say little.
"""

import asyncio
import base64
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)
MEBIBYTE = 1024 * 1024
LARGEST_BODY_BYTES = 8 * MEBIBYTE  # Flower splits what is larger than 5 MB
# What Flower makes of a body can take twenty times its size, before it asks whose it is.
STRANGERS_BODY_BYTES, NODES_BODY_BYTES = 16 * 1024, 256 * 1024
ROOM_BYTES = 128 * MEBIBYTE  # for all bodies at once
FLEET_PATH = "/v1/fleet/"
LARGER = {"push-object": LARGEST_BODY_BYTES, "push-messages": MEBIBYTE}
PUBLIC_KEY = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()
SLOWEST_BODY_S = 60.0
CONTROL = "/v1/control/"
FLEET = (
    "register-node", "activate-node", "deactivate-node", "unregister-node", "send-node-heartbeat", "pull-messages",
    "push-messages", "get-run", "get-fab", "push-object", "pull-object", "confirm-message-received",
)  # fmt: skip
STEERING = ("start-run", "stop-run", "list-runs", "register-node", "unregister-node", "list-nodes")
RUNTIME = (
    "acquire-task", "send-task-heartbeat", "pull-task-input", "push-task-output", "push-object", "pull-object",
    "confirm-message-received", "push-messages", "pull-messages", "get-nodes",
)  # fmt: skip
HEALTH: Mapping[str, tuple[str, ...]] = {"/health": ("GET", "HEAD")}
PUBLIC = {**HEALTH, **{f"{FLEET_PATH}{name}": ("POST",) for name in FLEET}}
LOOPBACK = {
    **HEALTH,
    **{f"{CONTROL}{name}": ("POST",) for name in STEERING},
    **{f"/v1/runtime/{name}": ("POST",) for name in RUNTIME},
}


class Refused(Exception):  # noqa: N818  # it is an answer, not an error
    """Answer a request without handing it on."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Room:
    """Count the bytes of bodies that are held.

    Args:
        size: How many at most.
    """

    def __init__(self, size: int = ROOM_BYTES) -> None:
        self._free = size

    def take(self, size: int) -> bool:
        """Hold so many more; whether there is room for them."""
        if size > self._free:
            return False
        self._free -= size
        return True

    def give(self, size: int) -> None:
        """Let so many go."""
        self._free += size


@dataclass(frozen=True, kw_only=True)
class Door:
    """Let in what is on the list, and hand it on whole.

    Args:
        app: Flower's.
        name: For the log.
        routes: The methods of each path that is open.
        token: What Control wants; None where Control is closed.
        known: Says whether a node of the Fleet API is enrolled, by the public key that it shows; others may say little.
        room: For the bodies of all who come at once.
        largest_body_bytes: More is refused unread.
        slowest_body_s: Seconds that a body may take to arrive.
    """

    app: ASGIApp
    name: str
    routes: Mapping[str, tuple[str, ...]]
    token: bytes | None = None
    known: Callable[[bytes], bool] = lambda key: False
    room: Room = field(default_factory=Room)
    largest_body_bytes: int = LARGEST_BODY_BYTES
    slowest_body_s: float = SLOWEST_BODY_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # Flower serves no websockets, and its lifespan starts nothing that we use
            return
        body = bytearray()
        try:
            refused = await self._let_in(scope, receive, body)
            if refused is None:
                await self.app(scope, _replay(bytes(body), receive), self._noting(scope, send))
            else:
                await self._refuse(scope, send, refused)
        finally:
            self.room.give(len(body))

    async def _let_in(self, scope: Scope, receive: Receive, body: bytearray) -> Refused | None:
        """Read a body; None where the request may be handed on."""
        try:
            self._check(scope)
            await asyncio.wait_for(self._read(scope, receive, body), self.slowest_body_s)
        except TimeoutError:
            return Refused(408, "slow")
        except Refused as refused:
            return refused
        return None

    def _check(self, scope: Scope) -> None:
        path = scope["path"]
        methods = self.routes.get(path)
        if methods is None:
            raise Refused(404, "closed")
        if scope["method"] not in methods:
            raise Refused(405, "method")
        if path.startswith(CONTROL):
            given = _header(scope, b"authorization").removeprefix(b"Bearer ")
            if not self.token or not hmac.compare_digest(given, self.token):
                raise Refused(401, "token")

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> None:
        stated, most = _header(scope, b"content-length"), self._most(scope)
        # 20 digits: a longer number is too large in any case, and Python reads none of thousands.
        if stated and (not stated.isdigit() or len(stated) > 20 or int(stated) > most):
            raise Refused(413, "large")
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Refused(400, "gone")
            more = message.get("body", b"")
            if len(body) + len(more) > most:
                raise Refused(413, "large")
            if not self.room.take(len(more)):
                raise Refused(503, "full")
            body += more
            if not message.get("more_body"):
                return

    def _most(self, scope: Scope) -> int:
        """Say how large a body may be: Flower reads it before it knows whose it is, so that is looked at here."""
        path = scope["path"]
        if not path.startswith(FLEET_PATH):
            return self.largest_body_bytes
        if not self.known(_decoded(_header(scope, PUBLIC_KEY))):
            return min(STRANGERS_BODY_BYTES, self.largest_body_bytes)
        return min(LARGER.get(path.removeprefix(FLEET_PATH), NODES_BODY_BYTES), self.largest_body_bytes)

    def _noting(self, scope: Scope, send: Send) -> Send:
        """Note it where Flower refuses what was let in, such as a node that it does not know.

        Its 500, e.g. of a full disk, becomes a 503: at a 500 a node's heartbeat ends for good, at a 503 it goes on.
        """

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                status = 503 if message["status"] == 500 else message["status"]
                self._note(scope, Refused(status, "answer"))
                message = {**message, "status": status}
            await send(message)

        return note

    def _note(self, scope: Scope, refused: Refused) -> None:
        host = (scope.get("client") or ("-",))[0]
        # A path is the caller's own text: no line breaks of it reach the log, and not much of it.
        path = ascii(scope["path"])[:80]
        log.warning("event=refused door=%s why=%s status=%d peer=%s path=%s",
                    self.name, refused.why, refused.status, host, path)  # fmt: skip

    async def _refuse(self, scope: Scope, send: Send, refused: Refused) -> None:
        self._note(scope, refused)
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand on a body that was read already, and then whatever the connection says."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return waiting.pop() if waiting else await receive()

    return give


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _header(scope: Scope, name: bytes) -> bytes:
    found = [value for key, value in scope["headers"] if key == name]
    return bytes(found[0]) if len(found) == 1 else b""
