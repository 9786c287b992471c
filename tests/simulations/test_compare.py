"""Arms are measured on the same held-out citizens, pooled and site by site."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from client.dataset import build_dataset
from simulations.compare import arm_of, pooled_metrics, pooled_scores
from simulations.questions import Scores, site_key
from simulations.roll import build_roll
from tests.builders import build_card, build_sites

CARD = build_card()
SITES = build_sites({"0101": 200, "0147": 100, "0400": 0})
SCORES = pooled_scores(CARD, build_roll(CARD, SITES, seed=1, partition=None))


def together(name: str) -> NDArray[np.float32]:
    return np.concatenate([getattr(one, name) for one in SCORES.values()])


def test_pooled_figures_are_those_of_all_rows_together() -> None:
    pooled = pooled_metrics(SCORES)
    p, y, weight = together("p_NK").astype(np.float64), together("y_N"), together("weight_N")
    p = p / p.sum(axis=1, keepdims=True)
    assert pooled.auc == pytest.approx(roc_auc_score(y, p[:, 1], sample_weight=weight))
    assert pooled.log_loss == pytest.approx(log_loss(y, p, sample_weight=weight), rel=1e-5)
    assert pooled.accuracy == pytest.approx(accuracy_score(y, p[:, 1] > 0.5, sample_weight=weight))
    assert pooled.auc > 0.7  # older bicycles are repaired more often, and the fit has seen it


def test_an_arm_holds_pooled_and_by_site_and_null_for_nobody() -> None:
    arm = arm_of(SCORES)
    assert arm.auc.pooled == pytest.approx(pooled_metrics(SCORES).auc)
    assert list(arm.auc.by_site) == ["0101", "0147", "0400"]
    assert arm.auc.by_site["0400"] is arm.log_loss.by_site["0400"] is None
    alone = {"0101": SCORES["0101"]}
    assert arm.auc.by_site["0101"] == arm_of(alone).auc.pooled


def test_held_out_citizens_are_those_of_the_federation() -> None:
    for site in SITES:
        dataset = build_dataset(CARD, site.table, site_key(1, site.label))
        used = dataset.held_out.mask_BR
        np.testing.assert_array_equal(SCORES[site.label].y_N, dataset.held_out.y_BR[used])
        assert SCORES[site.label].citizens == (len(dataset.training), len(dataset.held_out))


def test_another_seed_holds_out_others() -> None:
    other = pooled_scores(CARD, build_roll(CARD, SITES, seed=2, partition=None))
    assert {label: one.citizens for label, one in other.items()} != {
        label: one.citizens for label, one in SCORES.items()
    }


def test_scores_add_up_to_one() -> None:
    for one in SCORES.values():
        assert isinstance(one, Scores)
        np.testing.assert_allclose(one.p_NK.sum(axis=1), 1.0, atol=1e-6)
        assert one.weight_N.sum() == pytest.approx(one.citizens[1])
