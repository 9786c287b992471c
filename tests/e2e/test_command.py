"""The installed command, in a process of its own and a folder that is not the repository."""

import subprocess
import sys
from pathlib import Path

from server.result import read_result


def faelles_sim(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the console script beside this Python."""
    command = [str(Path(sys.executable).with_name("faelles-sim")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_all_98_municipalities_learn_one_model(tmp_path: Path) -> None:
    done = faelles_sim(tmp_path, "rounds=1", "hydra.run.dir=out")
    assert (done.returncode, done.stderr) == (0, "")
    result = read_result(tmp_path / "out" / "result.json")
    assert len(result.run.expected) == 98
    assert len(result.run.rounds[0].contributing) == 98
    assert result.sites["0101"].name == "København"
    assert "Vejle" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "out/report.html" in done.stdout


def test_a_mistake_ends_in_one_line_and_status_2(tmp_path: Path) -> None:
    done = faelles_sim(tmp_path, "usecase=elder-admission", "rounds=none-at-all")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
