from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.commands import _steady
from server.exchange import Moment
from server.orders import order
from server.progress import ProgressFile
from server.result import RoundRecord, RunRecord, write_json
from server.runs import RECORD, Run, create
from server.views import run_line, status_lines

NOW = 1_800_000_000.0
NAMES = {1: "0101", 2: "0147", 3: "0851"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create(tmp_path, "faelles-server run", order(["usecase=elder-admission"], tmp_path))


def record(run: Run, **fields: object) -> None:
    made = RunRecord(
        federation="f", quorum=0.5, expected=list(NAMES.values()), declared_sizes=dict.fromkeys(NAMES.values(), 50)
    )
    write_json(run.folder / RECORD, made.model_copy(update=fields))


def now_line(run: Run, at: float) -> str:
    (line,) = [one for one in status_lines(run, datetime.fromtimestamp(at, UTC)) if "now:" in one]
    return line.strip()


def wait_for(run: Run, *waiting: int, counted: int = 1) -> None:
    moment = Moment(asked=3, answered=3 - len(waiting), counted=counted, needed=2, deadline_in_s=60.0,
                    gives_up_in_s=360.0, waiting_for=waiting)  # fmt: skip
    ProgressFile(run.folder, 30, lambda: NOW).write("train", 4, NAMES, moment)


def test_a_run_counts_down_to_its_deadline_and_then_to_giving_up(run: Run) -> None:
    record(run)
    wait_for(run, 2, 3)
    assert now_line(run, NOW) == (
        "now: round 4 of 30: training, 1 of 3 have answered; waiting for 0147, 0851, deadline in 60 s"
    )
    assert now_line(run, NOW + 59).endswith("deadline in 1 s")
    assert now_line(run, NOW + 100).endswith("waiting for a quorum of 2, giving up in 260 s")
    assert now_line(run, NOW + 900).endswith("giving up in 0 s")


def test_who_follows_a_run_sees_the_countdown_every_ten_seconds(run: Run) -> None:
    record(run)
    wait_for(run, 3)
    said = {_steady(now_line(run, NOW + second)) for second in range(60)}
    assert len(said) == 7
    assert _steady("  round 3: 4 contributed in 5.9 s") == "  round 3: 4 contributed in 5.9 s"


def test_a_round_names_who_did_not_contribute_and_why(run: Run) -> None:
    one = RoundRecord(number=1, contributing=["0101"], refused={"0147": "budget-exhausted"}, missing=["0851"],
                      late=["0851"], seconds=61.0, model_sha256="")  # fmt: skip
    record(run, rounds=[one], sits_out={"0751": "not connected"}, why="round 1: 1 contributed, the quorum is 2",
           status="incomplete")  # fmt: skip
    text = "\n".join(status_lines(run, datetime.fromtimestamp(NOW, UTC)))
    assert "round 1: 1 contributed in 61.0 s (refused: 0147 budget-exhausted; missing: 0851; late: 0851)" in text
    assert "(0751) (not connected)" in text
    assert "why: round 1" in text
    assert "incomplete" in run_line(run)


def test_a_model_on_its_way_home_is_counted(run: Run) -> None:
    record(run, status="completed", delivered=["0101", "0147"])
    assert "the model has reached 2 of 3" in "\n".join(status_lines(run, datetime.fromtimestamp(NOW, UTC)))


def test_a_complete_model_that_reached_nobody_says_so(run: Run) -> None:
    reached = "the model has reached 0 of 3"
    record(run)
    assert reached not in "\n".join(status_lines(run, datetime.fromtimestamp(NOW, UTC)))
    record(run, status="completed", undelivered=list(NAMES.values()))
    assert reached in "\n".join(status_lines(run, datetime.fromtimestamp(NOW, UTC)))
