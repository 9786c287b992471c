"""What never leaves is kept by the round that made it, also for a run that is taken up."""

from pathlib import Path

import numpy as np
import pytest

from faelles.errors import RunError
from simulations.kept import VERSIONS, Kept

INITIAL = np.array([0.5, -0.5], np.float32)


def of(value: float, count: int = 3) -> np.ndarray:
    return np.full((count, 2), value, np.float32)


def build(folder: Path) -> Kept:
    return Kept(folder, INITIAL, 3)


def test_everybody_begins_with_the_initial_ones(tmp_path: Path) -> None:
    np.testing.assert_array_equal(build(tmp_path).before(1), np.tile(INITIAL, (3, 1)))
    assert not list(tmp_path.iterdir())


def test_a_round_sees_what_the_one_before_it_left(tmp_path: Path) -> None:
    kept = build(tmp_path)
    for number in (1, 2):
        kept.keep(number, (0, 1, 2), of(number))
    for before_round, value in ((2, 1), (3, 2), (9, 2)):
        np.testing.assert_array_equal(kept.before(before_round), of(value))


def test_who_did_not_take_part_keeps_what_it_had(tmp_path: Path) -> None:
    kept = build(tmp_path)
    kept.keep(1, (0, 1, 2), of(1))
    kept.keep(2, (2, 0), np.array([[7, 7], [8, 8]], np.float32))
    np.testing.assert_array_equal(kept.before(3)[:, 0], [8, 1, 7])
    np.testing.assert_array_equal(kept.before(2), of(1))


def test_a_round_may_be_kept_in_parts(tmp_path: Path) -> None:
    kept = build(tmp_path)
    for place in range(3):
        kept.keep(1, (place,), of(place + 1, count=1))
    np.testing.assert_array_equal(kept.before(2)[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(build(tmp_path).before(2)[:, 0], [1, 2, 3])


def test_a_round_that_is_trained_again_replaces_itself(tmp_path: Path) -> None:
    kept = build(tmp_path)
    for value in (1, 2):
        kept.keep(1, (0, 1, 2), of(value))
    np.testing.assert_array_equal(kept.before(2), of(2))


def test_a_run_that_is_taken_up_finds_them(tmp_path: Path) -> None:
    kept = build(tmp_path)
    for number in (1, 2, 3):
        kept.keep(number, (0, 1, 2), of(number))
    again = build(tmp_path)
    for before_round in (1, 3, 4):
        if before_round > 1:
            np.testing.assert_array_equal(again.before(before_round), kept.before(before_round))
    again.keep(3, (0, 1, 2), of(9))  # the round whose checkpoint was lost
    np.testing.assert_array_equal(again.before(4), of(9))
    np.testing.assert_array_equal(again.before(3), of(2))


def test_only_the_last_rounds_stay_on_disk(tmp_path: Path) -> None:
    kept = build(tmp_path)
    for number in range(1, 8):
        kept.keep(number, (0, 1, 2), of(number))
        assert len(list(tmp_path.iterdir())) <= VERSIONS
    kept_rounds = range(8 - VERSIONS, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"local-{number:05d}.npy" for number in kept_rounds]


@pytest.mark.parametrize("again", [False, True])
def test_what_is_not_kept_any_more_is_told_in_one_line(tmp_path: Path, again: bool) -> None:
    kept = build(tmp_path)
    for number in range(1, 8):
        kept.keep(number, (0, 1, 2), of(number))
    kept = build(tmp_path) if again else kept
    np.testing.assert_array_equal(kept.before(9 - VERSIONS), of(8 - VERSIONS))
    with pytest.raises(RunError, match="round 2: expected local parameters of the round before") as caught:
        kept.before(2)
    assert "\n" not in str(caught.value)


def test_where_nothing_is_local_nothing_is_written(tmp_path: Path) -> None:
    kept = Kept(tmp_path, np.zeros(0, np.float32), 3)
    kept.keep(1, (0, 1, 2), np.zeros((3, 0), np.float32))
    assert kept.before(5).shape == (3, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no array"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: np.save(path, of(1).astype(np.float64)),
        lambda path: np.save(path, of(1, count=2)),
        lambda path: np.save(path, np.array([None]), allow_pickle=True),
    ],
)
def test_a_file_of_something_else_is_told_in_one_line(tmp_path: Path, spoil: object) -> None:
    build(tmp_path).keep(1, (0, 1, 2), of(1))
    (path,) = tmp_path.iterdir()
    spoil(path)  # type: ignore[operator]
    with pytest.raises(RunError, match="expected this run's local parameters, something else is there") as caught:
        build(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
