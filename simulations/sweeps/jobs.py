"""Run the jobs of a sweep, keep those that are done already, and bring them into one table and one picture."""

from pathlib import Path

from hydra.conf import HydraConf
from rich.console import Console

from configs.schema import SimulationConfig
from faelles.errors import FaellesError
from server.formats import fixed
from server.result import Result, write_atomically
from simulations.run import run_study
from simulations.sweeps.chart import draw
from simulations.sweeps.groups import Figures, Job, describe, grouped
from simulations.sweeps.kept import finished
from simulations.sweeps.plan import Plan, settings_of
from simulations.sweeps.table import left_out, table_csv, table_md, table_rows

FILES = ("sweep.csv", "sweep.md", "sweep.svg")


class Sweep:
    """Run one job after the other, as Hydra hands them over.

    Args:
        console: Where each job gets a line, and the table stands at the end.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._jobs: list[Job] = []
        self._plan: Plan | None = None

    @property
    def folder(self) -> Path | None:
        """Give the sweep's folder; None before the first job."""
        return self._plan.folder if self._plan else None

    def run(self, config: SimulationConfig, run: HydraConf, command: str) -> Result:
        """Run a job, or keep what its folder holds of it.

        Raises:
            FaellesError: What the user can mend; the other jobs do not depend on it.
        """
        self._begin(run)
        settings = settings_of([str(one) for one in run.overrides.task])
        folder, title = Path(run.runtime.output_dir), self._title(settings)
        try:
            kept = finished(folder, config) if config.resume else None
            result = kept or run_study(config, folder, command, Console(quiet=True, force_terminal=False))
        except Exception as error:
            why = _why(error)
            self._jobs.append(Job(folder=str(run.sweep.subdir), settings=settings, figures=None, why=why))
            if isinstance(error, FaellesError | OSError):
                raise FaellesError(f"{title}: {why}") from None
            raise
        self._jobs.append(_job(str(run.sweep.subdir), settings, result))
        self._say(f"{'kept: ' if kept else ''}{title}: {_reached(result)}")
        return result

    def finish(self) -> None:
        """Write table and picture of all jobs, and print the table; without a job there is nothing to write."""
        if self._plan is None or not self._jobs:
            return
        groups = grouped(self._jobs)
        folder = self._plan.folder
        texts = (table_csv(groups), table_md(groups, self._plan.command), draw(groups))
        for name, text in zip(FILES, texts, strict=True):
            write_atomically(folder / name, text.encode())
        for line in ("", *table_rows(groups), "", *left_out(groups)):
            self._say(line)
        table, readable, drawn = (folder / name for name in FILES)
        self._say(f"table: {table}, {readable}; picture: {drawn}")

    def _begin(self, run: HydraConf) -> None:
        if self._plan is None:
            self._plan = Plan.of(run)
            # Of an earlier sweep here: not to be taken for this one's, should this one not end.
            for name in FILES:
                (self._plan.folder / name).unlink(missing_ok=True)
            count = "" if self._plan.total is None else f" of {self._plan.total} jobs"
            self._say(f"sweep{count}; results go to {self._plan.folder}")

    def _title(self, settings: dict[str, str]) -> str:
        assert self._plan is not None
        shown = {name: value for name, value in settings.items() if name in self._plan.swept} or settings
        number = len(self._jobs) + 1
        return f"{number}{'' if self._plan.total is None else f'/{self._plan.total}'} {describe(shown)}"

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _job(folder: str, settings: dict[str, str], result: Result) -> Job:
    if result.run.status == "completed":
        return Job(folder=folder, settings=settings, figures=Figures.of(result))
    return Job(folder=folder, settings=settings, figures=None, why=f"{result.run.status}: {result.run.why}")


def _reached(result: Result) -> str:
    """Say in a few words what a job reached."""
    seconds = f"{result.timing.total_s:.1f} s"
    if result.run.status != "completed":
        return f"{result.run.status} ({result.run.why}), {seconds}"
    auc = Figures.of(result).auc
    return f"AUC {'undefined' if auc is None else fixed(auc)}, {seconds}"


def _why(error: Exception) -> str:
    """Say in a line why a job has no result; what is no mistake of the user's is shown in full at the end."""
    if isinstance(error, FaellesError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'results'}: {(error.strerror or 'cannot be written').lower()}"
    return f"failed ({type(error).__name__})"
