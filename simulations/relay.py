"""Stand between agents and a coordinator, carry their bytes as they come, and count them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from faelles.loopback import HOST

CHUNK: Final = 64 * 1024
BACKLOG: Final = 256


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Hold how many bytes have been carried, TLS and all.

    Args:
        up: From agents to the coordinator.
        down: From the coordinator to agents.
    """

    up: int = 0
    down: int = 0

    @property
    def both(self) -> int:
        """Add the two."""
        return self.up + self.down

    def __sub__(self, earlier: "Carried") -> "Carried":
        """Say how many were carried since."""
        return Carried(up=self.up - earlier.up, down=self.down - earlier.down)


class Relay:
    """Listen on loopback and connect whoever comes with the coordinator; TLS passes through unread."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0), backlog=BACKLOG)
        self._lock = threading.Lock()
        self._carried = Carried()
        self._open: set[socket.socket] = set()

    @property
    def address(self) -> str:
        """Name where agents reach it, as host:port."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    @property
    def carried(self) -> Carried:
        """Return how many bytes have been carried so far."""
        with self._lock:
            return self._carried

    @contextmanager
    def towards(self, target: str) -> Iterator[None]:
        """Carry, until it is left.

        Args:
            target: The coordinator's own host:port.
        """
        host, _, port = target.rpartition(":")
        threading.Thread(target=self._accept, args=((host, int(port)),), daemon=True).start()
        try:
            yield
        finally:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._listener.close()
            with self._lock:
                left = list(self._open)
            for one in left:
                _end(one)

    def _accept(self, target: tuple[str, int]) -> None:
        while True:
            try:
                agent, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                coordinator = socket.create_connection(target)
            except OSError:  # it is away; the agent tries again
                agent.close()
                continue
            with self._lock:
                self._open |= {agent, coordinator}
            for source, sink, up in ((agent, coordinator, True), (coordinator, agent, False)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._carry, args=(source, sink, up), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        """Carry one direction until its end, which ends the other side's too."""
        with suppress(OSError):
            while data := source.recv(CHUNK):
                sink.sendall(data)
                self._count(len(data), up)
        _end(sink)
        with self._lock:
            self._open.discard(source)
            done = sink not in self._open
        if done:  # the other direction has ended before
            source.close()
            sink.close()

    def _count(self, size: int, up: bool) -> None:
        with self._lock:
            was = self._carried
            self._carried = Carried(up=was.up + size * up, down=was.down + size * (not up))


def _end(one: socket.socket) -> None:
    """Tell a peer that nothing more comes."""
    with suppress(OSError):
        one.shutdown(socket.SHUT_WR)
