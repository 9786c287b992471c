"""Measure arms of a study exactly, on the same held-out citizens: pooled over all sites, and site by site."""

from collections.abc import Mapping

import numpy as np

from client.dataset import Partition, build_dataset
from faelles.card import UseCaseCard
from faelles.features import Citizens
from faelles.metrics import Metrics, exact_metrics
from faelles.models import build_model
from server.result import Arm
from simulations.fit import fit_alone
from simulations.population import Site
from simulations.questions import Scores, score, site_key


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


def pooled_scores(card: UseCaseCard, sites: list[Site], seed: int, partition: Partition | None) -> dict[str, Scores]:
    """Fit one model to all training rows, without privacy: the ceiling that no federation may reach for real."""
    parts = {one.label: build_dataset(card, one.table, site_key(seed, one.label), partition) for one in sites}
    model = build_model(card)
    fit_alone(card, model, _join([part.training for part in parts.values()]))
    return {label: score(model, part) for label, part in parts.items()}


def _join(parts: list[Citizens]) -> Citizens:
    return Citizens(
        x_BRF=np.concatenate([part.x_BRF for part in parts]),
        y_BR=np.concatenate([part.y_BR for part in parts]),
        mask_BR=np.concatenate([part.mask_BR for part in parts]),
    )
