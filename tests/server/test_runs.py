from pathlib import Path

import pytest

from faelles.errors import RunError
from server.orders import order
from server.result import RunRecord, write_json
from server.runs import RECORD, STATE, Run, all_runs, create, find


def new_run(folder: Path) -> Run:
    folder.mkdir(exist_ok=True)
    return create(folder, "faelles-server run", order(["usecase=elder-admission"], folder))


def record(run: Run, **fields: object) -> None:
    write_json(run.folder / RECORD, RunRecord(federation="f", quorum=0.5).model_copy(update=fields))


def test_runs_are_named_after_their_card_in_order(tmp_path: Path) -> None:
    made = [new_run(tmp_path) for _ in range(3)]
    assert [run.name for run in made] == [f"elder-admission-00{number}" for number in (1, 2, 3)]
    assert [run.name for run in all_runs(tmp_path)] == [run.name for run in made]
    assert made[0].order.federation.folder == made[0].folder
    assert made[0].folder.stat().st_mode & 0o077 == 0


def test_a_run_is_found_by_its_name_or_a_beginning_that_is_its_own(tmp_path: Path) -> None:
    first, second = new_run(tmp_path), new_run(tmp_path)
    assert find(tmp_path, first.name) == first
    assert find(tmp_path, "elder-admission-002") == second
    for wrong in ("elder", "", "nobody", "../etc", "x" * 500):
        with pytest.raises(RunError, match="expected one of elder-admission-001, elder-admission-002") as caught:
            find(tmp_path, wrong)
        assert "\n" not in str(caught.value)


def test_other_folders_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "elder-admission-001").mkdir()
    (tmp_path / "notes").mkdir()
    assert all_runs(tmp_path) == []
    assert new_run(tmp_path).name == "elder-admission-003"


def test_a_run_remembers_the_flower_runs_it_has_been(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert not run.flower_runs
    run.started(2**64 - 1)
    run.started(7)
    assert run.flower_runs == (2**64 - 1, 7)
    (run.folder / STATE).write_text("{")
    with pytest.raises(RunError, match="remove it"):
        _ = run.flower_runs


def test_a_run_ends_when_it_gave_up_or_everybody_has_the_model(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert not run.ended
    for status, ended in (("running", False), ("incomplete", True), ("stopped", True), ("completed", True)):
        record(run, status=status)
        assert run.ended == ended
    record(run, status="completed", declared_sizes={"0101": 50, "0147": 50, "0751": 50}, delivered=["0101"])
    assert not run.ended
    record(
        run, status="completed", declared_sizes={"0101": 50, "0147": 50, "0751": 50},
        delivered=["0101"], unwanted=["0147"], undelivered=["0751"],
    )  # fmt: skip
    assert run.ended


def test_a_stopped_run_is_taken_up_again(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.stop()
    run.close("stopped", "stopped by hand")
    assert run.stopped
    assert run.ended
    run.resume()
    assert not run.stopped
    assert not run.ended
    assert run.record is not None
    assert (run.record.status, run.record.why) == ("running", "")


def test_stopping_what_is_completed_only_ends_the_delivery(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    record(run, status="completed", declared_sizes={"0101": 50, "0147": 50}, delivered=["0101"])
    run.close("stopped", "stopped by hand")
    assert run.record is not None
    assert (run.record.status, run.record.undelivered) == ("completed", ["0147"])
    assert run.ended
    run.resume()
    assert not run.ended


def test_what_ended_is_not_closed_again(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    record(run, status="incomplete", why="round 2: 1 contributed, the quorum is 3")
    run.close("stopped", "stopped by hand")
    assert run.record is not None
    assert run.record.why == "round 2: 1 contributed, the quorum is 3"


def test_where_there_is_no_run_none_is_listed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run 'nosuch': expected a run, there is none yet; start one with") as caught:
        find(tmp_path, "nosuch")
    assert "\n" not in str(caught.value)
