"""Flower's SuperLink as the coordinator builds it lets a node speak for itself alone, and quotes nobody in its log."""

import logging
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from server.control import Control
from server.doors import FLEET
from server.home import Home
from server.superlink import MOST_PARTS
from tests.peers import Listening, Peer, Response, Words, signed_headers

pytestmark = pytest.mark.live
MARK = "a-word-of-the-caller"


@dataclass(frozen=True, kw_only=True)
class Municipality:
    """Hold an enrolled node that speaks by hand."""

    peer: Peer
    node: int
    key: ec.EllipticCurvePrivateKey

    def say(self, route: str, message: Words, at: datetime | None = None) -> Response:
        return self.peer.post(f"/v1/fleet/{route}", message, signed_headers(self.key, at))

    def activate(self) -> Response:
        public = public_key_to_bytes(self.key.public_key())
        return self.say("activate-node", ActivateNodeRequest(public_key=public, heartbeat_interval=30))


@dataclass(kw_only=True)
class Federation:
    """Hold a coordinator and the hand that enrols."""

    peer: Peer
    control: Control
    names: Iterator[int] = field(default_factory=lambda: iter(range(1000)))

    def enrol(self) -> Municipality:
        key = ec.generate_private_key(ec.SECP384R1())
        node = self.control.register(f"{next(self.names):04}", public_key_to_bytes(key.public_key()))
        return Municipality(peer=self.peer, node=node, key=key)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Listening(tmp_path_factory.mktemp("srv") / "home").serving() as home:
        control = Control(home)
        yield Federation(peer=public_peer(home), control=control)
        control.close()


def public_peer(home: Home) -> Peer:
    return Peer(address=home.settings.address, trust=home.authority)


def pushed(node: int, *sources: int, reply_to: str = MARK) -> PushMessagesRequest:
    """Push messages that name their senders."""
    now = datetime.now(UTC).timestamp()
    messages = [
        MessageProto(metadata=Metadata(
            run_id=1, message_id="1" * 64, src_node_id=source, dst_node_id=SUPERLINK_NODE_ID, message_type="train",
            reply_to_message_id=reply_to, created_at=now, ttl=60,
        )) for source in sources
    ]  # fmt: skip
    trees = [ObjectTree(object_id="1" * 64)] * len(messages)
    return PushMessagesRequest(node=Node(node_id=node), messages_list=messages, message_object_trees=trees)


def test_a_node_speaks_for_itself_alone(federation: Federation) -> None:
    one, other = federation.enrol(), federation.enrol()
    assert one.activate().status == 200
    for sources in ([other.node], [SUPERLINK_NODE_ID], [0], [one.node, other.node], [other.node, one.node]):
        assert one.say("push-messages", pushed(one.node, *sources)).status == 401, sources
    assert other.say("push-messages", pushed(one.node, one.node)).status == 401  # Flower's own
    assert one.say("push-messages", pushed(one.node, one.node)).status not in (200, 401)  # its run does not go on


def several(node: int) -> PushMessagesRequest:
    return pushed(node, node, node)


def rootless(node: int) -> PushMessagesRequest:
    request = pushed(node, node)
    request.message_object_trees[0].object_id = "2" * 64
    return request


def treeless(node: int) -> PushMessagesRequest:
    request = pushed(node, node)
    del request.message_object_trees[:]
    return request


def bushy(node: int) -> PushMessagesRequest:
    request = pushed(node, node)
    request.message_object_trees[0].children.extend(ObjectTree(object_id=f"{n:064}") for n in range(MOST_PARTS))
    return request


@pytest.mark.parametrize("push", [several, rootless, treeless, bushy])
def test_a_push_is_one_reply_and_no_more(federation: Federation, push: Callable[[int], PushMessagesRequest]) -> None:
    one = federation.enrol()
    assert one.activate().status == 200
    assert one.say("push-messages", push(one.node)).status == 400


def test_a_node_is_known_by_its_key_and_only_while_it_is_enrolled(federation: Federation) -> None:
    one, other = federation.enrol(), federation.enrol()
    stranger = Municipality(peer=one.peer, node=one.node, key=ec.generate_private_key(ec.SECP384R1()))
    assert one.activate().status == 200
    assert stranger.activate().status == 412
    for who in (other, stranger):
        for route, message in asking(one.node).items():
            assert who.say(route, message).status == 401, route
    assert one.say("pull-messages", asking(one.node)["pull-messages"]).status == 200
    federation.control.unregister(one.node)
    assert one.activate().status == 412
    for route, message in asking(one.node).items():
        assert one.say(route, message).status == 401, route


