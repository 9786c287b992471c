"""What every test shares: quiet libraries, one thread, logging as it was found, and the way to the real data."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Set before Flower and torch are imported: both read the environment once.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from hypothesis import settings

from tests.postgres import Postgres, serve

ROOT = Path(__file__).parents[1]
SHARED_DATA = Path(os.environ.get("FAELLES_DATA", ROOT.parent / "shared" / "data"))

# No deadline: a busy machine is no failure. pytest-timeout stops what hangs.
settings.register_profile("faelles", deadline=None, database=None)
settings.load_profile("faelles")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that share a live federation: they wait much, and the others fill the time."""
    items.sort(key=lambda item: item.get_closest_marker("live") is None)


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Give the path of a real data set by its name, or skip where the data are absent."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name / f"{name}.parquet"
        if not path.exists():
            pytest.skip(f"needs the real data set {name}: not beside this checkout, nor in FAELLES_DATA")
        return path

    return find


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Serve PostgreSQL on a socket of its own, one for each process that runs tests."""
    with serve(password="ejerens kode") as server:  # noqa: S106 - a server that ends with the tests
        yield server


@pytest.fixture(autouse=True)
def _threads_as_they_were() -> Iterator[None]:
    """Undo what a policy's limits do to this process; torch reads them when it first computes, also in a later test."""
    before = os.environ["OMP_NUM_THREADS"]
    yield
    os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a test, or a library that it imports, does to the loggers."""
    names = ("", "flwr", "opacus", "faelles")
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names}
    yield
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers


@pytest.fixture(autouse=True)
def _flowers_identity_as_it_was() -> Iterator[None]:
    """Undo what a test does to the identity that Flower keeps for the whole process; without importing Flower."""
    names = ("_run_id", "_node_id", "_task_id")

    def identity() -> Any:
        return getattr(sys.modules.get("flwr.supercore.task_identity"), "TaskIdentity", None)

    before = {name: getattr(identity(), name, None) for name in names}
    yield
    for name, value in before.items():
        if identity() is not None:
            setattr(identity(), name, value)
