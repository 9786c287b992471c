"""Run a real federation on this machine: a coordinator and agents as processes of their own, over TLS on loopback.

Everything is set up with the commands that KOMBIT and the municipalities type; only the citizens are synthetic.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet

from catalogue import shelf
from client import cli as agent_cli
from faelles.errors import FaellesError, RunError
from faelles.health import probe
from faelles.loopback import HOST, free_port, prepare
from faelles.tether import tethered
from server import cli as server_cli
from server.control import ONLINE, control_of
from server.home import Home
from server.result import RunRecord
from server.runs import Run, find

POPULATION = "borgere"
ANY_CVR = "29189420"  # a number of the right form; nobody looks it up here
STARTING_S, STARTING_EACH_S = 120.0, 5.0  # an agent takes seconds of a core to load what it needs
ENDING_S = 20.0
LOOK_EVERY_S = 0.2
BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Town:
    """Describe one municipality of a live federation: its citizens, and what it approves.

    Args:
        code: The kommunekode.
        table: Its rows, under the contract's names.
        declared_size: The band that it states.
        epsilon: What the card's runs may spend together.
    """

    code: str
    table: pa.Table
    declared_size: int
    epsilon: float


@dataclass(kw_only=True)
class Process:
    """Hold one process that was started here."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        """Say whether it still runs."""
        return self.process.poll() is None

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal and wait for its end."""
        if self.alive:
            self.process.send_signal(number)
        try:
            self.process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(kw_only=True)
