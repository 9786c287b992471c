"""Start worker processes that end with the process that started them, and pass objects to and fro.

A fork starts in no time and shares what is in memory; other systems cannot fork a process that uses torch.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import Queue, SimpleQueue
from typing import Any

from faelles.errors import RunError

ENDED = "simulation: a worker process ended; see its message above, or give it more memory"
UNSENT = 2  # answers that wait to be sent, at most; a worker that has more waits
END = object()  # which is never sent: a worker serves until its process ends
Serve = Callable[[Iterator[Any], Callable[[object], None]], None]  # is given what is sent to it, and what answers


class Processes:
    """Run one process for each task, and hold the connections to them."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self._processes: list[BaseProcess] = []

    def start(self, tasks: Sequence[Serve]) -> None:
        """Start a process for each task."""
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        for task in tasks:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(task, theirs), daemon=True)  # type: ignore[attr-defined]
            process.start()
            theirs.close()
            self.connections.append(ours)
            self._processes.append(process)

    def close(self) -> None:
        """End them, whatever they are at."""
        for process in self._processes:
            process.terminate()
        for connection, process in zip(self.connections, self._processes, strict=True):
            process.join()
            connection.close()
        self.connections, self._processes = [], []

    def send(self, connection: Connection, item: object) -> None:
        """Send one object.

        Raises:
            RunError: The process has ended.
        """
        try:
            connection.send(item)
        except (BrokenPipeError, ConnectionResetError):
            raise RunError(ENDED) from None

    def read(self, timeout_s: float | None) -> list[tuple[Connection, Any]]:
        """Read what has come within some time, at most one object of each process.

        Raises:
            RunError: A process has ended.
        """
        ready = wait(self.connections, timeout_s)
        try:
            return [(one, one.recv()) for one in ready if isinstance(one, Connection)]
        except (EOFError, ConnectionResetError):
            raise RunError(ENDED) from None


def _work(serve: Serve, connection: Connection) -> None:
    """Be a worker, which ends with its parent, and silently when somebody interrupts both.

    What is sent is taken in while answers are made, and answers are sent while the next ones are. A worker that only
    read between answers would wait for the parent to read, and the parent for it, once answers that nobody waits for
    any more fill the pipe.
    """
    inbox: SimpleQueue[Any] = SimpleQueue()
    outbox: Queue[object] = Queue(UNSENT)
    threading.Thread(target=_take_in, args=(connection, inbox), daemon=True).start()
    threading.Thread(target=_send_out, args=(connection, outbox), daemon=True).start()
    with suppress(KeyboardInterrupt):
        serve(iter(inbox.get, END), outbox.put)


def _take_in(connection: Connection, inbox: SimpleQueue[Any]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    # A killed parent does not close the pipe, for a forked worker holds its other end too.
    with suppress(EOFError):
        while connection in wait([connection, parent.sentinel]):
            inbox.put(connection.recv())
    os._exit(1)


def _send_out(connection: Connection, outbox: Queue[object]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(outbox.get())
    os._exit(1)  # the parent is gone
