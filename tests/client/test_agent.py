from collections.abc import Iterator
from pathlib import Path

import pytest

from client import agent, supernode
from client.agent import FORGOTTEN_S, _Agent
from client.connection import Address, Connection
from client.runtime import Runtime, only_agent

HANDED = "INFO :      Received successfully"
SENDING = "INFO :      Sending: train message (ID: abc)"


class Clock:
    """Tell a time that a test sets; a runtime's files go by the real one."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (agent, supernode):
        monkeypatch.setattr(module.time, "monotonic", made.monotonic)
    return made


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with only_agent(tmp_path) as made:
        yield made


@pytest.fixture
def waiting(tmp_path: Path, runtime: Runtime, clock: Clock) -> Iterator[_Agent]:
    """Give an agent whose worker runs and asks, and whose node was just handed a message."""
    connection = Connection(address=Address("127.0.0.1:1"), ca=None, login_key=tmp_path / "login.key", cvr="29189420")
    made = _Agent(connection, runtime, ("/bin/sleep", "60"), "en")
    made._worker.start()
    runtime.touch_ready()
    made._ear.hear(HANDED)
    yield made
    made._worker.end()
    while made._worker.look() is None:
        pass


def test_a_message_that_nobody_takes_is_noticed(waiting: _Agent, clock: Clock) -> None:
    assert not waiting._forgotten()
    clock.now += FORGOTTEN_S - 1
    assert not waiting._forgotten()
    clock.now += 2
    assert waiting._forgotten()


def test_a_long_training_is_not_taken_for_it(waiting: _Agent, runtime: Runtime, clock: Clock) -> None:
    with runtime.hold():
        clock.now += 600
        assert not waiting._forgotten()
    # The answer is with the node, which takes a moment to send it.
    assert not waiting._forgotten()
    clock.now += FORGOTTEN_S - 1
    assert not waiting._forgotten()
    waiting._ear.hear(SENDING)
    clock.now += 600
    assert not waiting._forgotten()


def test_a_worker_that_still_starts_is_waited_for(waiting: _Agent, runtime: Runtime, clock: Clock) -> None:
    runtime.forget_ready()
    clock.now += 600
    assert not waiting._forgotten()
    runtime.touch_ready()
    assert not waiting._forgotten()
