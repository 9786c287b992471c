"""Run one study: its federation, the arms beside it, and its result."""

import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from catalogue import shelf
from configs.schema import SimulationConfig
from faelles.errors import ConfigError
from server.report import write_report
from server.result import Arm, Result, Timing, write_json
from server.summary import plain, privacy_of, usecase_of, versions
from simulations.cache import Loaded, load
from simulations.compare import arm_of, pooled_scores
from simulations.engines import check_engine
from simulations.progress import print_summary
from simulations.simulation import Outcome, Simulation
from simulations.study import Study, federation_config, resolve, with_local
from simulations.summary import sites_of
from strategies.registry import build

PERSONAL = ("output.bias",)  # what the personalised arm keeps local where the card keeps nothing local


def _check_settings(study: Study, config: SimulationConfig, folder: Path) -> None:
    """Refuse wrong settings before any data is read."""
    check_engine(config)
    if study.usecase.held_out and study.terms.epsilon < float("inf"):
        # Its adapter fits to the data before any noise, so an epsilon would be a claim that is not true.
        raise ConfigError(
            f"usecase={study.card.id}: expected privacy.epsilon=inf, for its protocol is not private; add it"
        )
    federation_config(study, config, folder)
    build(config.strategy.name, dict(config.strategy.terms))


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
    study = resolve(shelf.find(config.usecase), config)
    _check_settings(study, config, folder)
    loaded = load(study, config)
    startup_s = time.monotonic() - began
    main = Simulation(study, loaded, config, folder, console).run(alone=config.compare)
    compared = time.monotonic()
    arms = {study.main_arm: main.arm, **_beside(study, loaded, config, folder, console, main)}
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
        sites=sites_of(loaded.sites, main.counts),
        run=main.record,
        parity=main.apart,
        timing=Timing(
            startup_s=startup_s,
            train_s=main.seconds["train"],
            evaluate_s=main.seconds["evaluate"],
            compare_s=main.seconds["compare"] + time.monotonic() - compared,
            total_s=time.monotonic() - began,
        ),
    )
    write_json(folder / "result.json", result)
    write_report(result, folder / "report.html")
    print_summary(result, folder, console)
    return result


def _beside(
    study: Study, loaded: Loaded, config: SimulationConfig, folder: Path, console: Console, main: Outcome
) -> dict[str, Arm]:
    """Measure what a study is compared with; nothing where it was not asked for."""
    if main.local is None:
        return {}
    arms = {"local": main.local}
    other = with_local(study, () if study.card.model.local else PERSONAL)
    beside = Simulation(other, loaded, config, folder / other.main_arm, console).run(alone=False)
    if beside.record.status == "completed":
        arms[other.main_arm] = beside.arm
    else:
        console.print(f"the {other.main_arm} arm is left out: {beside.record.why}", highlight=False)
    return {**arms, "pooled": arm_of(pooled_scores(study.card, loaded.roll))}
