"""Read a population's rows from where the municipality keeps them: a file or a database."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from client.source_files import CsvSource, ParquetSource
from faelles.errors import DataError

if TYPE_CHECKING:
    from client.source_database import Address

TEXT_FILES = (".csv", ".txt")


class Source(Protocol):
    """Yield all rows of one population."""

    def read(self) -> pa.Table:
        """Return the rows; every column the contract names, under its name."""
        ...


class ColumnSource(Protocol):
    """Yield all rows, of chosen columns, under the names that the municipality gave them."""

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of some columns, or of all.

        Raises:
            DataError: It cannot be read, or has no such column. Nothing in the text is a value or a credential.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Serve rows that are already in memory."""

    table: pa.Table

    def read(self) -> pa.Table:
        """Return the table."""
        return self.table


class SourceSettings(BaseModel):
    """State where a population's rows are, as it stands in agent.yaml.

    Args:
        location: A file that ends with .csv, .txt or .parquet, or the address of a table or view, such as
            postgresql://agent@db.example.dk/omsorg?table=borgere, without a password.
        encoding: Of a text file; utf-8 with or without a byte order mark.
        delimiter: Of a text file, one character.
        decimal: What numbers that are written as text have before their decimals.
        password_file: A file that only its owner can read and that holds nothing but the password.
        password_env: The environment variable that holds it.
    """

    # Neither a repr nor a validation error repeats the location: somebody may have written a password into it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    location: str = Field(min_length=1, repr=False)
    encoding: Literal["utf-8", "windows-1252", "iso-8859-1"] = "utf-8"
    delimiter: Annotated[str, Field(pattern=r"^[\t -~]$")] = ";"
    decimal: Literal[",", "."] = ","
    password_file: Path | None = None
    password_env: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delimiter == '"':
            raise ValueError("delimiter is a quotation mark, which goes around values; write what goes between them")
        if self.password_file is not None and self.password_env is not None:
            raise ValueError("password_file and password_env are both given; keep one")
        return self


def identity(settings: SourceSettings, folder: Path) -> str:
    """Name a source the same however its address is written, without user and password.

    An account holds on to this name, so that two populations cannot charge the same table to two accounts. Different
    names of one host are not found out here; that the citizens are the same is, by `client.population.overlap`.

    Args:
        settings: The source.
        folder: What a relative path is relative to.

    Raises:
        DataError: The location is neither a file nor an address that can be read.
    """
    if _is_address(settings.location):
        return _address(settings.location).identity
    return _path(settings.location, folder).as_uri()


def open_source(settings: SourceSettings, folder: Path) -> ColumnSource:
    """Open a source; nothing is read or connected to before its `read`.

    Args:
        settings: The source.
        folder: What relative paths are relative to.

    Raises:
        DataError: The location is neither a file nor an address that can be read.
    """
    if _is_address(settings.location):
        # Imported here: a simulation reads no database and does without SQLAlchemy.
        from client.source_database import DatabaseSource

        return DatabaseSource(address=_address(settings.location), password=partial(_password, settings, folder))
    path = _path(settings.location, folder)
    if path.suffix.lower() in TEXT_FILES:
        return CsvSource(path=path, encoding=settings.encoding, delimiter=settings.delimiter)
    return ParquetSource(path=path)


def _is_address(location: str) -> bool:
    return "://" in location


def _address(location: str) -> "Address":
    from client.source_database import parse_address

    return parse_address(location)


def _path(location: str, folder: Path) -> Path:
    if not location.lower().endswith((*TEXT_FILES, ".parquet")):
        raise DataError(
            "location: expected a file that ends with .csv, .txt or .parquet, or the address of a table "
            "(postgresql://user@host/database?table=name), something else came; write one of these",
            da="location: skal være en fil, der ender på .csv, .txt eller .parquet, eller adressen på en tabel "
            "(postgresql://bruger@vært/database?table=navn); skriv en af dem",
        )
    return (folder / location).resolve()


def _password(settings: SourceSettings, folder: Path) -> str | None:
    """Read the password where the settings say it is; None where the database takes none."""
    if settings.password_env is not None:
        password = os.environ.get(settings.password_env)
        if not password:
            raise DataError(
                f"password_env: expected the environment variable {settings.password_env} to hold the password, it is "
                "not set; set it for the agent's service",
                da=f"password_env: miljøvariablen {settings.password_env} skal indeholde adgangskoden, men er ikke "
                "sat; sæt den for agentens tjeneste",
            )
        return password
    return None if settings.password_file is None else _password_of(folder / settings.password_file)


def _password_of(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            # Of the open file, which nobody can exchange between the look and the reading.
            mode = os.fstat(file.fileno()).st_mode
            password = "" if mode & 0o077 else file.read().strip("\r\n")
    except (OSError, ValueError):
        raise DataError(
            f"password_file {path}: expected a text file that the agent can read, found none; write the password there",
            da=f"password_file {path}: skal være en tekstfil, agenten kan læse; skriv adgangskoden i den",
        ) from None
    if mode & 0o077:
        raise DataError(
            f"password_file {path}: expected a file that only its owner can read, others can too; run chmod 600 and "
            "choose a new password",
            da=f"password_file {path}: må kun kunne læses af ejeren, men andre kan også; kør chmod 600, og vælg en ny "
            "adgangskode",
        )
    if not password:
        raise DataError(
            f"password_file {path}: expected a password, it is empty; write it there",
            da=f"password_file {path}: skal indeholde en adgangskode, men er tom; skriv den dér",
        )
    return password
