"""Read rows from a table or view of a database, in one transaction that cannot write.

PostgreSQL is tested against a real server. SQL Server takes the same path but knows no read-only transaction, and is
untested: give the agent a login that can only select.

Nothing of a database reaches an error or a log but public names. Drivers quote values in their messages, so these are
never passed on, and SQLAlchemy would log every row where a program logs everything, so its loggers are off.
"""

import ipaddress
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import DOMAIN

from client.source_columns import choose_columns
from faelles.errors import DataError

CHUNK = 10_000
"""Rows that are fetched, and are Python objects, at one time."""

CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True)
class _Backend:
    """Hold what differs between the databases."""

    driver: str
    port: int
    schema: str
    query: frozenset[str]  # what an address may say beside its table; nothing that could hold a password
    options: dict[str, Any]
    connect_args: dict[str, Any]


_BACKENDS = {
    "postgresql": _Backend(
        driver="psycopg",
        port=5432,
        schema="public",
        query=frozenset({"host", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "krbsrvname"}),
        options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "faelles-agent"},
    ),
    "mssql": _Backend(
        driver="pyodbc",
        port=1433,
        schema="dbo",
        query=frozenset({"driver", "Encrypt", "TrustServerCertificate", "Trusted_Connection"}),
        options={},
        connect_args={"timeout": CONNECT_TIMEOUT_S},
    ),
}

_HINT = (
    "check the names under columns in agent.yaml, capital letters count",
    "se efter navnene under columns i agent.yaml, store og små bogstaver tæller",
)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Hold where a table or view is; never a password."""

    url: sa.URL = field(repr=False)
    backend: str
    host: str
    port: int
    schema: str
    table: str

    @property
    def identity(self) -> str:
        """Name the table the same however its address was written; without the user."""
        parts = [self.url.database or "", f"{self.schema}.{self.table}"]
        # SQL Server does not tell capital letters apart, PostgreSQL does.
        database, table = parts if self.backend == "postgresql" else [part.casefold() for part in parts]
        host = "localhost" if _is_here(self.host) else self.host.rstrip(".").lower()
        url = sa.URL.create(self.backend, host=host, port=self.port, database=database, query={"table": table})
        return url.render_as_string()


def parse_address(location: str) -> Address:
    """Read the address of a table: `postgresql://user@host/database?table=schema.name`.

    Raises:
        DataError: It is none, or holds a password. The text never repeats it.
    """
    try:
        url = sa.make_url(location)
        backend = url.get_backend_name()
        known = _BACKENDS[backend]
    except (sa.exc.ArgumentError, ValueError, KeyError):
        raise _misread() from None
    if url.password is not None:
        raise DataError(
            "location: expected an address without a password, one came; put it in a file that only its owner can read "
            "(chmod 600), name that under password_file, and choose a new password",
            da="location: adressen må ikke indeholde en adgangskode; læg den i en fil, som kun ejeren kan læse "
            "(chmod 600), angiv filen under password_file, og vælg en ny adgangskode",
        )
    query = {name: value for name, value in url.query.items() if isinstance(value, str)}
    schema, _, table = query.pop("table", "").rpartition(".")
    host = url.host or query.get("host", "")
    # A host in the query is the folder of a socket; other forms name several hosts, of which nobody knows the one.
    plain = "host" not in query or (not url.host and host.startswith("/") and not set(",:") & set(host))
    if (not (table and host and url.database and plain) or len(query) + 1 != len(url.query)
            or set(query) - known.query or url.drivername not in (backend, f"{backend}+{known.driver}")):  # fmt: skip
        raise _misread()
    port = url.port or known.port
    return Address(
        url=sa.URL.create(f"{backend}+{known.driver}", url.username, None, url.host, port, url.database, query),
        backend=backend, host=host, port=port, schema=schema or known.schema, table=table,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DatabaseSource:
    """Read one table or view.

    Guarantees:
        The rows are of one moment. A PostgreSQL transaction is READ ONLY, so that not even a view with a function that
        writes can write. At most `CHUNK` rows are Python objects at a time. Neither credentials nor values are in an
        error or a log.
    Assumes:
        The connection to another machine is encrypted: `sslmode=require` unless the address says more, or less.

    Args:
        address: The table.
        password: Reads the password each time it is needed; it may return None.
    """

    address: Address
    password: Callable[[], str | None] = lambda: None

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of some columns, or of all.

        Truth values and numbers keep their type, numbers with decimals as float64; everything else, also dates and
        numbers of a fixed length without decimals such as CPR numbers, comes as the text that the database writes.

        Raises:
            DataError: The database does not answer or let the agent in, a table or column is missing, or it broke off.
        """
        try:
            with self._engine().connect() as connection:
                return self._read(connection, columns)
        except (sa.exc.SQLAlchemyError, UnicodeError, pa.ArrowException) as error:
            fault = _fault(self.address.identity, error)
        # Outside, so that it keeps no trace of the driver's error and the values in it.
        raise fault

    def _read(self, connection: sa.Connection, columns: Sequence[str] | None) -> pa.Table:
        names, fields = self._choose(connection, columns)
        schema = pa.schema([pa.field(name, kind) for name, (_, kind) in zip(names, fields, strict=True)])
        table = sa.table(self.address.table, *(sa.column(name) for name in names), schema=self.address.schema)
        chosen = (expression(table.c[name]) for name, (expression, _) in zip(names, fields, strict=True))
        with connection.execution_options(yield_per=CHUNK).execute(sa.select(*chosen)) as found:
            return pa.Table.from_batches((_batch(rows, schema) for rows in found.partitions()), schema=schema)

    def _choose(self, connection: sa.Connection, columns: Sequence[str] | None) -> tuple[list[str], list["_Field"]]:
        try:
            with warnings.catch_warnings():
                # A type that SQLAlchemy does not know is read as text, like every type that is no number.
                warnings.simplefilter("ignore", sa.exc.SAWarning)
                found = sa.inspect(connection).get_columns(self.address.table, self.address.schema)
        except sa.exc.NoSuchTableError:
            where = self.address.identity
            raise DataError(
                f"{where}: expected a table or view of this name, found none; correct table= in source.location",
                da=f"{where}: der er ingen tabel eller visning af det navn; ret table= i source.location",
            ) from None
        kinds = {column["name"]: column["type"] for column in found}
        names = choose_columns(columns, list(kinds), self.address.identity, _HINT)
        return names, [_field(kinds[name]) for name in names]

    def _engine(self) -> sa.Engine:
        address, password = self.address, self.password()
        backend = _BACKENDS[address.backend]
        connect_args = dict(backend.connect_args)
        if address.backend == "postgresql" and "sslmode" not in address.url.query and not _is_here(address.host):
            connect_args["sslmode"] = "require"
        if password is not None:
            connect_args["password"] = password
        try:
            engine = sa.create_engine(
                address.url, poolclass=sa.NullPool, connect_args=connect_args, execution_options=backend.options,
                hide_parameters=True, logging_name="faelles", pool_logging_name="faelles",
            )  # fmt: skip
        except ImportError:
            raise DataError(
                f"{address.backend}: expected the Python package {backend.driver}, it is missing; install it with pip",
                da=f"{address.backend}: Python-pakken {backend.driver} mangler; installér den med pip",
            ) from None
        # Off rather than quiet: a level could be lowered again from outside.
        engine.logger.disabled = engine.pool.logger.disabled = True  # type: ignore[union-attr]  # no echo is set
        return engine


