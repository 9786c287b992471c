"""Keep the municipalities of the last jobs, so that a sweep reads its data once and not once for each job."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from catalogue.shelf import UseCase
from client.dataset import Partition
from configs.schema import SimulationConfig
from faelles.card import UseCaseCard
from simulations import population
from simulations.population import ColumnPartition, Site
from simulations.roll import Roll, build_roll
from simulations.study import Study

KEPT = 2  # populations, and rolls of them, in memory; a large one fills much of a laptop's
T = TypeVar("T")
_kept: dict[Hashable, tuple[Site, ...]] = {}  # the one used last stands last
_rolls: dict[Hashable, Roll] = {}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Hold what a study learns from.

    Args:
        sites: The municipalities.
        roll: Their citizens, in the same order.
        partition: How citizens are held out; by each municipality's key where it is None.
    """

    sites: tuple[Site, ...]
    roll: Roll
    partition: Partition | None


def load(study: Study, config: SimulationConfig) -> Loaded:
    """Load a study's municipalities and their citizens, or hand out what an earlier job has loaded.

    Raises:
        ConfigError: There is neither a file nor a twin.
        DataError: The file or its rows do not fit.
    """
    usecase, card = study.usecase, study.card
    partition = ColumnPartition(column=usecase.held_out[0], value=usecase.held_out[1]) if usecase.held_out else None
    path = Path(config.data.path) if config.data.path else None
    sites = load_sites(usecase, card, path, config.data.site, config.seed)
    key = (_key(usecase, card, path, config.data.site, config.seed), config.seed)
    return Loaded(
        sites=sites, partition=partition,
        roll=_keep(_rolls, key, lambda: build_roll(card, sites, config.seed, partition)),
    )  # fmt: skip


def load_sites(usecase: UseCase, card: UseCaseCard, path: Path | None, site_column: str, seed: int) -> tuple[Site, ...]:
    """Load every site as `population.load_sites` does, or hand out those that it has loaded from the same.

    A site and its rows cannot be changed, so that jobs may share them.

    Raises:
        ConfigError: There is neither a file nor a twin.
        DataError: The file or its rows do not fit.
    """
    key = _key(usecase, card, path, site_column, seed)
    return _keep(_kept, key, lambda: tuple(population.load_sites(usecase, card, path, site_column, seed)))


def _keep(kept: dict[Hashable, T], key: Hashable, make: Callable[[], T]) -> T:
    found = kept.pop(key, None)
    if found is None:
        # Before the new one is made: there are never more in memory than may be kept.
        while len(kept) >= KEPT:
            del kept[next(iter(kept))]
        found = make()
    kept[key] = found
    return found


def _key(usecase: UseCase, card: UseCaseCard, path: Path | None, site_column: str, seed: int) -> Hashable:
    """Name all that decides which rows there are and whether they fit; not how they are learned from."""
    contract = (
        card.label.model_dump_json(),
        tuple(feature.model_dump_json() for feature in card.features),
        card.unit,
        card.max_rows_per_unit,
        card.evaluation.held_out,
    )
    # The functions themselves: who replaces a use case's twin gets the rows of the new one.
    source = (usecase.folder.resolve(), usecase.twin, usecase.adapter)
    draws = path is None or usecase.adapter is not None
    return (*source, contract, _file(path), site_column, seed if draws else None)


def _file(path: Path | None) -> Hashable:
    """Name a file as it is now; one that is not there has no rows to share, and the loader says so."""
    if path is None or not path.is_file():
        return path
    now = path.stat()
    return (path.resolve(), now.st_ino, now.st_size, now.st_mtime_ns)
