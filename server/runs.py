"""Keep a folder for each run: what was asked for, whether it shall go on, and what it leaves behind.

order.json        the command and the configuration
stop              is there while it shall not go on
state.json        which Flower runs it has been; only the keeper writes it
progress.json     how far it is
run.json          who took part; see server.result
checkpoints/      where it is taken up
model.npz, provenance.json, result.json, report.html, server.log
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from faelles.errors import RunError
from server.federation import FederationConfig
from server.result import RunRecord, read_record, write_json

ORDER, STATE, STOP, RECORD, LOG = "order.json", "state.json", "stop", "run.json", "server.log"
NAME = re.compile(r"[a-z0-9][a-z0-9-]*-[0-9]{3,}")


class Order(BaseModel):
    """Hold what was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    command: str
    federation: FederationConfig


class State(BaseModel):
    """Hold the Flower runs that a run has been, the newest last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    flower_runs: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """Hold one run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        """Name the run."""
        return self.folder.name

    @property
    def order(self) -> Order:
        """Read what was asked for.

        Raises:
            RunError: It cannot be read.
        """
        try:
            return Order.model_validate_json((self.folder / ORDER).read_bytes())
        except (OSError, ValidationError):
            raise RunError(f"{self.folder / ORDER}: expected a run's order, it cannot be read; restore it") from None

    @property
    def flower_runs(self) -> tuple[int, ...]:
        """List the Flower runs that it has been, the newest last.

        Raises:
            RunError: The file cannot be read.
        """
        try:
            return State.model_validate_json((self.folder / STATE).read_bytes()).flower_runs
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError):
            raise RunError(f"{self.folder / STATE}: expected a run's state, it cannot be read; remove it") from None

    @property
    def stopped(self) -> bool:
        """Say whether somebody wants it not to go on."""
        return (self.folder / STOP).exists()

    @property
    def record(self) -> RunRecord | None:
        """Read what has happened; None where nothing has yet."""
        return read_record(self.folder / RECORD)

    @property
    def ended(self) -> bool:
        """Say whether there is nothing left to do for it: it gave up, or everybody who took part has the model."""
        record = self.record
        if record is None or record.status == "running":
            return False
        return record.status != "completed" or record.settled

    def started(self, flower_run: int) -> None:
        """Write down one more Flower run of it."""
        write_json(self.folder / STATE, State(flower_runs=(*self.flower_runs, flower_run)))

    def stop(self) -> None:
        """Ask for it to be stopped."""
        (self.folder / STOP).touch()

    def close(self, status: Literal["incomplete", "stopped"], why: str) -> None:
        """End the record of a run that goes on; one that only has the model to bring home stays completed."""
        order = self.order.federation
        record = self.record or RunRecord(federation=str(order.federation), quorum=order.quorum)
        if record.status == "completed":
            left = set(record.declared_sizes) - {*record.delivered, *record.unwanted}
            write_json(self.folder / RECORD, record.model_copy(update={"undelivered": sorted(left)}))
        elif record.status in ("running", "stopped"):
            write_json(self.folder / RECORD, record.model_copy(update={"status": status, "why": why}))

    def resume(self) -> None:
        """Ask for a run that was stopped or gave up to be taken up again."""
        record = self.record
        if record is not None:
            ended = record.status in ("incomplete", "stopped")
            changed: dict[str, object] = {"status": "running", "why": ""} if ended else {"undelivered": []}
            write_json(self.folder / RECORD, record.model_copy(update=changed))
        (self.folder / STOP).unlink(missing_ok=True)


def create(folder: Path, command: str, federation: FederationConfig) -> Run:
    """Make the folder of a new run, named after the card and the next free number.

    Args:
        folder: Of all runs.
        command: What was typed.
        federation: What to run; its folder is set here.
    """
    number = len(list(folder.glob("*"))) + 1
    while True:
        path = folder / f"{federation.card.id}-{number:03d}"
        try:
            path.mkdir(mode=0o700)
            break
        except FileExistsError:
            number += 1
    run = Run(folder=path)
    write_json(path / ORDER, Order(command=command, federation=federation.model_copy(update={"folder": path})))
    return run


def all_runs(folder: Path) -> list[Run]:
    """List the runs, the oldest first."""
    found = [path for path in folder.glob("*") if NAME.fullmatch(path.name) and (path / ORDER).is_file()]
    return [Run(folder=path) for path in sorted(found, key=lambda path: (path / ORDER).stat().st_mtime_ns)]


def find(folder: Path, name: str) -> Run:
    """Find a run by its name, or by the beginning of it that only one has.

    Raises:
        RunError: None is called that, or several are.
    """
    runs = all_runs(folder)
    if not runs:
        raise RunError(
            f"run {ascii(name)[:60]}: expected a run, there is none yet; start one with `faelles-server run`"
        )
    exact = [run for run in runs if run.name == name]
    found = exact or [run for run in runs if run.name.startswith(name)]
    if len(found) != 1:
        raise RunError(
            f"run {ascii(name)[:60]}: expected one of {_names(runs)}, found {len(found)}; see `faelles-server runs`"
        )
    return found[0]


def _names(runs: Iterable[Run]) -> str:
    return ", ".join([run.name for run in runs][-5:])
