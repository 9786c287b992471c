"""A round's seconds and bytes are laid where they were spent."""

import pytest

from faelles.errors import RunError
from server.result import RoundRecord, RunRecord
from simulations.pace import Answered, Boundary, Followed, Pace
from simulations.relay import Carried


def record(*seconds: float) -> RunRecord:
    rounds = [
        RoundRecord(number=number, contributing=["0101"], seconds=one, model_sha256="")
        for number, one in enumerate(seconds, start=1)
    ]
    return RunRecord(federation="f", quorum=1.0, rounds=rounds)


def boundary(number: int, at: float, carried: int) -> Boundary:
    return Boundary(number=number, at=at, carried=Carried(up=carried, down=2 * carried))


def train(code: str, at: float, seconds: float, work: float) -> Answered:
    return Answered(code=code, kind="train", at=at, seconds=seconds, work=work)


ENDS = [boundary(0, 0.0, 0), boundary(1, 10.0, 5), boundary(2, 15.5, 11)]


def test_the_last_to_answer_tells_where_a_round_went() -> None:
    seen = Followed(
        record=record(9.0, 5.0),
        boundaries=ENDS,
        answered=[
            train("0101", 9.0, 5.0, 4.0),  # of the first round, which is left out
            train("0101", 13.0, 2.0, 1.75),
            train("0147", 14.0, 1.0, 0.5),
            Answered(code="0147", kind="query.final", at=15.0, seconds=0.1, work=0.1),
        ],
    )
    assert seen.paces == [
        Pace(
            round_s=5.0, beyond_s=3.25, waited_s=3.0, handled_s=0.5, taken_s=1.0, kept_s=0.5,
            carried=Carried(up=6, down=12),
        )
    ]  # fmt: skip


def test_a_round_without_an_answer_cannot_be_reckoned() -> None:
    with pytest.raises(RunError, match="round 2: expected answers"):
        _ = Followed(record=record(9.0, 5.0), boundaries=ENDS).paces


def test_a_round_whose_end_was_not_seen_cannot_be_reckoned() -> None:
    with pytest.raises(RunError, match="expected the ends of 2 rounds, saw 1"):
        _ = Followed(record=record(9.0, 5.0), boundaries=ENDS[:2]).paces
