"""Measure and print the rows of docs/results.md: `python -m simulations.results [--run] [--data DIR]`.

Each row is a study over its seeds that `faelles-sim` runs in full; its command stands in the row. Without `--run` only
what earlier runs left under outputs/results is printed. A study that is there is not run again.
"""

import argparse
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.result import Arm, Result, read_result

SEEDS = (1, 2, 3, 4, 5)
HEADINGS = ("study", "arm", "epsilon", "AUC", "log loss", "mean accuracy of sites", "seconds")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold one study: its name, its overrides, the file under the data folder ("" for a twin), and its seeds."""

    name: str
    overrides: tuple[str, ...]
    data: str
    seeds: tuple[int, ...] = SEEDS

    def folder(self, root: Path, seed: int) -> Path:
        """Say where a seed's result goes."""
        return root / self.name / str(seed)

    def arguments(self, data: Path) -> list[str]:
        """List the arguments of `faelles-sim`, the seed left out."""
        return [*self.overrides, *([f"data.path={data / self.data}"] if self.data else [])]


MORTALITY, INCOME = "dk_mortality/dk_mortality.parquet", "acs_income/acs_income.parquet"
EXAMS, HEART = "chem97/chem97.parquet", "heart_disease/heart_disease.parquet"
ADAM = ("usecase=income", "strategy=fedadam")
PLAIN = ("privacy.epsilon=inf", "rounds=100", "training.learning_rate=1")
PUBLISHED = ("usecase=heart-disease-flamby", "privacy.epsilon=inf")
ROWS = (
    Row(name="mortality-65", overrides=("usecase=mortality-65",), data=MORTALITY),
    Row(name="income", overrides=ADAM, data=INCOME),
    Row(name="income-without-privacy", overrides=(*ADAM, *PLAIN), data=INCOME),
    Row(name="exam-grades", overrides=("usecase=exam-grades",), data=EXAMS),
    Row(name="heart-disease", overrides=("usecase=heart-disease", "compare=true"), data=HEART),
    Row(name="heart-published", overrides=PUBLISHED, data=HEART),
    Row(name="heart-published-all-shared", overrides=(*PUBLISHED, "model.local=[]"), data=HEART),
    Row(
        name="heart-published-equal-weights",
        overrides=(*PUBLISHED, "model.local=[]", "weighting=equal"),
        data=HEART,
    ),
    Row(name="elder-admission", overrides=("usecase=elder-admission", "compare=true"), data="", seeds=(1, 2, 3)),
    Row(name="mortality-65-arms", overrides=("usecase=mortality-65", "compare=true"), data=MORTALITY, seeds=(1,)),
    Row(name="income-arms", overrides=(*ADAM, "compare=true"), data=INCOME, seeds=(1,)),
    Row(name="exam-grades-arms", overrides=("usecase=exam-grades", "compare=true"), data=EXAMS, seeds=(1,)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing where asked to, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m simulations.results", description=__doc__)
    parser.add_argument("--run", action="store_true", help="run the studies that have no result yet")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--folder", type=Path, default=Path("outputs/results"), help="where results are kept")
    chosen = parser.parse_args(arguments)
    print(f"| {' | '.join(HEADINGS)} |\n|{' --- |' * len(HEADINGS)}")
    for row in ROWS:
        if chosen.run:
            for seed in row.seeds:
                _run(row, seed, chosen.folder, chosen.data)
        paths = [path for seed in row.seeds if (path := row.folder(chosen.folder, seed) / "result.json").is_file()]
        results = [result for path in paths if (result := read_result(path)).run.status == "completed"]
        for line in table_lines(row, results):
            print(line)
    print()
    for row in ROWS:
        seeds = ",".join(str(seed) for seed in row.seeds)
        print(f"- {row.name}: `faelles-sim --multirun {shlex.join(row.arguments(chosen.data))} seed={seeds}`")


def table_lines(row: Row, results: Sequence[Result]) -> list[str]:
    """Write a line for each arm: means and standard deviations over the seeds; a study without results has none."""
    if not results:
        return []
    arms = [arm for arm in results[0].arms if all(arm in result.arms for result in results)]
    epsilon = "none" if results[0].privacy.epsilon is None else f"{results[0].privacy.epsilon:.3g}"
    lines = []
    for arm in arms:
        measured = [result.arms[arm] for result in results]
        spent = epsilon if arm in ("federated", "personalised") else "none"
        cells = [
            spread([one.auc.pooled for one in measured]),
            spread([one.log_loss.pooled for one in measured]),
            spread([site_mean(one) for one in measured]),
            f"{statistics.mean(result.timing.total_s for result in results):.0f}" if arm == arms[0] else "",
        ]
        seeds = f"{len(results)} seed{'s' if len(results) > 1 else ''}"
        lines.append(f"| {row.name} ({seeds}) | {arm} | {spent} | {' | '.join(cells)} |")
    return lines


def site_mean(arm: Arm) -> float | None:
    """Average the accuracy over sites, each counting once."""
    accuracies = [one for one in arm.accuracy.by_site.values() if one is not None]
    return statistics.mean(accuracies) if accuracies else None


def spread(values: Sequence[float | None]) -> str:
    """Write mean and sample standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return "undefined"
    deviation = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.4f}{deviation}"


def _run(row: Row, seed: int, folder: Path, data: Path) -> None:
    place = row.folder(folder, seed)
    if (place / "result.json").is_file():
        return
    command = [*row.arguments(data), f"seed={seed}", f"hydra.run.dir={place}"]
    print(f"running faelles-sim {shlex.join(command)}", file=sys.stderr)
    # Studies run one after the other; each uses every core.
    subprocess.run(
        [sys.executable, "-m", "simulations.cli", *command], check=False, stdout=subprocess.DEVNULL
    )  # our own rows


if __name__ == "__main__":
    main()
