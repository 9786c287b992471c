"""Keep a program running: start it, hear what it says, notice when it ends, and end it."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from faelles.errors import ConfigError
from faelles.tether import tethered

GRACE_S: Final = 10.0  # between asking a program to end and ending it
STEADY_S: Final = 60.0  # one that lived so long starts afresh
LONGEST_PAUSE_S: Final = 15.0
LONGEST_LINE: Final = 4096  # bytes


@dataclass(frozen=True, kw_only=True)
class Program:
    """Say what is run.

    Args:
        name: For the log.
        command: Makes the command line, for each start anew; no secret stands in it.
        environment: Its whole environment.
        hear: Given each line that it says; None lets it speak for itself.
    """

    name: str
    command: Callable[[], Sequence[str]]
    environment: Mapping[str, str]
    hear: Callable[[str], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Tell how a program ended.

    Args:
        status: As the shell has it, negative for a signal.
        lived_s: How long it ran.
        asked: Whether we had asked it to end.
    """

    status: int
    lived_s: float
    asked: bool


class Backoff:
    """Wait longer after each failure, and little again after a steady life."""

    def __init__(self) -> None:
        self._failures = 0

    def pause_s(self, lived_s: float) -> float:
        """Say how long to wait after a life of so many seconds."""
        self._failures = 0 if lived_s >= STEADY_S else self._failures
        self._failures += 1
        return min(LONGEST_PAUSE_S, 2.0 ** (self._failures - 1))


class Child:
    """Run a program as a child that does not outlive this process.

    Args:
        program: What is run.
        clock: Monotonic seconds.
    """

    def __init__(self, program: Program, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self._program, self._clock = program.name, program, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._ear: threading.Thread | None = None
        self._started = 0.0
        self._kill_at: float | None = None

    @property
    def alive_s(self) -> float:
        """Return for how long it has run now; 0 where it does not."""
        return self._clock() - self._started if self._process is not None else 0.0

    @property
    def pid(self) -> int | None:
        """Return its process id, if it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it; in the main thread, whose end it would take for ours.

        Raises:
            ConfigError: The program is not there.
        """
        command = [*self._program.command()]
        if not os.access(command[0], os.X_OK):
            raise ConfigError(
                f"{command[0]}: expected a program that was installed with this one, found none; install faelles again",
                da=f"{command[0]}: programmet, der følger med installationen, mangler; installér faelles igen",
            )
        if self._program.hear is None:
            self._process = _run(tethered(*command), self._program.environment)
        else:
            ours, theirs = os.pipe()
            self._process = _run(tethered(*command), self._program.environment, theirs)
            os.close(theirs)
            self._ear = threading.Thread(target=_listen, args=(ours, self._program.hear), daemon=True)
            self._ear.start()
        self._started, self._kill_at = self._clock(), None

    def look(self) -> Ended | None:
        """Notice that it has ended; once for each life."""
        if self._process is None:
            return None
        if self._kill_at is not None and self._clock() >= self._kill_at:
            self._process.kill()
        status = self._process.poll()
        if status is None:
            return None
        if self._ear is not None:
            self._ear.join(1.0)  # its last words say why
        ended = Ended(status=status, lived_s=self.alive_s, asked=self._kill_at is not None)
        self._process, self._ear, self._kill_at = None, None, None
        return ended

    def end(self) -> None:
        """Ask it to end; `look` sees to it that it does."""
        if self._process is not None and self._kill_at is None:
            self._kill_at = self._clock() + GRACE_S
            self._process.send_signal(signal.SIGTERM)


def _run(command: Sequence[str], environment: Mapping[str, str], output: int | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own command line, and no shell
        command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        start_new_session=True,  # Ctrl-C is ours: we end them in order
    )  # fmt: skip


def _listen(ours: int, hear: Callable[[str], None]) -> None:
    """Read until the end whatever comes, so that the program never waits for a reader."""
    with open(ours, "rb") as stream:
        for line in iter(lambda: stream.readline(LONGEST_LINE), b""):
            hear(line.decode("utf-8", errors="replace").rstrip())
