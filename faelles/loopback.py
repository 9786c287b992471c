"""Speak between processes of one machine: never through a proxy, and on ports that are free."""

import os
import socket
from collections.abc import MutableMapping

HOST = "127.0.0.1"
SPARED = ("127.0.0.1", "localhost", "::1")


def spare_loopback(environment: MutableMapping[str, str]) -> None:
    """Except loopback from a proxy that the environment names, whichever way it spells the variable."""
    known = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    names = [name.strip() for name in known.split(",") if name.strip()]
    text = ",".join([*names, *(name for name in SPARED if name not in names)])
    environment["NO_PROXY"] = environment["no_proxy"] = text


def quiet_flower(environment: MutableMapping[str, str]) -> None:
    """Turn off what Flower and gRPC would say to others or on the screen, in this process and those it starts."""
    environment["FLWR_TELEMETRY_ENABLED"] = "0"
    environment["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
    environment.setdefault("GRPC_VERBOSITY", "NONE")


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the environment of a process that speaks, before it imports Flower."""
    spare_loopback(environment)
    quiet_flower(environment)


def free_port() -> int:
    """Find a port of loopback that nobody listens on now."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port
