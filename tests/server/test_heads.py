"""Heads outlast every process: the latest of each municipality is kept, and what is lost is never taken for none."""

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faelles.errors import RunError
from server.heads import FILE, LedgerHeads

TEXTS = ("", "[]", "\x00", "{", "x" * 5000)


@pytest.mark.parametrize("text", TEXTS)
def test_a_file_of_heads_that_cannot_be_read_ends_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RunError, match="it cannot be read; restore it") as caught:
        LedgerHeads(tmp_path / FILE)
    assert "\n" not in str(caught.value)
    assert (tmp_path / FILE).read_text() == text


def test_a_database_of_something_else_is_not_taken_for_one_without_heads(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("CREATE TABLE other (number INTEGER)")
    database.close()
    with pytest.raises(RunError, match="it cannot be read; restore it"):
        LedgerHeads(tmp_path / FILE)


def test_a_folder_that_is_missing_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="it cannot be read"):
        LedgerHeads(tmp_path / "none" / FILE)


def test_a_later_head_is_kept_whatever_comes_after_it(tmp_path: Path) -> None:
    heads = LedgerHeads(tmp_path / FILE)
    for text in (
        '{"number":3}', '{"number":5}', '{"number":4}', "nonsense", '{"number":true}', '{"number":"9"}', "[]",
        '{"number":-9}', '{"number":99999999999999999999}', "[" * 100_000,
    ):  # fmt: skip
        heads.keep("0101", text)
    heads.close()
    again = LedgerHeads(tmp_path / FILE)
    assert again.last("0101") == '{"number":5}'
    assert again.last("0147") is None
    again.close()


@given(numbers=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2**63 - 1)), max_size=12))
def test_whatever_the_order_the_highest_number_stays(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("heads") / FILE
    for name, number in numbers:
        heads = LedgerHeads(path)  # each is another process's connection
        heads.keep(name, f'{{"number":{number}}}')
        heads.close()
    heads = LedgerHeads(path)
    for name in "ab":
        mine = [number for other, number in numbers if other == name]
        assert heads.last(name) == (f'{{"number":{max(mine)}}}' if mine else None)
    heads.close()


def keep_one(path: Path, name: str) -> None:
    heads = LedgerHeads(path)
    heads.keep(name, '{"number":1}')
    heads.close()


def test_runs_that_begin_at_once_lose_no_head_and_leave_no_draft(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    names = [f"010{number}" for number in range(6)]
    processes = [context.Process(target=keep_one, args=(tmp_path / FILE, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(names)
    heads = LedgerHeads(tmp_path / FILE)
    assert [heads.last(name) for name in names] == ['{"number":1}'] * len(names)
    heads.close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_disk_that_cannot_be_written_ends_in_one_line(tmp_path: Path) -> None:
    LedgerHeads(tmp_path / FILE).close()
    heads = LedgerHeads(tmp_path / FILE)
    heads.close()
    with pytest.raises(RunError, match="look for space and rights"):
        heads.keep("0101", "{}")
