"""Say what municipalities do in a round, on which citizens, and draw who takes part and with which noise.

Float32 differs from the reference, which computes in float64, by rounding only while numbers stay moderate; parameters
that somebody crafted take float64, and so do several rows under a tight clipping norm.

Legend: S municipalities, N citizens of all of them, B citizens of a batch, T steps, R rows a citizen, F features,
D parameters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from faelles.features import Citizens
from faelles.privacy.plan import PrivacyPlan

MODERATE = 10.0  # beyond it float32 loses digits that clipping cannot give back
TIGHT = 0.01  # a clipping norm below it is near what float32 leaves of a citizen's rows that cancel
STEPS_AT_ONCE = 8  # of batches and noise that are drawn together, at most
NUMBERS_AT_ONCE = 2**24  # of noise, and of a step's rows, signals and pairs of rows; 64 MiB in float32
Numbers = NDArray[np.float32]


class Draws(Protocol):
    """Serve one release as a simulator draws: with who takes part, instead of whether each does."""

    def places(self, units: int, rate: float) -> NDArray[np.int64]:
        """Choose each of `units` citizens independently with probability `rate`, and say who was chosen."""
        ...

    def normals(self, size: int) -> Numbers:
        """Draw `size` independent standard normal numbers."""
        ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """Hold what one municipality does in a round."""

    plan: PrivacyPlan
    randomness: Draws

    @property
    def std(self) -> float:
        """Return the standard deviation of the noise that a step's sum gets."""
        return self.plan.noise_multiplier * self.plan.clipping_norm


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Hold what all of them share.

    Args:
        learning_rate: Of each step.
        proximal_mu: FedProx's pull back to the start; 0 for none.
        pulled_D: Which parameters it pulls: the shared ones.
    """

    learning_rate: float
    proximal_mu: float
    pulled_D: NDArray[np.bool_]


class Rows:
    """Hold the citizens of all municipalities where batches of any of them can be gathered at once.

    Args:
        citizens: Of all municipalities, and one more at the end: without rows, to fill short batches.
        edges: Where each municipality begins, and where the last ends; (S + 1).
        device: Where to compute.
    """

    def __init__(self, citizens: Citizens, edges: NDArray[np.int64], device: torch.device) -> None:
        self.edges, self.device = edges, device
        self.nobody = len(citizens) - 1
        self.x_NRF = torch.from_numpy(citizens.x_BRF).to(device)
        # What else a row brings along, gathered together: class, weight, and the squared norm of its features and a 1.
        square_NR = np.square(citizens.x_BRF).sum(axis=2, dtype=np.float32)
        besides_NR3 = np.stack([citizens.y_BR.astype(np.float32), citizens.weight_BR, square_NR + 1], axis=2)
        self.besides_NR3 = torch.from_numpy(besides_NR3).to(device)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Hold what was drawn for some steps of one municipality.

    Args:
        index_B: Who takes part, step after step; its first citizen is 0.
        edges: Where in it each step begins, and the last one ends; (T + 1).
        normal_TD: Standard normal numbers, of which noise is made; of no steps without privacy.
    """

    index_B: NDArray[np.int64]
    edges: NDArray[np.int64]
    normal_TD: Numbers


def drawn(work: Work, units: int, size: int) -> Iterator[Chosen]:
    """Draw all steps of one municipality with `units` citizens and `size` parameters, some at once."""
    together = max(1, min(STEPS_AT_ONCE, NUMBERS_AT_ONCE // size))
    for first in range(0, work.plan.local_steps, together):
        yield drawn_some(work, units, min(together, work.plan.local_steps - first), size)


def drawn_some(work: Work, units: int, count: int, size: int) -> Chosen:
    """Draw the next `count` steps of one municipality."""
    plan = work.plan
    flat = work.randomness.places(count * units, plan.sampling_rate)
    normal_N = work.randomness.normals(count * size if plan.private else 0)
    return Chosen(
        index_B=flat % max(units, 1), edges=np.searchsorted(flat, units * np.arange(count + 1)),
        normal_TD=normal_N.reshape(-1, size),
    )  # fmt: skip


def delicate(start_SD: Numbers, works: Sequence[Work], *, several: bool) -> bool:
    """Say whether float32 would lose digits that count: crafted parameters, or several rows whose gradients cancel."""
    tight = any(work.plan.private and work.plan.clipping_norm < TIGHT for work in works)
    return bool(np.abs(start_SD).max(initial=0.0) > MODERATE) or (several and tight)
