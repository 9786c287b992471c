"""The relay carries every byte and counts it, once and in its direction."""

import socket
import threading
import time

from faelles.loopback import HOST
from simulations.relay import Carried, Relay

ASKED, ANSWERED = b"q" * 300_000, b"a" * 100_000


def answer(listener: socket.socket) -> None:
    """Read until the end, answer, and hang up."""
    peer, _ = listener.accept()
    with peer:
        while peer.recv(65536):
            pass
        peer.sendall(ANSWERED)


def ask(address: str) -> bytes:
    """Ask through the relay; return the whole answer."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as one:
        one.sendall(ASKED)
        one.shutdown(socket.SHUT_WR)
        found = b""
        while data := one.recv(65536):
            found += data
    return found


def test_what_is_carried_arrives_and_is_counted() -> None:
    relay = Relay()
    with socket.create_server((HOST, 0)) as coordinator:
        host, port = coordinator.getsockname()
        with relay.towards(f"{host}:{port}"):
            for _ in range(2):
                threading.Thread(target=answer, args=(coordinator,), daemon=True).start()
                assert ask(relay.address) == ANSWERED
    assert relay.carried == Carried(up=2 * len(ASKED), down=2 * len(ANSWERED))


def test_nobody_is_let_through_afterwards() -> None:
    relay = Relay()
    with relay.towards(f"{HOST}:1"):
        address = relay.address
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        try:
            ask(address)
        except OSError:
            return
    raise AssertionError("the relay still listens")


def test_what_came_since_is_a_difference() -> None:
    assert Carried(up=5, down=9) - Carried(up=2, down=4) == Carried(up=3, down=5)
    assert Carried(up=3, down=5).both == 8
