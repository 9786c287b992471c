"""Run one arm's federation through the real ServerApp and simulated municipalities, and measure it exactly."""

import functools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from pydantic import TypeAdapter
from rich.console import Console

from configs.schema import SimulationConfig
from faelles.errors import ConfigError
from faelles.models import Arrays
from faelles.records import Kind, parse_request
from server import checkpoint, heads
from server.app import app as server_app
from server.federation import RUN_CONFIG_KEY
from server.result import Arm, CurvePoint, RunRecord, finite, write_atomically
from simulations.cache import Loaded
from simulations.compare import arm_of, pooled_metrics
from simulations.engines import Cast, build_grid
from simulations.grid import FIRST_NODE_ID, RUN_ID, SERVER_NODE_ID
from simulations.parity import Differences, ParityGrid
from simulations.progress import ProgressBar
from simulations.questions import Question, Scores
from simulations.study import Study, federation_config

POINTS = TypeAdapter(list[CurvePoint])
ENDINGS = ("run.json", "model.npz", "result.json", "report.html")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Hold what one federation of a study left behind."""

    record: RunRecord
    arm: Arm
    local: Arm | None
    curve: list[CurvePoint]
    counts: dict[str, tuple[int, int]]  # training and held-out citizens of each municipality
    seconds: dict[str, float]
    apart: Differences | None  # of a fast engine and the reference, where both were run


class Simulation:
    """Run one arm's federation and measure it exactly.

    Args:
        study: What to run.
        loaded: The municipalities and their citizens.
        config: The resolved configuration.
        folder: Where checkpoints, stores and the curve go.
        console: Where progress is shown.
    """

    def __init__(
        self,
        study: Study,
        loaded: Loaded,
        config: SimulationConfig,
        folder: Path,
        console: Console,
    ) -> None:
        sites = loaded.sites
        self._study, self._config, self._folder = study, config, folder
        self._labels = {FIRST_NODE_ID + place: site.label for place, site in enumerate(sites)}
        population = [(site.label, site.table.num_rows, site.declared_size) for site in sites]
        self._federation = federation_config(study, config, folder, population)
        self._curve: list[CurvePoint] = []
        self._seconds = dict.fromkeys(("train", "evaluate"), 0.0)
        self._phase, self._since = "", time.monotonic()
        replies = len(sites) * (study.terms.rounds + 3 + study.terms.evaluate)
        self._bar = ProgressBar(console, f"{study.card.id} ({study.main_arm})", replies)
        cast = Cast(
            card=study.card,
            sites={FIRST_NODE_ID + place: site for place, site in enumerate(sites)},
            roll=loaded.roll,
            partition=loaded.partition,
            epsilon_cap=_cap(study),
            folder=folder / "nodes",
        )
        self._build = functools.partial(build_grid, cast, config, console, self._observe, self._bar.tick)

    def run(self, alone: bool) -> Outcome:
        """Run the federation, or take it up where its folder's checkpoint left it.

        Args:
            alone: Also fit each municipality's own model, for comparison.

        Raises:
            RunError: It could not be run at all; what it did is in the folder.
        """
        self._prepare()
        self._grid = self._build()
        with self._grid, self._bar:
            context = Context(
                run_id=RUN_ID,
                node_id=SERVER_NODE_ID,
                node_config={},
                state=RecordDict(),
                run_config={RUN_CONFIG_KEY: self._federation.model_dump_json()},
            )
            server_app(self._grid, context)
            self._turn("")
            record = RunRecord.model_validate_json((self._folder / "run.json").read_bytes())
            began = time.monotonic()
            scores = self._scores(self._aggregated() + 1, self._last_model())
            arm = arm_of(scores)
            counts = {label: one.citizens for label, one in scores.items()}
            self._seconds["evaluate"] += time.monotonic() - began
            began = time.monotonic()
            local = arm_of(self._ask(Question(kind="alone"))) if alone else None
        seconds = {**self._seconds, "compare": time.monotonic() - began}
        apart = self._grid.differences if isinstance(self._grid, ParityGrid) else None
        return Outcome(
            record=record, arm=arm, local=local, curve=self._curve, counts=counts, seconds=seconds, apart=apart
        )

    def _prepare(self) -> None:
        """Start from an empty folder, or keep stores and curve where the run is taken up.

        Raises:
            ConfigError: The folder holds a run that has not ended and is not to be taken up.
        """
        curve = self._folder / "curve.json"
        if self._config.resume:
            self._curve = POINTS.validate_json(curve.read_bytes()) if curve.is_file() else []
        else:
            if any(self._folder.glob("checkpoints/*")) and not self._ended():
                raise ConfigError(f"{self._folder}: holds a run that has not ended; add resume=true or choose another")
            for name in ("nodes", "checkpoints"):
                shutil.rmtree(self._folder / name, ignore_errors=True)
            curve.unlink(missing_ok=True)
            # Heads of the stores that were just removed; new ones would take them for a history that they lost.
            (self._folder / heads.FILE).unlink(missing_ok=True)
        # What an earlier run wrote here must not be taken for this one's, should this one not end.
        for name in ENDINGS:
            (self._folder / name).unlink(missing_ok=True)
        (self._folder / "nodes").mkdir(parents=True, exist_ok=True)

    def _ended(self) -> bool:
        record = self._folder / "run.json"
        return record.is_file() and RunRecord.model_validate_json(record.read_bytes()).status == "completed"

    def _observe(self, kind: str, messages: list[Message]) -> None:
        """See each round's model go out, and measure it: the arrays of round r are the model after round r - 1."""
        self._turn({Kind.TRAIN: "train", Kind.EVALUATE: "evaluate"}.get(Kind(kind), ""))
        if kind not in (Kind.TRAIN, Kind.FINAL):
            return
        request = parse_request(messages[0])
        after = request.server_round - (kind == Kind.TRAIN)
        if any(point.round == after for point in self._curve):
            return
        began = time.monotonic()
        metrics = pooled_metrics(self._scores(after + 1, request.arrays))
        self._curve.append(
            CurvePoint(
                round=after,
                auc=finite(metrics.auc),
                log_loss=finite(metrics.log_loss),
                accuracy=finite(metrics.accuracy),
            )
        )
        write_atomically(self._folder / "curve.json", POINTS.dump_json(self._curve))
        self._bar.point(self._curve[-1])
        self._seconds["evaluate"] += time.monotonic() - began
        self._since = time.monotonic()

    def _turn(self, phase: str) -> None:
        """Book the seconds since the last turn on the phase that ends."""
        now = time.monotonic()
        if self._phase:
            self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def _scores(self, before_round: int, shared: Arrays) -> dict[str, Scores]:
        federation = str(self._federation.federation)
        return self._ask(Question(kind="score", federation=federation, before_round=before_round, shared=shared))

    def _ask(self, question: Question) -> dict[str, Scores]:
        return {self._labels[node]: scores for node, scores in self._grid.ask_all(question).items()}

    def _aggregated(self) -> int:
        """Count the rounds that made the model; the local state of one that was not aggregated belongs to no model.

        The record does not tell: a run can be incomplete for its last round, its evaluation or who takes part. A
        checkpoint is written after each round that was aggregated and after no other.
        """
        newest = checkpoint.load_newest(self._folder / "checkpoints", self._federation.sha256)
        assert newest is not None  # a run that wrote a record began with one
        return newest.server_round

    def _last_model(self) -> Arrays:
        with np.load(self._folder / "model.npz") as archive:
            return {name: archive[name] for name in archive.files}


def _cap(study: Study) -> float:
    """Give simulated municipalities room for exactly this run; only an infinite cap allows one without privacy."""
    largest = max(study.card.privacy.epsilon, study.card.evaluation.epsilon)
    return study.terms.epsilon if study.terms.epsilon == float("inf") else largest
