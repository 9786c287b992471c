"""Run one study: a federation through the real ServerApp and ClientApps, the arms beside it, and its result."""

import logging
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from pydantic import TypeAdapter
from rich.console import Console

from catalogue import shelf
from client.dataset import Partition
from configs.schema import SimulationConfig
from faelles.errors import ConfigError
from faelles.models import Arrays
from faelles.records import Kind, parse_request
from server import checkpoint, heads
from server.app import app as server_app
from server.federation import RUN_CONFIG_KEY
from server.report import write_report
from server.result import Arm, CurvePoint, Result, RunRecord, Timing, finite, write_atomically, write_json
from server.summary import plain, privacy_of, usecase_of, versions
from simulations.compare import arm_of, pooled_metrics, pooled_scores
from simulations.grid import FIRST_NODE_ID, RUN_ID, SERVER_NODE_ID, InProcessGrid
from simulations.population import ColumnPartition, Site, load_sites
from simulations.progress import ProgressBar, print_summary
from simulations.questions import Question, Scores
from simulations.study import Study, federation_config, resolve, with_local
from simulations.summary import sites_of
from simulations.worker import Crew
from strategies.registry import build

log = logging.getLogger(__name__)
POINTS = TypeAdapter(list[CurvePoint])
ENDINGS = ("run.json", "model.npz", "result.json", "report.html")
PERSONAL = ("output.bias",)  # what the personalised arm keeps local where the card keeps nothing local


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Hold what one federation of a study left behind."""

    record: RunRecord
    arm: Arm
    local: Arm | None
    curve: list[CurvePoint]
    counts: dict[str, tuple[int, int]]  # training and held-out citizens of each municipality
    seconds: dict[str, float]


class Simulation:
    """Run one arm's federation and measure it exactly.

    Args:
        study: What to run.
        sites: The municipalities.
        config: The resolved configuration.
        partition: How citizens are held out; None means by each municipality's key.
        folder: Where checkpoints, stores and the curve go.
        console: Where progress is shown.
    """

    def __init__(
        self,
        study: Study,
        sites: list[Site],
        config: SimulationConfig,
        partition: Partition | None,
        folder: Path,
        console: Console,
    ) -> None:
        self._study, self._sites, self._config = study, sites, config
        self._folder, self._partition = folder, partition
        self._labels = {FIRST_NODE_ID + place: site.label for place, site in enumerate(sites)}
        population = [(site.label, site.table.num_rows, site.declared_size) for site in sites]
        self._federation = federation_config(study, config, folder, population)
        self._curve: list[CurvePoint] = []
        self._seconds = dict.fromkeys(("train", "evaluate"), 0.0)
        self._phase, self._since = "", time.monotonic()
        replies = len(sites) * (study.terms.rounds + 3 + study.terms.evaluate)
        self._bar = ProgressBar(console, f"{study.card.id} ({study.main_arm})", replies)
        self._grid = InProcessGrid(self._crews(), self._observe, self._bar.tick)

    def run(self, alone: bool) -> Outcome:
        """Run the federation, or take it up where its folder's checkpoint left it.

        Args:
            alone: Also fit each municipality's own model, for comparison.

        Raises:
            RunError: It could not be run at all; what it did is in the folder.
        """
        self._prepare()
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
        return Outcome(record=record, arm=arm, local=local, curve=self._curve, counts=counts, seconds=seconds)

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

    def _crews(self) -> list[Crew]:
        """Deal the municipalities out, large ones first, so that workers end at about the same time."""
        workers = max(1, min(self._config.workers or os.cpu_count() or 1, len(self._sites)))
        nodes = sorted(self._labels, key=lambda node: -self._site(node).citizens)
        return [
            Crew(
                card=self._study.card,
                sites={node: self._site(node) for node in nodes[number::workers]},
                folder=self._folder / "nodes",
                seed=self._config.seed,
                epsilon_cap=_cap(self._study),
                partition=self._partition,
            )
            for number in range(workers)
        ]

    def _site(self, node: int) -> Site:
        return self._sites[node - FIRST_NODE_ID]

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


def _check_settings(study: Study, config: SimulationConfig, folder: Path) -> None:
    """Refuse wrong settings before any data is read."""
    if config.workers is not None and config.workers < 1:
        raise ConfigError(f"workers={config.workers}: expected 1 or more processes; leave it out to use every core")
    if study.usecase.held_out and study.terms.epsilon < float("inf"):
        # Its adapter fits to the data before any noise, so an epsilon would be a claim that is not true.
        raise ConfigError(
            f"usecase={study.card.id}: expected privacy.epsilon=inf, for its protocol is not private; add it"
        )
    federation_config(study, config, folder)
    build(config.strategy.name, dict(config.strategy.terms))


def _cap(study: Study) -> float:
    """Give simulated municipalities room for exactly this run; only an infinite cap allows one without privacy."""
    largest = max(study.card.privacy.epsilon, study.card.evaluation.epsilon)
    return study.terms.epsilon if study.terms.epsilon == float("inf") else largest


def run_study(config: SimulationConfig, folder: Path, command: str, console: Console) -> Result:
    """Run a study from a resolved configuration, and write result.json and report.html into a folder.

    Args:
        config: What was typed, composed by Hydra.
        folder: Where everything goes.
        command: What reproduces it.
        console: Where progress and the summary are shown.

    Raises:
        FaellesError: What the user can mend.
    """
    began = time.monotonic()
    console.print(f"results go to {folder}", highlight=False, soft_wrap=True)
    usecase = shelf.find(config.usecase)
    study = resolve(usecase, config)
    _check_settings(study, config, folder)
    partition = ColumnPartition(column=usecase.held_out[0], value=usecase.held_out[1]) if usecase.held_out else None
    path = Path(config.data.path) if config.data.path else None
    sites = load_sites(usecase, study.card, path, config.data.site, config.seed)
    startup_s = time.monotonic() - began
    arms: dict[str, Arm] = {}
    main = Simulation(study, sites, config, partition, folder, console).run(alone=config.compare)
    arms[study.main_arm] = main.arm
    seconds = main.seconds
    if config.compare and main.local is not None:
        began_compare = time.monotonic()
        arms["local"] = main.local
        other = with_local(study, () if study.card.model.local else PERSONAL)
        beside = Simulation(other, sites, config, partition, folder / other.main_arm, console).run(alone=False)
        if beside.record.status == "completed":
            arms[other.main_arm] = beside.arm
        else:
            console.print(f"the {other.main_arm} arm is left out: {beside.record.why}", highlight=False)
        arms["pooled"] = arm_of(pooled_scores(study.card, sites, config.seed, partition))
        seconds["compare"] += time.monotonic() - began_compare
    result = Result(
        command=command,
        seed=config.seed,
        usecase=usecase_of(study.card, study.derived),
        strategy=config.strategy.name,
        config=plain(asdict(config)),
        versions=versions(),
        privacy=privacy_of(study.card, study.terms, main.record),
        main_arm=study.main_arm,  # type: ignore[arg-type]
        arms=arms,  # type: ignore[arg-type]
        curve=main.curve,
        sites=sites_of(sites, main.counts),
        run=main.record,
        timing=Timing(
            startup_s=startup_s,
            train_s=seconds["train"],
            evaluate_s=seconds["evaluate"],
            compare_s=seconds["compare"],
            total_s=time.monotonic() - began,
        ),
    )
    write_json(folder / "result.json", result)
    write_report(result, folder / "report.html")
    print_summary(result, folder, console)
    return result
