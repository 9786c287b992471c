"""An agent runs: against a stock SuperLink, over TLS, started and ended as people and accidents do."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.constant import ErrorCode

from client.agent import Refusals
from client.home import Home
from client.language import Language
from faelles.health import probe
from faelles.records import TERMS, Kind, Request, parse_answer, request_content
from faelles.terms import RunTerms
from tests.builders import FEDERATION, build_card
from tests.coordinators import StockCoordinator, wait_until
from tests.linger import LINGER
from tests.municipality import Municipality, cpr_table, say

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[2]
CARD = build_card()
READY = request_content(Request(
    kind=Kind.READY, federation=FEDERATION, server_round=0, card_sha256=CARD.sha256,
    extra={TERMS: RunTerms.of(CARD).model_dump_json()},
))  # fmt: skip


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockCoordinator]:
    made = StockCoordinator(tmp_path_factory.mktemp("coordinator"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def town(tmp_path: Path, coordinator: StockCoordinator) -> Municipality:
    made = Municipality(tmp_path, "0851", cpr_table(60))
    assert made.register() == 0
    assert made.approve() == 0
    assert say("enrol", "--coordinator", coordinator.address, "--ca", coordinator.ca, "--cvr", "29189420",
               "--dir", made.folder) == 0  # fmt: skip
    return made


class Running:
    """Watch an agent that runs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, folder: Path) -> None:
        self.process, self._log, self._run = process, log, folder / "run"

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def pids(self, name: str) -> list[int]:
        return [int(one) for one in re.findall(rf"event=started process={name} pid=(\d+)", self.log)]

    @property
    def health(self) -> int:
        found = re.search(r"health=127\.0\.0\.1:(\d+)", self.log)
        return int(found[1]) if found else 0

    def well(self) -> bool:
        return bool(self.health) and probe(self.health)

    def left(self) -> list[int]:
        """List its processes that are still there."""
        return [pid for name in ("node", "worker") for pid in self.pids(name) if alive(pid)]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@contextmanager
def started(command: list[str | Path], folder: Path) -> Iterator[Running]:
    log = folder.parent / "agent.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL, cwd="/")
    running = Running(process, log, folder)
    try:
        yield running
    except BaseException:
        print(running.log)  # noqa: T201 - what pytest shows beside a failure
        raise
    finally:
        process.kill()
        process.wait(10)
        for pid in running.left():
            os.kill(pid, signal.SIGKILL)


def test_an_agent_takes_part_until_it_is_told_to_stop(coordinator: StockCoordinator, town: Municipality) -> None:
    node = coordinator.register(town.folder / "login.key")
    program = Path(sys.executable).with_name("faelles-agent")
    command: list[str | Path] = [program, "--lang", "en", "up", "--health", "0", "--dir", town.folder]
    with started(command, town.folder) as agent:
        wait_until(lambda: coordinator.online(node), 90, "node online")
        wait_until(agent.well, 90, "healthy")

        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert (
            second.stderr == f"error: {town.folder}: expected a folder where no agent runs, one does; stop it first\n"
        )

        aggregator = coordinator.begin()
        answer = parse_answer(aggregator.reply_to(aggregator.send(node, Kind.READY, READY)))
        aggregator.close()
        assert answer.extra["municipality"] == "0851"
        run = town.folder / "run"
        assert not list(run.rglob("apps"))  # the bundle stays bytes
        wait_until(lambda: not (run / "task").exists(), 5, "task done")

        secrets = [(run / "superexec.secret").read_text(), (town.folder / "login.key").read_text()[40:90]]
        for pid in (agent.process.pid, *agent.left()):
            for seen in ("cmdline", "environ"):
                text = Path(f"/proc/{pid}/{seen}").read_bytes()
                assert not [one for one in secrets if one.encode() in text]
        assert run.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o077 for path in run.iterdir() if path.is_file()} == {0}

        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(15) == 0
        wait_until(lambda: not coordinator.online(node), 5, "node offline")
        assert agent.left() == []
        assert [path.name for path in run.iterdir()] == ["lock"]
        assert "the agent is running; Ctrl-C stops it" in agent.log
        assert "WARNING" not in agent.log
    with Home.open(town.folder).store().transaction() as database:
        lines = database.execute("SELECT recipient, kind, outcome FROM journal").fetchall()
    assert lines == [(coordinator.address, Kind.READY, "cleared")]


