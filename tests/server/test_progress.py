"""Whoever watches a run reads how far it is; nothing rests on it."""

import dataclasses
from pathlib import Path

from faelles.records import Kind
from server.exchange import Moment
from server.progress import EVERY_S, FILE, Progress, ProgressFile, read_progress
from tests.builders import build_card
from tests.scripted import NAMES, Clock, Town, only, silence

CARD = build_card()
MOMENT = Moment(
    asked=3, answered=1, counted=1, needed=2, deadline_in_s=50.0, gives_up_in_s=80.0, waiting_for=(1002, 1003)
)
TOWNS = {1001: "0101", 1002: "0147", 1003: "0751"}


def written(tmp_path: Path) -> Progress:
    progress = read_progress(tmp_path)
    assert progress is not None
    return progress


def test_a_moment_is_written_with_times_and_names(tmp_path: Path) -> None:
    ProgressFile(tmp_path, 3, lambda: 1000.0).write("train", 2, TOWNS, MOMENT)
    assert written(tmp_path) == Progress(
        phase="train", server_round=2, rounds=3, asked=3, answered=1, counted=1, needed=2, deadline_at=1050.0,
        gives_up_at=1080.0, waiting_for=("0147", "0751"), written_at=1000.0,
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_moment_is_written_once_a_second_and_whenever_somebody_answers(tmp_path: Path) -> None:
    clock = Clock()
    file = ProgressFile(tmp_path, 3, clock.now)

    def tell(moment: Moment = MOMENT, server_round: int = 2) -> float:
        file.write("train", server_round, TOWNS, moment)
        return written(tmp_path).written_at

    assert tell() == 0.0
    clock.pause(EVERY_S / 2)
    assert tell() == 0.0
    assert tell(dataclasses.replace(MOMENT, answered=2)) == EVERY_S / 2
    clock.pause(EVERY_S / 4)
    assert tell(dataclasses.replace(MOMENT, answered=2), 3) == 0.75 * EVERY_S
    clock.pause(EVERY_S)
    assert tell(dataclasses.replace(MOMENT, answered=2), 3) == 1.75 * EVERY_S


def test_what_is_not_there_or_of_another_version_is_no_progress(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    for text in ("", "{}", "[]", "\x00"):
        (tmp_path / FILE).write_text(text)
        assert read_progress(tmp_path) is None


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    ProgressFile(tmp_path / "none", 3).write("train", 1, TOWNS, MOMENT)
    assert read_progress(tmp_path / "none") is None


def test_a_run_tells_whom_it_waits_for(tmp_path: Path) -> None:
    town = Town(tmp_path, CARD).at("0851", only(Kind.TRAIN, 2, silence)).at("0147", only(Kind.TRAIN, 2, silence))
    town.run(quorum=1.0)
    told = written(tmp_path / "run")
    assert (told.phase, told.server_round, told.rounds) == ("train", 2, 3)
    assert (told.asked, told.answered, told.counted, told.needed) == (len(NAMES), 2, 2, 4)
    assert told.waiting_for == ("0147", "0851")
