"""A database is read in one moment that cannot be changed, in chunks, and its own words and values reach nobody."""

import gc
import logging
import socket
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa

from client import source_database as database
from client.source import open_source
from faelles.errors import DataError
from tests.postgres import Postgres
from tests.sources import CPR, SECRETS, settings_of, told

HERE = Path()
IN_ENVIRONMENT = {"password_env": "AGENT_PASSWORD"}


def read_table(care: Postgres, table: str, columns: list[str] | None = None) -> pa.Table:
    return open_source(settings_of(care.address(table, "agent"), **IN_ENVIRONMENT), HERE).read(columns)


def test_rows_of_a_table_are_read(care: Postgres) -> None:
    assert read_table(care, "borgere").to_pydict() == {"cpr": [CPR, "0202902345"], "alder": [71, None]}
    assert read_table(care, "public.borgere", ["alder"]).schema == pa.schema([("alder", pa.int64())])


def test_a_view_in_another_schema_is_read(care: Postgres) -> None:
    care.run(
        "CREATE SCHEMA omsorg", "CREATE VIEW omsorg.ældre AS SELECT alder FROM borgere WHERE alder > 65",
        "GRANT USAGE ON SCHEMA omsorg TO agent", "GRANT SELECT ON omsorg.ældre TO agent",
    )  # fmt: skip
    assert read_table(care, "omsorg.ældre").to_pydict() == {"alder": [71]}


def test_names_are_quoted(care: Postgres) -> None:
    care.run('INSERT INTO "Borgere ""æøå""" VALUES (1, 2, 3)')
    rows = read_table(care, 'Borgere "æøå"', ["Køn", "alder"])
    assert rows.to_pydict() == {"Køn": ["2"], "alder": [3]}
    told(lambda: read_table(care, 'borgere"; DROP TABLE borgere; --'))
    told(lambda: read_table(care, "borgere", ['cpr"; DROP TABLE borgere; --']))
    assert read_table(care, "borgere").num_rows == 2


TYPES = {
    "smallint": ("7", 7, pa.int64()),
    "bigint": ("9000000000000000000", 9000000000000000000, pa.int64()),
    "boolean": ("true", True, pa.bool_()),
    "double precision": ("1.5", 1.5, pa.float64()),
    "real": ("1.5", 1.5, pa.float64()),
    "numeric": ("1234.5", 1234.5, pa.float64()),
    "numeric(10,2)": ("1234.5", 1234.5, pa.float64()),
    "numeric(38,0)": ("12345678901234567890", "12345678901234567890", pa.string()),
    "date": ("'2026-02-28'", "2026-02-28", pa.string()),
    "timestamp": ("'2026-02-28 12:30'", "2026-02-28 12:30:00", pa.string()),
    "uuid": (f"'{'a' * 32}'", "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", pa.string()),
    "jsonb": ("'{\"a\": 1}'", '{"a": 1}', pa.string()),
    "bytea": ("'abc'", "\\x616263", pa.string()),
    "int[]": ("'{1,2}'", "{1,2}", pa.string()),
    "point": ("'(1,2)'", "(1,2)", pa.string()),  # SQLAlchemy does not know it, and would warn
    "amount": ("1.5", 1.5, pa.float64()),
    "mood": ("'glad'", "glad", pa.string()),
}


def test_every_type_becomes_a_number_a_truth_value_or_text(care: Postgres) -> None:
    columns = ", ".join(f'"{kind}" {kind}' for kind in TYPES)
    care.run(
        "CREATE DOMAIN amount AS numeric(10,2)", "CREATE TYPE mood AS ENUM ('glad')",
        f"CREATE TABLE types ({columns})", "GRANT SELECT ON types TO agent",
        f"INSERT INTO types SELECT {', '.join(value for value, _, _ in TYPES.values())}",
        "INSERT INTO types SELECT",
    )  # fmt: skip
    rows = read_table(care, "types")
    assert rows.to_pydict() == {kind: [came, None] for kind, (_, came, _) in TYPES.items()}
    assert rows.schema.types == [kind for _, _, kind in TYPES.values()]


def test_values_that_python_does_not_know_do_not_raise(care: Postgres) -> None:
    care.run(
        "CREATE VIEW odd AS SELECT 'infinity'::date AS day, '10000-01-01'::timestamp AS late, 'NaN'::numeric AS n, "
        "'Infinity'::float8 AS f, 1e400::numeric AS big",
        "GRANT SELECT ON odd TO agent",
    )
    rows = read_table(care, "odd").to_pylist()[0]
    assert (rows["day"], rows["late"]) == ("infinity", "10000-01-01 00:00:00")
    assert rows["n"] != rows["n"]
    assert rows["f"] == rows["big"] == float("inf")


def test_a_view_that_writes_is_stopped(care: Postgres) -> None:
    care.run(
        "CREATE FUNCTION note() RETURNS int LANGUAGE sql AS $$ INSERT INTO borgere VALUES ('x', 1) RETURNING 1 $$",
        "CREATE VIEW sly AS SELECT note() AS a", "GRANT SELECT ON sly TO agent",
    )  # fmt: skip
    assert "tries to write" in str(told(lambda: read_table(care, "sly")))
    assert care.run("SELECT count(*) FROM borgere") == [(2,)]


