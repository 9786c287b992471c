"""Speak with Flower's Runtime API without ever waiting for one municipality's upload.

Flower 1.41 hands over a reply as soon as it is announced, and its own grid then waits for the reply's arrays: up to
three minutes where the sender died in the middle of its upload, or never meant to make one, and every other
municipality with it. Here what is half uploaded is looked at again later, and given up after a while; the request is
then sent anew. What is no reply at all, or far larger than what it answers, is its sender's refusal and nobody's end.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, inflate_object_from_contents, pull_objects
from flwr.superlink.grid import HttpGrid

from faelles.records import Code

log = logging.getLogger(__name__)
UPLOAD_S = 30.0
AWAY_S = 600.0  # how long the coordinator may answer with errors, as on a full disk, before the process ends
MORE_PARTS, MORE_BYTES = 16, 1024 * 1024  # than the largest request, which holds a model as a reply does


@dataclass(frozen=True, kw_only=True)
class _Announced:
    """Hold a reply whose arrays may still be under way."""

    request: str  # the message that it answers
    sender: int  # whose key it was pushed with
    parts: tuple[str, ...]
    since: float


class LiveGrid(HttpGrid):
    """Carry a run's messages.

    Args:
        address: Of the Runtime API.
        trust: The certificate that it has, in PEM.
        token: The run's.
        clock: Monotonic seconds.
    """

    def __init__(self, address: str, trust: bytes, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(address, root_certificates=trust, token=token)
        self._retry_invoker.max_time = AWAY_S
        self._clock = clock
        self._announced: dict[str, _Announced] = {}  # by the reply's own id
        self._parts, self._bytes = 0, 0  # of the largest request

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send requests, and remember how large they are."""
        batch = list(messages)
        for message in batch[:1]:  # all municipalities are asked the same
            parts = get_all_nested_objects(message)
            self._parts = max(self._parts, len(parts))
            self._bytes = max(self._bytes, sum(len(part.deflate()) for part in parts.values()))
        pushed: Iterable[str] = super().push_messages(batch)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are here whole."""
        under_way = {one.request for one in self._announced.values()}
        wanted = [number for number in message_ids if number not in under_way]
        if wanted:
            found = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=wanted))
            for message, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                self._announced[message.metadata.message_id] = _Announced(
                    request=message.metadata.reply_to_message_id, sender=message.metadata.src_node_id,
                    parts=tuple(one.object_id for one in iterate_object_tree(tree)), since=self._clock(),
                )  # fmt: skip
        return [message for number in list(self._announced) if (message := self._fetch(number)) is not None]

    def _fetch(self, number: str) -> Message | None:
        """Fetch a reply; None while it is not whole."""
        one = self._announced[number]
        contents: dict[str, bytes] = {}
        if len(one.parts) <= self._parts + MORE_PARTS:
            fetch = make_pull_object_fn_protobuf(self._runtime_client.PullObject, self.node, self.run.run_id)
            try:
                contents = pull_objects(list(one.parts), fetch, max_tries_per_object=1)
            except ObjectPullError:
                if self._clock() - one.since < UPLOAD_S:
                    return None
                log.warning("event=half-uploaded reply=%s node=%d", number[:16], one.sender)
                del self._announced[number]
                return self._error(one, ErrorCode.MESSAGE_UNAVAILABLE, "half uploaded")
        del self._announced[number]
        self._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=self.run.run_id, message_object_id=number)
        )
        message = self._read(number, one, contents)
        if message is None:
            log.warning("event=unreadable reply=%s node=%d", number[:16], one.sender)
            return self._error(one, Code.MALFORMED, Code.MALFORMED.text)
        return message

    def _read(self, number: str, one: _Announced, contents: dict[str, bytes]) -> Message | None:
        """Read what a municipality uploaded; None where that is no reply to what it was asked."""
        if sum(map(len, contents.values())) > 2 * self._bytes + MORE_BYTES:
            return None
        try:
            message = inflate_object_from_contents(number, contents)
        except Exception:  # whatever Flower makes of foreign bytes
            return None
        if not isinstance(message, Message) or message.has_content() == message.has_error():
            return None
        # What it says of itself is the sender's word; Flower has compared the announcement only.
        if (message.metadata.src_node_id, message.metadata.reply_to_message_id) != (one.sender, one.request):
            return None
        message.metadata.__dict__["_message_id"] = number  # what comes over the wire does not hold its own id
        return message

    def _error(self, one: _Announced, code: int, reason: str) -> Message:
        metadata = Metadata(
            run_id=self.run.run_id, message_id="", src_node_id=one.sender, dst_node_id=self.node.node_id,
            message_type=SYSTEM_MESSAGE_TYPE, group_id="", ttl=0, reply_to_message_id=one.request,
            created_at=time.time(),
        )  # fmt: skip
        made: Message = make_message(metadata=metadata, error=Error(code=code, reason=reason))
        return made
