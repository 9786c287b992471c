"""Start Ray for one simulation, on this machine alone or in the cluster that RAY_ADDRESS names, and end all of it.

Nothing here is typed by Ray: the tests and types of this project are checked where it is not installed too.
"""

import importlib
import importlib.util
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from faelles.errors import ConfigError, RunError

ADDRESS = "RAY_ADDRESS"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # tells nobody; warns of nothing
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else Ray listens on the machine's own address and not on LOOPBACK
LOOPBACK = "127.0.0.1"
LONGEST_FOLDER = 30  # Ray puts sockets 70 letters below it, and the system takes 107 in all
PATIENCE_S = 10.0
TERMINATED = 128 + signal.SIGTERM  # the exit status
LOST = "engine={}: expected its processes to go on, one ended; give them more memory, or fewer workers=NUMBER"


def check_ray(engine: str) -> None:
    """Refuse an engine whose Ray is not there; without importing it, which takes a second.

    Raises:
        ConfigError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(f"engine={engine}: expected Ray, it is not installed; pip install 'faelles[flower]'")


def load_ray() -> Any:
    """Import Ray, which reads the environment once."""
    alone = os.environ.get(ADDRESS, LOOPBACK).startswith((LOOPBACK, "localhost"))
    os.environ.update(QUIET | ALONE if alone else QUIET)
    # Pages about each process that ends, on standard output; what it means to a run comes as one line from us.
    loud: Any = importlib.import_module("ray._private.worker")
    loud.print_to_stdstream = lambda *_, **__: None
    return importlib.import_module("ray")


class RaySession:
    """Own Ray's processes of one simulation.

    Args:
        alone: Stay on this machine, whatever RAY_ADDRESS names.
    """

    def __init__(self, alone: bool = False) -> None:
        self.address = "local" if alone else os.environ.get(ADDRESS) or "local"
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ray: Any = None
        self._roots: set[int] = set()
        self._on_term: Any = None  # whatever was done about SIGTERM before

    def start(self, workers: int | None, most: int) -> int:
        """Start Ray with room for some workers, or join a cluster.

        Args:
            workers: How many; None takes every processor.
            most: How many there is work for.

        Returns:
            How many there can be.

        Raises:
            RunError: Ray does not start, or the cluster does not answer.
        """
        _reach(self.address)
        settings = self._settings(min(workers or os.cpu_count() or 1, most))
        before, on_term = _children(os.getpid()), signal.getsignal(signal.SIGTERM)
        self._ray = load_ray()
        try:
            self._ray.init(**settings, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            # Ray raises whatever its own parts do.
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RunError(f"{ADDRESS}={self.address}: expected Ray to start, {reason}; mend that") from None
        finally:
            self._roots = _children(os.getpid()) - before
            if threading.current_thread() is threading.main_thread():
                # Ray put its own there. Nothing else would end what Ray leaves behind where this process is ended.
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
                self._on_term = on_term
        there = int(self._ray.cluster_resources().get("CPU", 1))
        return max(1, min(workers or there, there, most))

    def _settings(self, workers: int) -> dict[str, Any]:
        if self.address != "local":
            return {"address": self.address}
        place = tempfile.gettempdir()
        self._folder = tempfile.TemporaryDirectory(
            prefix="ray", dir=place if len(place) <= LONGEST_FOLDER else "/tmp", ignore_cleanup_errors=True  # noqa: S108
        )  # fmt: skip
        return {
            "address": "local", "num_cpus": workers, "include_dashboard": False,
            "_temp_dir": self._folder.name, "_node_ip_address": LOOPBACK,
        }  # fmt: skip

    def kill(self, actor: str) -> None:
        """End the processes of one kind of actor, whatever they are at; Ray itself goes on."""
        _kill(process for process in self._tree() if _title(process).startswith(f"ray::{actor}"))

    def close(self) -> None:
        """End every process, and remove what Ray wrote."""
        ours = self._tree()
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None
        # Ray tells its workers to end, and does not wait.
        _kill(ours)
        for root in self._roots:
            with suppress(ChildProcessError):  # Ray itself has seen it end
                os.waitpid(root, os.WNOHANG)
        self._roots = set()
        if self._on_term is not None:
            signal.signal(signal.SIGTERM, self._on_term)
            self._on_term = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _tree(self) -> set[int]:
        return self._roots.union(*(_descendants(root) for root in self._roots))


def _reach(address: str) -> None:
    """See that somebody answers where a cluster is said to be; Ray itself would try for minutes.

    Raises:
        RunError: Nobody does.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return  # Ray's own words for where to look
    try:
        socket.create_connection((host, int(port)), PATIENCE_S).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"{ADDRESS}={address}: expected a cluster of Ray, {reason.lower()}; start it or unset {ADDRESS}"
        ) from None


def _kill(processes: Iterable[int]) -> None:
    """Kill processes and wait until they have ended."""
    left = set(processes)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while (left := left & _parents().keys()) and time.monotonic() < deadline:
        time.sleep(0.01)


def _title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:
        return ""  # it ended meanwhile


def _children(process: int) -> set[int]:
    return {child for child, parent in _parents().items() if parent == process}


def _descendants(process: int) -> set[int]:
    parents = _parents()
    found, grown = set[int](), {process}
    while grown:
        grown = {child for child, parent in parents.items() if parent in grown} - found
        found |= grown
    return found


def _parents() -> dict[int, int]:
    """Map every process that lives to its parent; nothing where the system does not list them in /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat") if sys.platform == "linux" else ():
        with suppress(OSError):  # it ended meanwhile
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    return parents
