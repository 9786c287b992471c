"""Measure how good scores are: exactly (simulations), and from a differentially private score histogram.

The exact figures weigh a row by one over its citizen's number of rows, as the histogram does, so that both estimate
the same thing. Legend: N rows, K classes, H histogram columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]
HISTOGRAM = "histogram"  # the name of a score histogram's array
SMALLEST = 1e-7  # a float32 probability nearer to 0 or 1 is not told apart from it


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Hold the figures of one model on one set of citizens; NaN where a figure is not defined."""

    auc: float
    log_loss: float
    accuracy: float
    calibration_error: float


def exact_metrics(p_NK: NDArray[np.float32], y_N: NDArray[np.int64], weight_N: NDArray[np.float32]) -> Metrics:
    """Measure scores exactly; not releasable.

    Args:
        p_NK: Class probabilities.
        y_N: Class indices.
        weight_N: Weights, positive.

    Returns:
        AUC (for more than two classes the mean over classes, one against the rest), log loss in nats, accuracy, and the
        expected calibration error over 10 equal-width bins of the positive (or the most probable) class.
    """
    if not len(y_N) or not np.isfinite(p_NK).all():
        return Metrics(auc=np.nan, log_loss=np.nan, accuracy=np.nan, calibration_error=np.nan)
    p_NK = np.asarray(p_NK, dtype=np.float64)
    chosen_N = p_NK.argmax(axis=1)
    own_N = np.clip(p_NK[np.arange(len(y_N)), y_N], SMALLEST, 1)
    if p_NK.shape[1] == 2:
        area, score_N, hit_N = auc(p_NK[:, 1], y_N == 1, weight_N), p_NK[:, 1], y_N == 1
    else:
        classes = [auc(p_NK[:, k], y_N == k, weight_N) for k in range(p_NK.shape[1])]
        area, score_N, hit_N = float(np.mean(classes)), p_NK.max(axis=1), chosen_N == y_N
    return Metrics(
        auc=area,
        log_loss=float(np.average(-np.log(own_N), weights=weight_N)),
        accuracy=float(np.average(chosen_N == y_N, weights=weight_N)),
        calibration_error=_calibration_error(score_N, hit_N, weight_N),
    )


def auc(score_N: Numbers, positive_N: NDArray[np.bool_], weight_N: Numbers) -> float:
    """Compute the probability that a positive row scores above a negative one, ties counting half.

    >>> auc(np.array([.1, .4, .35, .8]), np.array([False, False, True, True]), np.ones(4))
    0.75

    Returns:
        A number in [0, 1]; NaN where one of the classes is absent.

    Source: Mann and Whitney 1947, with weights.
    """
    _, rank_N = np.unique(score_N, return_inverse=True)
    positive_H = np.bincount(rank_N, weight_N * positive_N)
    negative_H = np.bincount(rank_N, weight_N * ~positive_N)
    return _area(positive_H, negative_H)


def histogram_columns(classes: int, bins: int) -> int:
    """Count the columns H of a score histogram: score bins for a binary label, else the predicted classes."""
    return bins if classes == 2 else classes


def histogram_position(p_NK: NDArray[np.float32] | NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Find each row's column in the score histogram."""
    if p_NK.shape[1] > 2:
        return np.asarray(p_NK.argmax(axis=1), dtype=np.int64)
    return np.minimum((p_NK[:, 1] * bins).astype(np.int64), bins - 1)


def histogram_metrics(counts_KH: NDArray[np.float64]) -> Metrics:
    """Measure a model from a score histogram, noisy counts included.

    Args:
        counts_KH: Mass of class k in column h, summed over municipalities; noise may make it negative.

    Returns:
        For a binary label all figures, each score taken as the middle of its bin; for more classes the accuracy only.
    """
    counts_KH = np.maximum(counts_KH, 0)
    total = counts_KH.sum()
    if total <= 0:
        return Metrics(auc=np.nan, log_loss=np.nan, accuracy=np.nan, calibration_error=np.nan)
    if len(counts_KH) > 2:
        accuracy = float(np.trace(counts_KH) / total)
        return Metrics(auc=np.nan, log_loss=np.nan, accuracy=accuracy, calibration_error=np.nan)
    negative_H, positive_H = counts_KH
    middle_H = (np.arange(len(negative_H)) + 0.5) / len(negative_H)
    loss = -(positive_H @ np.log(middle_H) + negative_H @ np.log1p(-middle_H)) / total
    right = positive_H[middle_H >= 0.5].sum() + negative_H[middle_H < 0.5].sum()
    gap = np.abs(positive_H - middle_H * (positive_H + negative_H)).sum() / total
    return Metrics(
        auc=_area(positive_H, negative_H),
        log_loss=float(loss),
        accuracy=float(right / total),
        calibration_error=float(gap),
    )


def _area(positive_H: Numbers, negative_H: Numbers) -> float:
    positives, negatives = positive_H.sum(), negative_H.sum()
    if positives <= 0 or negatives <= 0:
        return float("nan")
    below_H = np.cumsum(negative_H) - negative_H
    return float((positive_H * (below_H + negative_H / 2)).sum() / (positives * negatives))


def _calibration_error(score_N: Numbers, hit_N: NDArray[np.bool_], weight_N: Numbers) -> float:
    bin_N = np.minimum((score_N * 10).astype(np.int64), 9)
    gap_H = np.bincount(bin_N, weight_N * (hit_N - score_N), minlength=10)
    return float(np.abs(gap_H).sum() / weight_N.sum())
