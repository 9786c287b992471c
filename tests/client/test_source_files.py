"""A file is read as Danish systems write it, and no content of it raises or decides about other rows."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import source_files as files
from client.source import open_source
from tests.sources import CPR, settings_of, told


def read_text(folder: Path, text: str | bytes, columns: list[str] | None = None, **fields: Any) -> dict[str, list[Any]]:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "rows.csv").write_bytes(data)
    rows: dict[str, list[Any]] = open_source(settings_of("rows.csv", **fields), folder).read(columns).to_pydict()
    return rows


@pytest.mark.parametrize("encoding", ["utf-8", "windows-1252", "iso-8859-1"])
def test_danish_letters_come_through_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    text = f"cpr;køn;beløb\r\n{CPR};Ærø å;1.234,5\r\n".encode(encoding)
    assert read_text(tmp_path, text, encoding=encoding) == {"cpr": [CPR], "køn": ["Ærø å"], "beløb": ["1.234,5"]}


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert read_text(tmp_path, b"\xef\xbb\xbfcpr;a\n" + CPR.encode() + b";1\n") == {"cpr": [CPR], "a": ["1"]}


def test_every_value_stays_text_and_an_empty_one_is_null(tmp_path: Path) -> None:
    rows = read_text(tmp_path, f'a,b\n{CPR},""\n,"x, ""y"""\n', delimiter=",")
    assert rows == {"a": [CPR, None], "b": [None, 'x, "y"']}


def test_broken_bytes_are_replaced(tmp_path: Path) -> None:
    assert read_text(tmp_path, b"a;b\n\xe6\xff;1\n\x00;2\n") == {"a": ["\ufffd\ufffd", "\x00"], "b": ["1", "2"]}
    assert read_text(tmp_path, b"a;b\n\x81;1\n", encoding="windows-1252")["a"] == ["\ufffd"]


@pytest.mark.parametrize("broken", ["1", "1;2;3", "", ";", '"open;2', '1;"' + "x" * 200_000, '1;2;"a\n', '"a"b\n"'])
def test_a_broken_row_is_skipped_and_decides_about_no_other(tmp_path: Path, broken: str) -> None:
    rows = read_text(tmp_path, f"a;b\nfirst;1\n{broken}\nlast;2\n")
    assert rows == {"a": ["first", "last"], "b": ["1", "2"]}


def test_a_value_in_quotation_marks_goes_over_lines(tmp_path: Path) -> None:
    rows = read_text(tmp_path, f'a;b\n1;"x\r\n{CPR};y"\n"2\n";z\n3;5" rør\n4;"7" rør\n5;"\n6;w\n')
    assert rows == {"a": ["1", "2\n", "3", "4", "5", "6"], "b": [f"x\n{CPR};y", "z", '5" rør', "7 rør", None, "w"]}


def test_a_mark_that_is_left_open_far_from_the_next_breaks_its_line_alone(tmp_path: Path) -> None:
    lines = [f"{number};x" for number in range(3 * files.LINES_OF_A_ROW)]
    rows = read_text(tmp_path, "\n".join(["a;b", '"open;x', *lines, 'last;"y"', '"open;x']))
    assert rows["a"] == [str(number) for number in range(3 * files.LINES_OF_A_ROW)] + ["last"]


@given(content=st.binary(max_size=200))
def test_no_content_makes_a_text_file_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    rows = read_text(folder, b"a;b\nfirst;1\n" + content + b"\nlast;2\n")
    assert (rows["a"][0], rows["a"][-1]) == ("first", "last")


def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    assert read_text(tmp_path, "a;b;c\n1;2;3\n", ["c", "a", "c"]) == {"c": ["3"], "a": ["1"]}
    assert read_text(tmp_path, "a;b\n", ["b"]) == {"b": []}


def test_a_text_file_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 3)
    (tmp_path / "rows.csv").write_text("a\n" + "1\n" * 7, encoding="utf-8")
    assert open_source(settings_of("rows.csv"), tmp_path).read().column("a").num_chunks == 3


def test_names_that_are_missing_are_all_told_and_those_that_are_there_are_not(tmp_path: Path) -> None:
    error = told(lambda: read_text(tmp_path, f"{CPR};Jens\n", ["cpr", "name"]))
    assert "cpr, name" in str(error)
    assert "Jens" not in str(error)


def test_a_name_that_is_there_twice_is_refused_by_its_places(tmp_path: Path) -> None:
    error = told(lambda: read_text(tmp_path, f"{CPR};a;{CPR}\n"))
    assert "the columns 1, 3" in str(error)


@pytest.mark.parametrize("text", ["", "\n", ";;\n1;2;3\n", "\n1;2\n"])
def test_a_text_file_needs_a_header(tmp_path: Path, text: str) -> None:
    assert "first line" in str(told(lambda: read_text(tmp_path, text)))


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "folder.csv", "folder.parquet"])
def test_a_file_that_is_not_there_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.parquet").mkdir()
    assert name in str(told(open_source(settings_of(name), tmp_path).read))


def test_parquet_keeps_its_types_and_its_folder_adds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "year=2026"
    folder.mkdir()
    table = pa.table({"a": [1, 2], "b": [0.5, None], "c": ["x", None], "d": [True, False]})
    pq.write_table(table, folder / "rows.parquet")
    source = open_source(settings_of("year=2026/rows.parquet"), tmp_path)
    assert source.read().equals(table)
    assert source.read(["c", "a"]).equals(table.select(["c", "a"]))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_broken_bytes_in_parquet_are_replaced(tmp_path: Path, kind: pa.DataType) -> None:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    raw = pa.array([b"\xe6", None, b"ok"], pa.large_binary() if plain == pa.large_string() else pa.binary())
    text = pa.Array.from_buffers(plain, 3, raw.buffers())
    if pa.types.is_dictionary(kind):
        text = pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int32()), text.drop_null())
    pq.write_table(pa.table({"a": text}), tmp_path / "rows.parquet")
    read = open_source(settings_of("rows.parquet"), tmp_path).read()
    assert read.to_pydict() == {"a": ["\ufffd", None, "ok"]}


def test_parquet_tells_missing_columns_and_what_is_no_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "rows.parquet")
    assert "b, c" in str(told(lambda: open_source(settings_of("rows.parquet"), tmp_path).read(["a", "b", "c"])))
    (tmp_path / "text.parquet").write_text(CPR, encoding="utf-8")
    assert "text.parquet" in str(told(open_source(settings_of("text.parquet"), tmp_path).read))
