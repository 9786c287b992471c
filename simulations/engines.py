"""Build the Grid that a study asks for, and import nothing that the chosen engine does not need."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from client.dataset import Partition
from configs.schema import ENGINES, SimulationConfig
from faelles.card import UseCaseCard
from faelles.errors import ConfigError
from faelles.models import Network, build_model
from simulations.cohort import CohortGrid
from simulations.fleet import Fleet
from simulations.grid import Observer, SimulationGrid, Tick
from simulations.parity import ParityGrid
from simulations.pool import LocalPool, Pool
from simulations.population import Site
from simulations.ray_session import check_ray
from simulations.roll import Roll


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Hold who takes part in a simulation.

    Args:
        card: The approved card.
        sites: Node to municipality.
        roll: Their citizens, in the same order.
        partition: How citizens are held out; by each municipality's key where it is None.
        epsilon_cap: What a run may cost, in every municipality.
        folder: Where what stays in a municipality is kept.
    """

    card: UseCaseCard
    sites: Mapping[int, Site]
    roll: Roll
    partition: Partition | None
    epsilon_cap: float
    folder: Path


def check_engine(config: SimulationConfig) -> None:
    """Refuse an engine or device that is not there, before any data is read.

    Raises:
        ConfigError: What to say instead.
    """
    if config.engine not in ENGINES:
        raise ConfigError(f"engine={config.engine}: expected {', '.join(ENGINES)}; choose one")
    if config.workers is not None and config.workers < 1:
        raise ConfigError(f"workers={config.workers}: expected 1 or more processes; leave it out to use every core")
    if config.parity and config.engine not in ("cohort", "ray"):
        raise ConfigError(f"parity=true: expected a fast engine to compare, engine={config.engine} came; leave one out")
    _device(config)
    if config.engine in ("flower", "ray"):
        check_ray(config.engine)
        if config.device == "cuda":
            raise ConfigError(
                f"engine={config.engine}: expected device=cpu, device=cuda came; leave it out, or choose engine=cohort"
            )


def build_grid(
    cast: Cast, config: SimulationConfig, console: Console, observe: Observer | None = None, tick: Tick | None = None
) -> SimulationGrid:
    """Build a study's engine.

    Args:
        cast: Who takes part.
        config: Its `engine`, `workers`, `device`, `parity` and `seed` count.
        console: Where it is said that another engine had to be taken.
        observe: Called with the message type and the messages before they are delivered.
        tick: Called for each reply.
    """
    engine = config.engine
    if engine in ("cohort", "ray") and type(build_model(cast.card)) is not Network:
        kind = cast.card.model.kind
        console.print(f"engine={engine} does not know models of kind {kind}: engine=reference runs it", highlight=False)
        engine = "reference"
    if engine == "reference":
        return _reference(cast, config, observe, tick)
    if engine == "flower":
        return _flower(cast, config, observe, tick)
    if not config.parity:
        return _cohort(cast, config, observe, tick)
    return ParityGrid(_cohort(cast, config), _reference(cast, config), observe, tick)


def _pool(cast: Cast, config: SimulationConfig) -> Pool:
    if config.engine == "ray":
        from simulations.ray_pool import RayPool

        return RayPool(cast.card, cast.roll, config.seed, config.workers)
    device = _device(config)
    fleet = Fleet(cast.card, cast.roll, config.seed, device)
    # Only one process may own a graphics card.
    return LocalPool(fleet, _workers(config, cast) if device == "cpu" else 1)


def _cohort(
    cast: Cast, config: SimulationConfig, observe: Observer | None = None, tick: Tick | None = None
) -> SimulationGrid:
    return CohortGrid(
        card=cast.card, sites=cast.sites, pool=_pool(cast, config), epsilon_cap=cast.epsilon_cap, folder=cast.folder,
        observe=observe, tick=tick,
    )  # fmt: skip


def _reference(
    cast: Cast, config: SimulationConfig, observe: Observer | None = None, tick: Tick | None = None
) -> SimulationGrid:
    """Deal the municipalities out, large ones first, so that workers end at about the same time."""
    from simulations.reference import ReferenceGrid  # it imports Opacus, which takes seconds
    from simulations.worker import Crew as Workers

    workers = _workers(config, cast)
    nodes = sorted(cast.sites, key=lambda node: -cast.sites[node].citizens)
    return ReferenceGrid(
        [
            Workers(
                card=cast.card, sites={node: cast.sites[node] for node in nodes[number::workers]}, folder=cast.folder,
                seed=config.seed, epsilon_cap=cast.epsilon_cap, partition=cast.partition,
            )
            for number in range(workers)
        ],
        observe, tick,
    )  # fmt: skip


def _flower(
    cast: Cast, config: SimulationConfig, observe: Observer | None = None, tick: Tick | None = None
) -> SimulationGrid:
    from simulations.flower_engine import FlowerGrid
    from simulations.worker import Crew as Workers

    everybody = Workers(
        card=cast.card, sites=dict(cast.sites), folder=cast.folder, seed=config.seed, epsilon_cap=cast.epsilon_cap,
        partition=cast.partition,
    )  # fmt: skip
    return FlowerGrid(everybody, cast.roll, _workers(config, cast), observe, tick)


def _workers(config: SimulationConfig, cast: Cast) -> int:
    return max(1, min(config.workers or os.cpu_count() or 1, len(cast.sites)))


def _device(config: SimulationConfig) -> str:
    """Choose where to train.

    Raises:
        ConfigError: There is no such device here.
    """
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.device not in ("cpu", "cuda"):
        raise ConfigError(f"device={config.device}: expected auto, cpu or cuda; choose one")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: expected a graphics card that PyTorch can use, found none; choose device=cpu")
    return config.device
