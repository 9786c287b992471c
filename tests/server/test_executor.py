import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.runtime_pb2 import AcquireTaskResponse, SendTaskHeartbeatResponse
from flwr.proto.task_pb2 import Task

from server import executor
from server.executor import Executor
from server.home import Wish, create
from tests.coordinators import wait_until

RUN = 2**63 + 5


@dataclass
class FakeRuntime:
    """Be Flower's side: one task to give, and an opinion on whether it is still wanted."""

    wanted: bool = True
    waiting: int = 1
    beats: int = 0
    outputs: list[str] = field(default_factory=list)

    def AcquireTask(self, request: Any) -> AcquireTaskResponse:
        assert list(request.supported_task_types) == ["flwr-serverapp"]
        if not self.waiting:
            return AcquireTaskResponse()
        self.waiting -= 1
        return AcquireTaskResponse(task=Task(task_id=1, run_id=RUN), token="secret-token")  # noqa: S106

    def SendTaskHeartbeat(self, request: Any) -> SendTaskHeartbeatResponse:
        self.beats += 1
        return SendTaskHeartbeatResponse(success=self.wanted)

    def PushTaskOutput(self, request: Any) -> None:
        if not self.wanted:
            raise httpx.ConnectError("gone")
        self.outputs.append(request.sub_status)

    def close(self) -> None:
        """Close nothing."""


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    made = FakeRuntime()
    monkeypatch.setattr(Executor, "_connect", lambda self, interceptor: made)
    monkeypatch.setattr(executor, "BEAT_S", 0.0)
    return made


@pytest.fixture
def works(tmp_path: Path, runtime: FakeRuntime) -> Iterator[Executor]:
    made = Executor(create(tmp_path / "srv", Wish(address="127.0.0.1:18443")))
    yield made
    made.close()


def put(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put a small program in the place of a run's process."""
    monkeypatch.setattr(executor, "tethered", lambda *command: [sys.executable, "-c", code])


SLEEPS = "import sys, time; sys.stdin.read(); time.sleep(60)"


def test_a_process_that_still_starts_is_beaten_for(
    works: Executor, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, "import time; time.sleep(60)")  # it has not even read its ticket
    works.step()
    assert runtime.beats == 0
    for _ in range(3):
        works.step()
    assert runtime.beats == 3


def test_a_process_whose_run_flower_has_ended_is_ended(
    works: Executor, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, SLEEPS)
    works.step()
    (task,) = works._tasks
    runtime.wanted = False
    works.step()
    assert task.process.wait(10) < 0


def test_a_process_that_died_is_reported_at_once(
    works: Executor, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(monkeypatch, SLEEPS)
    works.step()
    (task,) = works._tasks
    task.process.kill()
    task.process.wait()
    works.step()
    assert runtime.outputs == ["failed"]
    assert f"event=died run={RUN} status=-9" in caplog.text
    assert "secret-token" not in caplog.text
    beats = runtime.beats
    works.step()
    assert runtime.beats == beats


def test_a_process_that_ended_well_has_said_so_itself(
    works: Executor, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, "import sys; sys.stdin.read()")
    works.step()
    (task,) = works._tasks
    assert task.process.wait(10) == 0
    works.step()
    assert runtime.outputs == []


def test_the_token_goes_through_a_pipe_and_stands_nowhere_else(
    works: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "ticket"
    put(monkeypatch, f"import sys, time; open({str(out)!r}, 'w').write(sys.stdin.read()); time.sleep(60)")
    works.step()
    (task,) = works._tasks
    wait_until(lambda: out.exists() and out.read_text().endswith("}"), 20, "ticket")
    assert "secret-token" in out.read_text()
    for name in ("cmdline", "environ"):
        assert b"secret-token" not in Path(f"/proc/{task.process.pid}/{name}").read_bytes()


def test_closing_waits_for_every_process(works: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, SLEEPS)
    works.step()
    (task,) = works._tasks
    began = time.monotonic()
    works.close()
    assert isinstance(task.process, subprocess.Popen)
    assert task.process.poll() is not None
    assert time.monotonic() - began < 9


def test_a_process_that_was_asked_to_end_did_not_die(
    works: Executor, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    put(monkeypatch, SLEEPS)
    works.step()
    (task,) = works._tasks
    assert works.stop(RUN)
    task.process.wait(10)
    works.step()
    assert f"event=stopped run={RUN} status=-15" in caplog.text
    assert "event=died" not in caplog.text
    assert runtime.outputs == ["failed"]  # so that Flower does not wait for it
    assert not works.stop(RUN)


def test_closing_says_what_it_stopped(
    works: Executor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    put(monkeypatch, SLEEPS)
    works.step()
    works.close()
    assert f"event=stopped run={RUN} status=-15" in caplog.text
    assert "event=died" not in caplog.text
