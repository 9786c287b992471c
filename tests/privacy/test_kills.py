"""kill -9 at any point loses nothing: what left is paid for once, kept and journalled, and the agent goes on."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run Python in a process of its own: one with the threads of a test runner is no place to fork from."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def kill(folder: Path, kills: int, work: str, seed: int) -> "subprocess.CompletedProcess[str]":
    return run("-m", "tests.kills", folder, "--kills", str(kills), "--seed", str(seed), "--work", work)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [50, pytest.param(1900, marks=pytest.mark.soak)])
def test_a_store_that_was_killed_holds_all_that_left_and_goes_on(tmp_path: Path, kills: int) -> None:
    done = kill(tmp_path, kills, "custody", random.getrandbits(32))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["kills"] == kills
    assert told["left"] > kills // 5


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.soak)])
def test_a_municipality_that_was_killed_while_it_trained_holds_all_that_left_and_goes_on(
    tmp_path: Path, kills: int
) -> None:
    done = kill(tmp_path, kills, "node", random.getrandbits(32))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["kills"] == kills


def test_an_answer_that_is_kept_before_it_is_paid_for_is_found_out(tmp_path: Path) -> None:
    done = kill(tmp_path, 400, "careless", random.getrandbits(32))
    assert done.returncode == 1
    assert "AssertionError" in done.stderr


def test_what_lies_on_disk_is_kept_with_neither_torch_nor_flower() -> None:
    modules = "store, ledger, head, outbox, journal, consent, keys, policy, chain, migrations"
    loaded = "{'torch', 'opacus', 'flwr'} & set(sys.modules)"
    done = run("-c", f"import sys\nfrom client import {modules}\nimport tests.custody\nsys.exit(bool({loaded}))")
    assert done.returncode == 0, done.stderr
