"""Small cohorts for the tests: the same municipalities as in `tests.federations`, answered by the fast engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faelles.card import UseCaseCard
from server.result import RunRecord
from server.rounds import Federation
from simulations.cohort import CohortGrid
from simulations.fleet import Fleet
from simulations.grid import FIRST_NODE_ID, SimulationGrid
from simulations.parity import ParityGrid
from simulations.pool import LocalPool
from simulations.population import Site
from simulations.reference import ReferenceGrid
from simulations.roll import build_roll
from simulations.worker import Crew
from tests.builders import build_sites
from tests.federations import CITIZENS, build_config

SEED = 7  # as the crews of `tests.federations` have it


def nodes_of(sites: Sequence[Site]) -> dict[int, Site]:
    """Number municipalities as a simulation does."""
    return {FIRST_NODE_ID + place: site for place, site in enumerate(sites)}


def build_cohort(
    folder: Path,
    card: UseCaseCard,
    sites: Sequence[Site] | None = None,
    *,
    workers: int = 1,
    epsilon_cap: float | None = None,
    **changes: Any,
) -> CohortGrid:
    """Build the fast engine; of the municipalities of `tests.federations` unless others are given."""
    folder.mkdir(parents=True, exist_ok=True)
    everybody = build_sites(CITIZENS) if sites is None else sites
    fleet = Fleet(card, build_roll(card, everybody, SEED, None), SEED)
    cap = card.privacy.epsilon if epsilon_cap is None else epsilon_cap
    return CohortGrid(
        card=card, sites=nodes_of(everybody), pool=LocalPool(fleet, workers), epsilon_cap=cap, folder=folder, **changes
    )


def build_reference(
    folder: Path, card: UseCaseCard, sites: Sequence[Site] | None = None, *, epsilon_cap: float | None = None
) -> ReferenceGrid:
    """Build the reference with the same municipalities, in one worker process."""
    folder.mkdir(parents=True, exist_ok=True)
    everybody = nodes_of(build_sites(CITIZENS) if sites is None else sites)
    cap = card.privacy.epsilon if epsilon_cap is None else epsilon_cap
    return ReferenceGrid([Crew(card=card, sites=everybody, folder=folder, seed=SEED, epsilon_cap=cap, partition=None)])


def build_parity(
    folder: Path, card: UseCaseCard, sites: Sequence[Site] | None = None, *, epsilon_cap: float | None = None
) -> ParityGrid:
    """Build both, to be run in lock-step."""
    return ParityGrid(
        build_cohort(folder / "nodes", card, sites, epsilon_cap=epsilon_cap),
        build_reference(folder / "nodes", card, sites, epsilon_cap=epsilon_cap),
    )


def run_grid(
    grid: SimulationGrid, folder: Path, card: UseCaseCard, strategy: str = "fedavg", **changes: Any
) -> RunRecord:
    """Run a federation over a grid to its end."""
    with grid:
        return Federation(grid, build_config(folder, card, strategy, **changes)).run()
