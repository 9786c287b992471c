"""Speak to a running coordinator over its Control API on loopback, as the command line and the keeper do."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from flwr.common.constant import Status
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from faelles.errors import CoordinatorError
from server.federation import RUN_CONFIG_KEY
from server.home import Home

FINISHED = Status.FINISHED
ONLINE, UNREGISTERED = NodeStatus.ONLINE, NodeStatus.UNREGISTERED


@dataclass(frozen=True, kw_only=True)
class _Token:
    """Show the token with every call."""

    token: bytes

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the header."""
        context.request.headers["Authorization"] = f"Bearer {self.token.decode()}"
        return call_next(context)


class Control:
    """Steer a coordinator.

    Args:
        home: Its folder, which holds the token.
    """

    def __init__(self, home: Home) -> None:
        self._address = home.loopback_address
        self._folder = home.folder
        self._client = ControlHttpClient.from_server_address(
            self._address,
            insecure=False,
            root_certificates=home.loopback_certificate.read_bytes(),
            interceptors=[_Token(token=home.secret("control.token"))],
        )

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def register(self, municipality: str, public_key: bytes) -> int:
        """Register a node; return its id."""
        request = RegisterNodeRequest(public_key=public_key, name=municipality)
        return int(self._call(self._client.RegisterNode, request).node_id)

    def unregister(self, node: int) -> None:
        """Turn a node away from now on; one that is away already stays so."""
        if self.nodes().get(node, UNREGISTERED) != UNREGISTERED:
            self._call(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node))

    def nodes(self) -> dict[int, str]:
        """List the nodes with their status."""
        return {node.node_id: node.status for node in self._nodes()}

    def node_of(self, public_key: bytes) -> int | None:
        """Find the node that a key is registered for."""
        found = [one for one in self._nodes() if one.public_key == public_key and one.status != UNREGISTERED]
        return int(found[0].node_id) if found else None

    def keys(self) -> set[bytes]:
        """List every key that was ever registered, also of nodes that were turned away."""
        return {one.public_key for one in self._nodes()}

    def start(self, bundle: bytes, config: str) -> int:
        """Start a Flower run of a bundle with a federation's configuration; return the run's id."""
        fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
        request = StartRunRequest(fab=fab, override_config=user_config_to_proto({RUN_CONFIG_KEY: config}))
        return int(self._call(self._client.StartRun, request).run_id)

    def stop(self, run: int) -> None:
        """Stop a Flower run; one that has ended is left as it is."""
        if self.runs().get(run, FINISHED) != FINISHED:
            self._call(self._client.StopRun, StopRunRequest(run_id=run))

    def runs(self) -> dict[int, str]:
        """List Flower's runs with their status."""
        found = self._call(self._client.ListRuns, ListRunsRequest())
        return {number: run.status.status for number, run in found.run_dict.items()}

    def _nodes(self) -> list[NodeInfo]:
        return list(self._call(self._client.ListNodes, ListNodesRequest()).nodes_info)

    def _call(self, method: Callable[[Any], Any], request: Any) -> Any:
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status == httpx.codes.UNAUTHORIZED:
                raise CoordinatorError(
                    f"{self._folder}/control.token: expected the running coordinator's token, it refuses this one; "
                    "restart the coordinator, or name its own folder with --dir"
                ) from None
            raise CoordinatorError(f"coordinator: refused the request (HTTP {status}); see its log") from None
        except httpx.HTTPError:
            raise CoordinatorError(
                f"coordinator: expected it to answer on {self._address}, it does not; start it with "
                f"`faelles-server up --dir {self._folder}`"
            ) from None


@contextmanager
def control_of(home: Home) -> Iterator[Control]:
    """Open a connection to a folder's coordinator, and close it."""
    control = Control(home)
    try:
        yield control
    finally:
        control.close()
