"""What the tests of the command line share: one agent, set up once by commands, and copied for every test."""

from pathlib import Path

import pytest

from client.desk import commands, decisions
from client.home import Home
from tests.desk import NOW, copy_agent
from tests.municipality import Municipality, cpr_table


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Municipality:
    """Set up a municipality with 60 cyclists, registered; not to be changed."""
    made = Municipality(tmp_path_factory.mktemp("town"), "0851", cpr_table(60))
    assert made.register() == 0
    return made


@pytest.fixture
def home(town: Municipality, tmp_path: Path) -> Home:
    """Copy it."""
    return copy_agent(town.folder, tmp_path / "agent")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock of the commands."""
    for module in (commands, decisions):
        monkeypatch.setattr(module, "utc_now", lambda: NOW)
