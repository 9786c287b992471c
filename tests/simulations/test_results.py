"""The rows of docs/results.md: means and deviations of what result.json files hold."""

from pathlib import Path

import pytest

from simulations import results


def test_spread_is_mean_and_sample_deviation() -> None:
    assert results.spread([0.7, 0.8, 0.9]) == "0.8000 ± 0.1000"
    assert results.spread([0.5]) == "0.5000"  # one seed has no deviation
    assert results.spread([None, None]) == "undefined"


def test_every_row_prints_the_command_that_makes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.main(["--folder", str(tmp_path), "--data", "DATA"])
    printed = capsys.readouterr().out
    assert "| study | arm | epsilon |" in printed
    for row in results.ROWS:
        assert f"- {row.name}: `faelles-sim --multirun {row.overrides[0]}" in printed
    assert "data.path=DATA/chem97/chem97.parquet" in printed


def test_a_study_without_results_has_no_line() -> None:
    assert results.table_lines(results.ROWS[0], []) == []
