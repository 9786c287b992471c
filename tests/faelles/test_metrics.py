"""The exact figures are scikit-learn's, and those from a histogram come near them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from faelles.metrics import (
    Metrics,
    auc,
    exact_metrics,
    histogram_columns,
    histogram_metrics,
    histogram_position,
)

SEEDS = range(5)


def draw(seed: int, rows: int = 300, classes: int = 2, ties: bool = False) -> tuple[Any, Any, Any]:
    """Draw probabilities, labels that they say something about, and weights as rows of citizens have."""
    rng = np.random.default_rng(seed)
    score_NK = rng.normal(size=(rows, classes))
    if ties:
        score_NK = score_NK.round()
    p_NK = np.exp(score_NK) / np.exp(score_NK).sum(axis=1, keepdims=True)
    y_N = np.array([rng.choice(classes, p=p) for p in p_NK])
    return p_NK.astype(np.float32), y_N, (1 / rng.integers(1, 5, rows)).astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_binary_label_is_measured_as_scikit_learn_does(seed: int, ties: bool) -> None:
    p_NK, y_N, weight_N = draw(seed, ties=ties)
    exact = exact_metrics(p_NK, y_N, weight_N)
    assert exact.auc == pytest.approx(roc_auc_score(y_N, p_NK[:, 1], sample_weight=weight_N), abs=1e-9)
    # In float64 with rows that add up to 1: scikit-learn warns of what float32 rounds off.
    p64_NK = p_NK / p_NK.astype(np.float64).sum(axis=1, keepdims=True)
    assert exact.log_loss == pytest.approx(log_loss(y_N, p64_NK, sample_weight=weight_N), rel=1e-6)
    assert exact.accuracy == pytest.approx(accuracy_score(y_N, p_NK.argmax(axis=1), sample_weight=weight_N))


@pytest.mark.parametrize("seed", SEEDS)
def test_several_classes_are_measured_as_scikit_learn_does(seed: int) -> None:
    p_NK, y_N, weight_N = draw(seed, classes=4)
    exact = exact_metrics(p_NK, y_N, weight_N)
    one_against_rest = [roc_auc_score(y_N == k, p_NK[:, k], sample_weight=weight_N) for k in range(4)]
    assert exact.auc == pytest.approx(np.mean(one_against_rest), abs=1e-9)
    p64_NK = p_NK / p_NK.astype(np.float64).sum(axis=1, keepdims=True)
    assert exact.log_loss == pytest.approx(log_loss(y_N, p64_NK, sample_weight=weight_N), rel=1e-6)
    assert exact.accuracy == pytest.approx(accuracy_score(y_N, p_NK.argmax(axis=1), sample_weight=weight_N))


@given(st.data())
def test_auc_counts_pairs(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 12))
    score_N = data.draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 4)))
    positive_N = data.draw(hnp.arrays(np.bool_, rows))
    weight_N = data.draw(hnp.arrays(np.float64, rows, elements=st.integers(1, 4)))
    pairs = [(i, j) for i in np.flatnonzero(positive_N) for j in np.flatnonzero(~positive_N)]
    mass = sum(weight_N[i] * weight_N[j] for i, j in pairs)
    won = sum(weight_N[i] * weight_N[j] * (np.sign(score_N[i] - score_N[j]) + 1) / 2 for i, j in pairs)
    if pairs:
        assert auc(score_N, positive_N, weight_N) == pytest.approx(won / mass)
    else:
        assert np.isnan(auc(score_N, positive_N, weight_N))


def test_a_score_that_says_nothing_has_an_auc_of_a_half() -> None:
    assert auc(np.full(10, 0.3), np.arange(10) < 3, np.ones(10)) == 0.5


def test_one_class_alone_leaves_the_auc_open_and_nothing_else() -> None:
    p_NK, _, weight_N = draw(0)
    alone = exact_metrics(p_NK, np.ones(len(p_NK), dtype=np.int64), weight_N)
    assert np.isnan(alone.auc)
    assert np.isfinite([alone.log_loss, alone.accuracy, alone.calibration_error]).all()


NOTHING = Metrics(auc=np.nan, log_loss=np.nan, accuracy=np.nan, calibration_error=np.nan)


def test_no_rows_leave_everything_open() -> None:
    p_NK, y_N, weight_N = draw(0, rows=0)
    np.testing.assert_equal(exact_metrics(p_NK, y_N, weight_N), NOTHING)


def test_a_model_that_diverged_leaves_everything_open() -> None:
    p_NK, y_N, weight_N = draw(0)
    p_NK[7] = np.nan
    np.testing.assert_equal(exact_metrics(p_NK, y_N, weight_N), NOTHING)


def test_a_sure_and_wrong_score_has_a_large_but_finite_loss() -> None:
    exact = exact_metrics(np.array([[1, 0], [0, 1]], np.float32), np.array([1, 0]), np.ones(2, np.float32))
    assert exact.log_loss == pytest.approx(-np.log(1e-7))


def test_calibration_is_the_gap_between_what_was_said_and_what_came() -> None:
    p_NK = np.array([[0.75, 0.25]] * 4 + [[0.15, 0.85]] * 4, np.float32)
    y_N = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    exact = exact_metrics(p_NK, y_N, np.ones(8, np.float32))
    assert exact.calibration_error == pytest.approx((4 * 0 + 4 * 0.15) / 8, abs=1e-6)


def histogram(p_NK: Any, y_N: Any, weight_N: Any, bins: int) -> Any:
    classes = p_NK.shape[1]
    counts_KH = np.zeros((classes, histogram_columns(classes, bins)))
    np.add.at(counts_KH, (y_N, histogram_position(p_NK, bins)), weight_N)
    return counts_KH


@pytest.mark.parametrize("seed", SEEDS)
def test_histogram_figures_converge_to_the_exact_ones(seed: int) -> None:
    p_NK, y_N, weight_N = draw(seed, rows=2000)
    exact = exact_metrics(p_NK, y_N, weight_N)
    errors = []
    for bins in (4, 20, 10_000):
        binned = histogram_metrics(histogram(p_NK, y_N, weight_N, bins))
        errors.append([abs(binned.auc - exact.auc), abs(binned.log_loss - exact.log_loss)])
        assert binned.accuracy == pytest.approx(exact.accuracy, abs=1e-6)
    assert np.max(errors, axis=1) == pytest.approx([0, 0, 0], abs=0.03)
    assert max(errors[1]) < 5e-3
    assert max(errors[2]) < 1e-4


def test_histogram_calibration_is_the_exact_one_at_the_middles_of_its_bins() -> None:
    middle_N = (np.arange(10) + 0.5) / 10
    p_NK = np.stack([1 - middle_N, middle_N], axis=1).astype(np.float32)
    y_N, weight_N = (np.arange(10) % 3 == 0).astype(np.int64), np.ones(10, np.float32)
    exact = exact_metrics(p_NK, y_N, weight_N)
    assert histogram_metrics(histogram(p_NK, y_N, weight_N, 10)).calibration_error == pytest.approx(
        exact.calibration_error, abs=1e-6
    )


def test_the_histogram_of_several_classes_tells_the_accuracy_only() -> None:
    p_NK, y_N, weight_N = draw(3, classes=3)
    binned = histogram_metrics(histogram(p_NK, y_N, weight_N, 20))
    assert binned.accuracy == pytest.approx(exact_metrics(p_NK, y_N, weight_N).accuracy)
    assert np.isnan([binned.auc, binned.log_loss, binned.calibration_error]).all()


def test_every_score_has_a_column() -> None:
    p_N = np.array([0, 0.049, 0.05, 0.5, 0.999, 1], np.float32)
    np.testing.assert_array_equal(histogram_position(np.stack([1 - p_N, p_N], axis=1), 20), [0, 0, 1, 10, 19, 19])


@given(hnp.arrays(np.float64, (2, 5), elements=st.floats(-100, 100, width=32)))
def test_noisy_counts_give_figures_in_their_range_or_none(counts_KH: Any) -> None:
    noisy = histogram_metrics(counts_KH)
    for figure in (noisy.auc, noisy.accuracy, noisy.calibration_error):
        assert np.isnan(figure) or -1e-9 <= figure <= 1 + 1e-9
    assert np.isnan(noisy.log_loss) or noisy.log_loss >= 0
    assert np.isnan(noisy.accuracy) == (not (counts_KH > 0).any())


def test_a_negative_count_is_taken_as_none() -> None:
    counts_KH = np.array([[5.0, -3.0], [-1.0, 5.0]])
    assert histogram_metrics(counts_KH) == histogram_metrics(np.maximum(counts_KH, 0))
    assert histogram_metrics(counts_KH).auc == 1


def test_a_histogram_of_noise_alone_tells_nothing() -> None:
    np.testing.assert_equal(histogram_metrics(np.full((2, 5), -1.0)), NOTHING)
    np.testing.assert_equal(histogram_metrics(np.zeros((3, 3))), NOTHING)
