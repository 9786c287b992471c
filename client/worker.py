"""Answer messages in one process that stays warm: PyTorch and the data are loaded once and not for every message.

It takes messages from Flower's own node, over TLS on loopback, and answers them with the municipality's installed code.
The bundle that comes with a run is bytes that nobody looks at.
"""

import argparse
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

from client.home import Home
from client.limits import apply_limits
from client.runtime import Runtime
from faelles.errors import FaellesError
from faelles.records import Kind

log = logging.getLogger("client.worker")  # by name: started as a program, this module is called something else
MISTAKE: Final = 2  # the exit status of what a person has to mend; `mistake.json` says it
BROKEN: Final = 1
# Each look costs the node some ten milliseconds of a core: it looks often while a round goes on, else seldom.
POLL_S, IDLE_POLL_S, IDLE_AFTER_S = 0.3, 1.0, 30.0
READY_EVERY_S: Final = 5.0
SAY_EVERY_S: Final = 60.0  # a node that is not let in comes and goes
FIRST_LOOK_S, LAST_LOOK_S = 0.05, 1.0  # for the arrays of a message
ARRAYS_S: Final = 600.0  # more than the slowest line needs; then the message is given up
AWAY_S: Final = 0.5  # between attempts to reach a node that does not answer
BEAT_S: Final = 10.0  # Flower gives a message up after 30 s without a sign of life, later after 60 s
ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"


class _TaskOverError(Exception):
    """The node does not wait for the answer any more."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer for the agent of a folder."""
    parser = argparse.ArgumentParser(prog="client.worker")
    parser.add_argument("--dir", type=Path, required=True, help="the agent's folder")
    run(parser.parse_args(arguments).dir, _build)


