"""Ask simulated municipalities what a live one would never answer: exact scores, for a simulation holds all data."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.dataset import Dataset
from faelles.models import Arrays, Network, probabilities
from simulations.mechanisms import seeded_bytes


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Hold exact scores of held-out rows; they exist in simulations only."""

    p_NK: NDArray[np.float32]
    y_N: NDArray[np.int64]
    weight_N: NDArray[np.float32]
    citizens: tuple[int, int]  # of the training and of the held-out part


@dataclass(frozen=True, kw_only=True)
class LocalParameters:
    """Ask a simulated municipality for its local parameters, as the newest round before `before_round` left them."""

    federation: str
    before_round: int


@dataclass(frozen=True, kw_only=True)
class Question:
    """Ask a simulated municipality what a live one would never answer."""

    kind: str  # "score" the federation's model, "alone" trains its own
    federation: str = ""
    before_round: int = 0
    shared: Arrays = field(default_factory=dict)


def score(model: Network, dataset: Dataset) -> Scores:
    """Score every row of the held-out citizens."""
    held_out = dataset.held_out
    used_BR = held_out.mask_BR
    return Scores(
        p_NK=probabilities(model, held_out.x_BRF)[used_BR],
        y_N=held_out.y_BR[used_BR],
        weight_N=held_out.weight_BR[used_BR],
        citizens=(len(dataset.training), len(held_out)),
    )


def site_key(seed: int, label: str) -> bytes:
    """Derive the key with which a simulated municipality chooses held-out citizens."""
    return seeded_bytes("key", seed, label)
