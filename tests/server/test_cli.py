import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from faelles.loopback import HOST, free_port
from server.cli import TEXTS, main
from server.home import Home
from server.lock import hold
from server.orders import order
from server.runs import create as create_run


class Said:
    """Hold what a command said, and its status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str | Path | int) -> None:
        self.status = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            self.status = int(end.code or 0)
        self.out, self.error = capsys.readouterr()

    def is_one_line(self, *words: str) -> None:
        assert self.status == 2
        assert self.error.startswith("error: ")
        assert self.error.count("\n") == 1
        assert self.out == ""
        for word in words:
            assert word in self.error


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    ports = [str(free_port()) for _ in range(3)]
    made = tmp_path / "coordinator"
    said = Said(capsys, "init", "--dir", made, "--address", f"{HOST}:{ports[0]}", "--loopback-port", ports[1],
                "--health-port", ports[2])  # fmt: skip
    assert said.status == 0
    assert "faelles-server up --dir" in said.out
    return made


def test_help_with_a_run_lists_the_strategies(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(Said(capsys, "run", "--help").out.split())
    assert "strategies are fedadagrad, fedadam, fedavg," in out


def test_every_command_helps(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("", *TEXTS):
        with pytest.raises(SystemExit) as end:
            main([name, "--help"] if name else ["--help"])
        assert end.value.code == 0
        assert "usage: faelles-server" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["dance"], ["init"], ["run"], ["enrol"], ["watch"], ["init", "--address", "x", "--health-port", "y"]]
)
def test_what_cannot_be_read_gets_one_line(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    before = os.umask(0o022)
    try:
        Said(capsys, *words).is_one_line("--help")
    finally:
        assert os.umask(before) == 0o022


@pytest.mark.parametrize(
    "words", [["up"], ["nodes"], ["runs"], ["status"], ["run", "usecase=income"], ["revoke", "851"], ["stop", "x"]]
)
def test_a_folder_without_a_coordinator_gets_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str]
) -> None:
    Said(capsys, *words, "--dir", tmp_path).is_one_line("coordinator.yaml", "faelles-server init")


@pytest.mark.parametrize("words", [["nodes"], ["status"], ["run", "usecase=income"], ["stop", "x"], ["resume", "x"]])
def test_a_coordinator_that_does_not_run_gets_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, words: list[str]
) -> None:
    Said(capsys, *words, "--dir", folder).is_one_line("faelles-server up --dir")


def test_a_second_init_changes_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    Said(capsys, "init", "--dir", folder, "--address", "127.0.0.1:8443").is_one_line("one is there")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("address", ["federation.example.dk", "a:b", ":8443", "x:0", "x:70000", "x:1\n2"])
def test_an_address_that_is_none_gets_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, address: str
) -> None:
    Said(capsys, "init", "--dir", tmp_path / "c", "--address", address).is_one_line("HOST:PORT")


def test_a_folder_that_cannot_be_made_gets_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = Said(capsys, "init", "--dir", tmp_path / "file" / "c", "--address", "127.0.0.1:8443")
    said.is_one_line("expected a folder that can be written")


def test_a_health_port_in_use_gets_one_line_and_leaves_nothing_running(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    before = threading.active_count()
    with socket.create_server((HOST, Home.open(folder).settings.health_port)):
        Said(capsys, "up", "--dir", folder).is_one_line("health port", "another process has it")
    assert threading.active_count() == before


@pytest.mark.parametrize("which", ["public", "loopback"])
def test_a_port_in_use_gets_one_line(capsys: pytest.CaptureFixture[str], folder: Path, which: str) -> None:
    settings = Home.open(folder).settings
    port = int(settings.listen.split(":")[1]) if which == "public" else settings.loopback_port
    with socket.create_server((HOST, port)):
        Said(capsys, "up", "--dir", folder).is_one_line(f"{HOST}:{port}", "address already in use", "coordinator.yaml")


def test_two_coordinators_do_not_serve_one_folder(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with hold(folder):
        Said(capsys, "up", "--dir", folder).is_one_line("expected no other coordinator")


@pytest.mark.parametrize("name", ["control.token", "superexec.secret", "loopback.key", "tls/server.key"])
def test_a_secret_that_others_can_read_stops_it(capsys: pytest.CaptureFixture[str], folder: Path, name: str) -> None:
    (folder / name).chmod(0o644)
    Said(capsys, "up", "--dir", folder).is_one_line(name, "chmod 600")
    (folder / name).unlink()
    Said(capsys, "up", "--dir", folder).is_one_line(name, "found none")


def test_a_request_that_is_none_gets_one_line(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    Said(capsys, "enrol", path, "--dir", folder).is_one_line("request.json")
    path.write_text('{"municipality": "010190-1234"}')
    said = Said(capsys, "enrol", path, "--dir", folder)
    said.is_one_line("request.json")
    assert "010190" not in said.error


def test_a_full_disk_gets_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server import commands

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "runs"))

    monkeypatch.setattr(commands, "probe", lambda port: True)
    monkeypatch.setattr("server.runs.write_json", full)
    Said(capsys, "run", "usecase=income", "--dir", folder).is_one_line("no space left on device", "try again")


def test_runs_can_be_looked_at_without_a_coordinator(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert "no run yet" in Said(capsys, "runs", "--dir", folder).out
    runs = Home.open(folder).runs
    run = create_run(runs, "faelles-server run", order(["usecase=income"], runs))
    assert "waiting to start" in Said(capsys, "runs", "--dir", folder).out
    assert "waiting to start" in Said(capsys, "status", run.name, "--dir", folder).out
    Said(capsys, "status", "nobody", "--dir", folder).is_one_line("expected one of income-001")
    Said(capsys, "report", run.name, "--dir", folder).is_one_line("has begun")
