"""The types say what the gate checks: a handler that would let something else out does not pass mypy --strict."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Each line that ends with the mark must be found wrong, and no other line.
MARK = "  # E:"
# Libraries that no counter-example names are left out: with torch a run takes half a minute.
CONFIG = """
[mypy]
strict = true
explicit_package_bases = true
[mypy-flwr.*,opacus.*,pyarrow.*,randomgen.*,scipy.*,torch.*]
follow_imports = skip
ignore_missing_imports = true
"""
COUNTER_EXAMPLES = """
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.egress import Gate
from faelles.card import UseCaseCard
from faelles.privacy.accountant import Event
from faelles.privacy.release import Release
from faelles.privacy.update import TrainingRelease
from faelles.records import Answer, Code, Constants, Refusal, Request


def numbers(
    gate: Gate,
    request: Request,
    card: UseCaseCard,
    event: Event,
    constants: Constants,
    arrays: dict[str, NDArray[np.float32]],
) -> None:
    trained = TrainingRelease(update=Release(arrays=arrays, event=event), local=arrays)
    gate.clear(request, card, 50, constants, trained.update, event)
    gate.clear(request, card, 50, constants, Release(arrays=arrays, event=event), event)
    gate.clear(request, card, 50, constants)
    gate.clear(request, card, 50, constants, 0.73, event)  # E: a bare number
    gate.clear(request, card, 50, constants, 17, event)  # E: a count
    gate.clear(request, card, 50, constants, "0101701234", event)  # E: a text
    gate.clear(request, card, 50, constants, arrays, event)  # E: arrays that no mechanism made
    gate.clear(request, card, 50, constants, arrays["output.bias"], event)  # E: one of them
    gate.clear(request, card, 50, constants, [Release(arrays=arrays, event=event)], event)  # E: a list
    gate.clear(request, card, 50, constants, trained, event)  # E: local state beside the update
    gate.clear(request, card, 50, constants, trained.local, event)  # E: local state
    gate.clear(request, card, 50, constants, ValueError("0101701234"), event)  # E: an exception
    gate.clear(request, card, 50, constants, Release(arrays=arrays, event=event), 0.5)  # E: a number for an event
    gate.clear(request, card, 50, constants, Release(arrays=arrays, event=event), "free")  # E: a text for an event
    gate.clear(request, card, 50, constants, rows=17)  # E: a key more
    gate.clear(request, card, 50.5, constants)  # E: no whole number
    gate.clear(request, card, 50, {"declared-size": 50})  # E: a mapping for constants
    gate.clear(request, card, 50, "declared-size=50")  # E: a text for constants
    gate.clear(request, card, 50, None)  # E: nothing for constants


def constants(size: int, share: float, error: Exception) -> None:
    Constants(municipality="0101", declared_size=size, ledger_head="{}")
    Constants(rows=size)  # E: a constant that is none
    Constants(declared_size=share)  # E: a share for a size
    Constants(municipality=error)  # E: an exception for a name
    Constants(ledger_head=b"bytes")  # E: bytes for a head
    Constants("0101")  # E: a value without a name
    Constants(municipality="0101").municipality = "0147"  # E: constants do not change


def releases(event: Event, whole: NDArray[np.float32], double: NDArray[np.float64], card: UseCaseCard) -> None:
    made = Release(arrays={"output.bias": whole}, event=event)
    Release(arrays={"output.bias": double}, event=event)  # E: float64
    Release(arrays={"output.bias": [0.5]}, event=event)  # E: a list for an array
    Release(arrays={"output.bias": 0.5}, event=event)  # E: a number for an array
    Release(arrays={0: whole}, event=event)  # E: a number for a name
    Release(arrays=[whole], event=event)  # E: a list for arrays
    Release(arrays={"output.bias": whole})  # E: no event
    Release(arrays={"output.bias": whole}, event=0.5)  # E: an epsilon for an event
    Release(arrays={"output.bias": whole}, event=event, note="0101701234")  # E: a field more
    made.arrays["more"] = whole  # E: what is in a release does not change
    made.arrays = {}  # E: nor does all of it
    made.event = None  # E: nor its event


def ready(request: Request) -> Answer | Refusal:
    return {"rows": 17}  # E: a mapping for an answer


def train(request: Request) -> Answer | Refusal:
    return 0.73  # E: a number for an answer


def fail(error: Exception) -> Refusal:
    return Refusal(code=str(error))  # E: an exception's text for a code


def explain(error: Exception) -> Refusal:
    return Refusal(code=Code.FAILED, reason=str(error))  # E: a text beside the code


def cap(error: Exception) -> Refusal:
    return Refusal(code=Code.FAILED, epsilon_cap=str(error))  # E: a text for a cap
"""


def test_every_counter_example_fails_mypy_strict_and_no_line_beside_them(tmp_path: Path) -> None:
    path, config = tmp_path / "counter_examples.py", tmp_path / "mypy.ini"
    path.write_text(COUNTER_EXAMPLES, encoding="utf-8")
    config.write_text(CONFIG, encoding="utf-8")
    options: list[str | Path] = [
        "--config-file",
        config,
        "--cache-dir",
        tmp_path / "cache",
        "--no-error-summary",
        "--no-pretty",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, path],
        cwd=ROOT, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = COUNTER_EXAMPLES.splitlines()
    wanted = {number for number, line in enumerate(lines, start=1) if MARK in line}
    found = {int(number) for number in re.findall(r"counter_examples\.py:(\d+): error", run.stdout)}
    assert found == wanted, run.stdout + run.stderr
    assert len(wanted) > 30


def calls(path: Path) -> set[str]:
    """List the names that a file calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_an_answer_is_assembled_at_the_gate_and_nowhere_else() -> None:
    files = {path: calls(path) for path in (ROOT / "client").rglob("*.py")}
    assert [path.name for path, names in files.items() if "Answer" in names] == ["egress.py"]
    assert [path.name for path, names in files.items() if "Answer.unpack" in names] == ["node.py"]
    assert [path.name for path, names in files.items() if "answer_message" in names] == ["app.py"]
    replying = {"Message", "RecordDict", "ArrayRecord", "ConfigRecord", "MetricRecord", "Error"}
    assert {path.name: names & replying for path, names in files.items() if names & replying} == {}
