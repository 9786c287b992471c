"""Make what may leave a municipality: the output of a mechanism that knows its cost. Updates: `update`.

Legend: K classes, H histogram columns, B citizens, R rows a citizen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faelles.card import UseCaseCard
from faelles.features import Citizens
from faelles.metrics import HISTOGRAM, histogram_columns, histogram_position
from faelles.models import MAX_MAGNITUDE, Arrays, Network, independent_probabilities, load_parameters
from faelles.privacy.accountant import Event
from faelles.privacy.mechanisms import Randomness


@dataclass(frozen=True, kw_only=True)
class Release:
    """Hold arrays that a mechanism made, and the event that accounts for them; None where there was no noise."""

    arrays: Mapping[str, NDArray[np.float32]]
    event: Event | None


def score_histogram(card: UseCaseCard, model: Network, parameters: Arrays, citizens: Citizens) -> NDArray[np.float64]:
    """Count the held-out citizens' mass in each (class, column), exactly; not releasable as it is.

    Guarantees: a citizen adds a total mass of 1 (0 where it has no row), so adding or removing one moves the histogram
        by at most 1 in L2 norm, whatever the parameters; nobody else's score depends on it in a single bit.
    """
    load_parameters(model, parameters)
    classes = len(card.label.values)
    columns = histogram_columns(classes, card.evaluation.bins)
    counts_KH = np.zeros((classes, columns))
    p_BRK = np.nan_to_num(independent_probabilities(model, citizens.x_BRF))
    column_BR = histogram_position(p_BRK.reshape(-1, classes), card.evaluation.bins).reshape(citizens.y_BR.shape)
    np.add.at(counts_KH, (citizens.y_BR, column_BR), citizens.weight_BR)
    return counts_KH


def release_histogram(
    card: UseCaseCard,
    model: Network,
    parameters: Arrays,
    citizens: Citizens,
    noise_multiplier: float,
    randomness: Randomness,
) -> Release:
    """Release the score histogram of the held-out citizens with Gaussian noise in every cell.

    Args:
        card: Its evaluation says how many bins.
        model: A model of the card; its parameters are overwritten.
        parameters: The model to measure.
        citizens: The held-out part.
        noise_multiplier: Standard deviation of the noise, since the sensitivity is 1; 0 releases it exactly.
        randomness: The source of this one release.

    Guarantees: the Gaussian mechanism with L2 sensitivity 1 under adding or removing one citizen.
    Assumes: `parameters` do not depend on the held-out citizens; `randomness` serves this release only.
    """
    counts_KH = score_histogram(card, model, parameters, citizens)
    noise_KH = randomness.gaussian(counts_KH.size, noise_multiplier).reshape(counts_KH.shape)
    event = Event(sampling_rate=1.0, noise_multiplier=noise_multiplier, steps=1) if noise_multiplier else None
    return Release(arrays={HISTOGRAM: bounded(counts_KH + noise_KH)}, event=event)


def bounded(noisy: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Keep a release within what may leave: a diverged round becomes a finite one and not an exception.

    It is post-processing of a private output. Were it left to the gate, a block would tell of a release that nobody
    has paid for yet.
    """
    finite = np.nan_to_num(noisy, posinf=0.0, neginf=0.0)
    return np.asarray(np.clip(finite, -MAX_MAGNITUDE, MAX_MAGNITUDE), dtype=np.float32)
