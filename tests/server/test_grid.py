from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse, PushObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run

from faelles.records import Code
from server.grid import MORE_BYTES, MORE_PARTS, UPLOAD_S, LiveGrid
from tests.builders import identify


@dataclass
class FakeRuntime:
    """Be the Runtime API: replies that were announced, and the parts of them that have been uploaded."""

    replies: dict[str, Message] = field(default_factory=dict)  # by the request that they answer
    uploaded: dict[str, bytes] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    disguises: dict[str, ObjectTree] = field(default_factory=dict)  # by the reply's id

    def announce(self, request: str, value: float) -> Message:
        """Announce a reply, without a part of it."""
        content = RecordDict({"arrays": ArrayRecord({"w": Array(np.full(3, value, dtype=np.float32))})})
        question = Message(RecordDict(), 7, "train")
        question.metadata.__dict__["_message_id"] = request
        reply = Message(content, reply_to=question)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self.replies[request] = reply
        return reply

    def disguise(self, request: str, tree: ObjectTree, contents: dict[str, bytes]) -> None:
        """Announce something else in place of a reply, and upload it."""
        self.disguises[self.replies[request].metadata.message_id] = tree
        self.uploaded |= contents

    def upload(self, reply: Message) -> None:
        """Upload every part."""
        self.uploaded |= {number: part.deflate() for number, part in get_all_nested_objects(reply).items()}

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        self.asked.append(sorted(request.message_ids))
        found = [self.replies.pop(number) for number in request.message_ids if number in self.replies]
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(one)) for one in found],
            message_object_trees=[self.disguises.get(one.metadata.message_id, get_object_tree(one)) for one in found],
        )

    def PullObject(self, request: Any) -> PullObjectResponse:
        content = self.uploaded.get(request.object_id)
        return PullObjectResponse(
            object_found=True, object_available=content is not None, object_content=content or b""
        )

    def PushMessages(self, request: Any) -> PushAppMessagesResponse:
        return PushAppMessagesResponse(message_ids=[one.metadata.message_id for one in request.messages_list])

    def PushObject(self, request: Any) -> PushObjectResponse:
        return PushObjectResponse(stored=True)

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)

    def close(self) -> None:
        """Close nothing."""


@dataclass
class Bench:
    """Hold a grid, what it speaks to, and the time."""

    grid: LiveGrid
    runtime: FakeRuntime
    now: list[float]


@pytest.fixture
def bench() -> Bench:
    identify()
    now, runtime = [0.0], FakeRuntime()
    grid = LiveGrid("127.0.0.1:1", b"", "token", clock=lambda: now[0])
    grid._client = runtime  # type: ignore[assignment]  # what a grid needs of it
    grid.set_run(Run.create_empty(1))
    return Bench(grid=grid, runtime=runtime, now=now)


def weights(message: Message) -> list[float]:
    return [float(one) for one in message.content.array_records["arrays"]["w"].numpy()]


def test_a_whole_reply_is_handed_over_once(bench: Bench) -> None:
    bench.runtime.upload(bench.runtime.announce("a" * 64, 2.0))
    (message,) = bench.grid.pull_messages(["a" * 64])
    assert weights(message) == [2.0] * 3
    assert message.metadata.reply_to_message_id == "a" * 64
    assert bench.runtime.confirmed == [message.metadata.message_id]
    assert list(bench.grid.pull_messages(["a" * 64])) == []


def test_an_upload_that_stopped_half_way_holds_nobody_up(bench: Bench) -> None:
    bench.runtime.announce("a" * 64, 1.0)
    bench.runtime.upload(bench.runtime.announce("b" * 64, 2.0))
    (message,) = bench.grid.pull_messages(["a" * 64, "b" * 64])
    assert weights(message) == [2.0] * 3
    # What is under way is not asked for again, for Flower would call it delivered.
    assert list(bench.grid.pull_messages(["a" * 64, "c" * 64])) == []
    assert bench.runtime.asked[-1] == ["c" * 64]


def test_an_upload_that_goes_on_is_waited_for(bench: Bench) -> None:
    reply = bench.runtime.announce("a" * 64, 1.0)
    assert list(bench.grid.pull_messages(["a" * 64])) == []
    bench.now[0] = UPLOAD_S - 1
    assert list(bench.grid.pull_messages(["a" * 64])) == []
    bench.runtime.upload(reply)
    (message,) = bench.grid.pull_messages(["a" * 64])
    assert weights(message) == [1.0] * 3


