import errno
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server import enrolment
from server.control import FINISHED
from server.home import Home, Wish, create
from server.keeper import TRIES, Keeper
from server.orders import order
from server.result import RoundRecord, RunRecord, write_json
from server.runs import RECORD, Run
from server.runs import create as create_run


@dataclass
class FakeControl:
    """Keep Flower's runs in a dictionary."""

    statuses: dict[int, str] = field(default_factory=dict)
    configs: list[str] = field(default_factory=list)

    def runs(self) -> dict[int, str]:
        return self.statuses

    def start(self, bundle: bytes, config: str) -> int:
        self.configs.append(config)
        number = len(self.statuses) + 1
        self.statuses[number] = "running"
        return number

    def stop(self, number: int) -> None:
        self.statuses[number] = FINISHED


@dataclass
class FakeExecutor:
    """Hold no process."""

    asked: list[int] = field(default_factory=list)

    def stop(self, number: int) -> bool:
        self.asked.append(number)
        return False


@dataclass
class Bench:
    """Hold a keeper and what it keeps."""

    home: Home
    control: FakeControl
    executor: FakeExecutor
    keeper: Keeper
    now: list[float]

    def run(self) -> Run:
        return create_run(self.home.runs, "faelles-server run", order(["usecase=elder-admission"], self.home.runs))

    def die(self, number: int) -> None:
        self.control.statuses[number] = FINISHED

    def pass_time(self, seconds: float = 100.0) -> None:
        self.now[0] += seconds
        self.keeper.step()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    home = create(tmp_path / "coordinator", Wish(address="127.0.0.1:18443"))
    control, executor, now = FakeControl(), FakeExecutor(), [0.0]
    made = Keeper(home, control, executor, lambda: now[0])  # type: ignore[arg-type]  # what they need is there
    return Bench(home=home, control=control, executor=executor, keeper=made, now=now)


def test_a_new_run_is_started_once(bench: Bench) -> None:
    run = bench.run()
    for _ in range(3):
        bench.keeper.step()
    assert run.flower_runs == (1,)
    assert '"resume":false' in bench.control.configs[0]
    assert (run.folder / "provenance.json").exists()


def test_a_run_whose_process_died_is_taken_up(bench: Bench) -> None:
    run = bench.run()
    bench.keeper.step()
    bench.die(1)
    bench.pass_time()
    assert run.flower_runs == (1, 2)
    assert '"resume":true' in bench.control.configs[1]


def test_it_waits_longer_each_time_and_gives_up_where_nothing_gets_on(bench: Bench) -> None:
    run = bench.run()
    bench.keeper.step()
    for number in range(1, TRIES + 3):
        bench.die(number)
        bench.keeper.step()  # at once: not yet
        bench.pass_time()
    assert len(run.flower_runs) == TRIES
    assert run.record is not None
    assert run.record.status == "incomplete"
    assert "server.log" in run.record.why
    run.resume()
    bench.keeper.step()
    assert len(run.flower_runs) == TRIES + 1


def test_a_run_that_gets_on_is_never_given_up(bench: Bench) -> None:
    run = bench.run()
    bench.keeper.step()
    rounds: list[RoundRecord] = []
    for number in range(1, 2 * TRIES):
        rounds.append(RoundRecord(number=number, contributing=[], seconds=1.0, model_sha256=""))
        write_json(run.folder / RECORD, RunRecord(federation="f", quorum=0.5, rounds=rounds))
        bench.die(number)
        bench.pass_time()
    assert len(run.flower_runs) == 2 * TRIES


def test_a_stopped_run_is_ended_and_stays_so(bench: Bench) -> None:
    run = bench.run()
    bench.keeper.step()
    run.stop()
    bench.keeper.step()
    assert bench.executor.asked == [1]
    assert bench.control.statuses == {1: FINISHED}
    for _ in range(3):
        bench.pass_time()
    assert run.flower_runs == (1,)
    assert run.record is not None
    assert run.record.status == "stopped"


def test_what_ended_is_left_alone(bench: Bench) -> None:
    run = bench.run()
    write_json(run.folder / RECORD, RunRecord(federation="f", quorum=0.5, status="incomplete"))
    bench.pass_time()
    assert run.flower_runs == ()


def test_one_broken_run_does_not_hold_up_the_others(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    broken, whole = bench.run(), bench.run()
    (broken.folder / "order.json").write_text("{")
    bench.keeper.step()
    assert whole.flower_runs == (1,)
    assert "event=not-kept run=elder-admission-001" in caplog.text


def test_an_earlier_coordinators_runs_are_ended_when_it_takes_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "restore", lambda register, control: None)
    bench.control.statuses = {5: "running", 6: FINISHED, 7: "pending"}
    bench.keeper.take_over()
    assert bench.control.statuses == {5: FINISHED, 6: FINISHED, 7: FINISHED}


def test_a_flower_run_that_cannot_be_written_down_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.run()

    def full(path: object, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("server.runs.write_json", full)
        with pytest.raises(OSError, match="No space"):
            bench.keeper.step()
    assert bench.control.statuses == {1: FINISHED}
    bench.pass_time()
    assert run.flower_runs == (2,)
