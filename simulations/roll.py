"""Hold the citizens of all simulated municipalities in one place, where batches of any of them can be gathered.

Legend: S municipalities, B citizens of all of them, R rows a citizen, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.dataset import Dataset, Partition, build_dataset
from faelles.card import UseCaseCard
from faelles.features import Citizens, input_width
from simulations.population import Site
from simulations.questions import site_key


@dataclass(frozen=True, kw_only=True)
class Part:
    """Hold one part, training or held out, of every municipality.

    Args:
        citizens: Municipality after municipality, and at the end one more without rows, who fills short batches.
        edges: Where each municipality begins and the last one ends; (S + 1).
    """

    citizens: Citizens
    edges: NDArray[np.int64]

    def of(self, place: int) -> Citizens:
        """Return one municipality's citizens; nothing is copied."""
        return self._slice(int(self.edges[place]), int(self.edges[place + 1]))

    @property
    def everybody(self) -> Citizens:
        """Return all citizens; nothing is copied."""
        return self._slice(0, int(self.edges[-1]))

    def _slice(self, start: int, stop: int) -> Citizens:
        whole = self.citizens
        return Citizens(x_BRF=whole.x_BRF[start:stop], y_BR=whole.y_BR[start:stop], mask_BR=whole.mask_BR[start:stop])


@dataclass(frozen=True, kw_only=True)
class Roll:
    """Hold both parts of every municipality, in the order of `labels`."""

    labels: tuple[str, ...]
    training: Part
    held_out: Part

    def dataset(self, place: int) -> Dataset:
        """Return one municipality's two parts, as its own agent would build them."""
        return Dataset(training=self.training.of(place), held_out=self.held_out.of(place))


def build_roll(card: UseCaseCard, sites: Sequence[Site], seed: int, partition: Partition | None) -> Roll:
    """Build every municipality's two parts, each with its own key.

    Args:
        card: The contract.
        sites: The municipalities.
        seed: Of their keys.
        partition: How citizens are held out; by each municipality's key where it is None.
    """
    parts = [build_dataset(card, site.table, site_key(seed, site.label), partition) for site in sites]
    shape = (card.max_rows_per_unit, input_width(card))
    return Roll(
        labels=tuple(site.label for site in sites),
        training=_join([part.training for part in parts], shape),
        held_out=_join([part.held_out for part in parts], shape),
    )


def _join(parts: Sequence[Citizens], shape: tuple[int, int]) -> Part:
    rows, features = shape
    nobody = Citizens(
        x_BRF=np.zeros((1, rows, features), np.float32), y_BR=np.zeros((1, rows), np.int64),
        mask_BR=np.zeros((1, rows), bool),
    )  # fmt: skip
    everybody = [*parts, nobody]
    return Part(
        citizens=Citizens(
            x_BRF=np.concatenate([one.x_BRF for one in everybody]),
            y_BR=np.concatenate([one.y_BR for one in everybody]),
            mask_BR=np.concatenate([one.mask_BR for one in everybody]),
        ),
        edges=np.concatenate([[0], np.cumsum([len(one) for one in parts])]).astype(np.int64),
    )
