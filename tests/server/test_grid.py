from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run

from server.grid import UPLOAD_S, LiveGrid
from tests.builders import identify


@dataclass
class FakeRuntime:
    """Be the Runtime API: replies that were announced, and the parts of them that have been uploaded."""

    replies: dict[str, Message] = field(default_factory=dict)  # by the request that they answer
    uploaded: dict[str, bytes] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)

    def announce(self, request: str, value: float) -> Message:
        """Announce a reply, without a part of it."""
        content = RecordDict({"arrays": ArrayRecord({"w": Array(np.full(3, value, dtype=np.float32))})})
        question = Message(RecordDict(), 7, "train")
        question.metadata.__dict__["_message_id"] = request
        reply = Message(content, reply_to=question)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self.replies[request] = reply
        return reply

    def upload(self, reply: Message) -> None:
        """Upload every part."""
        self.uploaded |= {number: part.deflate() for number, part in get_all_nested_objects(reply).items()}

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        self.asked.append(sorted(request.message_ids))
        found = [self.replies.pop(number) for number in request.message_ids if number in self.replies]
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(one)) for one in found],
            message_object_trees=[get_object_tree(one) for one in found],
        )

    def PullObject(self, request: Any) -> PullObjectResponse:
        content = self.uploaded.get(request.object_id)
        return PullObjectResponse(
            object_found=True, object_available=content is not None, object_content=content or b""
        )

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
