"""What the agent's processes hand each other is theirs alone, fresh each time, and for one agent."""

import os
import time
from pathlib import Path

import pytest

from client import runtime as module
from client.runtime import Runtime, only_agent
from faelles.errors import ConfigError, LedgerError


def test_each_start_has_secrets_of_its_own_that_only_the_owner_can_read(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        with only_agent(tmp_path) as runtime:
            seen.append((runtime.secret.read_bytes(), runtime.key.read_bytes()))
            assert runtime.folder.stat().st_mode & 0o777 == 0o700
            assert {path.stat().st_mode & 0o077 for path in runtime.folder.iterdir()} == {0}
        assert [path.name for path in runtime.folder.iterdir()] == ["lock"]
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]
    assert len(seen[0][0]) == 64


def test_what_a_killed_agent_left_is_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "flower" / "apps").mkdir(parents=True)
    folder.chmod(0o755)
    for name in ("task", "lost", "worker.ready", "mistake.json", "superexec.secret"):
        (folder / name).write_text("old")
    (folder / "link").symlink_to(tmp_path)
    with only_agent(tmp_path) as runtime:
        assert (runtime.holding(), runtime.lost(), runtime.ready(), runtime.mistake()) == (False, False, False, None)
        assert runtime.secret.read_text() != "old"
        assert sorted(os.listdir(runtime.folder)) == ["flower", "lock", "loopback.key", "loopback.pem",
                                                      "superexec.secret"]  # fmt: skip
        assert runtime.folder.stat().st_mode & 0o077 == 0
    assert tmp_path.exists()


def test_one_agent_at_a_time_runs_in_a_folder(tmp_path: Path) -> None:
    with only_agent(tmp_path) as first:
        secret = first.secret.read_bytes()
        with pytest.raises(ConfigError, match="one does; stop it first") as error, only_agent(tmp_path):
            pass
        assert "der kører allerede en agent" in error.value.text("da")
        assert first.secret.read_bytes() == secret
    with only_agent(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").write_text("a file of somebody's")
    with pytest.raises(ConfigError, match="expected a folder that can be written") as error, only_agent(tmp_path):
        pass
    assert "der kan ikke skrives i mappen (findes allerede)" in error.value.text("da")
    (tmp_path / "run").unlink()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    told = "no space left on device; correct its permissions or make room"
    with pytest.raises(ConfigError, match=told) as error, only_agent(tmp_path):
        pass
    assert "disken er fuld" in error.value.text("da")


def test_the_address_is_the_last_that_was_written(tmp_path: Path) -> None:
    with only_agent(tmp_path) as runtime:
        for port in (1234, 2345):
            runtime.listen_on(port)
            assert Runtime.of(tmp_path).address == f"127.0.0.1:{port}"


@pytest.mark.parametrize(("age_s", "holding", "ready"), [
    (0, False, True), (29, False, True), (31, False, False), (-3600, False, False), (3600, True, True),
])  # fmt: skip
def test_a_worker_is_ready_while_the_node_answers_it(age_s: float, holding: bool, ready: bool, tmp_path: Path) -> None:
    with only_agent(tmp_path) as runtime:
        assert not runtime.ready()
        runtime.touch_ready()
        touched = time.time() - age_s
        os.utime(runtime.folder / "worker.ready", (touched, touched))
        if holding:
            with runtime.hold():
                assert runtime.ready() == ready
        else:
            assert runtime.ready() == ready
        runtime.forget_ready()
        assert not runtime.ready()


def test_a_message_in_hand_is_noted_until_it_is_done_however_it_ends(tmp_path: Path) -> None:
    with only_agent(tmp_path) as runtime:
        with runtime.hold():
            assert runtime.holding()
        assert not runtime.holding()
        with pytest.raises(ZeroDivisionError), runtime.hold():
            _ = 1 / 0
        assert not runtime.holding()
        runtime.lose()
        assert runtime.lost()
        runtime.forget_task()
        assert not runtime.lost()


def test_a_mistake_is_told_in_both_languages(tmp_path: Path) -> None:
    with only_agent(tmp_path) as runtime:
        runtime.give_up(LedgerError("in English", da="på dansk æøå"))
        told = Runtime.of(tmp_path).mistake()
        assert told is not None
        assert [told.text(language) for language in ("en", "da")] == ["in English", "på dansk æøå"]
