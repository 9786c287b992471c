"""The Runtime API of a real Flower node, in this process and over TLS, and a hand on the messages that it has."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from flwr.supernode.start_client_internal import _insert_message

from client.runtime import Runtime
from client.worker import acquiring, connect
from faelles import loopback
from tests.builders import identify
from tests.coordinators import wait_until

RUN_ID = 7
BUNDLE = b"no bundle: whoever unpacks it fails"


class RuntimeNode:
    """Hold what a node knows: its state is Flower's own."""

    def __init__(self) -> None:
        self.factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
        self.state: NodeState = self.factory.state()
        self.state.set_node_id(1001)
        run = Run.create_empty(RUN_ID)
        run.fab_hash = self.state.store_fab(Fab("", BUNDLE, {}))
        self.state.store_run(run)
        context = Context(run_id=RUN_ID, node_id=1001, node_config={}, state=RecordDict(), run_config={})
        self.state.set_run_series_context(run.series_id, context)

    def give(self, content: RecordDict, kind: str = "query.ready", task_type: str = TaskType.CLIENT_APP) -> int:
        """Have a message come, and return its task's id."""
        identify()
        message = Message(content, 1001, kind)
        message.metadata.__dict__["_run_id"] = RUN_ID
        _insert_message(message, self.state, self.factory.objectstore_factory.store())
        task = self.state.create_task(task_type=task_type, run_id=RUN_ID, fab_hash="")
        assert task is not None
        return task

    def reply(self) -> Message | None:
        """Return the reply that was pushed, without its content; None where there is none."""
        found = list(self.state.get_messages_legacy(run_ids=[RUN_ID], is_reply=True))
        return found[0] if found else None

    def status(self, task: int) -> tuple[str, str]:
        """Return a task's status."""
        (found,) = self.state.get_tasks(task_ids=[task])
        return found.status.status, found.status.sub_status

    def acquire(self, runtime: Runtime) -> str:
        """Take a task as the worker does; return its token."""
        with connect(runtime, acquiring(runtime)) as client:
            request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            token: str = client.AcquireTask(request).token
        return token

    @contextmanager
    def listening(self, runtime: Runtime) -> Iterator[None]:
        """Listen where the files of a runtime say."""
        port = loopback.free_port()
        app: Any = create_app(self.factory, runtime.secret.read_bytes())
        server = uvicorn.Server(uvicorn.Config(
            app, host=loopback.HOST, port=port, log_config=None, lifespan="off", ws="none",
            ssl_certfile=runtime.certificate, ssl_keyfile=runtime.key,
        ))  # fmt: skip
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started, 10, "node")
        runtime.listen_on(port)
        try:
            yield
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
