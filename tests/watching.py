"""Watch where processes connect to: a proxy that writes down what it is asked for, and a look at every open socket."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from faelles.loopback import HOST, free_port
from simulations.footprint import family

ENDING_S = 10.0
LOOK_EVERY_S = 0.4  # each look reads much of /proc


@dataclass(kw_only=True)
class Proxy:
    """Carry TLS for whoever asks with CONNECT, and remember for where."""

    port: int = field(default_factory=free_port)
    targets: set[str] = field(default_factory=set)
    _carrying: list[threading.Thread] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Name it as an environment does."""
        return f"http://{HOST}:{self.port}"

    @contextlib.contextmanager
    def serving(self) -> Iterator["Proxy"]:
        """Serve until the block ends."""
        with socket.create_server((HOST, self.port), backlog=64) as listener:
            accepting = threading.Thread(target=self._accept, args=(listener,), daemon=True)
            accepting.start()
            yield self
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
        # Whoever spoke through it has ended by now; a thread that went on would slow every later test.
        for one in self._carrying:
            one.join(ENDING_S)
        assert not [one for one in self._carrying if one.is_alive()]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = listener.accept()
                carrying = threading.Thread(target=self._carry, args=(one,), daemon=True)
                self._carrying.append(carrying)
                carrying.start()

    def _carry(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError, ValueError):
            request = b""
            while b"\r\n\r\n" not in request:
                more = one.recv(4096)
                if not more:
                    return
                request += more
            method, target, _ = request.split(b"\r\n")[0].decode().split(" ")
            self.targets.add(target if method == "CONNECT" else f"{method} {target}")
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as other:
                one.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                pipe = {one: other, other: one}
                while True:
                    for ready in select.select(list(pipe), [], [])[0]:
                        data = ready.recv(65536)
                        if not data:
                            return
                        pipe[ready].sendall(data)


@dataclass(kw_only=True)
class Sockets:
    """Look at the sockets of processes and their children, again and again."""

    pids: list[int]
    remote: set[tuple[str, int]] = field(default_factory=set)
    listening: set[str] = field(default_factory=set)
    looks: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def watched(self) -> Iterator["Sockets"]:
        """Look until the block ends."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            for process in descendants(self.pids):
                with contextlib.suppress(psutil.Error):
                    for one in process.net_connections(kind="inet"):
                        if one.raddr:
                            self.remote.add((one.raddr.ip, one.raddr.port))
                        elif one.status == psutil.CONN_LISTEN:
                            self.listening.add(one.laddr.ip)
            self.looks += 1


def descendants(pids: list[int]) -> list[psutil.Process]:
    """List processes and all that they started."""
    found = []
    for one in [one for pid in pids for one in family(pid)]:
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(one))
    return found