class LiveFederation:
    """Own a coordinator, agents, and their folders.

    Args:
        folder: Where all of it goes.
        usecase: A name of the catalogue, or a folder that holds a card.
        towns: The municipalities.
        agent: What starts an agent whose folder is its last word; a test has another.
        environment: Of the processes.
        host: Where the coordinator listens; an address of loopback.
        reached_at: Where agents reach it, where that is another address, such as a relay's.

    Use it as a context manager: leaving it ends every process that it started, however it is left.
    """

    folder: Path
    usecase: str
    towns: Sequence[Town]
    agent: Callable[[str, Path], Sequence[str]] = lambda code, home: (
        str(BIN / "faelles-agent"), "up", "--health", "0", "--dir", str(home),
    )  # fmt: skip
    environment: Mapping[str, str] = field(default_factory=dict)
    host: str = HOST
    reached_at: str = ""
    coordinator: Process | None = None
    agents: dict[str, Process] = field(default_factory=dict)

    def __enter__(self) -> Self:
        prepare()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = [*self.agents.values(), *([self.coordinator] if self.coordinator else [])]
        for one in processes:  # all at once, for each takes a moment
            if one.alive:
                one.process.terminate()
        for one in processes:
            one.end()

    @property
    def home(self) -> Home:
        """Open the coordinator's folder."""
        return Home.open(self.folder / "coordinator")

    def agent_folder(self, code: str) -> Path:
        """Name an agent's folder."""
        return self.folder / f"agent-{code}"

    def set_up(self) -> None:
        """Lay out every folder, register citizens and approve the card, as people would."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = [str(free_port()) for _ in range(3)]
        listen = f"{self.host}:{ports[0]}"
        self.command("init", "--address", self.reached_at or listen, "--listen", listen, "--loopback-port", ports[1],
                     "--health-port", ports[2])  # fmt: skip
        for town in self.towns:
            self._set_up_agent(town)

    def start(self) -> None:
        """Start the coordinator, enrol every municipality, start the agents, and wait until they are connected."""
        self.start_coordinator()
        for town in self.towns:
            where = ("--coordinator", self.home.settings.address, "--ca", str(self.home.authority))
            self._agent(town.code, "enrol", *where, "--cvr", ANY_CVR)
            self.command("enrol", str(self.agent_folder(town.code) / "request.json"), "--yes")
        for town in self.towns:
            self.start_agent(town.code)
        self.wait_until_connected(len(self.towns))

    def start_coordinator(self) -> None:
        """Start the coordinator and wait until it is healthy."""
        command = [str(BIN / "faelles-server"), "up", "--dir", str(self.folder / "coordinator")]
        self.coordinator = self._spawn("coordinator", command)
        self._wait(lambda: probe(self.home.settings.health_port), self.coordinator)

    def start_agent(self, code: str) -> Process:
        """Start one agent."""
        self.agents[code] = self._spawn(f"agent-{code}", self.agent(code, self.agent_folder(code)))
        return self.agents[code]

    def wait_until_connected(self, count: int) -> None:
        """Wait until so many nodes are connected."""
        with control_of(self.home) as control:
            self._wait(lambda: list(control.nodes().values()).count(ONLINE) >= count, *self.agents.values())

    def order(self, *overrides: str) -> Run:
        """Start a run."""
        (name,) = self.command("run", f"usecase={self.usecase}", *overrides)
        return find(self.home.runs, name)

    def finish(self, run: Run, patience_s: float, look: Callable[[], None] = lambda: None) -> RunRecord:
        """Wait until a run has ended, and everybody has the model.

        Args:
            run: What is waited for.
            patience_s: How long.
            look: Called meanwhile, and once at the end.

        Raises:
            RunError: It has not in time.
        """
        ends = time.monotonic() + patience_s
        while not run.ended:
            look()
            if time.monotonic() > ends:
                raise RunError(
                    f"run {run.name}: expected its end within {patience_s:g} s, it goes on; see its server.log"
                )
            time.sleep(LOOK_EVERY_S)
        look()
        record = run.record
        assert record is not None
        return record

    def _set_up_agent(self, town: Town) -> None:
        home = self.agent_folder(town.code)
        data = self.folder / f"borgere-{town.code}.parquet"
        pyarrow.parquet.write_table(town.table, data)
        card = shelf.find(self.usecase).card
        self._agent(town.code, "init", "--municipality", town.code)
        policy = home / "policy.yaml"
        text = policy.read_text(encoding="utf-8").replace("cards: []", "cards: all").replace("threads: 2", "threads: 1")
        policy.write_text(text, encoding="utf-8")
        sensitive = () if card.law.special_categories else ("--no-special-categories",)
        self._agent(
            town.code, "population", "add", POPULATION, "--citizen", str(card.unit), "--source", str(data), *sensitive
        )
        self._agent(town.code, "approve", self.usecase, "--population", POPULATION, "--declared-size",
                    str(town.declared_size), "--epsilon", f"{town.epsilon:g}")  # fmt: skip

    def _agent(self, code: str, *words: str) -> list[str]:
        return _say(agent_cli.main, ["--lang", "en", *words, "--dir", str(self.agent_folder(code))])

    def command(self, *words: str) -> list[str]:
        """Type a command of KOMBIT's; return its lines."""
        return _say(server_cli.main, [*words, "--dir", str(self.folder / "coordinator")])

    def _spawn(self, name: str, command: Sequence[str]) -> Process:
        log = self.folder / f"{name}.log"
        # One thread each: there are more processes here than cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        with log.open("ab") as out:
            process = subprocess.Popen(
                tethered(*command),  # also where this process is killed, nothing is left
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
            )
        return Process(name=name, process=process, log=log)

    def _wait(self, done: Callable[[], bool], *needed: Process) -> None:
        patience_s = STARTING_S + STARTING_EACH_S * len(self.towns)
        ends = time.monotonic() + patience_s
        while not done():
            for one in needed:
                if not one.alive:
                    raise RunError(f"{one.name}: expected it to run, it ended; see {one.log}")
            if time.monotonic() > ends:
                raise RunError(
                    f"expected everything to start within {patience_s:g} s, it has not; see {self.folder}/*.log"
                )
            time.sleep(LOOK_EVERY_S)


def _say(main: Callable[[Sequence[str]], None], words: Sequence[str]) -> list[str]:
    """Type a command; return its lines.

    Raises:
        FaellesError: It ended with another status than 0; its own line says why.
    """
    out, complaints = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaints):
            main(list(words))
    except SystemExit as end:
        if end.code:
            raise FaellesError(complaints.getvalue().strip().removeprefix("error: ")) from None
    return out.getvalue().splitlines()
