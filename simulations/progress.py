"""Show a researcher how far a simulation is."""

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from server.result import CurvePoint, Result
from simulations.parity import largest


class ProgressBar:
    """Draw one bar: replies that came, of all that the rounds will ask for."""

    def __init__(self, console: Console, title: str, replies: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("replies"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"), console=console,
        )  # fmt: skip
        self._task = self._progress.add_task(title, total=replies, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tick(self) -> None:
        """Count one reply."""
        self._progress.advance(self._task)

    def point(self, point: CurvePoint) -> None:
        """Show the model's figures after a round; a console that cannot redraw gets a line every tenth round."""
        auc = "undefined" if point.auc is None else f"{point.auc:.4f}"
        loss = "undefined" if point.log_loss is None else f"{point.log_loss:.4f}"
        text = f"round {point.round}: AUC {auc}, log loss {loss} (exact)"
        self._progress.update(self._task, figures=text)
        if not self._console.is_terminal and point.round % 10 == 0:
            self._console.print(text)


def print_summary(result: Result, folder: Path, console: Console) -> None:
    """Print what a run reached, what it cost, who took part, and where the report is."""
    table = Table(title=f"{result.usecase.title.en} (exact, not releasable)", title_justify="left")
    for heading in ("arm", "AUC", "log loss", "accuracy"):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for label, arm in result.arms.items():
        figures = (arm.auc.pooled, arm.log_loss.pooled, arm.accuracy.pooled)
        table.add_row(label, *("undefined" if one is None else f"{one:.4f}" for one in figures))
    console.print(table)
    privacy, run = result.privacy, result.run
    if privacy.private:
        cost = f"epsilon {privacy.epsilon:.3f} at delta {privacy.delta:g}, unit: {privacy.unit.en}"
    else:
        cost = "trained WITHOUT privacy: for simulations only"
    console.print(f"privacy: {cost}", highlight=False)
    contributed = len(run.rounds[-1].contributing) if run.rounds else 0
    why = f" ({run.why})" if run.why else ""
    console.print(
        f"run: {run.status}{why}; {len(run.expected)} expected, {contributed} contributed to the last round, "
        f"{len(run.sits_out)} sit out, {len(run.rounds)} rounds, {result.timing.total_s:.0f} s",
        highlight=False,
    )
    for name, reason in list(run.sits_out.items())[:10]:
        console.print(f"sits out: {name} ({reason})", highlight=False)
    if len(run.sits_out) > 10:
        console.print(f"sits out: {len(run.sits_out) - 10} more; the report names all", highlight=False)
    if result.parity is not None:
        apart, name, array = largest(result.parity)
        console.print(f"parity: at most {apart:.2g} from the reference, in {array} of {name}", highlight=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