def run(folder: Path, build: Callable[[Home], ClientApp]) -> None:
    """Answer for the agent of a folder until this process is ended.

    Args:
        folder: The agent's.
        build: Builds what answers.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("client").setLevel(logging.INFO)
    runtime = Runtime.of(folder)
    try:
        app = build(Home.open(folder))
    except FaellesError as error:
        runtime.give_up(error)
        sys.exit(MISTAKE)
    except Exception as error:  # a library's text may quote a value
        log.error("event=failed process=worker error=%s", type(error).__name__)
        sys.exit(BROKEN)
    serve(app, runtime)


def _build(home: Home) -> ClientApp:
    apply_limits(home.policy_or_nothing())
    home.signer()  # what is looked at quickly is looked at first
    from client.app import build_client_app, open_node  # brings PyTorch along, which reads its threads once

    return build_client_app(open_node(home))


def serve(app: ClientApp, runtime: Runtime) -> None:
    """Take one message after the other and answer it, for ever; a node that is away is waited for."""
    said = float("-inf")
    while True:
        try:
            with connect(runtime, acquiring(runtime)) as node:
                for token in _tokens(node, runtime):
                    if token:
                        answer(app, runtime, token)
        except (OSError, ValueError, httpx.HTTPError) as error:  # also an address that is not written yet
            if time.monotonic() - said >= SAY_EVERY_S:
                log.warning("event=away process=node error=%s", type(error).__name__)
                said = time.monotonic()
            time.sleep(AWAY_S)


def answer(app: ClientApp, runtime: Runtime, token: str) -> None:
    """Answer the message of a task; what cannot be answered is lost, and the coordinator asks again.

    Args:
        app: Answers; whatever goes wrong in it is an answer too.
        runtime: The agent's processes.
        token: The task's.
    """
    began = time.monotonic()
    with runtime.hold():
        try:
            with connect(runtime, RuntimeTokenHttpInterceptor(token)) as node, _beating(node) as over:
                message, context = _take(node, over)
                kind = message.metadata.message_type
                asked = time.monotonic()
                reply = app(message, context)
                work_s = time.monotonic() - asked
                push_message(node, reply, context)
                push_task_output(node, None, SubStatus.COMPLETED, "")
        except Exception as error:
            log.error("event=unsent error=%s", type(error).__name__)
            if not _another_node(error):
                runtime.lose()
            return
    known = kind if kind in set(Kind) else "unknown"
    log.info("event=answered kind=%s seconds=%.2f work=%.2f", known, time.monotonic() - began, work_s)


def _take(node: RuntimeHttpClient, over: threading.Event) -> tuple[Message, Context]:
    """Take a task's message; the bundle that comes along is dropped unseen.

    Args:
        node: Flower's, spoken to with the task's token.
        over: Set when the node has given the task up.

    Raises:
        Exception: The message's arrays do not come, or something else is wrong with it.
    """
    found = node.PullTaskInput(PullTaskInputRequest())
    TaskIdentity.task_id, TaskIdentity.run_id = found.task_id, found.run.run_id
    TaskIdentity.node_id = found.context.node_id
    context = context_from_proto(found.context)
    (tree,) = node.PullMessages(PullAppMessagesRequest()).message_object_trees
    whose = Node(node_id=context.node_id)
    fetch = make_pull_object_fn_protobuf(node.PullObject, whose, context.run_id)

    def pull(number: str) -> bytes:
        if over.is_set():
            raise _TaskOverError
        return fetch(number)

    # The task is there before the node has fetched what belongs to it; Flower would look again after a second only.
    message = pull_and_inflate_object_from_tree(
        tree, pull, make_confirm_message_received_fn_protobuf(node.ConfirmMessageReceived, whose, context.run_id),
        return_type=Message, max_time=ARRAYS_S, max_tries_per_object=None,
        initial_backoff=FIRST_LOOK_S, backoff_cap=LAST_LOOK_S,
    )  # fmt: skip
    message.metadata.__dict__["_message_id"] = tree.object_id  # what comes over the wire does not hold its own id
    return message, context


def _tokens(node: RuntimeHttpClient, runtime: Runtime) -> Iterator[str]:
    """Ask the node for tasks; each time give the token of one, or nothing after a pause."""
    noted, given = float("-inf"), time.monotonic()
    # Only these: a node may also offer tasks that are not a municipality's business.
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    while True:
        response = node.AcquireTask(request)
        if time.monotonic() - noted >= READY_EVERY_S:
            runtime.touch_ready()
            noted = time.monotonic()
        token = response.token if response.HasField("task") else ""
        yield token
        if token:
            given = time.monotonic()
        else:
            time.sleep(POLL_S if time.monotonic() - given < IDLE_AFTER_S else IDLE_POLL_S)


def acquiring(runtime: Runtime) -> ProtobufClientInterceptor:
    """Show the secret when a task is asked for: who cannot is given none."""
    return SuperExecAuthHttpInterceptor(master_secret=runtime.secret.read_bytes(), protected_methods=[ACQUIRE])


def connect(runtime: Runtime, proof: ProtobufClientInterceptor) -> RuntimeHttpClient:
    """Speak with the node, and trust nobody but it.

    Without Flower's retries: they end the process when a token is no longer known, and hide an outage.
    """
    return RuntimeHttpClient.from_server_address(
        runtime.address,
        insecure=False,
        root_certificates=runtime.certificate.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), proof],
    )


@contextmanager
def _beating(node: RuntimeHttpClient) -> Iterator[threading.Event]:
    """Tell the node that the task is alive, until it is done, or the node has given it up."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            try:
                if not node.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                    over.set()
            except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: closed meanwhile
                log.debug("event=unheard error=%s", type(error).__name__)
                if _another_node(error):
                    over.set()

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield over
    finally:
        over.set()  # and nobody waits for the thread: a call under way may take its time


def _another_node(error: Exception) -> bool:
    """Say whether the node that asked is gone or gave the task up itself, so that it does not wait for the answer."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == httpx.codes.UNAUTHORIZED
    return isinstance(error, httpx.ConnectError | _TaskOverError)


if __name__ == "__main__":
    main()
