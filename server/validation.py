"""Check every reply before it may touch the model: a faulty or poisoned municipality is named, never aggregated."""

import math
from collections.abc import Mapping

import numpy as np

from faelles.card import UseCaseCard
from faelles.errors import WireError
from faelles.metrics import HISTOGRAM, histogram_columns
from faelles.models import check_arrays, shared_shapes
from faelles.privacy.plan import PrivacyPlan
from faelles.records import Answer, Request

SLACK = 10.0  # how many times its declared size a municipality may hold before an honest update could be refused


def check_echo(request: Request, answer: Answer) -> None:
    """Refuse an answer to something else: a replay, another federation, another card.

    Raises:
        WireError: What differs.
    """
    for name in ("federation", "server_round", "card_sha256"):
        if getattr(request, name) != getattr(answer, name):
            raise WireError(f"{name.replace('_', '-')}: expected the one that was asked about, another came")


def check_update(shapes: Mapping[str, tuple[int, ...]], limit: float, answer: Answer) -> None:
    """Refuse an update that no honest municipality could send.

    Args:
        shapes: Of the parameters that travel.
        limit: What `update_limit` makes of its plan.
        answer: What it sent.

    Raises:
        WireError: Other names, shapes or type, numbers that are not finite, or an absurd norm.
    """
    check_arrays(shapes, answer.arrays)
    vector_D = np.concatenate([array.ravel() for array in answer.arrays.values()]).astype(np.float64)
    norm = math.sqrt(vector_D @ vector_D)
    if norm > limit:
        raise WireError(f"update: expected a norm of at most {limit:.3g}, a larger one came")


def update_limit(card: UseCaseCard, plan: PrivacyPlan) -> float:
    """Bound the norm of an honest update: every step at its clipping norm, the noise at ten times its expectation.

    Without privacy nothing is clipped, so only the bound on magnitudes is left.
    """
    if not plan.private:
        return float("inf")
    parameters = sum(math.prod(shape) for shape in shared_shapes(card).values())
    noise = SLACK * plan.noise_multiplier * plan.clipping_norm * parameters**0.5 / plan.divisor
    step = card.training.learning_rate * (SLACK * plan.clipping_norm + noise)
    # FedProx's pull shortens an update while learning_rate * mu < 1; one that diverges beyond it is rightly refused.
    return float(step * plan.local_steps)


def check_histogram(card: UseCaseCard, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays that are not one score histogram.

    Raises:
        WireError: What differs.
    """
    classes = len(card.label.values)
    check_arrays({HISTOGRAM: (classes, histogram_columns(classes, card.evaluation.bins))}, arrays)