def asking(node: int) -> dict[str, Words]:
    """Ask as a node that is let in does."""
    me = Node(node_id=node)
    return {
        "pull-messages": PullMessagesRequest(node=me),
        "push-messages": pushed(node, node),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=me, heartbeat_interval=30),
        "push-object": PushObjectRequest(node=me, run_id=1, object_id=MARK, object_content=b"x"),
        "get-fab": GetFabRequest(node=me, run_id=1, hash_str=MARK),
        "deactivate-node": DeactivateNodeRequest(node_id=node),
    }


def test_a_second_node_with_the_same_key_is_turned_away(federation: Federation) -> None:
    one = federation.enrol()
    assert [one.activate().status for _ in range(2)] == [200, 412]


def test_nodes_do_not_register_themselves_or_others_away(federation: Federation) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    public = public_key_to_bytes(key.public_key())
    asked = federation.peer.post(
        "/v1/fleet/register-node", RegisterNodeFleetRequest(public_key=public), signed_headers(key)
    )
    assert asked.status == 412
    one = federation.enrol()
    assert one.say("unregister-node", UnregisterNodeFleetRequest(node_id=one.node)).status == 412
    assert one.activate().status == 200


@pytest.mark.parametrize(("seconds", "status"), [(-3600, 401), (-310, 401), (-290, 200), (0, 200), (60, 401), (7, 401)])
def test_a_signature_is_good_for_five_minutes_and_not_yet_before_its_time(
    federation: Federation, seconds: int, status: int
) -> None:
    one = federation.enrol()
    heartbeat = SendNodeHeartbeatRequest(node=Node(node_id=one.node), heartbeat_interval=30)
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    assert one.say("send-node-heartbeat", heartbeat, at).status == status


def test_whose_key_is_shown_must_have_signed(federation: Federation) -> None:
    one, other = federation.enrol(), federation.enrol()
    message = PullMessagesRequest(node=Node(node_id=one.node))
    headers = signed_headers(other.key, shown=one.key)
    assert federation.peer.post("/v1/fleet/pull-messages", message, headers).status == 401


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "no key", "no base64", "not ascii", "none"])
def test_a_key_of_another_kind_is_refused_as_any_other(federation: Federation, kind: str) -> None:
    one = federation.enrol()
    others = {"ed25519": ed25519.Ed25519PrivateKey.generate(), "rsa": rsa.generate_private_key(65537, 2048)}
    headers = signed_headers(one.key)
    if kind in others:
        pem = others[kind].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
        headers[FLEET_HTTP_PUBLIC_KEY_HEADER] = b64encode(pem).decode()
    elif kind == "none":
        del headers[FLEET_HTTP_PUBLIC_KEY_HEADER]
    else:
        words = {"no key": b64encode(b"no key").decode(), "no base64": "%%%", "not ascii": "\u00e5"}
        headers[FLEET_HTTP_PUBLIC_KEY_HEADER] = words[kind]
    message = PullMessagesRequest(node=Node(node_id=one.node))
    wire = {name: value.encode("latin-1") for name, value in headers.items()}
    assert federation.peer.post("/v1/fleet/pull-messages", message, wire).status == 401  # type: ignore[arg-type]


@pytest.mark.parametrize("route", FLEET)
def test_nonsense_is_refused_without_a_word_of_it_in_the_log(
    federation: Federation, caplog: pytest.LogCaptureFixture, route: str
) -> None:
    one = federation.enrol()
    bodies = (
        b"",
        b"\0",
        MARK.encode(),
        b"\xff" * 100,
        MARK.encode() * 10_000,
        b"\x0a\xff\xff\xff\xff\x0f" + MARK.encode(),
    )
    with caplog.at_level(logging.WARNING):
        for body in bodies:
            for headers in ({}, signed_headers(one.key), {"content-type": MARK}):
                answer = federation.peer.post(f"/v1/fleet/{route}", body, headers)
                assert 400 <= answer.status < 500, (answer.status, body[:20])
                assert len(answer.body) < 1000
    assert MARK not in caplog.text
    assert caplog.text.count("event=refused") == 3 * len(bodies)


def test_what_an_enrolled_node_writes_is_not_in_the_log_either(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    one = federation.enrol()
    assert one.activate().status == 200
    with caplog.at_level(logging.WARNING):
        for route, message in asking(one.node).items():
            one.say(route, message)
        one.say("push-messages", PushMessagesRequest(node=Node(node_id=one.node)))
        one.say("get-fab", GetFabRequest(node=Node(node_id=one.node), run_id=1, hash_str=MARK + "x" * 1_000_000))
    assert MARK not in caplog.text
    assert max(len(record.getMessage()) for record in caplog.records) < 500


def test_a_node_that_is_let_in_hears_its_number(federation: Federation) -> None:
    one = federation.enrol()
    assert ActivateNodeResponse.FromString(one.activate().body).node_id == one.node
