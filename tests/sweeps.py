"""Make up sweeps: a use case on disk, results that look real, and the command as a researcher types it."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console

from catalogue import shelf
from configs.schema import SimulationConfig, StrategyConfig
from faelles.card import Bilingual
from server.result import Arm, Figure, Privacy, Result, RunRecord, Timing, Usecase, write_json
from server.summary import plain
from simulations import cli
from simulations.study import resolve
from simulations.sweeps.groups import Figures, Job
from tests.builders import build_card, build_table

WORDS = Bilingual(da="cykler", en="bicycles")
Study = Callable[[SimulationConfig, Path, str, Console], Result]


def write_usecase(folder: Path) -> list[str]:
    """Write a small use case with its rows, and return the overrides that name them."""
    card = build_card().model_dump(mode="json")
    (folder / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    tables = [
        build_table(60, seed).append_column("site", pa.array([site] * build_table(60, seed).num_rows))
        for seed, site in enumerate(("0101", "0147", "0751"))
    ]
    pq.write_table(pa.concat_tables(tables), folder / "rows.parquet")
    return [f"usecase={folder}", f"data.path={folder / 'rows.parquet'}", "workers=1"]


def type_command(*arguments: str) -> int:
    """Run faelles-sim in this process, and return its status."""
    with mock.patch.object(sys, "argv", ["faelles-sim", *arguments]):
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def configured(usecase: Path, seed: int = 1) -> SimulationConfig:
    """Configure a job as the command does where nothing else was typed."""
    return SimulationConfig(usecase=str(usecase), strategy=StrategyConfig(name="fedavg"), seed=seed)


def made_up(
    config: SimulationConfig, auc: float | None = 0.75, epsilon: float | None = 1.0, status: str = "completed"
) -> Result:
    """Make up what a job might have reached."""
    card = resolve(shelf.find(config.usecase), config).card
    figure = Figure(pooled=0.5, by_site={})
    arm = Arm(auc=Figure(pooled=auc, by_site={}), log_loss=figure, accuracy=figure, calibration_error=figure)
    return Result(
        command="faelles-sim",
        seed=config.seed,
        usecase=Usecase(id=card.id, version=1, title=WORDS, card_sha256=card.sha256, derived=False, note=None),
        strategy=config.strategy.name,
        config=plain(asdict(config)),
        versions={},
        privacy=Privacy(
            private=epsilon is not None, unit=WORDS, epsilon=epsilon, delta=1e-5, clipping_norm=1.0, prv_epsilon=None,
            evaluation_epsilon=None, plans=[], statement=WORDS,
        ),
        main_arm="federated",
        arms={"federated": arm},
        sites={},
        run=RunRecord.model_validate({"federation": "f", "status": status, "why": "too few", "quorum": 0.8}),
        timing=Timing(train_s=2.0, total_s=3.25),
        curve=[],
    )  # fmt: skip


def pretend(outcome: Callable[[SimulationConfig], Result]) -> Study:
    """Make a stand-in for a study that leaves its result in the folder and takes no time."""

    def study(config: SimulationConfig, folder: Path, command: str, console: Console) -> Result:
        result = outcome(config)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "result.json", result)
        return result

    return study


def job(number: int, auc: float | None, epsilon: float, why: str = "", **settings: str) -> Job:
    """Make up a job of a sweep; one with a reason has no figures."""
    figures = Figures(auc=auc, log_loss=0.5, accuracy=0.625, epsilon=epsilon, seconds=2.0 + number)
    typed = {name.replace("__", "."): value for name, value in settings.items()}
    return Job(folder=str(number), settings=typed, figures=None if why else figures, why=why)
