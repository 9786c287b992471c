"""Measure one engine on one workload, in a process of its own: `python -m simulations.speed.one ENGINE WORK ROUNDS`.

Nothing is shared with other engines, and what an engine imports is imported before the clock starts.
"""

import importlib
import json
import logging
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from simulations.speed.measured import Measured
from simulations.speed.workload import Workload

ENGINES = {
    "cohort": "simulations.speed.ours:measure_cohort",
    "reference": "simulations.speed.ours:measure_reference",
    "plain": "simulations.speed.plain:measure",
    "plain-documented": "simulations.speed.plain:measure_documented",
    "flower": "simulations.speed.stock_flower:measure",
    "flower-documented": "simulations.speed.stock_flower:measure_documented",
    "pfl": "simulations.speed.with_pfl:measure",
    "floor": "simulations.speed.floor:measure",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """Hold what one engine took.

    Args:
        rounds_s: Seconds of each counted round.
        study_s: Of everything but imports: data made, workers started, a first round that is not counted, and ended.
        memory_mib: The largest of its processes, at its peak.
    """

    rounds_s: tuple[float, ...]
    study_s: float
    memory_mib: float


def main() -> None:
    """Measure and print what was found as JSON, on the last line."""
    engine, work, rounds = sys.argv[1:]
    fields = json.loads(work)
    workload = Workload(**{**fields, "hidden": tuple(fields["hidden"])})
    module, name = ENGINES[engine].split(":")
    measure: Callable[[Workload, int], Measured] = getattr(importlib.import_module(module), name)
    logging.getLogger("flwr").setLevel(logging.ERROR)  # after the import that sets it
    began = time.monotonic()
    measured = measure(workload, int(rounds))
    study_s = time.monotonic() - began
    used = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps(asdict(Found(rounds_s=measured.rounds_s, study_s=study_s, memory_mib=used / 1024))))


if __name__ == "__main__":
    main()
