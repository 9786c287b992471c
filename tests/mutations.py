"""Spoil what is valid, at random: texts of people's files, messages of a coordinator, and the bytes of a store."""

import json
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from faelles.records import ARRAYS, CONFIG, LEDGER_HEAD, PLAN, TERMS, Kind

PAGE = 4096  # of a store's file
# Values that a YAML reader, a checker or a formatter may choke on.
ATOMS = (
    "", "~", "null", "yes", "no", "0", "-1", "1", "1.5", "-0.0", ".nan", ".inf", "-.inf", "1e400", "1e-400", "07:00",
    "12:30", "25:61", "1:2:3.5", "9" * 400, "9" * 5000, "0x" + "f" * 4000, "0x" + "f" * 5000, "0b" + "1" * 20000,
    "0o8", "1_0", "1__", "1:1" + ":1" * 200 + ".0", "2001-01-01", "2001-99-99", "2001-01-01T00:00:00+99:99",
    "0001-01-01 00:00:00 +23:59", "!!int ''", "!!int '-'", "!!int x", "!!float ''", "!!float '-'", "!!bool foo",
    "!!timestamp foo", "!!binary '='", "!!binary a", "!!str [a]", "!!null x", "!!set {a, b}", "!!omap [a: 1]",
    "!!pairs [a: 1]", "!!map a", "!!seq a", "!!python/name:os.system", "!!python/object/apply:os.system [echo]",
    "!x y", "! y", "&a [*a]", "&a {b: *a}", "*nowhere", "{<<: 3}", "{<<: &b {c: 1}}", "[]", "{}", "[[[]]]",
    "[1, [2, {3: 4}]]", "{a: {b: {c: d}}}", "{? [a] : b}", "{? {a: b} : c}", "{1: 2}", "{null: 1}", "{.nan: 1}",
    '{"\\ud800": 1}', '"\\ud800"', '"\\U00110000"', '"\\x00"', '"\\u2028"', '"a\\nb"', '"\\e[31m"', "'", '"', "|",
    ">", ">-\n  x", "@", "`", "%", "%YAML 9.9", "---", "- - - -", "? ", ": ", "=", "<<", "æøå", "0101", '"0101"',
    "\U0001f6b2", "ﬀ", "a" * 5000, "[" * 40, "[" * 3000, "{a: " * 40, "#", "..", "../../etc/passwd",
    "postgresql://u:secret@h/d?table=t", "x.csv", "all", "mon", "{0x" + "f" * 5000 + ": 1}",
    "[" + "a, " * 2000 + "]", "!!float 0x1", "!!int 1.5", "1e5", "+1", "+.inf", "1e+400",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 4, 10_000, 2**31 - 1, 2**31, 2**53, 2**63 - 1, -(2**63), 0.0, -0.0, 1e308, 5e-324, float("nan"),
    float("inf"), float("-inf"), True, False,
)  # fmt: skip
TEXTS = (
    "", "0", "null", "a" * 70_000, "\x00", "æ", "\U0001f6b2", "\u202e", "nan", "[]", "{}", "[" * 20_000, "{" * 999,
    '{"a":1}', "0101", "'; DROP TABLE ledger; --", "%s%n", "../x", "9" * 5000, '"\\ud800"',
)  # fmt: skip
TYPES = (
    "query", "query.x", "query.unknown", "query.Ready", "query.ready_", "train.x", "train.train", "evaluate.æ",
    "system", "reconnect", "get_parameters", "query." + "x" * 5000,
)  # fmt: skip
DTYPES = (
    "float32", ">f4", "float64", "float16", "int8", "int64", "uint64", "bool", "complex64", "U3", "S3", "V8",
    "datetime64[s]",
)  # fmt: skip
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (1, 1), (7,), (2, 0), (1000,), (1, 1, 1, 1), (3, 2))


def text(rng: random.Random, valid: str) -> bytes:
    """Spoil a YAML text in one to four places."""
    data = valid
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice((_value, _value, _value, _key, _line, _indent, _letters))(rng, data)
    raw = data.encode("utf-8", "surrogatepass")
    return _bytes(rng, raw) if rng.random() < 0.15 else raw


