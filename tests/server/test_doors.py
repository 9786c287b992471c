"""A door lets in what is on its list and hands it on whole; everything else ends there, unread and in one line."""

import asyncio
import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from server.doors import (
    CONTROL,
    FLEET,
    LARGEST_BODY_BYTES,
    LOOPBACK,
    MEBIBYTE,
    NODES_BODY_BYTES,
    PUBLIC,
    RUNTIME,
    STEERING,
    STRANGERS_BODY_BYTES,
    Door,
    Room,
)  # fmt: skip

TOKEN = b"kombits-own-token-of-many-letters"
LIMIT = 1000
OPEN = "/v1/fleet/pull-messages"
PUSH_OBJECT = "/v1/fleet/push-object"
STEER = "/v1/control/start-run"
GOOD = (b"authorization", b"Bearer " + TOKEN)
Headers = Sequence[tuple[bytes, bytes]]


@dataclass
class Inside:
    """Be the app behind a door, and remember what came in."""

    status: int = 200
    came: list[tuple[str, bytes]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body whole, and then see the caller go."""
        body, message = b"", await receive()
        while message["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
            message = await receive()
        self.came.append((scope["path"], body))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


class Caller:
    """Send a body in pieces; None hangs up, and after the last piece nothing more comes."""

    def __init__(self, *pieces: bytes | None, whole: bool = True) -> None:
        self._pieces, self._whole = list(pieces) or [b""], whole
        self.answer: list[Message] = []
        self.asked = 0

    async def receive(self) -> Message:
        self.asked += 1
        if not self._pieces:
            await asyncio.Event().wait()
        piece = self._pieces.pop(0)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or not self._whole}

    async def send(self, message: Message) -> None:
        self.answer.append(message)

    @property
    def status(self) -> int:
        return int(self.answer[0]["status"])


def knock(
    path: str = OPEN,
    *pieces: bytes | None,
    method: str = "POST",
    headers: Headers = (),
    routes: Mapping[str, tuple[str, ...]] = PUBLIC,
    token: bytes | None = None,
    inside: Inside | None = None,
    whole: bool = True,
    **changes: Any,
) -> tuple[Caller, Inside]:
    """Come to a door once."""
    inside, caller = inside or Inside(), Caller(*pieces, whole=whole)
    door = Door(
        app=inside,
        name="test",
        routes=routes,
        token=token,
        **{"largest_body_bytes": LIMIT, "slowest_body_s": 5.0} | changes,
    )
    scope = {"type": "http", "path": path, "method": method, "headers": list(headers), "client": ("192.0.2.7", 4711)}
    asyncio.run(door(scope, caller.receive, caller.send))
    return caller, inside


def steer(*headers: tuple[bytes, bytes], token: bytes | None = TOKEN) -> tuple[Caller, Inside]:
    return knock(STEER, b"x", headers=headers, routes=LOOPBACK, token=token)


# Routes


@pytest.mark.parametrize("path", PUBLIC)
def test_what_municipalities_need_is_open_to_them(path: str) -> None:
    caller, inside = knock(path, b"words", method=PUBLIC[path][0])
    assert (caller.status, inside.came) == (200, [(path, b"words")])


@pytest.mark.parametrize("path", [path for path in LOOPBACK if path not in PUBLIC])
def test_control_and_runtime_are_not_on_the_public_listener(path: str) -> None:
    caller, inside = knock(path, b"words", headers=[GOOD], token=TOKEN)
    assert (caller.status, inside.came) == (404, [])


def test_the_two_lists_hold_no_more_than_was_meant() -> None:
    assert set(PUBLIC) == {"/health", *(f"/v1/fleet/{name}" for name in FLEET)}
    assert set(LOOPBACK) == {
        "/health", *(f"{CONTROL}{name}" for name in STEERING), *(f"/v1/runtime/{name}" for name in RUNTIME),
    }  # fmt: skip
    for closed in ("connector", "agent", "model", "automation", "responses", "create-task", "log", "app", "docs"):
        assert not [path for path in (*PUBLIC, *LOOPBACK) if closed in path]


WORDS = ["v1", "fleet", "control", "runtime", "health", "docs", "openapi.json", "start-run", *FLEET, *RUNTIME, ""]
ODD = st.one_of(
    st.sampled_from(WORDS), st.text(max_size=8), st.sampled_from(["..", ".", "%2e%2e", "%2f", ";", "?", "\0"])
)
PATHS = st.one_of(
    st.text(max_size=40),
    st.lists(ODD, max_size=6).map(lambda parts: "/" + "/".join(parts)),
    st.tuples(st.sampled_from([*PUBLIC, *LOOPBACK]), st.text(max_size=3)).map("".join),
)


@given(path=PATHS, method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS", "post", "CONNECT"]))
def test_only_what_is_listed_comes_in(path: str, method: str) -> None:
    for routes in (PUBLIC, LOOPBACK):
        caller, inside = knock(path, b"x", method=method, headers=[GOOD], routes=routes, token=TOKEN)
        let_in = method in routes.get(path, ())
        assert bool(inside.came) == let_in
        assert caller.status == (200 if let_in else 405 if path in routes else 404)


@pytest.mark.parametrize(
    "path",
    ["/docs", "/openapi.json", "/redoc", "/", "", "/v1/fleet/", "/v1/fleet/pull-messages/", "//v1/fleet/pull-messages",
     "/V1/fleet/pull-messages", "/v1/fleet/../control/start-run", "/v1/control/list-connectors",
     "/v1/runtime/get-connector", "/v1/runtime/create-task", "/v1/runtime/responses", "/v1/control/stream-logs"],
)  # fmt: skip
def test_what_flower_serves_beside_that_is_closed_on_both(path: str) -> None:
    for routes in (PUBLIC, LOOPBACK):
        caller, inside = knock(path, b"x", headers=[GOOD], routes=routes, token=TOKEN)
        assert (caller.status, inside.came) == (404, [])


def test_what_is_not_http_never_comes_in() -> None:
    inside = Inside()
    door = Door(app=inside, name="test", routes=PUBLIC)
    for kind in ("websocket", "lifespan"):
        asyncio.run(door({"type": kind, "path": OPEN, "headers": []}, Caller().receive, Caller().send))
    assert inside.came == []


# The token


def test_control_opens_to_the_token_alone() -> None:
    caller, inside = steer(GOOD)
    assert (caller.status, inside.came) == (200, [(STEER, b"x")])


@pytest.mark.parametrize("given", [
    (), (b"",), (b"Bearer ",), (b"Bearer wrong",), (b"Bearer " + TOKEN[:-1],), (b"Bearer " + TOKEN + b"x",),
    (b"Bearer  " + TOKEN,), (b"bearer " + TOKEN,), (b"Basic " + TOKEN,), (b"Bearer " + TOKEN + b"\xff",),
    (b"Bearer " + TOKEN, b"Bearer " + TOKEN), (b"Bearer wrong", b"Bearer " + TOKEN),
    (b"Bearer " + TOKEN + b", Bearer " + TOKEN,), (b"Bearer " + TOKEN.upper(),), (b"\0" * 100_000,),
])  # fmt: skip
def test_control_is_closed_to_whatever_else_is_shown(given: tuple[bytes, ...]) -> None:
    caller, inside = steer(*((b"authorization", value) for value in given))
    assert (caller.status, inside.came) == (401, [])


@given(value=st.binary(max_size=60))
def test_no_token_can_be_guessed(value: bytes) -> None:
    for shown in (value, b"Bearer " + value):
        if shown.removeprefix(b"Bearer ") != TOKEN:
            caller, inside = steer((b"authorization", shown))
            assert (caller.status, inside.came) == (401, [])


@pytest.mark.parametrize("token", [None, b""])
def test_a_door_that_has_no_token_has_no_control(token: bytes | None) -> None:
    for headers in ((), ((b"authorization", b""),), ((b"authorization", b"Bearer "),)):
        caller, inside = steer(*headers, token=token)
        assert (caller.status, inside.came) == (401, [])


# Bodies


@given(pieces=st.lists(st.binary(max_size=400), min_size=1, max_size=6))
def test_a_body_comes_in_whole_or_not_at_all(pieces: list[bytes]) -> None:
    caller, inside = knock(OPEN, *pieces)
    body = b"".join(pieces)
    if len(body) <= LIMIT:
        assert (caller.status, inside.came) == (200, [(OPEN, body)])
    else:
        assert (caller.status, inside.came) == (413, [])


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
@pytest.mark.parametrize("stated", [True, False])
def test_the_limit_is_what_it_says(size: int, stated: bool) -> None:
    headers = [(b"content-length", b"%d" % size)] if stated else []
    caller, inside = knock(OPEN, b"x" * size, headers=headers)
    assert caller.status == (413 if size > LIMIT else 200)
    assert [len(body) for _, body in inside.came] == ([] if size > LIMIT else [size])


def test_a_stated_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    caller, _ = knock(OPEN, b"x", headers=[(b"content-length", b"104857600")])
    assert (caller.status, caller.asked) == (413, 0)


@pytest.mark.parametrize(
    "value", [b"-1", b"+5", b"0x10", b"5, 5", b"1e3", b"", b" ", b"9" * 5000, "²".encode(), b"\xff"]
)
def test_a_length_that_is_none_is_refused_or_counts_for_nothing(value: bytes) -> None:
    caller, inside = knock(OPEN, b"x" * (LIMIT + 1), headers=[(b"content-length", value)])
    assert (caller.status, inside.came) == (413, [])


@pytest.mark.parametrize("values", [(b"1", b"99999999"), (b"99999999", b"1"), (b"0", b"0")])
def test_two_lengths_do_not_smuggle_a_body_over_the_limit(values: tuple[bytes, bytes]) -> None:
    caller, inside = knock(OPEN, b"x" * LIMIT, b"x", headers=[(b"content-length", value) for value in values])
    assert (caller.status, inside.came) == (413, [])


def test_a_length_that_lies_does_not_either() -> None:
    caller, inside = knock(OPEN, *([b"x" * 100] * 11), headers=[(b"content-length", b"1")])
    assert (caller.status, inside.came) == (413, [])


def test_no_more_is_read_than_shows_that_it_is_too_much() -> None:
    caller, _ = knock(OPEN, *([b"x" * 100] * 1000))
    assert (caller.status, caller.asked) == (413, LIMIT // 100 + 1)


def test_flowers_own_pieces_fit() -> None:
    assert LARGEST_BODY_BYTES == 8 * MEBIBYTE  # Flower cuts arrays into pieces of 5 MiB
    caller, inside = knock(
        PUSH_OBJECT, b"x" * (5 * MEBIBYTE + 4096), largest_body_bytes=LARGEST_BODY_BYTES, known=lambda key: True
    )
    assert caller.status == 200
    assert len(inside.came[0][1]) == 5 * MEBIBYTE + 4096


KEY = b"an enrolled node's public key"
SHOWN = (b"flwr-public-key", base64.b64encode(KEY))


@pytest.mark.parametrize(("path", "headers", "most"), [
    (PUSH_OBJECT, (SHOWN,), LARGEST_BODY_BYTES),
    ("/v1/fleet/push-messages", (SHOWN,), MEBIBYTE),
    (OPEN, (SHOWN,), NODES_BODY_BYTES),
    *((PUSH_OBJECT, headers, STRANGERS_BODY_BYTES) for headers in (
        (), (SHOWN, SHOWN), ((b"flwr-public-key", KEY),), ((b"flwr-public-key", base64.b64encode(KEY[1:])),),
    )),
])  # fmt: skip
@pytest.mark.parametrize("stated", [True, False])
def test_who_is_not_enrolled_may_say_little(path: str, headers: Headers, most: int, stated: bool) -> None:
    for size, status in ((most, 200), (most + 1, 413)):
        length = ((b"content-length", b"%d" % size),) if stated else ()
        caller, inside = knock(
            path, bytes(size), headers=(*headers, *length), largest_body_bytes=LARGEST_BODY_BYTES,
            known=lambda key: key == KEY,
        )  # fmt: skip
        assert caller.status == status
        assert len(inside.came) == (status == 200)


def test_bodies_of_all_callers_together_have_room_or_wait_outside() -> None:
    room = Room(LIMIT)

    async def come(door: Door, *pieces: bytes) -> Caller:
        caller = Caller(*pieces)
        scope: Scope = {"type": "http", "path": OPEN, "method": "POST", "headers": [], "client": None}
        await door(scope, caller.receive, caller.send)
        return caller

    async def crowd() -> list[int]:
        here, go = asyncio.Event(), asyncio.Event()

        async def inside(scope: Scope, receive: Receive, send: Send) -> None:
            here.set()
            await go.wait()
            await Inside()(scope, receive, send)

        door = Door(app=inside, name="test", routes=PUBLIC, room=room, largest_body_bytes=LIMIT)
        first = asyncio.ensure_future(come(door, b"x" * (LIMIT - 10)))
        await here.wait()
        second = await come(door, b"x" * 11)
        go.set()
        return [(await first).status, second.status, (await come(door, b"x" * LIMIT)).status]

    assert asyncio.run(crowd()) == [200, 503, 200]
    assert room.take(LIMIT)  # whatever became of them


@pytest.mark.parametrize("pieces", [(b"",), (b"x" * 50,), (b"x", b"y")])
def test_a_body_that_does_not_end_is_given_up(pieces: tuple[bytes, ...]) -> None:
    caller, inside = knock(OPEN, *pieces, whole=False, slowest_body_s=0.05)
    assert (caller.status, inside.came) == (408, [])


def test_who_hangs_up_in_the_middle_is_not_heard() -> None:
    caller, inside = knock(OPEN, b"x", None)
    assert (caller.status, inside.came) == (400, [])


def test_a_slow_caller_does_not_hold_up_another() -> None:
    inside = Inside()
    door = Door(app=inside, name="test", routes=PUBLIC, slowest_body_s=0.2)
    slow, quick = Caller(b"x", whole=False), Caller(b"y")

    def scope() -> Scope:
        return {"type": "http", "path": OPEN, "method": "POST", "headers": [], "client": None}

    async def both() -> None:
        waiting = asyncio.ensure_future(door(scope(), slow.receive, slow.send))
        await door(scope(), quick.receive, quick.send)
        assert inside.came == [(OPEN, b"y")]
        await waiting

    asyncio.run(both())
    assert (slow.status, quick.status) == (408, 200)


# What is said of it


def test_a_refusal_is_one_line_and_holds_nothing_of_what_came(caplog: pytest.LogCaptureFixture) -> None:
    secret = b"Bearer my-guess-of-a-token"
    path = "/v1/fleet/\nevent=up\x1b[2J" + "å" * 500
    with caplog.at_level(logging.INFO, "server.doors"):
        caller, _ = knock(path, b"my-body", headers=[(b"authorization", secret), (b"x", b"my-header")])
        steer((b"authorization", secret))
    assert caller.answer[1]["body"] == b""
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("event=refused door=test why=closed status=404 peer=192.0.2.7 path='/v1/fleet/\\nevent=up")
    assert first.isascii()
    assert first.isprintable()
    assert len(first) < 200
    assert second == f"event=refused door=test why=token status=401 peer=192.0.2.7 path='{STEER}'"
    assert not [word for word in ("my-body", "my-guess", "my-header") if word in caplog.text]


@pytest.mark.parametrize("status", [200, 204, 399, 400, 401, 412, 501, 503])
def test_what_flower_refuses_is_noted_too(caplog: pytest.LogCaptureFixture, status: int) -> None:
    with caplog.at_level(logging.INFO, "server.doors"):
        caller, _ = knock(OPEN, b"x", inside=Inside(status=status))
    assert (caller.status, caller.answer[1]["body"]) == (status, b"inside")
    line = f"event=refused door=test why=answer status={status} peer=192.0.2.7 path='{OPEN}'"
    assert [record.getMessage() for record in caplog.records] == ([line] if status >= 400 else [])


def test_what_breaks_inside_is_something_that_nodes_try_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "server.doors"):
        caller, _ = knock(OPEN, b"x", inside=Inside(status=500))
    assert caller.status == 503
    assert "why=answer status=503" in caplog.text


def test_a_refused_connection_is_not_used_again() -> None:
    caller, _ = knock("/docs")
    assert (b"connection", b"close") in caller.answer[0]["headers"]
