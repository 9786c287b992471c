"""A federation killed at any moment and resumed ends with the same model and has spent the same."""

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from faelles.card import UseCaseCard
from faelles.records import parse_request
from server.result import RunRecord
from tests.builders import build_card, personal_card
from tests.federations import build_crews, run_federation, spent_curves

ROOT = Path(__file__).parents[2]
CARDS = {"federated": build_card(), "personalised": personal_card()}
WAYS = [("fedavg", "federated"), ("fedadam", "federated"), ("fedavgm", "federated"), ("fedadam", "personalised")]
Wholes = dict[tuple[str, str], tuple[RunRecord, dict[str, np.ndarray]]]


class Killed(BaseException):
    """End a run as a signal would: nothing handles it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[RunRecord, dict[str, np.ndarray]]]:
    """Give an uninterrupted run and what it spent."""
    runs: Wholes = {}

    def run(strategy: str, card: str) -> tuple[RunRecord, dict[str, np.ndarray]]:
        if (strategy, card) not in runs:
            folder = tmp_path_factory.mktemp("whole")
            record = run_federation(folder, CARDS[card], strategy)
            runs[strategy, card] = record, spent_curves(folder)
        return runs[strategy, card]

    return run


def before(kind: str, server_round: int) -> Callable[[str, list[Message]], None]:
    """Kill when a round's messages are about to be sent."""

    def observe(sent: str, messages: list[Message]) -> None:
        if (sent, parse_request(messages[0]).server_round) == (kind, server_round):
            raise Killed

    return observe


def after_replies(count: int) -> Callable[[], None]:
    """Kill when so many replies have come, in the middle of a round."""
    left = iter(range(count - 1, -1, -1))

    def tick() -> None:
        if next(left, None) == 0:
            raise Killed

    return tick


def check_same(folder: Path, record: RunRecord, expected: tuple[RunRecord, dict[str, np.ndarray]]) -> None:
    whole, curves = expected
    assert record.status == "completed"
    assert record.model_sha256 == whole.model_sha256
    assert [(one.number, one.contributing, one.model_sha256) for one in record.rounds] == [
        (one.number, one.contributing, one.model_sha256) for one in whole.rounds
    ]
    assert record.evaluation == whole.evaluation
    spent = spent_curves(folder)
    assert spent.keys() == curves.keys()
    for node, curve in curves.items():
        assert curve.any()
        np.testing.assert_array_equal(spent[node], curve)


@pytest.mark.parametrize(
    ("kind", "server_round"),
    [("train", 1), ("train", 2), ("train", 3), ("evaluate", 3), ("query.final", 3), ("query.close", 3)],
)
@pytest.mark.parametrize(("strategy", "card"), WAYS)
def test_a_run_killed_after_any_round_ends_the_same(
    tmp_path: Path,
    whole: Callable[[str, str], tuple[RunRecord, dict[str, np.ndarray]]],
    strategy: str,
    card: str,
    kind: str,
    server_round: int,
) -> None:
    with pytest.raises(Killed):
        run_federation(tmp_path, CARDS[card], strategy, observe=before(kind, server_round))
    record = run_federation(tmp_path, CARDS[card], strategy, resume=True)
    check_same(tmp_path, record, whole(strategy, card))


@pytest.mark.parametrize("replies", [1, 5, 6, 8, 12, 18, 22, 28, 33])
def test_a_run_killed_within_a_round_ends_the_same(
    tmp_path: Path, whole: Callable[[str, str], tuple[RunRecord, dict[str, np.ndarray]]], replies: int
) -> None:
    card = CARDS["personalised"]
    crews = build_crews(tmp_path, card, workers=2)
    with pytest.raises(Killed):
        run_federation(tmp_path, card, "fedadam", crews=crews, tick=after_replies(replies))
    record = run_federation(tmp_path, card, "fedadam", resume=True)
    check_same(tmp_path, record, whole("fedadam", "personalised"))


def test_a_run_killed_again_and_again_ends_the_same(
    tmp_path: Path, whole: Callable[[str, str], tuple[RunRecord, dict[str, np.ndarray]]]
) -> None:
    card: UseCaseCard = CARDS["personalised"]
    for replies in (3, 8, 13, 8, 17):
        with pytest.raises(Killed):
            run_federation(tmp_path, card, "fedadam", resume=True, tick=after_replies(replies))
    check_same(tmp_path, run_federation(tmp_path, card, "fedadam", resume=True), whole("fedadam", "personalised"))


@pytest.mark.skipif(sys.platform != "linux", reason="watches processes by pidfd")
def test_a_killed_process_leaves_no_worker_and_can_be_taken_up(
    tmp_path: Path, whole: Callable[[str, str], tuple[RunRecord, dict[str, np.ndarray]]]
) -> None:
    script = f"""
        import multiprocessing, os, signal, sys
        from pathlib import Path
        from faelles.records import parse_request
        from tests.builders import personal_card
        from tests.federations import build_crews, run_federation

        def observe(kind, messages):
            if kind == "train" and parse_request(messages[0]).server_round == 3:
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        folder, card = Path({str(tmp_path)!r}), personal_card()
        run_federation(folder, card, "fedadam", crews=build_crews(folder, card, workers=3), observe=observe)
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, timeout=100
    )
    assert done.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 3
    assert [pid for pid in workers if not ends(pid)] == []
    record = run_federation(tmp_path, CARDS["personalised"], "fedadam", resume=True)
    check_same(tmp_path, record, whole("fedadam", "personalised"))
    assert not multiprocessing.active_children()


def ends(pid: int) -> bool:
    """Wait until a process of somebody else's has ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 30)[0])
    finally:
        os.close(watched)
