"""A sweep as a researcher types it: a line for each job, one table, and what happens when it is taken up again."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from configs.schema import SimulationConfig
from faelles.errors import ConfigError
from server.result import Result
from simulations.sweeps import jobs as sweep
from simulations.sweeps.kept import finished
from tests.coordinators import wait_until
from tests.sweeps import configured, made_up, pretend, type_command, write_usecase

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0
LOOK_EVERY_S = 0.02


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    """Type what every sweep here begins with."""
    return ["--multirun", *write_usecase(tmp_path), f"hydra.sweep.dir={tmp_path / 'sweep'}"]


def reached(config: SimulationConfig) -> Result:
    """Make up that more epsilon is better, and that seed 3 is incomplete and seed 4 fails."""
    if config.seed == 4:
        raise ConfigError("seed=4: expected another")
    if config.seed == 5:
        raise OSError(28, "No space left on device", "somewhere")
    epsilon = config.privacy.epsilon or 1.0
    private = epsilon if epsilon < float("inf") else None
    return made_up(config, 0.75 + config.seed / 100, private, "incomplete" if config.seed == 3 else "completed")


def lines_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_a_job_is_a_line_and_the_end_a_table(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "run_study", pretend(reached))
    assert type_command(*base, "strategy=fedavg,fedadam", "privacy.epsilon=1,inf", "seed=1,2") == 0
    out, err = capfd.readouterr()
    printed = out.splitlines()
    assert err == ""
    assert printed[0] == f"sweep of 8 jobs; results go to {tmp_path / 'sweep'}"
    assert printed[1] == "1/8 strategy=fedavg privacy.epsilon=1 seed=1: AUC 0.7600, 3.2 s"
    assert printed[8] == "8/8 strategy=fedadam privacy.epsilon=inf seed=2: AUC 0.7700, 3.2 s"
    assert printed[-1].endswith(f"picture: {tmp_path / 'sweep' / 'sweep.svg'}")
    rows = lines_of(tmp_path / "sweep/sweep.csv")
    assert [(row["strategy"], row["privacy.epsilon"], row["seeds"]) for row in rows] == [
        ("fedavg", "1", "2"), ("fedavg", "inf", "2"), ("fedadam", "1", "2"), ("fedadam", "inf", "2"),
    ]  # fmt: skip
    for line in (tmp_path / "sweep/sweep.md").read_text(encoding="utf-8").splitlines()[6:]:
        assert line in printed


@pytest.mark.parametrize(("seeds", "status"), [("1,3", 3), ("3,4", 2), ("1,5", 2), ("1,2", 0)])
def test_the_worst_job_decides_and_the_table_is_written_all_the_same(
    base: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    seeds: str,
    status: int,
) -> None:
    monkeypatch.setattr(sweep, "run_study", pretend(reached))
    assert type_command(*base, f"seed={seeds}") == status
    out, err = capfd.readouterr()
    (row,) = lines_of(tmp_path / "sweep/sweep.csv")
    missing = sum(int(seed) > 2 for seed in seeds.split(","))
    assert (int(row["seeds"]), int(row["left_out"])) == (2 - missing, missing)
    assert f"{missing} of 2 jobs did not complete" in out or not missing
    assert err.count("\n") == (status == 2)
    assert ("- seed=4 (folder 1): seed=4: expected another" in out) == ("4" in seeds)
    assert ("error: 2/2 seed=5: somewhere: no space left on device" in err) == ("5" in seeds)


def test_a_fault_of_ours_loses_nothing_of_the_others(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def study(config: SimulationConfig) -> Result:
        if config.seed == 1:
            raise RuntimeError("a fault")
        return reached(config)

    monkeypatch.setattr(sweep, "run_study", pretend(study))
    with pytest.raises(RuntimeError, match="a fault"):
        type_command(*base, "seed=1,2")
    assert "- seed=1 (folder 0): failed (RuntimeError)" in capfd.readouterr().out
    assert (tmp_path / "sweep/sweep.svg").is_file()


def test_an_interrupted_sweep_names_its_own_folder(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def study(config: SimulationConfig) -> Result:
        if config.seed == 2:
            raise KeyboardInterrupt
        return reached(config)

    monkeypatch.setattr(sweep, "run_study", pretend(study))
    assert type_command(*base, "seed=1,3") == 3
    assert (tmp_path / "sweep/sweep.csv").is_file()
    capfd.readouterr()
    assert type_command(*base, "seed=1,2,3") == 130
    err = capfd.readouterr().err
    assert f"resume=true and hydra.sweep.dir={tmp_path / 'sweep'} goes on" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "sweep/sweep.csv").exists()


def test_a_job_that_is_done_is_kept_and_one_that_is_not_runs(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "run_study", pretend(reached))
    assert type_command(*base, "seed=1,3,2") == 3
    ran = []

    def study(config: SimulationConfig) -> Result:
        ran.append(config.seed)
        return made_up(config)

    monkeypatch.setattr(sweep, "run_study", pretend(study))
    capfd.readouterr()
    assert type_command(*base, "seed=1,3,2", "resume=true", "workers=2") == 0
    out = capfd.readouterr().out
    assert ran == [3]
    assert [line for line in out.splitlines() if line.startswith("kept: ")] == [
        "kept: 1/3 seed=1: AUC 0.7600, 3.2 s",
        "kept: 3/3 seed=2: AUC 0.7700, 3.2 s",
    ]
    assert lines_of(tmp_path / "sweep/sweep.csv")[0]["seeds"] == "3"
    assert "resume" not in (tmp_path / "sweep/sweep.md").read_text(encoding="utf-8")


def test_without_resume_every_job_runs_again(base: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def study(config: SimulationConfig) -> Result:
        ran.append(config.seed)
        return made_up(config)

    monkeypatch.setattr(sweep, "run_study", pretend(study))
    for _ in range(2):
        assert type_command(*base, "seed=1,2") == 0
    assert ran == [1, 2, 1, 2]


def test_the_result_of_other_settings_is_refused_in_one_line(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "run_study", pretend(reached))
    assert type_command(*base, "seed=1,2") == 0
    before = (tmp_path / "sweep/1/result.json").read_bytes()
    capfd.readouterr()
    assert type_command(*base, "resume=true", "seed=1,7") == 2
    out, err = capfd.readouterr()
    assert err == (
        f"error: 2/2 seed=7: {tmp_path / 'sweep/1'}: holds the result of other settings (seed was 2, now 7); "
        "go on with the command that the sweep began with, or choose another hydra.sweep.dir\n"
    )
    assert "1 of 2 jobs did not complete" in out
    assert (tmp_path / "sweep/1/result.json").read_bytes() == before


def test_another_card_is_another_job(tmp_path: Path) -> None:
    write_usecase(tmp_path)
    config = configured(tmp_path)
    assert finished(tmp_path / "out", config) is None
    study = pretend(made_up)
    study(config, tmp_path / "out", "", Console())
    kept = finished(tmp_path / "out", config)
    assert kept == made_up(config)
    card = tmp_path / "card.yaml"
    card.write_text(card.read_text(encoding="utf-8").replace("clipping_norm: 1.0", "clipping_norm: 2.0"), "utf-8")
    with pytest.raises(ConfigError, match=r"other settings \(another card\)"):
        finished(tmp_path / "out", config)


def test_a_result_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    write_usecase(tmp_path)
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"result\.json: expected a result, .* remove it to run the job$"):
        finished(tmp_path, configured(tmp_path))


def test_a_killed_sweep_goes_on_where_it_was(
    base: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = [*base, "rounds=2", "privacy.epsilon=1,inf", "seed=1,2"]
    process = subprocess.Popen([sys.executable, "-m", "simulations.cli", *typed], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(tmp_path.glob("sweep/2/checkpoints/*")), WITHIN_S, "the third job", LOOK_EVERY_S)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = sorted(tmp_path.glob("sweep/*/result.json"))
    before = [(path.read_bytes(), os.stat(path).st_mtime_ns) for path in done]
    assert 2 <= len(done) < 4
    assert not (tmp_path / "sweep/sweep.csv").exists()
    assert type_command(*typed, "resume=true") == 0
    out = capfd.readouterr().out
    assert [(path.read_bytes(), os.stat(path).st_mtime_ns) for path in done] == before
    assert out.count("kept: ") == len(done)
    assert "All 4 jobs completed." in out
    assert [(row["privacy.epsilon"], row["seeds"]) for row in lines_of(tmp_path / "sweep/sweep.csv")] == [
        ("1", "2"),
        ("inf", "2"),
    ]
    assert (tmp_path / "sweep/sweep.svg").is_file()
