"""Worker processes answer, end when told to, and say in one line that they were ended by something else."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

from faelles.errors import RunError
from simulations.processes import ENDED, Processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, for what is served stands in a test")


def echo(sent: Iterator[Any], answer: Callable[[object], None]) -> None:
    """Send back what comes."""
    for item in sent:
        answer(item)


def fall(sent: Iterator[Any], answer: Callable[[object], None]) -> None:
    """End at the first item."""
    for _ in sent:
        os._exit(1)


def work_for_ever(sent: Iterator[Any], answer: Callable[[object], None]) -> None:
    """Answer the first item, and come to no end with it."""
    answer(next(sent))
    while True:
        pass


def begin_for_ever(sent: Iterator[Any], answer: Callable[[object], None]) -> None:
    """Answer before anything comes, and come to no end."""
    answer("begun")
    while True:
        pass


@pytest.fixture
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.close()
    assert not multiprocessing.active_children()


def read_all(processes: Processes, count: int) -> list[tuple[Connection, Any]]:
    found: list[tuple[Connection, Any]] = []
    while len(found) < count:
        found += processes.read(None)
    return found


def test_each_process_answers_over_its_own_connection(processes: Processes) -> None:
    processes.start([echo] * 3)
    assert len(multiprocessing.active_children()) == 3
    for number, connection in enumerate(processes.connections):
        processes.send(connection, (number, np.arange(number)))
    for connection, (number, array) in read_all(processes, 3):
        assert processes.connections[number] is connection
        assert len(array) == number


def test_reading_waits_no_longer_than_it_is_told_to(processes: Processes) -> None:
    processes.start([echo])
    assert processes.read(0) == []
    processes.send(processes.connections[0], "x")
    assert processes.read(60) == [(processes.connections[0], "x")]


def test_answers_that_nobody_reads_yet_block_nobody(processes: Processes) -> None:
    # Far more than a pipe holds, in both directions.
    processes.start([echo])
    for number in range(8):
        processes.send(processes.connections[0], (number, b"x" * 1_000_000))
    assert [number for _, (number, _) in read_all(processes, 8)] == list(range(8))


def test_a_process_that_fell_is_told_to_who_reads(processes: Processes) -> None:
    processes.start([echo, fall])
    processes.send(processes.connections[1], "x")
    with pytest.raises(RunError) as caught:
        read_all(processes, 1)
    assert str(caught.value) == ENDED
    assert caught.value.__cause__ is None
    assert "\n" not in ENDED


def test_a_process_that_fell_is_told_to_who_sends(processes: Processes) -> None:
    processes.start([echo])
    (victim,) = multiprocessing.active_children()
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    with pytest.raises(RunError, match="a worker process ended"):
        processes.send(processes.connections[0], "x")


@pytest.mark.parametrize("serve", [echo, work_for_ever, begin_for_ever])
def test_who_is_interrupted_ends_without_a_word(
    processes: Processes, capfd: pytest.CaptureFixture[str], serve: Callable[..., None]
) -> None:
    processes.start([serve])
    (victim,) = multiprocessing.active_children()
    assert victim.pid is not None
    processes.send(processes.connections[0], "x")
    read_all(processes, 1)
    os.kill(victim.pid, signal.SIGINT)
    victim.join(60)
    assert victim.exitcode == 0
    assert capfd.readouterr().err == ""


def test_processes_may_be_started_again_once_they_are_closed(processes: Processes) -> None:
    for _ in range(2):
        processes.start([echo])
        processes.send(processes.connections[0], 1)
        assert [item for _, item in read_all(processes, 1)] == [1]
        processes.close()
        assert processes.connections == []
        assert not multiprocessing.active_children()
