"""Bound epsilon from below by attacking one run, counting right guesses about who takes part.

Each of m canaries is in or out by a fair coin. The auditor looks at what left and guesses, or abstains. A mechanism
that is (epsilon, delta)-differentially private makes many right guesses unlikely, so many right guesses refute epsilon.

Legend: M canaries.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from faelles.errors import ConfigError

_BISECTIONS = 40


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Bound the probability of at least this many right guesses about an (epsilon, delta)-private mechanism.

    Assumes: each canary is in or out by a fair coin of its own; the guesses are made from the mechanism's output and at
        most `guesses` in number; neighbours differ by adding or removing one canary.

    Args:
        canaries: m, how many there are.
        guesses: r, how many were guessed; the others were abstained from.
        right: v, how many of the guesses were right.
        epsilon: At least 0.
        delta: In [0, 1).

    Returns:
        P[W >= v] + 2 m delta max over i of P[v > W >= v - i] / i, where W is binomial with r trials of probability
        e^epsilon / (1 + e^epsilon); at most 1.

    Raises:
        ConfigError: The counts contradict each other.

    Source:
        Steinke, Nasr and Jagielski 2023, Privacy Auditing with One (1) Training Run (arXiv:2305.08846), theorem 2.1;
        the term of delta as in corollary 5.4 and appendix D.

        >>> round(p_value(canaries=10, guesses=10, right=10, epsilon=0.0, delta=0.0), 6)
        0.000977
    """
    if not 0 <= right <= guesses <= canaries:
        raise ConfigError(f"expected right <= guesses <= canaries, came {right}, {guesses}, {canaries}; count again")
    honest = stats.binom(guesses, 1 / (1 + np.exp(-epsilon)))
    below_V = honest.pmf(np.arange(right - 1, -1, -1))  # v - 1, v - 2, ..., 0
    steepest = (np.cumsum(below_V) / np.arange(1, right + 1)).max(initial=0.0)
    return float(min(1.0, honest.sf(right - 1) + 2 * canaries * delta * steepest))


def epsilon_lower_bound(canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95) -> float:
    """Find the largest epsilon that the guesses refute.

    Guarantees: of an (epsilon, delta)-private mechanism the bound exceeds epsilon with probability 1 - confidence at
        most; the bound was itself tested, also where the p-value is not monotone.

    Args:
        canaries: As `p_value`.
        guesses: As `p_value`; fixed before the output was seen.
        right: As `p_value`.
        delta: As `p_value`.
        confidence: In (0, 1).

    Returns:
        At least 0.

    Source:
        As `p_value`, of which appendix D prints the first figure, and section 7 the second, cut off after 2.675.

        >>> round(epsilon_lower_bound(canaries=1000, guesses=100, right=75, delta=1e-4), 3)
        0.673
        >>> round(epsilon_lower_bound(canaries=100_000, guesses=1510, right=1439, delta=1e-5), 3)
        2.676
    """

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, right, epsilon, delta) < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def guess(evidence_M: NDArray[np.float64], guesses: int) -> NDArray[np.int64]:
    """Guess about the canaries whose evidence is strongest: 1 in, -1 out, 0 abstained.

    Args:
        evidence_M: Above 0 where being in is likelier, below 0 where being out is.
        guesses: How many to guess.
    """
    guess_M = np.where(evidence_M > 0, 1, -1)
    guess_M[np.argsort(np.abs(evidence_M), kind="stable")[: len(evidence_M) - guesses]] = 0
    return guess_M