def test_the_rows_are_of_one_moment_that_cannot_be_written(care: Postgres) -> None:
    care.run(
        "CREATE VIEW terms AS SELECT current_setting('transaction_read_only') AS a, "
        "current_setting('transaction_isolation') AS b, current_setting('application_name') AS c, "
        "(SELECT count(*) FROM pg_cursors WHERE statement LIKE '%terms%') AS cursors",
        "GRANT SELECT ON terms TO agent",
    )
    assert read_table(care, "terms").to_pydict() == {
        "a": ["on"], "b": ["repeatable read"], "c": ["faelles-agent"], "cursors": [1],
    }  # fmt: skip


def peak_of(care: Postgres, rows: int) -> int:
    """Measure the most memory that Python objects take while rows are read; Arrow's own is not counted."""
    care.run(
        "CREATE TABLE IF NOT EXISTS many (n int, t text)", "TRUNCATE many", "GRANT SELECT ON many TO agent",
        f"INSERT INTO many SELECT n, n FROM generate_series(1, {rows}) n",  # noqa: S608 - our own number
    )  # fmt: skip
    tracemalloc.start()
    try:
        assert read_table(care, "many").num_rows == rows
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_rows_stream_so_that_memory_does_not_grow_with_them(care: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHUNK", 1000)
    peak_of(care, 10)  # what is loaded and cached once
    few, many = peak_of(care, 2_000), peak_of(care, 40_000)
    assert many < 1.5 * few


def test_a_chunk_becomes_a_batch(care: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHUNK", 10)
    care.run("CREATE VIEW many AS SELECT generate_series(1, 35) AS n", "GRANT SELECT ON many TO agent")
    column = read_table(care, "many").column("n")
    assert [len(chunk) for chunk in column.chunks] == [10, 10, 10, 5]
    assert column.to_pylist() == list(range(1, 36))


def test_an_empty_table_has_its_columns(care: Postgres) -> None:
    care.run("DELETE FROM borgere")
    assert read_table(care, "borgere").schema == pa.schema([("cpr", pa.string()), ("alder", pa.int64())])


def free_port() -> int:
    """Find a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Read = Callable[[], object]


def broken_reads(care: Postgres) -> list[tuple[str, Read]]:
    """List every way in which reading goes wrong, with words of what is told."""
    care.run(
        "CREATE TABLE secret (a int)",
        "CREATE VIEW faulty AS SELECT cpr || 'x' AS a, (cpr || 'x')::int AS b FROM borgere",
        "CREATE VIEW faulty_later AS SELECT 1 / (15000 - n) AS a FROM generate_series(1, 30000) n",
        "CREATE FUNCTION leave() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(9); RETURN 'x'; END $$",
        "CREATE VIEW leaving AS SELECT leave() AS a", "GRANT SELECT ON faulty, faulty_later, leaving TO agent",
    )  # fmt: skip

    def read(location: str, columns: list[str] | None = None) -> Read:
        return lambda: open_source(settings_of(location, **IN_ENVIRONMENT), HERE).read(columns)

    def table(name: str, columns: list[str] | None = None) -> Read:
        return read(care.address(name, "agent"), columns)

    return [
        ("expected a connection", read(care.address("borgere", "owner"))),  # not his password
        ("expected a connection", read(care.address("borgere", "nobody-of-this-name"))),
        ("expected a connection", read(care.address("borgere", "agent", database="another"))),
        ("expected a connection", read(f"postgresql://agent@127.0.0.1:{free_port()}/omsorg?table=borgere")),
        ("expected a connection", read(care.address("borgere", "agent") + "&sslmode=nonsense")),
        ("a table or view of this name", table("borgerne")),
        ("a table or view of this name", table("elsewhere.borgere")),
        ("may not; grant it SELECT", table("secret")),
        ("column(s) age, køn", table("borgere", ["cpr", "age", "køn"])),
        ("column(s) CPR", table("borgere", ["CPR"])),
        ("broke off", table("faulty")),
        ("broke off", table("faulty_later")),
        ("broke off", table("leaving")),
    ]


# psycopg warns where a server is gone before its cursor is closed; nothing is left open.
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
def test_every_fault_is_one_line_without_credentials_or_values(
    care: Postgres, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "sqlalchemy.dialects", "psycopg"):
        caplog.set_level(logging.DEBUG, logger=name)
    for words, read in broken_reads(care):
        error = told(read)
        assert isinstance(error, DataError)
        assert error.__context__ is None or not isinstance(error.__context__, sa.exc.DBAPIError)
        assert words in str(error)
        del error
        gc.collect()
    assert read_table(care, "borgere").num_rows == 2
    printed = caplog.text + "".join(capfd.readouterr())
    assert not [secret for secret in SECRETS if secret in printed]


def test_a_driver_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyodbc", None)
    assert "pyodbc" in str(told(open_source(settings_of("mssql://u@h/d?table=t"), HERE).read))


@pytest.mark.parametrize(
    ("location", "mode"),
    [
        ("postgresql://u@db.example.dk/d?table=t", "require"),
        ("postgresql://u@db.example.dk/d?table=t&sslmode=verify-full", "verify-full"),
        ("postgresql://u@localhost/d?table=t", None),
    ],
)
def test_the_way_to_another_machine_is_encrypted_unless_the_address_says_how(
    location: str, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def connect(*_: object, **terms: object) -> None:
        seen.append(terms.get("sslmode"))
        raise psycopg.OperationalError

    monkeypatch.setattr(psycopg, "connect", connect)
    told(open_source(settings_of(location), HERE).read)
    assert seen == [mode]
