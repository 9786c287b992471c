"""Build Flower's SuperLink app as the coordinator runs it, and close what stock Flower leaves open in it.

A copy of a pushed reply names its own sender, and Flower 1.41 compares that name with the instruction's receiver but
not with the node that signed the request: an enrolled municipality could answer for another. `own_messages_only` holds
the two together, and bounds what one reply may hold. Its log quotes callers: `without_words` leaves of such a line what
Flower says itself. Its store of message parts believes whoever speaks first: ours (`server.objects`) does not.
"""

import itertools
import logging
import re
from collections.abc import Callable

from fastapi import FastAPI, HTTPException, Request, status
from fastapi.responses import Response
from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import object_store_factory
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from faelles.loopback import HOST
from server.home import Home
from server.objects import Parts

log = logging.getLogger(__name__)
MOST_PARTS = 256  # of a message; each parameter has two, and one more for each 5 MB of it
QUOTED = re.compile(r"(\[/[a-z0-9/-]+\]\[(?:ApiError|UnexpectedError):\w+\])")


class _NoLifespan:
    """Own nothing: our listeners start no gRPC server, no SuperExec and no health server of Flower's."""

    def __init__(self, config: object, state_factory: object) -> None:
        pass


def build_superlink(home: Home) -> FastAPI:
    """Build the app: node authentication on, process isolation with its secret, no installation of dependencies."""
    config = SuperLinkLifespanConfig(
        control_address="", health_server_address=None, host=HOST, port=home.settings.loopback_port, insecure=False,
        certificates=None, superexec_auth_secret=home.secret("superexec.secret"),
        # Our door has asked for the token by then.
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None, fleet_event_log_plugin=None, enable_event_log=False, artifact_provider=None,
        enable_supernode_auth=True, fleet_api_type=TRANSPORT_TYPE_GRPC_RERE, fleet_api_address=None, simulation=False,
        ssl_ca_certfile=None, ssl_certfile=None, ssl_keyfile=None, database=str(home.database),
        isolation=ISOLATION_MODE_PROCESS, runtime_dependency_install=False,
    )  # fmt: skip
    object_store_factory.SqlObjectStore = Parts  # type: ignore[attr-defined]  # Flower has no setting
    app: FastAPI = create_app(config, _NoLifespan)  # type: ignore[arg-type]
    # At the end of the list is innermost: by then the request is parsed and its node authenticated.
    app.user_middleware.append(Middleware(BaseHTTPMiddleware, dispatch=own_messages_only))
    logging.getLogger("flwr").addFilter(without_words)
    return app


def known_to(app: FastAPI) -> Callable[[bytes], bool]:
    """Make what tells whether a public key is an enrolled node's."""
    state = app.state.linkstate_factory.state()

    def known(key: bytes) -> bool:
        try:
            return bool(key) and state.get_node_id_by_public_key(key) is not None
        except SQLAlchemyError:  # as on a full disk; Flower asks once more, and answers for it
            return True

    return known


def without_words(record: logging.LogRecord) -> bool:
    """Take out of a line of Flower's log what may be a caller's words; a filter that keeps every line.

    Of an error it keeps the route and the code, of every other line the text without the strings put into it.
    """
    error = QUOTED.match(record.getMessage())
    if error:
        record.msg, record.args = error[1], None
    elif isinstance(record.args, tuple):
        record.args = tuple("-" if isinstance(one, str) else one for one in record.args)
    return True


async def own_messages_only(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Refuse a reply that a node sends in another's name, or that is more than one reply.

    Guarantees: what the ServerApp receives as a municipality's answer was pushed by the node that municipality's key
        is registered for, and consists of MOST_PARTS parts at most.
    """
    pushed = getattr(request.state, "protobuf_request", None)
    if isinstance(pushed, PushMessagesRequest) and request.url.path.startswith("/v1/fleet/"):
        senders = {message.metadata.src_node_id for message in pushed.messages_list}
        if senders - {pushed.node.node_id}:
            log.warning("event=refused door=fleet why=sender node=%d", pushed.node.node_id)
            raise HTTPException(status.HTTP_401_UNAUTHORIZED, "a node sends its own messages only")
        if not _is_reply(pushed):
            log.warning("event=refused door=fleet why=parts node=%d", pushed.node.node_id)
            raise HTTPException(status.HTTP_400_BAD_REQUEST, "a reply is one message with its own parts")
    return await call_next(request)


def _is_reply(pushed: PushMessagesRequest) -> bool:
    """Say whether a push is one message, of its own parts and of no more than a model needs."""
    if len(pushed.messages_list) != 1 or len(pushed.message_object_trees) != 1:
        return False
    (message,), (tree,) = pushed.messages_list, pushed.message_object_trees
    small = sum(1 for _ in itertools.islice(iterate_object_tree(tree), MOST_PARTS + 1)) <= MOST_PARTS
    return small and tree.object_id == message.metadata.message_id