def _value(rng: random.Random, text: str) -> str:
    """Put an atom in the place of a value."""
    places = list(re.finditer(r"(?<=[:\[,-] )[^\s,\]\[{}#][^\n,\]#{}]*", text))
    if not places:
        return rng.choice(ATOMS)
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(ATOMS) + text[place.end() :]


def _key(rng: random.Random, text: str) -> str:
    """Put an atom, or another key of the same text, in the place of a key."""
    places = list(re.finditer(r"[\w.-]+(?=:)", text))
    if not places:
        return text
    place = rng.choice(places)
    other = rng.choice((rng.choice(ATOMS), rng.choice(places).group(), place.group()[:-1], place.group().upper()))
    return text[: place.start()] + other + text[place.end() :]


def _line(rng: random.Random, text: str) -> str:
    """Drop, repeat, move or add a line."""
    lines = text.split("\n")
    line = lines.pop(rng.randrange(len(lines)))
    kept = rng.choice(([], [line, line], [line], [rng.choice(ATOMS)], [f"{rng.choice(ATOMS)}: {rng.choice(ATOMS)}"]))
    place = rng.randrange(len(lines) + 1)
    return "\n".join([*lines[:place], *kept, *lines[place:]])


def _indent(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    lines[place] = rng.choice(("  ", "\t", " ", "- ", "")) + lines[place].lstrip()
    return "\n".join(lines)


def _letters(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text) + 1)
    strange = rng.choice("\ufeff\x00\x85\u2028\t:&*!%'\"{]\ré")
    return rng.choice((text[:place], text[place:], text[:place] + strange + text[place:], text[:place] + strange * 50))


def _bytes(rng: random.Random, data: bytes) -> bytes:
    """Change, cut or fill some bytes."""
    spoiled = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(spoiled))
        how = rng.randrange(4)
        if how == 0:
            spoiled[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            spoiled[place:] = b"" if place else b"\0"
        elif how == 2:
            spoiled[place : place + rng.randrange(9)] = rng.randbytes(rng.randrange(9)) or b"\xff"
        else:
            spoiled[place:place] = spoiled[: rng.randrange(64)]
    return bytes(spoiled)


def message(rng: random.Random, kind: str, content: RecordDict, heads: list[str]) -> tuple[str, RecordDict]:
    """Spoil a request in one to three places.

    Args:
        rng: Chooses.
        kind: The request's type.
        content: Its records, which are changed.
        heads: Heads that may be presented or spoiled: some that the municipality signed, some that others did.

    Returns:
        Type and content.
    """
    for _ in range(rng.choice((1, 1, 1, 3))):
        how = rng.randrange(16)
        if how == 0:
            kind = rng.choice((*TYPES, *Kind))
        elif how == 1:
            _records(rng, content)
        elif how < 5:
            with suppress(KeyError):
                _arrays(rng, content.array_records[ARRAYS])
        else:
            with suppress(KeyError):
                _config(rng, content.config_records[CONFIG], heads)
    return kind, content


def _records(rng: random.Random, content: RecordDict) -> None:
    records = (ArrayRecord(), MetricRecord({"loss": 0.5}), ConfigRecord({"a": 1}), ConfigRecord())
    name = rng.choice((ARRAYS, CONFIG, "more", "", "state"))
    if rng.random() < 0.4:
        content.pop(name, None)
    else:
        content[name] = rng.choice(records)


def _arrays(rng: random.Random, record: ArrayRecord) -> None:
    name = rng.choice([*record, "output.bias", "more", "", "a" * 300])
    array = record.get(name) or Array(np.zeros(1, np.float32))
    how = rng.randrange(6)
    if how == 0:
        record.pop(name, None)
    elif how == 1:
        record[name] = Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=_bytes(rng, array.data))
    elif how == 2:
        record[name] = Array(
            dtype=rng.choice((array.dtype, *DTYPES, "object", "nonsense")),
            shape=rng.choice((*SHAPES, (2**31 - 1,), (-1,))),
            stype=rng.choice((array.stype, "", "pickle", "torch")),
            data=array.data,
        )
    elif how == 3:
        shape = rng.choice((tuple(array.shape), *SHAPES))
        with np.errstate(all="ignore"):
            filled = np.full(shape, rng.choice((0.0, 1.0, 1e30, np.nan, np.inf, -np.inf)))
            record[name] = Array(np.asarray(filled, np.dtype(rng.choice((*DTYPES, "float64", "float64")))))
    elif how == 4:
        record[name] = Array(
            np.asarray(rng.choice((1.0, 1e3, 1e6, 1e30)) * _noise(rng, tuple(array.shape)), np.float32)
        )
    else:
        record[rng.choice(("more", *record))] = array


