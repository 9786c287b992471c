"""Show a live federation on this machine: a coordinator, agents, TLS, and a report, all ended again when it is over.

python -m simulations.demo --agents 8 --rounds 6 --folder outputs/demo
"""

import argparse
import logging
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from catalogue import shelf
from catalogue.shelf import UseCase
from faelles.errors import FaellesError, RunError
from faelles.municipalities import by_code
from faelles.privacy.plan import declared_band
from server.result import RunRecord
from server.runs import Run
from server.views import status_lines
from simulations.live import LiveFederation, Town

SEED = 1
PATIENCE_S = 200.0
MISTAKE, INTERRUPTED = 2, 130
RESULTS = ("report.html", "result.json", "provenance.json", "model.npz")
console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Run the demo; whatever happens, nothing of it is left running."""
    parser = argparse.ArgumentParser(prog="simulations.demo", description=__doc__)
    parser.add_argument("--agents", type=int, default=8, help="how many municipalities take part; 8")
    parser.add_argument("--rounds", type=int, default=6, help="of training; 6")
    parser.add_argument("--usecase", default="elder-admission", help="one of the catalogue with a synthetic twin")
    parser.add_argument("--folder", type=Path, default=Path("outputs/demo"), help="where everything goes")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # the processes have logs of their own
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        record = demo(given.usecase, given.agents, given.rounds, given.folder)
    except FaellesError as error:
        console.print(f"error: {error}", markup=False)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been ended")
        sys.exit(INTERRUPTED)
    sys.exit(0 if record.status == "completed" else MISTAKE)


def demo(usecase: str, agents: int, rounds: int, folder: Path) -> RunRecord:
    """Run a live federation on synthetic citizens and leave its report in a folder.

    Args:
        usecase: One of the catalogue.
        agents: How many municipalities.
        rounds: Of training.
        folder: Emptied first.

    Raises:
        FaellesError: It could not be run.
    """
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    chosen = towns(shelf.find(usecase), agents)
    names = ", ".join(by_code(town.code).name for town in chosen)
    console.print(f"{len(chosen)} municipalities with synthetic citizens: {names}")
    with LiveFederation(folder=folder.resolve(), usecase=usecase, towns=chosen) as live:
        live.set_up()
        console.print(
            "each has an agent, a registered population and an approved card; starting coordinator and agents"
        )
        live.start()
        console.print(f"all are enrolled and connected over TLS to {live.home.settings.address}")
        run = live.order(f"rounds={rounds}", "strategy=fedadam", "quorum=1.0", "deadline=1m", "wait=1m", "deliver=1m")
        record = _follow(live, run)
        live.command("report", run.name)
        for name in RESULTS:
            shutil.copy(run.folder / name, folder / name)
    console.print(f"ended after {time.monotonic() - began:.0f} s; the report is {folder / 'report.html'}")
    return record


def towns(usecase: UseCase, count: int) -> list[Town]:
    """Choose municipalities of a twin, from the smallest to the largest, that have every column.

    Raises:
        RunError: There are not so many.
    """
    if usecase.twin is None:
        raise RunError(f"usecase {usecase.card.id}: expected one with a synthetic twin, it has none; choose another")
    whole = {code: table for code, table in usecase.twin(SEED).items() if _is_whole(table)}
    if not 1 <= count <= len(whole):
        raise RunError(f"--agents {count}: expected 1 to {len(whole)}; choose fewer")
    by_size = sorted(whole, key=lambda code: whole[code].num_rows)
    chosen = [by_size[(2 * place + 1) * len(by_size) // (2 * count)] for place in range(count)]
    return [_town(usecase, code, whole[code]) for code in sorted(chosen)]


def _town(usecase: UseCase, code: str, table: pa.Table) -> Town:
    card = usecase.card
    citizens = len(pc.unique(table.column(card.unit)))
    training = round(citizens * (1 - card.evaluation.held_out))
    return Town(code=code, table=table, declared_size=declared_band(training), epsilon=card.privacy.epsilon)


def _is_whole(table: pa.Table) -> bool:
    """Say whether every column has values; an agent refuses to approve a card for a source that lacks one."""
    return all(column.null_count < len(column) for column in table.columns)


def _follow(live: LiveFederation, run: Run) -> RunRecord:
    """Show what happens until the run has ended."""
    said: set[str] = set()

    def look() -> None:
        for line in status_lines(run, datetime.now(UTC)):
            if "now:" not in line and line not in said and not line.startswith(run.name):
                said.add(line)
                console.print(line)

    record = live.finish(run, PATIENCE_S, look)
    console.print(status_lines(run, datetime.now(UTC))[0])
    return record


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
