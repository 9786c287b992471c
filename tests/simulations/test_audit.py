"""The bound of a one-run audit is the paper's: its printed figures, what holds by hand, and honest coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from faelles.errors import ConfigError
from simulations.audit import epsilon_lower_bound, guess, p_value


def test_the_figures_of_the_paper_come_out() -> None:
    assert epsilon_lower_bound(canaries=1000, guesses=100, right=75, delta=1e-4) == pytest.approx(0.673, abs=5e-4)
    # The paper prints 2.675, cut off.
    assert epsilon_lower_bound(canaries=100_000, guesses=1510, right=1439, delta=1e-5) == pytest.approx(
        2.6755, abs=5e-4
    )


def test_all_right_is_refuted_as_by_hand() -> None:
    # P[W >= m] = q^m: the largest q that 0.05 refutes is its m-th root.
    q = 0.05 ** (1 / 500)
    bound = epsilon_lower_bound(canaries=500, guesses=500, right=500, delta=0)
    assert bound == pytest.approx(math.log(q / (1 - q)), abs=1e-6)


@pytest.mark.parametrize("right", [0, 3, 7, 10])
def test_the_term_of_delta_is_the_one_of_the_theorem(right: int) -> None:
    honest = stats.binom(10, 1 / (1 + math.exp(-0.5)))
    tail = {v: honest.sf(v - 1) for v in range(-30, 11)}
    steepest = max((tail[right - i] - tail[right]) / i for i in range(1, 31))  # beyond v it only falls
    expected = min(1.0, tail[right] + 2 * 30 * 1e-3 * steepest)
    assert p_value(canaries=30, guesses=10, right=right, epsilon=0.5, delta=1e-3) == pytest.approx(expected, rel=1e-12)


def test_a_bound_was_refuted_itself_and_the_next_was_not() -> None:
    bound = epsilon_lower_bound(canaries=200, guesses=50, right=45, delta=1e-5)
    assert p_value(200, 50, 45, bound, 1e-5) < 0.05 <= p_value(200, 50, 45, bound + 1e-6, 1e-5)


def test_guessing_by_chance_refutes_nothing() -> None:
    assert epsilon_lower_bound(canaries=100, guesses=100, right=50, delta=1e-5) == 0
    assert epsilon_lower_bound(canaries=100, guesses=0, right=0, delta=1e-5) == 0


def test_randomised_response_is_refuted_at_most_as_often_as_stated() -> None:
    # The mechanism for which the theorem is tight: each canary's bit is told truly with e^1 / (1 + e^1).
    rights = np.random.default_rng(2).binomial(400, 1 / (1 + math.exp(-1.0)), size=1000)
    values, counts = np.unique(rights, return_counts=True)
    refuted = counts[[epsilon_lower_bound(400, 400, int(right), delta=0) > 1.0 for right in values]].sum()
    assert 0 < refuted < stats.binom(1000, 0.05).isf(1e-6)


def test_guesses_are_the_plainest_and_the_others_are_abstained_from() -> None:
    np.testing.assert_array_equal(guess(np.array([0.1, -3.0, 2.0, -0.2, 0.0]), 3), [0, -1, 1, -1, 0])
    np.testing.assert_array_equal(guess(np.array([0.1, -3.0]), 2), [1, -1])


def test_counts_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="right <= guesses <= canaries, came 3, 2, 5"):
        p_value(canaries=5, guesses=2, right=3, epsilon=1.0, delta=0.0)
