"""A cohort answers as the production agents do: the same refusals, however many processes, and after a break."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from flwr.app import Message

from faelles.errors import RunError
from faelles.records import Kind, parse_request
from server.result import RunRecord
from simulations import processes
from simulations.grid import FIRST_NODE_ID
from simulations.questions import Question
from tests.builders import FEDERATION, LOCAL, OTHER_FEDERATION, build_card, build_sites, personal_card
from tests.cohorts import build_cohort, build_reference, run_grid
from tests.crafted import Known
from tests.federations import CITIZENS

ROOT = Path(__file__).parents[2]
CARD = personal_card()
CAP = 2.5  # as a hostile coordinator meets it in `tests.privacy`
SITES = {"0101": 60, "0147": 40, "0400": 0}
NOBODY = FIRST_NODE_ID + 2


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


# Messages


def known() -> Known:
    return Known(card=CARD, declared_size=50, federation=FEDERATION, others=(OTHER_FEDERATION,), foreign="{}")


def test_messages_can_be_pushed_and_pulled_one_by_one(tmp_path: Path) -> None:
    ticks: list[None] = []
    with build_cohort(tmp_path, CARD, tick=lambda: ticks.append(None)) as grid:
        close = known().close()
        ids = [one for node in (FIRST_NODE_ID + 1, FIRST_NODE_ID) for one in grid.push_messages([close.message(node)])]
        assert len(set(ids)) == 2
        assert len(ticks) == 2
        (late,) = grid.pull_messages(ids[1:])
        assert (late.metadata.src_node_id, late.metadata.reply_to_message_id) == (FIRST_NODE_ID, ids[1])
        assert [one.metadata.reply_to_message_id for one in grid.pull_messages(ids)] == ids[:1]
        assert not list(grid.pull_messages(ids))


def test_one_by_one_and_all_at_once_train_to_the_same(tmp_path: Path) -> None:
    found = []
    for at_once in (True, False):
        with build_cohort(tmp_path / str(at_once), CARD) as grid:
            nodes = list(grid.get_node_ids())
            for draft in (known().ready(), known().train(1)):
                batches = [nodes] if at_once else [[node] for node in nodes]
                replies = [
                    reply for part in batches for reply in grid.send_and_receive([draft.message(node) for node in part])
                ]
            updates = [next(iter(reply.content.array_records.values())) for reply in replies]
            local = grid.local_parameters(FEDERATION, 2)
            found.append((
                np.stack([one["output.weight"].numpy() for one in updates]),
                np.stack([local[node][LOCAL[0]] for node in nodes]),
            ))  # fmt: skip
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)


def test_who_is_sent_another_model_trains_from_it(tmp_path: Path) -> None:
    first, second = FIRST_NODE_ID, FIRST_NODE_ID + 1
    updates = {}
    for name, order in (("mixed", (1.0, -1.0)), ("same", (1.0, 1.0))):
        with build_cohort(tmp_path / name, CARD) as grid:
            list(grid.send_and_receive([known().ready().message(node) for node in (first, second)]))
            drafts = [known().train(1, known().filled(value)) for value in order]
            messages = [draft.message(node) for draft, node in zip(drafts, (first, second), strict=True)]
            replies = list(grid.send_and_receive(messages))
            updates[name] = [next(iter(one.content.array_records.values()))["output.weight"].numpy() for one in replies]
    np.testing.assert_allclose(updates["mixed"][0], updates["same"][0], atol=1e-6)
    assert np.abs(updates["mixed"][1] - updates["same"][1]).max() > 1e-3


# The same whatever the processes

MANY = {f"{number:04}": 3 + number % 9 for number in range(101, 171)}  # more than are trained as one batch


@pytest.mark.parametrize("card", [build_card(), CARD], ids=["federated", "personalised"])
def test_a_run_depends_neither_on_workers_nor_on_the_time(tmp_path: Path, card: Any) -> None:
    digests = set()
    for number, workers in enumerate((1, 2, 3, 1)):
        folder = tmp_path / str(number)
        grid = build_cohort(folder / "nodes", card, build_sites(MANY), workers=workers)
        record = run_grid(grid, folder, card, "fedadam", weighting="declared")
        assert record.status == "completed", record.why
        digests.add((record.model_sha256, record.evaluation.auc if record.evaluation else None))
    assert len(digests) == 1


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("card", [build_card(), CARD], ids=["federated", "personalised"])
def test_questions_are_answered_as_the_reference_answers_them(tmp_path: Path, card: Any, workers: int) -> None:
    questions = [Question(kind="alone"), Question(kind="score", federation=FEDERATION, before_round=1)]
    start = Known(card=card, declared_size=50, federation=FEDERATION, others=(), foreign="").filled(0.5)
    questions[1] = dataclasses.replace(questions[1], shared=start)
    sites = build_sites(SITES)
    with build_cohort(tmp_path, card, sites, workers=workers) as fast, build_reference(tmp_path, card, sites) as slow:
        for question in questions:
            ours, theirs = fast.ask_all(question), slow.ask_all(question)
            assert ours.keys() == theirs.keys()
            for node, one in theirs.items():
                assert ours[node].citizens == one.citizens
                np.testing.assert_array_equal(ours[node].y_N, one.y_N)
                np.testing.assert_array_equal(ours[node].weight_N, one.weight_N)
                np.testing.assert_allclose(ours[node].p_NK, one.p_NK, atol=1e-6)


# Breaks


class Killed(BaseException):
    """End a run as a signal would: nothing handles it."""


def before(kind: str, server_round: int) -> Callable[[str, list[Message]], None]:
    def observe(sent: str, messages: list[Message]) -> None:
        if (sent, parse_request(messages[0]).server_round) == (kind, server_round):
            raise Killed

    return observe


def after_replies(count: int) -> Callable[[], None]:
    left = iter(range(count - 1, -1, -1))

    def tick() -> None:
        if next(left, None) == 0:
            raise Killed

    return tick


def run(folder: Path, resume: bool = True, **changes: Any) -> RunRecord:
    return run_grid(build_cohort(folder / "nodes", CARD, **changes), folder, CARD, "fedadam", resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """Run without a break."""
    return run(tmp_path_factory.mktemp("whole"), resume=False)


def check_whole(record: RunRecord, whole: RunRecord) -> None:
    assert record.status == "completed"
    assert [one.model_sha256 for one in record.rounds] == [one.model_sha256 for one in whole.rounds]
    assert (record.model_sha256, record.evaluation) == (whole.model_sha256, whole.evaluation)


@pytest.mark.parametrize(
    ("kind", "server_round"),
    [("train", 1), ("train", 2), ("train", 3), ("evaluate", 3), ("query.final", 3), ("query.close", 3)],
)
def test_a_run_killed_after_any_round_ends_the_same(
    tmp_path: Path, whole: RunRecord, kind: str, server_round: int
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, observe=before(kind, server_round))
    check_whole(run(tmp_path), whole)


@pytest.mark.parametrize("replies", [1, 5, 6, 8, 12, 18, 22, 28, 33])
def test_a_run_killed_within_a_round_ends_the_same(tmp_path: Path, whole: RunRecord, replies: int) -> None:
    with pytest.raises(Killed):
        run(tmp_path, tick=after_replies(replies))
    check_whole(run(tmp_path), whole)


def test_a_run_killed_again_and_again_ends_the_same(tmp_path: Path, whole: RunRecord) -> None:
    for replies in (3, 8, 13, 8, 17):
        with pytest.raises(Killed):
            run(tmp_path, tick=after_replies(replies))
    check_whole(run(tmp_path), whole)


@pytest.mark.parametrize("replies", [10, 15, 20, 21])
def test_a_run_may_lose_its_newest_checkpoint(tmp_path: Path, whole: RunRecord, replies: int) -> None:
    with pytest.raises(Killed):
        run(tmp_path, tick=after_replies(replies))
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    newest.unlink()
    check_whole(run(tmp_path), whole)


def test_local_parameters_matter_to_a_run_that_is_taken_up(tmp_path: Path, whole: RunRecord) -> None:
    with pytest.raises(Killed):
        run(tmp_path, observe=before("train", 3))
    for path in (tmp_path / "nodes").iterdir():
        path.unlink()
    assert run(tmp_path).model_sha256 != whole.model_sha256


# Processes


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.EVALUATE])
def test_a_worker_that_is_killed_is_told_in_one_line(tmp_path: Path, kind: Kind) -> None:
    def kill(sent: str, messages: list[Message]) -> None:
        if sent == kind:
            for victim in multiprocessing.active_children():
                assert victim.pid is not None
                os.kill(victim.pid, signal.SIGKILL)
                victim.join()

    with pytest.raises(RunError) as caught:
        run(tmp_path, workers=2, observe=kill)
    assert str(caught.value) == processes.ENDED
    assert "\n" not in processes.ENDED


def loaded_after(code: str, folder: Path) -> set[str]:
    """Run code in a fresh interpreter and return the top-level names of what it has imported by then."""
    script = textwrap.dedent(code) + "\nprint('LOADED', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + script], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_the_fast_engine_does_not_load_opacus(tmp_path: Path) -> None:
    loaded = loaded_after("import simulations.cohort, simulations.engines", tmp_path)
    assert "torch" in loaded
    assert "opacus" not in loaded


def test_neither_does_a_whole_run_but_for_the_second_opinion_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(build_card().model_dump(mode="json")), encoding="utf-8")
    tables = {site.label: site.table for site in build_sites(CITIZENS)}
    named = [table.append_column("site", pa.array([label] * len(table))) for label, table in tables.items()]
    pq.write_table(pa.concat_tables(named), tmp_path / "rows.parquet")
    code = """
        from contextlib import suppress
        from server import summary
        from simulations import cli
        summary._prv_epsilon = lambda plans: None  # a second opinion on the account, at the end, is Opacus'
        sys.argv = ["faelles-sim", "usecase=.", "data.path=rows.parquet", "engine=cohort", "workers=1", "rounds=1",
                    "device=cpu", "hydra.run.dir=out"]
        with suppress(SystemExit):
            cli.main()
    """
    loaded = loaded_after(code, tmp_path)
    assert (tmp_path / "out" / "result.json").is_file()
    assert "opacus" not in loaded
