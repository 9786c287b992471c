"""The warm worker answers what a node gives it, with the code that it has, and says when it cannot."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.app.message import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.supercore.constant import TaskType

from client import worker
from client.runtime import Runtime, only_agent
from client.worker import answer, serve
from faelles.errors import LedgerError
from tests.supernodes import RuntimeNode


class Enough(BaseException):
    """End a loop that has no end."""


class App(ClientApp):
    """Answer with a function."""

    def __init__(self, function: Callable[[Message], Message]) -> None:
        super().__init__()
        self._function = function

    def __call__(self, message: Message, context: Context) -> Message:
        return self._function(message)


def echo(message: Message) -> Message:
    return Message(message.content, reply_to=message)


def end(message: Message) -> Message:
    raise Enough


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with only_agent(tmp_path) as made:
        yield made


@pytest.fixture
def node(runtime: Runtime) -> Iterator[RuntimeNode]:
    made = RuntimeNode()
    with made.listening(runtime):
        yield made


def content(text: str = "hello") -> RecordDict:
    return RecordDict({"config": ConfigRecord({"text": text})})


def test_a_message_is_answered_by_the_app_that_is_installed(
    runtime: Runtime, node: RuntimeNode, caplog: pytest.LogCaptureFixture
) -> None:
    task = node.give(content())
    seen: list[tuple[str, bool]] = []

    def look(message: Message) -> Message:
        seen.append((str(message.content.config_records["config"]["text"]), runtime.holding()))
        return echo(message)

    with caplog.at_level(logging.INFO, "client"):
        answer(App(look), runtime, node.acquire(runtime))
    assert seen == [("hello", True)]
    reply = node.reply()
    assert reply is not None
    assert reply.metadata.message_type == "query.ready"
    assert node.status(task) == ("finished", "completed")
    assert (runtime.holding(), runtime.lost()) == (False, False)
    assert "event=answered kind=query.ready" in caplog.text


def test_a_kind_that_nobody_knows_is_not_repeated_in_the_log(
    runtime: Runtime, node: RuntimeNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.give(content(), kind="query.x0101701234")
    with caplog.at_level(logging.INFO, "client"):
        answer(App(echo), runtime, node.acquire(runtime))
    assert "event=answered kind=unknown" in caplog.text
    assert "0101701234" not in caplog.text


def test_a_long_task_stays_alive(runtime: Runtime, node: RuntimeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BEAT_S", 0.02)
    beats: list[int] = []
    acknowledge = node.state.acknowledge_task_heartbeat

    def count(task_id: int) -> bool:
        beats.append(task_id)
        return acknowledge(task_id)

    monkeypatch.setattr(node.state, "acknowledge_task_heartbeat", count)

    def long(message: Message) -> Message:
        while len(beats) < 2:
            time.sleep(0.01)
        return echo(message)

    task = node.give(content())
    answer(App(long), runtime, node.acquire(runtime))
    assert set(beats) == {task}
    assert node.status(task) == ("finished", "completed")


@pytest.mark.parametrize("wrong", [lambda message: None, lambda message: 1 / 0], ids=["no reply", "an exception"])
def test_what_cannot_be_answered_is_told_to_the_agent_at_once(
    wrong: Callable[[Message], Message], runtime: Runtime, node: RuntimeNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.give(content("0101701234"))
    answer(App(wrong), runtime, node.acquire(runtime))
    assert (runtime.holding(), runtime.lost()) == (False, True)
    assert node.reply() is None
    assert "event=unsent error=" in caplog.text
    assert "0101701234" not in caplog.text


def test_an_answer_for_a_node_that_is_gone_is_no_loss(runtime: Runtime, node: RuntimeNode) -> None:
    node.give(content())

    def forget(message: Message) -> Message:
        for record in node.state.task_token_store.values():  # type: ignore[attr-defined]
            record.active_until = record.active_until.replace(year=2000)
        return echo(message)

    answer(App(forget), runtime, node.acquire(runtime))
    assert not runtime.lost()


@pytest.mark.parametrize("given_up", [True, False], ids=["the node gave it up", "nobody says a word"])
def test_a_message_whose_arrays_never_come_is_let_go(
    given_up: bool, runtime: Runtime, node: RuntimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = node.factory.objectstore_factory.store()
    monkeypatch.setattr(store, "put", lambda number, data: None)
    node.give(content())
    if given_up:
        monkeypatch.setattr(worker, "BEAT_S", 0.02)
        monkeypatch.setattr(node.state, "acknowledge_task_heartbeat", lambda task: False)
    else:
        monkeypatch.setattr(worker, "ARRAYS_S", 0.2)
    answer(App(end), runtime, node.acquire(runtime))
    assert (runtime.holding(), runtime.lost()) == (False, not given_up)


def test_a_full_disk_does_not_keep_the_answer_back(
    runtime: Runtime, node: RuntimeNode, caplog: pytest.LogCaptureFixture
) -> None:
    task = node.give(content())
    token = node.acquire(runtime)
    (runtime.folder / "task").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "touch", _full)
        patch.setattr(Path, "unlink", lambda path, missing_ok: None)
        answer(App(echo), runtime, token)
    (runtime.folder / "task").rmdir()
    assert node.status(task) == ("finished", "completed")
    assert "event=unnoted error=OSError" in caplog.text


def _full(path: Path, mode: int = 0, exist_ok: bool = True) -> None:
    raise OSError(28, "No space left on device")


def test_the_worker_waits_for_its_node_and_says_so_once(
    runtime: Runtime, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "AWAY_S", 0.01)
    node = RuntimeNode()
    told = threading.Event()

    def come() -> None:
        told.wait(10)
        with node.listening(runtime):
            node.give(content())
            done.wait(10)

    done = threading.Event()
    coming = threading.Thread(target=come)
    coming.start()
    threading.Timer(0.2, told.set).start()
    try:
        with pytest.raises(Enough):
            serve(App(end), runtime)
    finally:
        done.set()
        coming.join(10)
    assert caplog.text.count("event=away") == 1
    assert runtime.ready()


def test_only_the_tasks_of_a_municipality_are_taken(
    runtime: Runtime, node: RuntimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.give(content("of an agent app"), task_type=TaskType.AGENT_APP)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Enough

    monkeypatch.setattr(time, "sleep", pause)
    with pytest.raises(Enough):
        serve(App(end), runtime)
    assert pauses == [worker.POLL_S] * 3


@pytest.mark.parametrize(("error", "status"), [(LedgerError("en", da="da"), 2), (RuntimeError("0101701234"), 1)])
def test_a_worker_that_cannot_start_says_why(
    error: Exception, status: int, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail(*_: object) -> ClientApp:
        raise error

    monkeypatch.setattr("client.home.Home.open", fail)
    with pytest.raises(SystemExit) as ended:
        worker.run(tmp_path, fail)
    assert ended.value.code == status
    mistake = runtime.mistake()
    told = (mistake.text("en"), mistake.text("da")) if mistake else None
    assert told == (("en", "da") if status == 2 else None)
    assert "0101701234" not in caplog.text
