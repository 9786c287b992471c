"""Speak with Flower's Runtime API without ever waiting for one municipality's upload.

Flower 1.41 hands over a reply as soon as it is announced, and its own grid then waits for the reply's arrays: up to
three minutes where the sender died in the middle of its upload, or never meant to make one, and every other
municipality with it. Here what is half uploaded is looked at again later, and given up after a while; the request is
then sent anew.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, inflate_object_from_contents, pull_objects
from flwr.superlink.grid import HttpGrid

log = logging.getLogger(__name__)
UPLOAD_S = 30.0


@dataclass(frozen=True, kw_only=True)
class _Announced:
    """Hold a reply whose arrays may still be under way."""

    request: str  # the message that it answers
    tree: ObjectTree
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
        self._clock = clock
        self._announced: dict[str, _Announced] = {}  # by the reply's own id

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are here whole."""
        under_way = {one.request for one in self._announced.values()}
        wanted = [number for number in message_ids if number not in under_way]
        if wanted:
            found = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=wanted))
            for message, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                self._announced[message.metadata.message_id] = _Announced(
                    request=message.metadata.reply_to_message_id, tree=tree, since=self._clock()
                )
        return [message for number in list(self._announced) if (message := self._fetch(number)) is not None]

    def _fetch(self, number: str) -> Message | None:
        """Fetch a reply; None while it is not whole."""
        one = self._announced[number]
        objects = [tree.object_id for tree in iterate_object_tree(one.tree)]
        fetch = make_pull_object_fn_protobuf(self._runtime_client.PullObject, self.node, self.run.run_id)
        try:
            contents = pull_objects(objects, fetch, max_tries_per_object=1)
        except ObjectPullError:
            if self._clock() - one.since < UPLOAD_S:
                return None
            log.warning("event=half-uploaded reply=%s", number[:16])
            del self._announced[number]
            return self._lost(one)
        del self._announced[number]
        self._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=self.run.run_id, message_object_id=number)
        )
        message = inflate_object_from_contents(number, contents)
        assert isinstance(message, Message)
        message.metadata.__dict__["_message_id"] = number  # what comes over the wire does not hold its own id
        return message

    def _lost(self, one: _Announced) -> Message:
        metadata = Metadata(
            run_id=self.run.run_id, message_id="", src_node_id=self.node.node_id, dst_node_id=self.node.node_id,
            message_type=SYSTEM_MESSAGE_TYPE, group_id="", ttl=0, reply_to_message_id=one.request,
            created_at=time.time(),
        )  # fmt: skip
        lost: Message = make_message(
            metadata=metadata, error=Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason="half uploaded")
        )
        return lost
