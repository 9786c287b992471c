"""What KOMBIT is told of a run is how the run is: stopped, complete, on its way home, or waiting for a coordinator."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faelles.errors import ConfigError
from server import commands
from server.home import Home, Wish, create
from server.lock import hold
from server.orders import order
from server.result import RunRecord, write_json
from server.runs import RECORD, Run
from server.runs import create as create_run

SIZES = {"0101": 50, "0147": 50, "0751": 50}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(commands, "probe", lambda port: True)
    monkeypatch.setattr(commands, "LOOK_EVERY_S", 0.0)
    return create(tmp_path / "srv", Wish(address="127.0.0.1:18443"))


@pytest.fixture
def run(home: Home) -> Run:
    return create_run(home.runs, "faelles-server run", order(["usecase=elder-admission"], home.runs))


def record(run: Run, **fields: object) -> None:
    made = RunRecord(federation="f", quorum=0.5, expected=list(SIZES), declared_sizes=SIZES)
    write_json(run.folder / RECORD, made.model_copy(update=fields))


def say(command: Callable[[Namespace], Iterator[str]], home: Home, run: Run) -> list[str]:
    return list(command(Namespace(dir=home.folder, run=run.name)))


@pytest.fixture
def obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do at once what the keeper does in a moment."""

    def stop(run: Run) -> None:
        asked(run)
        run.close("stopped", "stopped by hand")

    asked = Run.stop
    monkeypatch.setattr(Run, "stop", stop)


@pytest.mark.usefixtures("obeyed")
def test_a_run_that_is_stopped_is_taken_up_again(home: Home, run: Run) -> None:
    record(run)
    (line,) = say(commands.stop, home, run)
    assert line == f"{run.name} is stopped; `faelles-server resume {run.name}` takes it up again"
    assert say(commands.resume, home, run) == [f"{run.name} is taken up at its last finished round"]


@pytest.mark.usefixtures("obeyed")
def test_stopping_a_delivery_says_that_the_run_is_complete(home: Home, run: Run) -> None:
    record(run, status="completed", delivered=["0101"])
    (line,) = say(commands.stop, home, run)
    assert "is complete and its delivery was stopped: the model has reached 1 of 3; " in line
    assert line.endswith(f"`faelles-server resume {run.name}` delivers again")
    assert "  the model has reached 1 of 3" in say(commands.status, home, run)
    (line,) = say(commands.resume, home, run)
    assert line == f"{run.name} is complete; its model is delivered to the 2 it has not reached"
    assert not run.ended


def test_a_delivery_that_ended_before_it_could_be_stopped_was_not_stopped(
    home: Home, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(run, status="completed", delivered=["0101"])
    monkeypatch.setattr(Run, "stop", lambda self: record(self, status="completed", delivered=list(SIZES)))
    (line,) = say(commands.stop, home, run)
    assert line == f"{run.name} is complete, and so was its delivery: the model has reached 3 of 3"


def test_who_follows_a_run_sees_its_model_come_home(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    record(run, status="completed")
    coming = list(SIZES)

    def later(seconds: float) -> None:
        coming.pop()
        record(run, status="completed", delivered=[code for code in SIZES if code not in coming])

    monkeypatch.setattr("server.commands.time.sleep", later)
    lines = say(commands.watch, home, run)
    assert [line for line in lines if "reached" in line] == [f"  the model has reached {n} of 3" for n in range(4)]


def test_who_follows_a_run_that_gave_up_is_let_go(home: Home, run: Run) -> None:
    record(run, status="incomplete", why="round 1: 1 contributed, the quorum is 2")
    assert "  why: round 1: 1 contributed, the quorum is 2" in say(commands.watch, home, run)


def test_a_run_that_waits_for_a_coordinator_says_so(home: Home, run: Run) -> None:
    advice = f"the coordinator does not answer; start it with `faelles-server up --dir {home.folder}`"
    assert say(commands.status, home, run) == [f"{run.name}: waiting to start", f"  {advice}"]
    assert not (home.folder / "lock").exists()  # looking leaves nothing behind
    with hold(home.folder):
        assert say(commands.status, home, run) == [f"{run.name}: waiting to start"]
        with pytest.raises(ConfigError, match="has begun, it has not; wait a moment"):
            say(commands.report, home, run)
    assert f"  {advice}" in say(commands.status, home, run)
    with pytest.raises(ConfigError, match="does not answer, start it with `faelles-server up --dir"):
        say(commands.report, home, run)
