"""Start the coordinator's side of a run: acquire Flower's ServerApp task and give it to a process of its own.

Stock Flower's SuperExec unpacks the bundle and puts the task's token on a command line, where every user of the machine
can read it. Here the token goes through a pipe, and the installed `server.app` runs.
"""

import json
import logging
import subprocess
import sys
import time
from dataclasses import dataclass

import httpx
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushTaskOutputRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient

from faelles.tether import tethered
from server.home import Home

log = logging.getLogger(__name__)
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
BEAT_S = 10.0  # Flower gives a task up 30 s after it was taken, later after 60 s without a sign of life
PATIENCE_S = 10.0  # for a process that was asked to end


@dataclass(frozen=True, kw_only=True)
class _Task:
    process: subprocess.Popen[bytes]
    run: int
    client: RuntimeHttpClient  # holds the task's token


class Executor:
    """Run ServerApps.

    Args:
        home: The coordinator's folder.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._trust = home.loopback_certificate.read_bytes()
        self._tasks: list[_Task] = []
        self._stopped: set[int] = set()  # Flower runs whose process was asked to end
        self._beaten = time.monotonic()
        secret = SuperExecAuthHttpInterceptor(
            master_secret=home.secret("superexec.secret"), protected_methods={ACQUIRE}
        )
        self._client = self._connect(secret)

    def step(self) -> None:
        """Start what is waiting, and report what ended; called every moment."""
        self._reap()
        if time.monotonic() - self._beaten >= BEAT_S:
            self._beaten = time.monotonic()
            for task in self._tasks:
                self._beat(task)
        try:
            found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        except httpx.HTTPError as error:
            log.warning("event=unacquired error=%s", type(error).__name__)
            return
        if found.HasField("task") and found.token:
            self._start(found.token, found.task.run_id)

    def stop(self, run: int) -> bool:
        """End the process of a Flower run; whether there is one here."""
        found = [task for task in self._tasks if task.run == run]
        for task in found:
            self._stopped.add(run)
            task.process.terminate()
        return bool(found)

    def close(self) -> None:
        """End every ServerApp; each has its checkpoint and is taken up again."""
        for task in self._tasks:
            task.process.terminate()
        for task in self._tasks:
            try:
                task.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                task.process.kill()
                task.process.wait()
            log.info("event=stopped run=%d status=%d", task.run, task.process.returncode)
            task.client.close()
        self._client.close()

    def _start(self, token: str, run: int) -> None:
        process = subprocess.Popen(  # noqa: S603 - our own module
            tethered(sys.executable, "-P", "-m", "server.serverapp"),
            stdin=subprocess.PIPE,
            cwd=self._home.folder,
        )
        ticket = {"token": token, "address": self._home.loopback_address, "trust": self._trust.decode()}
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                pipe.write(json.dumps(ticket).encode())
        except BrokenPipeError:
            log.error("event=unstarted run=%d", run)
        client = self._connect(RuntimeTokenHttpInterceptor(token))
        self._tasks.append(_Task(process=process, run=run, client=client))
        log.info("event=started run=%d pid=%d", run, process.pid)

    def _reap(self) -> None:
        for task in [one for one in self._tasks if one.process.poll() is not None]:
            self._tasks.remove(task)
            status = task.process.returncode
            if task.run in self._stopped:
                log.info("event=stopped run=%d status=%d", task.run, status)
            elif status != 0:
                log.warning("event=died run=%d status=%d", task.run, status)
            if status != 0:
                self._fail(task)
            self._stopped.discard(task.run)
            task.client.close()

    def _fail(self, task: _Task) -> None:
        """Tell Flower at once that a task failed; it would notice after a minute."""
        try:
            task.client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="the process ended"))
        except httpx.HTTPError:
            log.info("event=unreported run=%d", task.run)  # it had said so itself, or somebody stopped the run

    def _beat(self, task: _Task) -> None:
        """Tell Flower that a process is alive, also while it still starts; end one whose run Flower has ended."""
        try:
            alive = task.client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except httpx.HTTPStatusError as error:
            alive = error.response.status_code != httpx.codes.UNAUTHORIZED
        except httpx.HTTPError:
            return
        if not alive:
            task.process.terminate()

    def _connect(self, interceptor: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            self._home.loopback_address, insecure=False, root_certificates=self._trust,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), interceptor],
        )  # fmt: skip
