"""A source has one name, no password in its address, and says nothing that it should not."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest
from pydantic import ValidationError

from client.source import SourceSettings, TableSource, identity, open_source
from tests.postgres import Postgres
from tests.sources import CPR, PASSWORD, settings_of, told

HERE = Path("agent").resolve()
IN_FILE = {"password_file": "password"}


def test_rows_in_memory_are_a_source_too() -> None:
    table = pa.table({"a": [1]})
    assert TableSource(table=table).read() is table


@pytest.mark.parametrize(
    "fields",
    [
        {"password": PASSWORD}, {"delimiter": ";;"}, {"delimiter": '"'}, {"delimiter": "\n"}, {"delimiter": "æ"},
        {"decimal": ";"}, {"encoding": "utf-16"}, {"password_file": "p", "password_env": "P"}, {"location": ""},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_without_repeating_the_location(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        SourceSettings.model_validate({"location": f"postgresql://u:{PASSWORD}@h/d?table=t", **fields})
    assert PASSWORD not in str(caught.value) + repr(caught.value)


def test_settings_show_no_location_when_printed() -> None:
    assert PASSWORD not in repr(settings_of(f"postgresql://u:{PASSWORD}@h/d?table=t"))


@pytest.mark.parametrize(
    "location",
    [
        f"postgresql://u:{PASSWORD}@host/d?table=t",
        f"postgresql://u:{quote(PASSWORD, safe='')}@host/d?table=t",
        f"mssql+pyodbc://u:{quote(PASSWORD, safe='')}@host/d?table=t",
        "postgresql://u:@host/d?table=t",
    ],
)
@pytest.mark.parametrize("act", [identity, open_source])
def test_a_password_in_the_address_is_refused_and_not_repeated(act: Callable[..., object], location: str) -> None:
    assert "password" in str(told(lambda: act(settings_of(location), HERE)))


@pytest.mark.parametrize(
    "location",
    [
        f"postgresql://u@h/d?table=t&password={PASSWORD}", f"mssql://u@h/d?table=t&odbc_connect=PWD%3D{CPR}",
        "postgresql://u@h/d", "postgresql://u@h/d?table=", "postgresql://u@h/?table=t", "postgresql:///d?table=t",
        "postgresql://u@h/d?table=t&table=v", "postgresql://u@h/d?table=t&host=a&host=b",
        "postgresql://u@h/d?table=t&host=other", "postgresql://u@/d?table=t&host=a,b", "postgresql://u@/d?table=t&host=a:1",
        "postgresql+psycopg2://u@h/d?table=t", "mysql://u@h/d?table=t", "https://h/rows.csv", "://", f"{CPR}://",
        f"postgresql://u@h:{CPR}x/d?table=t",
    ],
)  # fmt: skip
def test_an_address_of_another_kind_is_refused_and_not_repeated(location: str) -> None:
    assert "location" in str(told(lambda: identity(settings_of(location), HERE)))


@pytest.mark.parametrize("location", ["rows.xlsx", "rows", "postgresql:/u@h", f"{CPR}"])
def test_a_file_of_another_kind_is_refused(location: str) -> None:
    assert ".parquet" in str(told(lambda: open_source(settings_of(location), HERE)))
    assert ".parquet" in str(told(lambda: identity(settings_of(location), HERE)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgresql://u@DB.Example.dk/omsorg?table=t", "postgresql+psycopg://v@db.example.dk:5432/omsorg?table=public.t"),
        ("postgresql://u@db.example.dk./d?table=t", "postgresql://u@db.example.dk/d?table=t&sslmode=verify-full"),
        ("postgresql://u@localhost/d?table=t", "postgresql://u@127.0.0.1/d?table=t"),
        ("postgresql://u@[::1]/d?table=t", "postgresql://u@/d?host=/run/postgresql&table=t"),
        ("mssql+pyodbc://u@h/D?table=T", "mssql://u@H:1433/d?table=DBO.t&driver=ODBC+Driver+18"),
        ("rows.csv", str(HERE / "rows.csv")), ("a/../rows.csv", "./rows.csv"),
    ],
)  # fmt: skip
def test_one_source_has_one_name(one: str, other: str) -> None:
    assert identity(settings_of(one), HERE) == identity(settings_of(other, **IN_FILE), HERE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgresql://u@h/d?table=t", "postgresql://u@h/d?table=T"),
        ("postgresql://u@h/d?table=t", "postgresql://u@h/d?table=other.t"),
        ("postgresql://u@h/d?table=t", "postgresql://u@h:5433/d?table=t"),
        ("postgresql://u@h/d?table=t", "postgresql://u@h/e?table=t"),
        ("postgresql://u@h/d?table=t", "mssql://u@h:5432/d?table=public.t"),
        ("rows.csv", "rows.parquet"),
    ],
)
def test_two_sources_have_two_names(one: str, other: str) -> None:
    assert identity(settings_of(one), HERE) != identity(settings_of(other), HERE)


def test_a_name_holds_no_user() -> None:
    assert identity(settings_of("postgresql://agent@db/d?table=t"), HERE) == "postgresql://db:5432/d?table=public.t"


def test_a_link_to_a_file_has_the_name_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    (tmp_path / "link.csv").symlink_to("rows.csv")
    assert identity(settings_of("link.csv"), tmp_path) == identity(settings_of("rows.csv"), tmp_path)


def file_of(folder: Path, mode: int, text: str | bytes = PASSWORD + "\n") -> Path:
    path = folder / "password"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_password_is_read_from_a_file_of_its_owner(care: Postgres, tmp_path: Path, mode: int) -> None:
    file_of(tmp_path, mode)
    settings = settings_of(care.address("borgere", "agent"), **IN_FILE)
    assert open_source(settings, tmp_path).read().num_rows == 2


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_password_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file_of(tmp_path, mode)
    settings = settings_of("postgresql://u@localhost/d?table=t", **IN_FILE)
    assert "chmod 600" in str(told(open_source(settings, tmp_path).read))


@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\xfe"])
def test_a_password_file_without_a_password_is_told(tmp_path: Path, text: bytes) -> None:
    file_of(tmp_path, 0o600, text)
    settings = settings_of("postgresql://u@localhost/d?table=t", **IN_FILE)
    assert "password" in str(told(open_source(settings, tmp_path).read))


def test_a_password_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_PASSWORD", raising=False)
    for fields in ({"password_file": "none"}, {"password_env": "AGENT_PASSWORD"}):
        source = open_source(settings_of("postgresql://u@localhost/d?table=t", **fields), tmp_path)
        assert next(iter(fields)) in str(told(source.read))


def test_what_is_printed_of_a_source_holds_no_credentials(tmp_path: Path) -> None:
    file_of(tmp_path, 0o600)
    source = open_source(settings_of("postgresql://u@localhost/d?table=t", **IN_FILE), tmp_path)
    assert PASSWORD not in repr(source)
