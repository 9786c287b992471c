"""Processes are found, weighed and timed from outside."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from simulations.footprint import Lives, Memory, command, family, memory, processor_s

WORD = "a-word-that-stands-nowhere-else"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", f"import sys; sys.stdin.read()  # {WORD}"], stdin=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def test_a_child_belongs_to_its_parent_and_has_a_weight(child: subprocess.Popen[bytes]) -> None:
    assert child.pid in family(os.getpid())
    assert family(child.pid) == [child.pid]
    alone, both = memory([child.pid]), memory([child.pid, os.getpid()])
    assert 0 < alone.pss <= alone.rss < both.rss


def test_a_busy_process_has_kept_a_core_busy(child: subprocess.Popen[bytes]) -> None:
    before, ends = processor_s([os.getpid()]), time.process_time() + 0.1
    while time.process_time() < ends:
        pass
    assert processor_s([os.getpid(), child.pid]) >= before + 0.08  # the kernel counts in hundredths


def test_what_has_ended_weighs_nothing(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    assert memory([child.pid]) == Memory()
    assert processor_s([child.pid]) == 0
    assert command(child.pid) == ""
    assert family(child.pid) == [child.pid]


def test_a_life_is_seen_from_its_beginning_to_its_end(child: subprocess.Popen[bytes]) -> None:
    lives = Lives(os.getpid(), WORD)
    with lives.watched():
        began = time.monotonic()
        while not lives.seen:
            assert time.monotonic() - began < 10
        assert lives.ended == []
        child.kill()
        child.wait()
        lives.settle(10)
    (life,) = lives.ended
    assert life.pid == child.pid
    assert 0 <= life.seconds <= time.monotonic() - began
