"""faelles-sim: simulate a federation of all municipalities on this machine."""

import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from catalogue import shelf
from configs.schema import SimulationConfig, register
from faelles.errors import FaellesError
from simulations.run import run_study
from simulations.sweeps.jobs import Sweep

MISTAKE = 2  # the exit status of something that the user can mend
INCOMPLETE = 3  # of a run that fell below its quorum
console = Console()


def main() -> None:
    """Run the command; whatever the user can mend ends in one line and status 2, an incomplete run in status 3."""
    if "usecase=list" in sys.argv[1:]:
        _list_usecases()
        return
    # Hydra prints its own errors with several lines and a hint about tracebacks; raised, they become one line here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.getLogger("flwr").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    register()
    statuses: list[int] = []
    sweep = Sweep(console)

    @hydra.main(version_base="1.3", config_path="pkg://configs", config_name="simulation")
    def simulate(config: DictConfig) -> None:
        statuses.append(_simulate(config, sweep))

    try:
        _run_all(simulate, sweep)
    except (HydraException, OmegaConfBaseException) as error:
        _stop(_one_line(error))
    except KeyboardInterrupt:
        place = f"hydra.sweep.dir={shlex.quote(str(sweep.folder))}" if sweep.folder else f"the same {_folder_setting()}"
        _stop(f"interrupted; the same command with resume=true and {place} goes on", 130)
    except OSError as error:
        what = (error.strerror or "cannot be written").lower()
        _stop(f"{error.filename or 'results'}: {what}; choose another {_folder_setting()}")
    # The worst job of a multirun decides; the others have run.
    sys.exit(next((status for status in (MISTAKE, INCOMPLETE) if status in statuses), 0))


def _run_all(simulate: Callable[[], None], sweep: Sweep) -> None:
    """Run one study, or a sweep to its table."""
    try:
        simulate()
    except Exception:
        # Hydra raises a fault of ours after the last job: what the others reached is not lost with it.
        sweep.finish()
        raise
    sweep.finish()


def _simulate(config: DictConfig, sweep: Sweep) -> int:
    """Run one study and return its exit status; Hydra calls this once, or once for each job of a multirun."""
    run = HydraConfig.get()
    command = shlex.join(["faelles-sim", *run.overrides.task])
    resolved = OmegaConf.to_object(config)
    assert isinstance(resolved, SimulationConfig)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    try:
        if run.mode == RunMode.MULTIRUN:
            result = sweep.run(resolved, run, command)
        else:
            result = run_study(resolved, Path(run.runtime.output_dir), command, console)
    except FaellesError as error:
        # Caught here, for Hydra would print a line of its own about a job that raises.
        _complain(str(error))
        return MISTAKE
    return INCOMPLETE if result.run.status == "incomplete" else 0


def _folder_setting() -> str:
    """Name the setting that decides where results go."""
    return "hydra.sweep.dir" if {"-m", "--multirun"} & set(sys.argv) else "hydra.run.dir"


def _list_usecases() -> None:
    for name in shelf.names():
        card = shelf.find(name).card
        console.print(f"{name:24}{card.title.en}", highlight=False, soft_wrap=True)


def _one_line(error: Exception) -> str:
    """Keep what Hydra says was wrong, and drop its advice for programmers."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = str(error).split("Config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error, MissingConfigException):
        return f"{lines[0]}; {lines[1].lower()} {', '.join(lines[2:])}" if len(lines) > 2 else lines[0]
    detail = [line for line in str(root).splitlines()[:1] if line.strip() and line.strip() not in lines]
    return "; ".join([*lines[:1], *detail]) + "; see faelles-sim --help"


def _stop(text: str, status: int = MISTAKE) -> NoReturn:
    _complain(text)
    sys.exit(status)


def _complain(text: str) -> None:
    Console(stderr=True).print(f"error: {text}", highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
