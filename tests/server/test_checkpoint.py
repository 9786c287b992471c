"""A checkpoint is whole or absent, and of one federation."""

from pathlib import Path

import numpy as np
import pytest

from faelles.errors import RunError
from server.checkpoint import Checkpoint, load_newest, save, write_model
from server.result import RoundRecord, RunRecord

ARRAYS = {"output.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "output.bias": np.zeros(2, np.float32)}


def checkpoint(server_round: int, config_sha256: str = "ours") -> Checkpoint:
    record = RunRecord(federation="f", quorum=0.8, expected=["0101", "0147"], sits_out={"0147": "no-data"})
    record.rounds.append(
        RoundRecord(number=server_round, contributing=["0101"], silent=[], seconds=0.1, model_sha256="m")
    )
    return Checkpoint(
        config_sha256=config_sha256,
        server_round=server_round,
        arrays={name: array + np.float32(server_round) for name, array in ARRAYS.items()},
        strategy_state={"m_t/output.weight": np.full((2, 3), 0.1), "v_t/output.weight": np.zeros((2, 3), np.float64)},
        record=record,
    )


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved = checkpoint(3)
    save(tmp_path, saved)
    found = load_newest(tmp_path, "ours")
    assert found is not None
    assert (found.server_round, found.config_sha256, found.record) == (3, "ours", saved.record)
    for before, after in ((saved.arrays, found.arrays), (saved.strategy_state, found.strategy_state)):
        assert list(before) == list(after)
        for name, array in before.items():
            assert after[name].dtype == array.dtype
            np.testing.assert_array_equal(after[name], array)


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path, "ours") is None
    assert load_newest(tmp_path / "missing", "ours") is None


def test_the_newest_of_the_last_two_is_taken(tmp_path: Path) -> None:
    for server_round in (0, 1, 9, 10, 11):
        save(tmp_path, checkpoint(server_round))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-00010.checkpoint", "round-00011.checkpoint"]
    found = load_newest(tmp_path, "ours")
    assert found is not None
    assert found.server_round == 11


def test_a_half_written_draft_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, checkpoint(1))

    def die(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, checkpoint(2))
    (draft,) = set(tmp_path.iterdir()) - {tmp_path / "round-00001.checkpoint"}
    draft.write_bytes(draft.read_bytes()[:100])
    found = load_newest(tmp_path, "ours")
    assert found is not None
    assert found.server_round == 1
    save(tmp_path, checkpoint(2))
    again = load_newest(tmp_path, "ours")
    assert again is not None
    assert again.server_round == 2


def test_a_crash_while_saving_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, checkpoint(1))
    save(tmp_path, checkpoint(2))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save(tmp_path, checkpoint(3))
    names = {path.name for path in tmp_path.glob("*.checkpoint")}
    assert names == {"round-00001.checkpoint", "round-00002.checkpoint"}


def test_another_federations_folder_is_refused(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1, "theirs"))
    with pytest.raises(RunError, match="holds another federation; resume with the command it was started with"):
        load_newest(tmp_path, "ours")


@pytest.mark.parametrize("keep", [0, 1, 50, 0.5, 0.99])
def test_garbage_is_refused_in_one_line(tmp_path: Path, keep: float) -> None:
    save(tmp_path, checkpoint(1))
    path = tmp_path / "round-00001.checkpoint"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(RunError, match=r"round-00001.checkpoint: expected a checkpoint, it cannot be read") as caught:
        load_newest(tmp_path, "ours")
    assert "\n" not in str(caught.value)


def test_a_zip_of_something_else_is_garbage_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "other.npz").rename(tmp_path / "round-00001.checkpoint")
    with pytest.raises(RunError, match="expected a checkpoint"):
        load_newest(tmp_path, "ours")


def test_the_finished_model_is_plain_numpy(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    write_model(path, ARRAYS)
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == list(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(archive[name], array)
            assert archive[name].dtype == np.float32
