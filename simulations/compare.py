"""Measure arms of a study exactly, on the same held-out citizens: pooled over all sites, and site by site."""

from collections.abc import Mapping

import numpy as np

from faelles.card import UseCaseCard
from faelles.metrics import Metrics, exact_metrics
from faelles.models import build_model
from server.result import Arm
from simulations.fit import fit_alone
from simulations.questions import Scores, score
from simulations.roll import Roll


def pooled_metrics(scores: Mapping[str, Scores]) -> Metrics:
    """Measure the scores of all sites together."""
    return exact_metrics(
        np.concatenate([one.p_NK for one in scores.values()]),
        np.concatenate([one.y_N for one in scores.values()]),
        np.concatenate([one.weight_N for one in scores.values()]),
    )


def arm_of(scores: Mapping[str, Scores]) -> Arm:
    """Arrange exact metrics of one arm."""
    by_site = {label: exact_metrics(one.p_NK, one.y_N, one.weight_N) for label, one in scores.items()}
    return Arm.of(pooled_metrics(scores), by_site)


def pooled_scores(card: UseCaseCard, roll: Roll) -> dict[str, Scores]:
    """Fit one model to all training rows, without privacy: the ceiling that no federation may reach for real."""
    model = build_model(card)
    fit_alone(card, model, roll.training.everybody)
    return {label: score(model, roll.dataset(place)) for place, label in enumerate(roll.labels)}
