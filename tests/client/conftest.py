"""What the tests of the agent share: a database with something in it."""

from collections.abc import Iterator

import pytest

from tests.postgres import Postgres
from tests.sources import CPR, PASSWORD


@pytest.fixture
def care(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """Fill the server with a table, and know the password of a user who may write some of it."""
    postgres.run(
        "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "DROP SCHEMA IF EXISTS omsorg CASCADE",
        "DROP ROLE IF EXISTS agent",
        f"CREATE ROLE agent LOGIN PASSWORD '{PASSWORD}'", "GRANT USAGE ON SCHEMA public TO agent",
        'CREATE TABLE "Borgere ""æøå""" (cpr text, "Køn" char(3), alder int)',
        "CREATE TABLE borgere (cpr text PRIMARY KEY, alder int)",
        f"INSERT INTO borgere VALUES ('{CPR}', 71), ('0202902345', NULL)",  # noqa: S608 - our own values
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO agent",
    )  # fmt: skip
    monkeypatch.setenv("AGENT_PASSWORD", PASSWORD)
    yield postgres
    postgres.run("DROP OWNED BY agent", "DROP ROLE agent")
