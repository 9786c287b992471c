"""Live federations for the tests: real coordinators and agents on loopback, and ways to watch and to kill them."""

import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import yaml

from client.home import STORE
from client.store import Store
from faelles.card import UseCaseCard
from server.federation import FederationConfig
from server.orders import order
from server.runs import Run, create
from simulations.live import LiveFederation, Town
from simulations.questions import site_key
from tests.builders import build_sites
from tests.coordinators import wait_until

PATIENCE_S = 120.0
LAUNCHER = Path(__file__).with_name("launcher.py")
CITIZENS: Mapping[str, int] = {"0101": 90, "0147": 60, "0751": 45, "0851": 30}


def write_usecase(folder: Path, card: UseCaseCard) -> Path:
    """Write a card as a use case of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(card.model_dump(mode="json"), allow_unicode=True)
    (folder / "card.yaml").write_text(text, encoding="utf-8")
    return folder


@dataclass(kw_only=True)
class SeededFederation(LiveFederation):
    """Run agents whose noise and keys are those of a simulation of the same seed."""

    seed: int = 7

    def __post_init__(self) -> None:
        self.agent = lambda code, home: (sys.executable, str(LAUNCHER), "up", str(home), code, str(self.seed))

    def _agent(self, code: str, *words: str) -> list[str]:
        lines = super()._agent(code, *words)
        if words[0] == "init":
            # The key that chooses held-out citizens, before anything rests on it.
            path = self.agent_folder(code) / STORE
            path.unlink()
            Store(path, serving=False, key=site_key(self.seed, code)).close()
        return lines

    def order_as(self, federation: UUID, *overrides: str) -> Run:
        """Start a run whose federation is known beforehand."""
        typed = [f"usecase={self.usecase}", *overrides]
        config = order(typed, self.home.runs).model_copy(update={"federation": federation})
        return create(self.home.runs, " ".join(["faelles-server", "run", *typed]), config)

    def hold(self, code: str, server_round: int) -> "Hold":
        """Make a municipality's release of a round wait."""
        return Hold(folder=self.agent_folder(code), server_round=server_round)

    def pid(self, code: str, process: str) -> int:
        """Find the latest process of an agent, by its own log."""
        return last_pid(self.folder / f"agent-{code}.log", f"event=started process={process}")

    def serverapp_pid(self) -> int:
        """Find the latest process of a run."""
        return last_pid(self.folder / "coordinator.log", "event=started run=")


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Hold a release, and let it go."""

    folder: Path
    server_round: int

    def place(self) -> "Hold":
        """Place it."""
        (self.folder / f"hold-{self.server_round}").touch()
        return self

    def wait(self) -> None:
        """Wait until the release has come so far."""
        wait_until((self.folder / f"held-{self.server_round}").exists, PATIENCE_S, f"held-{self.server_round}")

    def lift(self) -> None:
        """Let it go."""
        (self.folder / f"hold-{self.server_round}").unlink()


def last_pid(log: Path, event: str) -> int:
    """Read the latest pid that a log names for an event."""
    found = re.findall(rf"{re.escape(event)}.* pid=([0-9]+)", log.read_text(encoding="utf-8"))
    assert found, f"{log}: no {event}"
    return int(found[-1])


def kill(pid: int) -> None:
    """Kill a process as a power cut would."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def towns(card: UseCaseCard, epsilon: float, citizens: Mapping[str, int] = CITIZENS) -> list[Town]:
    """Make municipalities of the simulated sites of the same names."""
    return [
        Town(code=site.label, table=site.table, declared_size=site.declared_size, epsilon=epsilon)
        for site in build_sites(citizens)
    ]


def with_folder(config: FederationConfig, folder: Path) -> FederationConfig:
    """Put a federation somewhere else, to be run as a simulation."""
    return config.model_copy(update={"folder": folder, "nodes": None, "heads": None, "resume": False})
