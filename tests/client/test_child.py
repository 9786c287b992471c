"""A program is kept running: heard, ended when asked, killed when it will not, and never left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.child import Backoff, Child, Ended, Program
from faelles.errors import ConfigError
from tests.coordinators import wait_until

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
SLEEPING = "import time; print('up', flush=True); time.sleep(60)"
Start = Callable[[str], Child]


class Clock:
    """Tell a time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def start(clock: Clock, heard: list[str]) -> Iterator[Start]:
    made: list[Child] = []

    def begin(code: str) -> Child:
        program = Program(name="test", command=lambda: [sys.executable, "-c", code], environment=dict(os.environ),
                          hear=heard.append)  # fmt: skip
        made.append(Child(program, clock))
        made[-1].start()
        return made[-1]

    yield begin
    for one in made:
        if one.pid is not None:
            os.kill(one.pid, signal.SIGKILL)
            the_end(one)


def the_end(child: Child) -> Ended:
    found: list[Ended] = []

    def look() -> bool:
        ended = child.look()
        found.extend([ended] if ended else [])
        return bool(found)

    wait_until(look, 15, "end")
    return found[0]


def test_what_it_says_is_heard_to_the_last_word(start: Start, heard: list[str], clock: Clock) -> None:
    child = start(
        "import os, sys; os.write(1, b'out\\n'); os.write(2, b'\\xff' + b'x' * 5000 + b'\\nlast'); sys.exit(3)"
    )
    clock.now = 7.0
    assert child.alive_s == 7.0
    assert the_end(child) == Ended(status=3, lived_s=7.0, asked=False)
    assert (heard[0], heard[-1]) == ("out", "last")
    assert max(map(len, heard)) <= 4096
    assert (child.pid, child.alive_s, child.look()) == (None, 0.0, None)


def test_it_ends_when_asked(start: Start, heard: list[str]) -> None:
    child = start(SLEEPING)
    wait_until(lambda: heard == ["up"], 10, "up")
    child.end()
    assert the_end(child) == Ended(status=-signal.SIGTERM, lived_s=0.0, asked=True)


def test_what_will_not_end_is_killed(start: Start, heard: list[str], clock: Clock) -> None:
    child = start(STUBBORN)
    wait_until(lambda: heard == ["up"], 10, "up")
    child.end()
    clock.now = 9.9
    child.end()  # asking again gives it no longer
    assert child.look() is None
    clock.now = 10.0
    assert the_end(child).status == -signal.SIGKILL


def test_the_program_has_no_secret_of_ours_but_its_own_environment(heard: list[str]) -> None:
    code = "import os; print(sorted(os.environ)[:2], os.getsid(0) == os.getpid())"
    program = Program(name="test", command=lambda: [sys.executable, "-c", code], environment={"A": "1"},
                      hear=heard.append)  # fmt: skip
    child = Child(program)
    child.start()
    the_end(child)
    assert heard[0].startswith("['A'")
    assert heard[0].endswith("True")


def test_a_program_that_is_missing_is_told(tmp_path: Path) -> None:
    child = Child(Program(name="test", command=lambda: [str(tmp_path / "none")], environment={}))
    with pytest.raises(ConfigError, match="install faelles again") as error:
        child.start()
    assert "installér faelles igen" in error.value.text("da")


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from client.child import Child, Program; "
        f"child = Child(Program(name='t', command=lambda: [sys.executable, '-c', {SLEEPING!r}], "
        "environment=dict(os.environ), hear=lambda line: print(child.pid, flush=True))); child.start(); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or _defunct(pid), 10, "end")


def _defunct(pid: int) -> bool:
    return "State:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")


def test_a_tether_to_a_parent_that_is_gone_starts_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faelles.tether", "1", "/usr/bin/touch", str(tmp_path / "started")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (1, "tether: the parent is gone already")
    assert not (tmp_path / "started").exists()


def test_pauses_grow_and_a_steady_life_forgives() -> None:
    backoff = Backoff()
    assert [backoff.pause_s(1.0) for _ in range(6)] == [1, 2, 4, 8, 15, 15]
    assert [backoff.pause_s(lived_s) for lived_s in (60.0, 1.0)] == [1, 2]