def test_an_upload_that_never_ends_is_a_lost_request(bench: Bench) -> None:
    bench.runtime.announce("a" * 64, 1.0)
    assert list(bench.grid.pull_messages(["a" * 64])) == []
    bench.now[0] = UPLOAD_S + 1
    (message,) = bench.grid.pull_messages(["a" * 64])
    assert message.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert message.metadata.reply_to_message_id == "a" * 64
    assert bench.runtime.confirmed == []


def tree_of(root: str, *children: str) -> ObjectTree:
    return ObjectTree(object_id=root, children=[ObjectTree(object_id=child) for child in children])


def check_refused(bench: Bench) -> None:
    """Check that the reply counts as its sender's refusal, and is not looked at again."""
    (message,) = bench.grid.pull_messages(["a" * 64])
    assert (message.error.code, message.error.reason) == (Code.MALFORMED, "malformed")
    assert (message.metadata.src_node_id, message.metadata.reply_to_message_id) == (7, "a" * 64)
    assert len(bench.runtime.confirmed) == 1
    assert list(bench.grid.pull_messages(["a" * 64])) == []


@pytest.mark.parametrize("content", [
    ConfigRecord({"x": 1}).deflate(),  # a part, and no message
    b"Message 0 0\0", b"Message,,\0", b"garbage", b"", b"RecordDict  3\0\xff\xff\xff", b"Message  3\0\xff\xff\xff",
    b"Message " + b"e" * 64 + b" 0\0",  # of a part that is not among the announced
])  # fmt: skip
def test_what_is_no_reply_is_its_senders_refusal_and_nobodys_end(bench: Bench, content: bytes) -> None:
    number = bench.runtime.announce("a" * 64, 1.0).metadata.message_id
    bench.runtime.disguise("a" * 64, tree_of(number), {number: content})
    check_refused(bench)


@pytest.mark.parametrize("change", [{"src_node_id": 8}, {"reply_to_message_id": "b" * 64}])
def test_a_reply_that_says_otherwise_than_it_was_announced_is_a_refusal(bench: Bench, change: dict[str, Any]) -> None:
    reply = bench.runtime.announce("a" * 64, 1.0)
    announced = reply.metadata.message_id
    forged = Message(reply.content, reply_to=Message(RecordDict(), 7, "train"))
    forged.metadata.__dict__.update({
        "_src_node_id": 7, "_reply_to_message_id": "a" * 64, **{f"_{name}": value for name, value in change.items()}
    })  # fmt: skip
    contents = {name: part.deflate() for name, part in get_all_nested_objects(forged).items()}
    contents[announced] = contents.pop(forged.object_id)
    bench.runtime.disguise("a" * 64, tree_of(announced, *(contents.keys() - {announced})), contents)
    check_refused(bench)


def test_a_reply_of_many_parts_is_not_even_fetched(bench: Bench) -> None:
    number = bench.runtime.announce("a" * 64, 1.0).metadata.message_id
    bench.runtime.disguise("a" * 64, tree_of(number, *(f"{one:064}" for one in range(MORE_PARTS))), {})
    check_refused(bench)


def test_a_reply_that_is_far_larger_than_what_it_answers_is_a_refusal(bench: Bench) -> None:
    reply = bench.runtime.announce("a" * 64, 1.0)
    bench.runtime.upload(reply)
    number, large = reply.metadata.message_id, "1" * 64
    parts = [*(set(bench.runtime.uploaded) - {number}), large]
    bench.runtime.disguise("a" * 64, tree_of(number, *parts), {large: bytes(MORE_BYTES + 1)})
    check_refused(bench)


def test_a_reply_may_be_as_large_as_its_request(bench: Bench) -> None:
    large = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(MORE_BYTES, dtype=np.float32))})})
    bench.grid.push_messages([Message(large, 7, "train")])
    question = Message(RecordDict(), 7, "train")
    question.metadata.__dict__["_message_id"] = "a" * 64
    reply = Message(large, reply_to=question)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    bench.runtime.replies["a" * 64] = reply
    bench.runtime.upload(reply)
    (message,) = bench.grid.pull_messages(["a" * 64])
    assert len(weights(message)) == MORE_BYTES