def _noise(rng: random.Random, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(32)).normal(size=shape if np.prod(shape, dtype=float) < 1e6 else ())


def _config(rng: random.Random, config: ConfigRecord, heads: list[str]) -> None:
    key = rng.choice([*config, LEDGER_HEAD, LEDGER_HEAD, "more", ""])
    value = config.get(key)
    how = rng.randrange(6)
    if how == 0:
        config.pop(key, None)
    elif how == 1:
        config[key] = rng.choice((*NUMBERS, *TEXTS, b"", b"\xff", [1, 2], [0.5], ["a"], [b"b"], [True], []))
    elif how == 2 and isinstance(value, int):
        config[key] = rng.choice(
            (value // 2, max(0, value - 1), -(value // 2), value % 1000 + 1, float(value), str(value))
        )
    elif key == LEDGER_HEAD:
        head = rng.choice(heads)
        config[key] = head if rng.random() < 0.4 else _json(rng, head)
    elif key in (TERMS, PLAN) and isinstance(value, str):
        config[key] = _json(rng, value)
    elif isinstance(value, str):
        place = rng.randrange(len(value) + 1)
        config[key] = rng.choice((value.upper(), value[:place], value[place:], value + value, value + "\n", " " + value,
                                  value[:place] + rng.choice("0a\x00æ") + value[place + 1 :]))  # fmt: skip
    else:
        config[key] = rng.choice(NUMBERS)


def _json(rng: random.Random, text: str) -> str:
    """Spoil a JSON text: a value, a key, or letters."""
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or not fields or rng.random() < 0.3:
        return rng.choice((text[: rng.randrange(len(text) + 1)], text + " ", " " * 5000 + text, text * 2, *TEXTS))
    key = rng.choice(list(fields))
    value = fields[key]
    if rng.random() < 0.3 and isinstance(value, str) and value:
        place = rng.randrange(len(value))
        fields[key] = value[:place] + rng.choice("0aA_-=é") + value[place + 1 :]
    elif rng.random() < 0.3:
        fields[rng.choice(("more", key.upper()))] = fields.pop(key)
    elif isinstance(value, (int, float)) and rng.random() < 0.6:
        fields[key] = rng.choice((value + 1, value - 1, value * 2, value / 2, value + 1e-12, -value))
    else:
        fields[key] = rng.choice((*NUMBERS, *TEXTS, None, [], {}, [value], {"a": value}, 10**400))
    return json.dumps(fields, sort_keys=rng.random() < 0.7, separators=(",", ":"))


def store(rng: random.Random, path: Path) -> str:
    """Spoil the files of a store that nobody has open; say how."""
    name, spoil = rng.choice(SPOILERS)
    spoil(rng, path)
    return name


def _flip(rng: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _cut(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    place = rng.choice((rng.randrange(len(data)), rng.randrange(len(data) // PAGE) * PAGE, rng.randrange(200)))
    path.write_bytes(data[:place] if rng.random() < 0.8 else data[place:])


def _pages(rng: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    pages = [slice(start, start + PAGE) for start in range(0, len(data) - PAGE + 1, PAGE)]
    one, other = rng.choice(pages), rng.choice(pages)
    how = rng.randrange(4)
    if how == 0:
        data[one], data[other] = data[other], data[one]
    elif how == 1:
        data[one] = bytes(PAGE)
    elif how == 2:
        data[one] = data[other]
    else:
        data[one] = rng.randbytes(PAGE)
    path.write_bytes(data)


def _log(rng: random.Random, path: Path) -> None:
    """Take away or spoil what SQLite keeps beside the file."""
    log = path.with_name(path.name + "-wal")
    if not log.exists() or rng.random() < 0.3:
        log.unlink(missing_ok=True)
    elif rng.random() < 0.6:
        rng.choice((_flip, _cut))(rng, log)
    else:
        log.write_bytes(rng.choice((b"", b"nonsense", rng.randbytes(5000))))
    if rng.random() < 0.3:
        path.with_name(path.name + "-shm").write_bytes(rng.randbytes(32768))


def _rows(rng: random.Random, path: Path) -> None:
    """Change rows as somebody would who has a tool for SQLite."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for _ in range(rng.choice((1, 1, 1, 3))):
            with suppress(sqlite3.Error):
                _row(rng, database, rng.choice(tables))


def _row(rng: random.Random, database: sqlite3.Connection, table: str) -> None:
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    rows = [row[0] for row in database.execute(f"SELECT rowid FROM {table}")]  # noqa: S608  # names of ours
    one, other, column = rng.choice(rows or [0]), rng.choice(rows or [0]), rng.choice(columns)
    how = rng.randrange(6)
    if how < 2:
        value = rng.choice(
            (None, 0, 1, -1, 2**62, 1.5, "", "x", "training", "f" * 64, b"", b"\0" * 8, rng.randbytes(1336))
        )
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, one))  # noqa: S608  # names of ours
    elif how == 2:
        database.execute(f"DELETE FROM {table} WHERE rowid = ?", (one,))  # noqa: S608
    elif how == 3:
        database.execute(
            f"UPDATE {table} SET {column} = (SELECT {column} FROM {table} WHERE rowid = ?) WHERE rowid = ?",  # noqa: S608
            (other, one),
        )
    elif how == 4:
        database.execute(f"DELETE FROM {table} WHERE rowid > ?", (one,))  # noqa: S608
    else:
        database.execute(rng.choice((
            f"DROP TABLE {table}", f"ALTER TABLE {table} RENAME TO gone", f"DELETE FROM {table}",  # noqa: S608
            f"ALTER TABLE {table} ADD COLUMN more TEXT", f"ALTER TABLE {table} RENAME COLUMN {column} TO gone",
            f"PRAGMA user_version = {rng.randrange(-1, 5)}",
        )))  # fmt: skip


def _other(rng: random.Random, path: Path) -> None:
    """Put something else in the store's place."""
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    path.unlink()
    how = rng.randrange(5)
    if how == 0:
        path.mkdir()
    elif how == 1:
        path.symlink_to(path.with_name("nowhere") / "at all")
    elif how == 2:
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"PRAGMA user_version = {rng.randrange(4)}")
            database.execute(
                rng.choice(("CREATE TABLE ledger (a)", "CREATE TABLE secret (key BLOB)", "CREATE TABLE x (y)"))
            )
    else:
        path.write_bytes(rng.choice((b"not a database", b"SQLite format 3\0", rng.randbytes(9000), b"\0" * 8192)))


SPOILERS: tuple[tuple[str, Callable[[random.Random, Path], None]], ...] = (
    ("flipped bits", _flip), ("flipped bits", _flip), ("cut", _cut), ("pages", _pages), ("log", _log), ("rows", _rows),
    ("rows", _rows), ("other", _other),
)  # fmt: skip


def seeds(first: int, count: int) -> Iterator[tuple[int, random.Random]]:
    """Draw the seed of each case, so that one case can be made again alone."""
    draw = random.Random(first)
    for _ in range(count):
        seed = draw.getrandbits(32)
        yield seed, random.Random(seed)


def one_line(error: Any) -> bool:
    """Say whether an error can be printed as one line, in both languages."""
    texts = (error.text("da"), error.text("en"))
    return all(len(text.splitlines()) == 1 and text.isprintable() and text.encode() for text in texts)
