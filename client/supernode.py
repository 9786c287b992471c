"""Run Flower's own node as it comes, and make out of what it says the little that a municipality needs to know."""

import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from client.connection import Connection
from client.runtime import Runtime
from faelles import loopback

log = logging.getLogger(__name__)
PROGRAM: Final = "flower-supernode"
# What the node needs of our environment; what else is there, such as the password of a source, is not its business.
NEEDED = re.compile(
    r"(?i)(PATH|HOME|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHON.*|SSL_CERT_(FILE|DIR)|.*_PROXY)"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LEVEL = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*:\s*(.*)")
LONGEST_TEXT: Final = 300
# What it always says, and what the agent says better.
EXIT_UNREACHED: Final = "Exit Code: 305"  # it could not log in, whatever the reason
KNOWN: Final = ("EXPERIMENTAL: SuperExec authentication", EXIT_UNREACHED)
CONNECTED: Final = ("SuperNode ID:", "Connection successful")
MOST_SAID: Final = 100
HANDED: Final = "Received successfully"  # a message waits for the worker from here on
SENDING: Final = "Sending:"
# The run ended while the message was fetched: its task stays, and the worker would wait for the rest of it for hours.
STRANDED: Final = re.compile(r"Run ID [0-9]+ is not in `RUNNING` status\. Ignoring message ")
TURNED_AWAY: Final = "[code: 2004]"  # because the coordinator would not have it


class Ending(StrEnum):
    """Say why the node ended."""

    REFUSED = "refused"  # the coordinator does not let it in, or not any more
    UNREACHED = "unreached"  # there is no way to the coordinator
    FAILED = "failed"


def command(connection: Connection, runtime: Runtime, port: int) -> Sequence[str]:
    """Write the command line of a node; keys and secrets lie in files.

    Args:
        connection: Where it logs in, and with what.
        runtime: Where it finds what it needs to speak with the worker.
        port: Of loopback, where the worker finds it.
    """
    trust = ["--root-certificates", str(connection.ca.resolve())] if connection.ca else []
    return [
        str(Path(sys.executable).with_name(PROGRAM)),
        "--superlink", connection.address, *trust,
        "--auth-supernode-private-key", str(connection.login_key.resolve()),
        "--isolation", "process", "--superexec-auth-secret-file", str(runtime.secret),
        "--host", loopback.HOST, "--port", str(port),
        "--ssl-certfile", str(runtime.certificate), "--ssl-keyfile", str(runtime.key),
        "--ssl-ca-certfile", str(runtime.certificate),
    ]  # fmt: skip


def environment(connection: Connection, runtime: Runtime, ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Choose the environment of a node: proxies and trust, and a home of its own for what Flower writes."""
    chosen = {name: value for name, value in ours.items() if NEEDED.fullmatch(name)}
    loopback.prepare(chosen)
    chosen["FLWR_HOME"] = str(runtime.flower)
    if connection.ca is None and connection.trust is not None:
        chosen["SSL_CERT_FILE"] = str(connection.trust)
    return chosen


class Ear:
    """Listen to a node: pass on what is a warning or worse, once, and remember what tells why it ended."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._unreached = self._turned_away = False
        self.connected = self.stranded = False
        self._handed_at: float | None = None

    def forget(self) -> None:
        """Begin with a new life of the node."""
        self._unreached = self._turned_away = self.connected = self.stranded = False
        self._handed_at = None

    def waits_s(self) -> float:
        """Say for how many seconds the node has waited for an answer; 0 where it waits for none."""
        handed_at = self._handed_at
        return 0.0 if handed_at is None else time.monotonic() - handed_at

    def hear(self, line: str) -> None:
        """Take in a line."""
        line = COLOUR.sub("", line)
        self._unreached |= EXIT_UNREACHED in line
        self._turned_away |= TURNED_AWAY in line
        found = LEVEL.match(line)
        if found is None:
            return  # a line that goes on with what was said before
        level, text = logging.getLevelNamesMapping()[found[1]], found[2]
        if text.startswith(HANDED):
            self._handed_at = time.monotonic()
        elif text.startswith(SENDING):
            self._handed_at = None
        self.stranded |= STRANDED.match(text) is not None
        if text.startswith(CONNECTED):
            self.connected = True
            self._said.clear()
            log.info("event=connected")
        elif level >= logging.WARNING and not text.startswith(KNOWN):
            self._pass_on(level, text)

    def ending(self, status: int) -> Ending:
        """Say why the node ended: it ends with 0 by itself where the coordinator does not know it any more."""
        if self._turned_away or status == 0:
            return Ending.REFUSED
        return Ending.UNREACHED if self._unreached else Ending.FAILED

    def _pass_on(self, level: int, text: str) -> None:
        # Part of it may come from the coordinator: nothing of it may look like a line of ours or move a cursor.
        shown = "".join(letter if letter.isprintable() else " " for letter in text)[:LONGEST_TEXT]
        same = re.sub(r"[0-9]+", "0", shown)
        if same not in self._said:
            if len(self._said) >= MOST_SAID:
                self._said.clear()
            self._said.add(same)
            log.log(level, "from=%s %s", PROGRAM, shown)
