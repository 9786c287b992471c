"""Print how fast a round is, this simulator beside others: `python -m simulations.speed [--quick] [--only NAME]`.

Every row is measured in this one run, each engine in a process of its own. A rival stands there twice: tuned by us
until it was as quick as we could make it, and as its own documentation has it. Seconds are the median of the counted
rounds, with the quickest and the slowest in brackets; a first round, in which libraries and workers wake up, is left
out for everybody. Leave the machine alone meanwhile.
"""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from statistics import median

from simulations.speed.claims import claims
from simulations.speed.one import Found
from simulations.speed.parts import parts_lines
from simulations.speed.workload import HUNDRED, LARGE, SMALL, TEN_THOUSAND, THOUSAND, Workload

HEADINGS = ("municipalities", "model", "privacy", "engine", "seconds a round", "times as long", "MiB")
STUDY = 20  # rounds of a whole study
# How many rounds are counted; an engine that is left out would take minutes a round there.
ROUNDS: dict[str, dict[str, int]] = {
    SMALL.name: {
        "cohort": 15, "reference": 3, "plain": 7, "plain-documented": 3, "flower": 7, "flower-documented": 4, "pfl": 9,
        "floor": 25,
    },
    LARGE.name: {"cohort": 3, "plain": 1, "floor": 3},
    HUNDRED.name: {"cohort": 15, "floor": 25},
    THOUSAND.name: {"cohort": 7, "plain": 3, "pfl": 5, "floor": 9},
    TEN_THOUSAND.name: {"cohort": 3, "plain": 1, "pfl": 2, "floor": 3},
}  # fmt: skip
# What an engine cannot do otherwise, or nobody asks of it.
PRIVATE_ONLY, OPEN_ONLY = ("reference", "flower-documented"), ("plain", "plain-documented")
Results = dict[tuple[str, Workload], Found]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table, what follows from it, and what a round consists of."""
    parser = argparse.ArgumentParser(prog="python -m simulations.speed", description=__doc__)
    parser.add_argument("--only", help="only cases whose name contains this, e.g. small", default="")
    parser.add_argument("--quick", action="store_true", help="only 98 small with an mlp, and the whole study")
    chosen = parser.parse_args(arguments)
    logging.getLogger("flwr").setLevel(logging.ERROR)  # its lines would stand in the table
    print(f"| {' | '.join(HEADINGS)} |\n|{' --- |' * len(HEADINGS)}", flush=True)
    results: Results = {}
    for workload in _cases(chosen.only, chosen.quick):
        for engine in _engines(workload):
            results[engine, workload] = measure(engine, workload, ROUNDS[workload.name][engine])
            print(_line(engine, workload, results), flush=True)
    studies = {engine: measure(engine, SMALL, STUDY).study_s for engine in ("cohort", "flower", "flower-documented")}
    print("\n" + "\n".join([*claims(results, studies), "", *parts_lines(SMALL)]))


def measure(engine: str, workload: Workload, rounds: int) -> Found:
    """Measure one engine in a process of its own."""
    command = [sys.executable, "-m", "simulations.speed.one", engine, json.dumps(asdict(workload)), str(rounds)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{engine} on {workload.name}: ended with {done.returncode}; {done.stderr[-2000:]}")
    fields = json.loads(done.stdout.splitlines()[-1])
    return Found(**{**fields, "rounds_s": tuple(fields["rounds_s"])})


def _cases(only: str, quick: bool) -> Iterator[Workload]:
    sizes = (SMALL,) if quick else (SMALL, LARGE, HUNDRED, THOUSAND, TEN_THOUSAND)
    for size in sizes:
        for hidden in (size.hidden,) if quick else (size.hidden, ()):
            for private in (True, False):
                if only in size.name:
                    yield replace(size, hidden=hidden, private=private)


def _engines(workload: Workload) -> list[str]:
    left_out = OPEN_ONLY if workload.private else PRIVATE_ONLY
    return [engine for engine in ROUNDS[workload.name] if engine not in left_out]


def _line(engine: str, workload: Workload, results: Results) -> str:
    found = results[engine, workload]
    ours = median(results["cohort", workload].rounds_s)
    middle = median(found.rounds_s)
    cells = (
        workload.name,
        "mlp " + "-".join(map(str, workload.hidden)) if workload.hidden else "logistic",
        "yes" if workload.private else "no",
        engine,
        f"{middle:.4f} ({min(found.rounds_s):.4f} to {max(found.rounds_s):.4f})",
        f"{middle / ours:.2f}",
        f"{found.memory_mib:.0f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