_Field = tuple[Callable[[sa.ColumnElement[Any]], sa.ColumnElement[Any]], pa.DataType]


def _field(kind: sa.types.TypeEngine[Any]) -> _Field:
    """Decide how a column is asked for, and which type it becomes."""
    if isinstance(kind, DOMAIN):
        kind = kind.data_type
    # The columns have no type of SQLAlchemy's on purpose, so that it converts no value.
    if isinstance(kind, sa.Boolean):
        return _as_it_is, pa.bool_()
    if isinstance(kind, sa.Integer):
        return _as_it_is, pa.int64()
    if isinstance(kind, sa.Float) or (isinstance(kind, sa.Numeric) and kind.scale != 0):
        return _as_it_is, pa.float64()
    # By the database: a driver refuses dates that Python does not know, and whether there is one depends on data.
    return lambda column: sa.cast(column, sa.Unicode), pa.string()


def _as_it_is(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return column


def _batch(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for place, kind in enumerate(schema.types):
        values = (row[place] for row in rows)
        if pa.types.is_floating(kind):  # a driver gives Decimal for some of them
            values = (None if value is None else float(value) for value in values)
        arrays.append(pa.array(list(values), kind))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _fault(where: str, error: Exception) -> DataError:
    """Say what went wrong, by where it did and by the five signs of SQLSTATE; never in the driver's words."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if isinstance(error, sa.exc.DBAPIError) and state is None:  # only a server that answers gives one
        return DataError(
            f"{where}: expected a connection, got none or lost it; check that the server runs, host, port, database, "
            "user, password and TLS",
            da=f"{where}: der er ingen forbindelse; se efter, at serveren kører, vært, port, database, bruger, "
            "adgangskode og TLS",
        )
    if state == "42501":
        return DataError(
            f"{where}: expected a table or view that the agent's user may read, it may not; grant it SELECT",
            da=f"{where}: agentens bruger må ikke læse tabellen eller visningen; giv den SELECT",
        )
    if state == "25006":
        return DataError(
            f"{where}: expected a view that only reads, it tries to write; name one without side effects",
            da=f"{where}: visningen forsøger at skrive; angiv en uden sidevirkninger",
        )
    return DataError(
        f"{where}: expected to read all rows, the database broke off; look in its own log, then try again",
        da=f"{where}: databasen afbrød læsningen; se i dens egen log, og prøv igen",
    )


def _misread() -> DataError:
    known = ", ".join(sorted(_BACKENDS["postgresql"].query))
    return DataError(
        "location: expected postgresql://user@host/database?table=schema.name (or mssql+pyodbc://...), beside table "
        f"only {known}, another address came; write it so",
        da="location: skal være postgresql://bruger@vært/database?table=skema.navn (eller mssql+pyodbc://...), ud over "
        f"table kun {known}; skriv den sådan",
    )


def _is_here(host: str) -> bool:
    """Tell whether a host is this machine: a socket's folder, or one of its own names."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.startswith("/") or host.rstrip(".").lower() == "localhost"
