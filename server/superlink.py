"""Build Flower's SuperLink app as the coordinator runs it, and close what stock Flower leaves open in it.

A copy of a pushed reply names its own sender, and Flower 1.41 compares that name with the instruction's receiver but
not with the node that signed the request: an enrolled municipality could answer for another. `own_messages_only` holds
the two together. Its log quotes callers: `without_words` leaves of such a line what Flower says itself.
"""

import logging
import re

from fastapi import FastAPI, HTTPException, Request, status
from fastapi.responses import Response
from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from faelles.loopback import HOST
from server.home import Home

log = logging.getLogger(__name__)
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
    app: FastAPI = create_app(config, _NoLifespan)  # type: ignore[arg-type]
    # At the end of the list is innermost: by then the request is parsed and its node authenticated.
    app.user_middleware.append(Middleware(BaseHTTPMiddleware, dispatch=own_messages_only))
    logging.getLogger("flwr").addFilter(without_words)
    return app


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
    """Refuse a reply that a node sends in another's name.

    Guarantees: what the ServerApp receives as a municipality's answer was pushed by the node that municipality's key
        is registered for.
    """
    pushed = getattr(request.state, "protobuf_request", None)
    if isinstance(pushed, PushMessagesRequest) and request.url.path.startswith("/v1/fleet/"):
        senders = {message.metadata.src_node_id for message in pushed.messages_list}
        if senders - {pushed.node.node_id}:
            log.warning("event=refused door=fleet why=sender node=%d", pushed.node.node_id)
            raise HTTPException(status.HTTP_401_UNAUTHORIZED, "a node sends its own messages only")
    return await call_next(request)
