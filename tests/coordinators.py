"""A stock Flower SuperLink on loopback, over TLS and with node authentication, and a hand on its messages."""

import hashlib
import io
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.app import Message, RecordDict
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from client import keys
from faelles import loopback
from faelles.certificates import make_authority, make_server_certificate

PROJECT = """
[project]
name = "learn"
version = "1.0.0"
[tool.flwr.app]
publisher = "kombit"
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
"""


def wait_until(holds: Callable[[], bool], within_s: float, what: str, every_s: float = 0.05) -> None:
    """Wait for something that other processes do; where a look costs them something, look less often."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {within_s:g} s"
        time.sleep(every_s)


def bundle_of(files: Mapping[str, str]) -> bytes:
    """Put files into a Flower bundle, as `flwr build` does."""
    listed = [
        f"{name},{hashlib.sha256(text.encode()).hexdigest()},{8 * len(text.encode())}" for name, text in files.items()
    ]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in {**files, ".info/CONTENT": "\n".join(listed)}.items():
            archive.writestr(name, text)
    return out.getvalue()


class StockCoordinator:
    """Run a SuperLink with everything in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, loopback.free_port()
        authority = make_authority("test CA", days=2)
        server = make_server_certificate(authority, [loopback.HOST], days=2)
        self.ca = folder / "ca.pem"
        secret = os.urandom(32).hex().encode()
        files = {"ca.pem": authority.certificate, "server.pem": server.certificate, "server.key": server.key}
        for name, data in {**files, "superexec.secret": secret}.items():
            (folder / name).write_bytes(data)
        self._process: subprocess.Popen[bytes] | None = None
        self._control = ControlHttpClient.from_server_address(
            self.address, insecure=False, root_certificates=self.ca.read_bytes(), interceptors=[]
        )

    @property
    def address(self) -> str:
        return f"{loopback.HOST}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = Path(sys.executable).with_name("flower-superlink")
        files = [f"--ssl-{option}={self.folder / name}" for option, name in
                 (("ca-certfile", "ca.pem"), ("certfile", "server.pem"), ("keyfile", "server.key"))]  # fmt: skip
        environment = {**os.environ, "FLWR_HOME": str(self.folder / "flower")}
        loopback.prepare(environment)
        command: list[str | Path] = [
            program, "--host", loopback.HOST, "--port", str(self.port), *files, "--enable-supernode-auth",
            "--isolation", "process", "--superexec-auth-secret-file", self.folder / "superexec.secret",
            "--disable-runtime-dependency-installation", "--database", self.folder / "state.db",
        ]  # fmt: skip
        with (self.folder / "superlink.log").open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self._answers, 90, "SuperLink")

    def _answers(self) -> bool:
        try:
            self._control.ListNodes(ListNodesRequest())
        except httpx.HTTPError:
            return False
        return True

    def stop(self) -> None:
        """End it."""
        self._control.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:  # it waits for whoever is still connected
                self._process.kill()
                self._process.wait(10)

    def register(self, login_key: Path) -> int:
        """Register a node by its login key; return its id."""
        public = load_ssh_public_key(keys.load_login(login_key).encode())
        assert isinstance(public, EllipticCurvePublicKey)
        request = RegisterNodeRequest(public_key=public_key_to_bytes(public), name=login_key.parent.name)
        return int(self._control.RegisterNode(request).node_id)

    def unregister(self, node: int) -> None:
        """Turn a node away."""
        self._control.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def stop_run(self, number: int) -> None:
        """End a run."""
        self._control.StopRun(StopRunRequest(run_id=number))

    def online(self, node: int) -> bool:
        """Say whether a node is connected."""
        nodes = self._control.ListNodes(ListNodesRequest()).nodes_info
        return any(one.node_id == node and one.status == "online" for one in nodes)

    def begin(self, files: Mapping[str, str] | None = None) -> "Aggregator":
        """Start a run of a bundle that holds some files, and be its ServerApp."""
        content = bundle_of({"pyproject.toml": PROJECT, **(files or {})})
        self._control.StartRun(StartRunRequest(fab=Fab(content=content, hash_str=hashlib.sha256(content).hexdigest())))
        return Aggregator(self)


class Aggregator:
    """Send messages as a ServerApp does, one by one."""

    def __init__(self, coordinator: StockCoordinator) -> None:
        self._coordinator = coordinator
        certificate = coordinator.ca.read_bytes()
        proof = SuperExecAuthHttpInterceptor(
            master_secret=(coordinator.folder / "superexec.secret").read_bytes(),
            protected_methods=["/flwr.proto.Runtime/AcquireTask"],
        )
        with RuntimeHttpClient.from_server_address(
            coordinator.address, insecure=False, root_certificates=certificate,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), proof],
        ) as client:  # fmt: skip
            task = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        self._grid = HttpGrid(coordinator.address, root_certificates=certificate, token=task.token)
        taken = self._grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        self._grid.set_run(run_from_proto(taken.run))
        self._identity = {"run_id": taken.run.run_id, "node_id": taken.context.node_id, "task_id": taken.task_id}

    def send(self, node: int, kind: str, content: RecordDict) -> str:
        """Send a message; return its number."""
        for name, value in self._identity.items():  # Flower keeps it for the whole process; conftest takes it back
            setattr(TaskIdentity, name, value)
        (number,) = self._grid.push_messages([Message(content, dst_node_id=node, message_type=kind)])
        return number

    def announce(self, node: int, kind: str, content: RecordDict) -> None:
        """Send a message, but nothing of what it holds."""
        with patch("flwr.superlink.grid.http_grid.push_objects"):
            self.send(node, kind, content)

    def stop(self) -> None:
        """Have the run end."""
        self._coordinator.stop_run(self._identity["run_id"])

    def reply_to(self, number: str, within_s: float = 30) -> Message:
        """Wait for the reply to a message."""
        found: list[Message] = []

        def look() -> bool:
            found.extend(self._grid.pull_messages([number]))
            return bool(found)

        wait_until(look, within_s, "reply")
        return found[0]

    def close(self) -> None:
        """Go away."""
        self._grid.close()
