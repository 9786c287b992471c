"""Simulate the work with this project's engines: the real ServerApp's rounds over a Grid.

A round is measured from one sending of its requests to the next, so that messages, validation, aggregation and the
durable checkpoint are part of it.
"""

import tempfile
import time
import uuid
from pathlib import Path

from flwr.app import Message
from rich.console import Console

from configs.schema import SimulationConfig, StrategyConfig
from faelles.card import UseCaseCard
from faelles.privacy.plan import declared_band
from faelles.records import Kind
from faelles.terms import RunTerms
from server.federation import FederationConfig, StrategyChoice
from server.rounds import Federation
from simulations.engines import Cast, build_grid
from simulations.grid import FIRST_NODE_ID, SimulationGrid
from simulations.population import ColumnPartition, Site
from simulations.roll import build_roll
from simulations.speed.measured import Measured, between, torch_threads
from simulations.speed.workload import Workload

EPSILON = 2.0
HELD_OUT = ColumnPartition(column="held", value="yes")


class Watch:
    """Note when each round's requests are sent, and when the model that the last one made is."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def note(self, kind: str, messages: list[Message]) -> None:
        """Observe a grid."""
        if kind in (Kind.TRAIN, Kind.FINAL):
            self._ends.append(time.monotonic())

    @property
    def measured(self) -> Measured:
        """Reckon the rounds but the first one."""
        return between(self._ends[1:])


def measure_cohort(workload: Workload, rounds: int) -> Measured:
    """Simulate some rounds with the fast engine."""
    return _measure(workload, rounds, "cohort")


def measure_reference(workload: Workload, rounds: int) -> Measured:
    """Simulate some rounds with the production ClientApp, municipality by municipality."""
    return _measure(workload, rounds, "reference")


def build_cast(workload: Workload, card: UseCaseCard, folder: Path) -> Cast:
    """Make the municipalities of a workload."""
    sites = [
        Site(
            label=f"{place:05d}", name=f"{place:05d}", table=workload.table(place), citizens=int(size),
            declared_size=declared_band(int(size)),
        )
        for place, size in enumerate(workload.sizes_S)
    ]  # fmt: skip
    return Cast(
        card=card, sites={FIRST_NODE_ID + place: site for place, site in enumerate(sites)},
        roll=build_roll(card, sites, 1, HELD_OUT), partition=HELD_OUT,
        epsilon_cap=EPSILON if workload.private else float("inf"), folder=folder,
    )  # fmt: skip


def run_rounds(workload: Workload, card: UseCaseCard, grid: SimulationGrid, folder: Path) -> None:
    """Run a federation of a card's rounds over a grid, without the evaluation that ends one."""
    terms = RunTerms.of(card) if workload.private else RunTerms(epsilon=float("inf"), rounds=card.training.rounds)
    config = FederationConfig(
        federation=uuid.uuid4(), card=card, terms=terms.model_copy(update={"evaluate": False}),
        strategy=StrategyChoice(name="fedavg"), folder=folder, weighting="declared",
    )  # fmt: skip
    record = Federation(grid, config).run()
    assert record.status == "completed", record.why


def _measure(workload: Workload, rounds: int, engine: str) -> Measured:
    card = workload.card(rounds + 1)  # the first one is not counted
    watch = Watch()
    config = SimulationConfig(usecase="", strategy=StrategyConfig(name="fedavg"), engine=engine)
    with tempfile.TemporaryDirectory(prefix="speed") as name, torch_threads(1):
        folder = Path(name)
        (folder / "nodes").mkdir()
        with build_grid(build_cast(workload, card, folder / "nodes"), config, Console(), watch.note) as grid:
            run_rounds(workload, card, grid, folder / "run")
    return watch.measured