def test_what_is_killed_comes_back_and_nothing_outlives_the_agent(
    coordinator: StockCoordinator, town: Municipality
) -> None:
    node = coordinator.register(town.folder / "login.key")
    command: list[str | Path] = [sys.executable, ROOT / "tests" / "linger.py", "up", town.folder]
    with started(command, town.folder) as agent:
        wait_until(agent.well, 90, "healthy")
        (town.folder / LINGER).touch()
        aggregator = coordinator.begin()
        number = aggregator.send(node, Kind.READY, RecordDict())
        wait_until((town.folder / "run" / "task").exists, 10, "message in hand")
        os.kill(agent.pids("worker")[0], signal.SIGKILL)
        # The coordinator is told in seconds; a node that waits for the dead would not even say so after a minute.
        lost = aggregator.reply_to(number, 10)
        assert (lost.has_error(), lost.error.code) == (True, ErrorCode.NODE_UNAVAILABLE)
        (town.folder / LINGER).unlink()
        wait_until(lambda: coordinator.online(node), 20, "node online again")
        assert not aggregator.reply_to(aggregator.send(node, Kind.READY, RecordDict()), 20).has_error()
        aggregator.close()
        assert [len(agent.pids(name)) for name in ("node", "worker")] == [2, 2]

        agent.process.kill()
        wait_until(lambda: agent.left() == [], 5, "children gone")


def test_a_run_that_ends_while_its_message_is_fetched_does_not_take_the_agent_along(
    coordinator: StockCoordinator, town: Municipality
) -> None:
    node = coordinator.register(town.folder / "login.key")
    command: list[str | Path] = [sys.executable, ROOT / "tests" / "linger.py", "up", town.folder]
    with started(command, town.folder) as agent:
        wait_until(agent.well, 90, "healthy")
        aggregator = coordinator.begin()
        aggregator.announce(node, Kind.READY, RecordDict({"config": ConfigRecord({"a": 1})}))
        wait_until((town.folder / "run" / "task").exists, 10, "task in hand")  # while the node waits for the rest
        aggregator.stop()
        aggregator.close()
        # Flower's node keeps the task of a message that it ignores, and the worker would wait with it for hours.
        wait_until(lambda: len(agent.pids("node")) == 2, 20, "another node")
        wait_until(lambda: coordinator.online(node), 20, "node online again")
        aggregator = coordinator.begin()
        assert not aggregator.reply_to(aggregator.send(node, Kind.READY, RecordDict()), 30).has_error()
        aggregator.close()


@pytest.mark.parametrize("language", ["da", "en"])
def test_a_refusal_is_told_when_it_begins_and_when_it_lasts(
    language: Language, caplog: pytest.LogCaptureFixture
) -> None:
    words = {"da": ("tidligere proces", "spørg KOMBIT, om login.key"),
             "en": ("an earlier process", "ask KOMBIT whether login.key")}  # fmt: skip
    first, lasting = words[language]
    refusals = Refusals(language)
    assert [refusals.pause_s(now, known=False) for now in (0.0, 6.0, 90.0)] == [6.0] * 3
    assert [first in text for text in caplog.messages] == [True]
    assert [refusals.pause_s(now, known=False) for now in (91.0, 111.0)] == [20.0] * 2
    assert [lasting in text for text in caplog.messages] == [False, True]
    refusals.forget()
    assert refusals.pause_s(200.0, known=False) == 6.0
    assert len(caplog.messages) == 3


def test_a_node_that_is_not_known_any_more_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    assert Refusals("en").pause_s(0.0, known=True) == 20.0
    assert [text for text in caplog.messages if "enrolled and not revoked" in text] == caplog.messages


@pytest.mark.parametrize(("language", "told"), [
    ("en", "expected a coordinator, none is known; run `faelles-agent enrol --coordinator HOST:PORT`"),
    ("da", "ingen koordinator er kendt; kør `faelles-agent enrol --coordinator VÆRT:PORT`"),
])  # fmt: skip
def test_an_agent_that_is_not_enrolled_does_not_run(
    language: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("init", "--municipality", "851", "--dir", tmp_path / "agent") == 0
    capsys.readouterr()
    assert say("up", "--lang", language, "--dir", tmp_path / "agent") == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "agent" / "run").exists()


def test_a_health_port_that_is_taken_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    assert say("init", "--municipality", "851", "--dir", folder) == 0
    assert say("enrol", "--coordinator", "localhost:1", "--cvr", "29189420", "--dir", folder) == 0
    own = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}  # Flower set it here
    program = Path(sys.executable).with_name("faelles-agent")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([program, "up", "--health", str(port), "--dir", folder], capture_output=True, text=True,
                              check=False, env=own)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"fejl: sundhedsporten {port} er optaget af en anden proces; vælg en anden\n"
    assert [path.name for path in (folder / "run").iterdir()] == ["lock"]


def test_what_only_people_can_mend_ends_the_agent_in_one_line(
    coordinator: StockCoordinator, town: Municipality
) -> None:
    (town.folder / "signing.key").chmod(0o644)
    program = Path(sys.executable).with_name("faelles-agent")
    done = subprocess.run(
        [program, "--lang", "en", "up", "--health", "0", "--dir", town.folder],
        capture_output=True, text=True, check=False, timeout=40,
    )  # fmt: skip
    assert done.returncode == 2
    told = "expected a key that only its owner can read, others can too; run chmod 600, consider a new key"
    assert done.stderr.splitlines()[-1] == f"error: {town.folder}/signing.key: {told}"
