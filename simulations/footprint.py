"""Look at processes from outside, as Linux shows them: what belongs together, its memory, how long it lives."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
LOOK_EVERY_S: Final = 0.02


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Hold what processes take of memory, in MiB.

    Args:
        pss: A page that several processes share counts for each by its part: what they add to this machine.
        rss: Every page counts whole: what one alone on a machine would take at most.
    """

    pss: float = 0.0
    rss: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Life:
    """Hold how long a process lived, as far as that was seen."""

    pid: int
    seconds: float


def family(pid: int) -> list[int]:
    """List a process and those that descend from it."""
    found = [pid]
    for one in found:  # grows as it goes
        found += _children(one)
    return found


def command(pid: int) -> str:
    """Read a process's command line; empty where it has ended, also where nobody has noticed its end."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def memory(pids: Iterable[int]) -> Memory:
    """Add what processes take; one that has ended takes nothing."""
    pss = rss = 0
    for pid in pids:
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        sizes = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}  # kB
        pss, rss = pss + sizes["Pss:"], rss + sizes["Rss:"]
    return Memory(pss=pss / 1024, rss=rss / 1024)


def processor_s(pids: Iterable[int]) -> float:
    """Add the seconds that processes have kept a core busy; one that has ended counts no more."""
    ticks = 0
    for pid in pids:
        try:
            # After the name, which may hold anything: user and system time are its fields 12 and 13.
            fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Lives:
    """See processes come and go below one process.

    Args:
        pid: Of that one.
        word: What stands in the command lines of those that count.
    """

    def __init__(self, pid: int, word: str) -> None:
        self._pid, self._word = pid, word
        self.seen: dict[int, tuple[float, float]] = {}  # process id -> when it was seen first and last
        self._over = threading.Event()

    @property
    def ended(self) -> list[Life]:
        """List those that came and went, in the order in which they came."""
        alive = {pid for pid in self.seen if self._counts(pid)}
        spans = sorted((first, last, pid) for pid, (first, last) in self.seen.items() if pid not in alive)
        return [Life(pid=pid, seconds=last - first) for first, last, pid in spans]

    def settle(self, patience_s: float) -> None:
        """Wait until none is left: a process goes on for a moment after its work."""
        ends = time.monotonic() + patience_s
        while any(self._counts(pid) for pid in list(self.seen)) and time.monotonic() < ends:
            time.sleep(LOOK_EVERY_S)

    @contextmanager
    def watched(self) -> Iterator["Lives"]:
        """Look all the time, until it is left."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            for pid in family(self._pid):
                if pid != self._pid and self._counts(pid):
                    now = time.monotonic()
                    self.seen[pid] = (self.seen.get(pid, (now, now))[0], now)

    def _counts(self, pid: int) -> bool:
        return self._word in command(pid)


def _children(pid: int) -> list[int]:
    """List children of every thread; what has ended has none."""
    found: list[int] = []
    try:
        for thread in os.listdir(PROC / str(pid) / "task"):
            found += map(int, (PROC / str(pid) / "task" / thread / "children").read_text(encoding="ascii").split())
    except OSError:
        return []
    return found
