"""Production randomness has the stated distribution, cannot be repeated, and cannot be given a seed.

It cannot be seeded for tests either, so every statistical test below fails by chance in fewer than 1 of 10,000 runs:
ALPHA is what all of them share.
"""

import inspect
import os
import secrets
from typing import Any

import numpy as np
import pytest
from randomgen import ChaCha
from scipy import stats

from faelles.errors import PlanError
from faelles.privacy.mechanisms import SUMMANDS, Mechanisms, Randomness, SecureMechanisms, SecureRandomness

ALPHA = 1e-6  # of each test; there are fewer than 100


def opened(kind: str = "train") -> Randomness:
    mechanisms: Mechanisms = SecureMechanisms()
    return mechanisms.open_release("federation", 1, kind)


@pytest.mark.parametrize("std", [1.0, 0.01, 37.5])
def test_noise_is_normal_with_the_stated_standard_deviation(std: float) -> None:
    noise = opened().gaussian(20_000, std)
    assert noise.dtype == np.float64
    assert stats.kstest(noise, stats.norm(0, std).cdf).pvalue > ALPHA


@pytest.mark.parametrize("std", [1.0, 37.5])
def test_noise_has_the_stated_variance_and_no_mean(std: float) -> None:
    noise = opened().gaussian(50_000, std) / std
    spread = stats.chi2(len(noise)).cdf((noise**2).sum())
    assert ALPHA / 2 < spread < 1 - ALPHA / 2
    assert ALPHA / 2 < stats.norm.cdf(noise.sum() / len(noise) ** 0.5) < 1 - ALPHA / 2


def test_noise_has_the_tails_of_a_normal_distribution() -> None:
    beyond = int((np.abs(opened().gaussian(200_000, 1.0)) > 3).sum())
    assert stats.binomtest(beyond, 200_000, 2 * stats.norm.sf(3)).pvalue > ALPHA


def test_neighbouring_coordinates_of_noise_are_independent() -> None:
    noise = opened().gaussian(20_000, 1.0)
    assert stats.pearsonr(noise[:-1], noise[1:]).pvalue > ALPHA
    assert stats.spearmanr(np.abs(noise[:-1]), np.abs(noise[1:])).pvalue > ALPHA


def test_every_number_is_a_sum_of_several_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    randomness = SecureRandomness()
    drawn: list[Any] = []

    class Recorder:
        def standard_normal(self, shape: tuple[int, int]) -> Any:
            drawn.append(np.arange(np.prod(shape), dtype=np.float64).reshape(shape))
            return drawn[-1]

    monkeypatch.setattr(randomness, "_generator", Recorder())
    noise = randomness.gaussian(3, 2.0)
    assert drawn[0].shape == (SUMMANDS, 3) == (4, 3)
    np.testing.assert_allclose(noise, 2.0 * drawn[0].sum(axis=0) / 2)


@pytest.mark.soak
def test_noise_and_sampling_hold_over_many_releases() -> None:
    releases, draws, rate = 2_000, 10_000, 0.064
    squares, total, chosen = 0.0, 0.0, 0
    for _ in range(releases):
        randomness = opened()
        noise = randomness.gaussian(draws, 1.0)
        squares, total = squares + float(noise @ noise), total + float(noise.sum())
        chosen += int(randomness.include(draws, rate).sum())
    number = releases * draws
    assert ALPHA / 2 < stats.norm.cdf((squares - number) / (2 * number) ** 0.5) < 1 - ALPHA / 2
    assert ALPHA / 2 < stats.norm.cdf(total / number**0.5) < 1 - ALPHA / 2
    assert ALPHA / 2 < stats.norm.cdf((chosen - number * rate) / (number * rate * (1 - rate)) ** 0.5) < 1 - ALPHA / 2


def test_no_noise_is_no_noise() -> None:
    np.testing.assert_array_equal(opened().gaussian(10, 0.0), np.zeros(10))
    assert opened().gaussian(0, 1.0).shape == (0,)


@pytest.mark.parametrize("rate", [0.001, 0.064, 0.5, 0.99])
def test_citizens_are_included_with_the_stated_probability(rate: float) -> None:
    chosen = opened().include(200_000, rate)
    assert chosen.dtype == np.bool_
    assert stats.binomtest(int(chosen.sum()), 200_000, rate).pvalue > ALPHA


def test_the_size_of_a_batch_is_binomial() -> None:
    randomness = opened()
    sizes = np.array([randomness.include(20, 0.3).sum() for _ in range(5000)])
    kept = np.arange(1, 13)  # the tails hold too few to be compared one by one
    expected = np.r_[stats.binom.cdf(0, 20, 0.3), stats.binom.pmf(kept, 20, 0.3), stats.binom.sf(12, 20, 0.3)]
    observed = np.r_[(sizes < 1).sum(), [(sizes == size).sum() for size in kept], (sizes > 12).sum()]
    assert stats.chisquare(observed, expected * 5000).pvalue > ALPHA


def test_citizens_are_included_independently_of_each_other_and_of_earlier_steps() -> None:
    randomness = opened()
    first, second = randomness.include(50_000, 0.4), randomness.include(50_000, 0.4)
    for left, right in ((first, second), (first[:-1], first[1:])):
        table = [[(left & right).sum(), (left & ~right).sum()], [(~left & right).sum(), (~left & ~right).sum()]]
        assert stats.chi2_contingency(table).pvalue > ALPHA


def test_everybody_is_included_at_rate_1_and_nobody_at_rate_0() -> None:
    assert opened().include(10_000, 1.0).all()
    assert not opened().include(10_000, 0.0).any()
    assert opened().include(0, 0.5).shape == (0,)


def test_two_releases_for_the_same_thing_share_nothing() -> None:
    mechanisms = SecureMechanisms()
    one, two = (mechanisms.open_release("federation", 1, "train") for _ in range(2))
    first, second = one.gaussian(1000, 1.0), two.gaussian(1000, 1.0)
    assert not np.intersect1d(first, second).size
    assert stats.pearsonr(first, second).pvalue > ALPHA


def test_one_release_never_repeats_itself() -> None:
    randomness = opened()
    noise = np.concatenate([randomness.gaussian(1000, 1.0) for _ in range(3)])
    assert len(np.unique(noise)) == len(noise)


def test_the_mechanisms_keep_no_state() -> None:
    mechanisms = SecureMechanisms()
    mechanisms.open_release("federation", 1, "train").gaussian(10, 1.0)
    assert vars(mechanisms) == {}
    assert not [name for name, value in vars(SecureMechanisms).items() if not callable(value) and name[0] != "_"]


def test_neither_the_mechanisms_nor_their_randomness_can_be_given_a_seed() -> None:
    for production in (SecureMechanisms, SecureRandomness):
        assert not inspect.signature(production).parameters
        with pytest.raises(TypeError):
            production(1)  # type: ignore[call-arg]  # what the test is about


def test_the_generator_is_chacha20_keyed_with_256_fresh_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    key = bytes(range(32))

    def token_bytes(size: int) -> bytes:
        asked.append(size)
        return key

    monkeypatch.setattr(secrets, "token_bytes", token_bytes)
    noise = SecureRandomness().gaussian(5, 1.0)
    assert asked == [32]
    expected = np.random.Generator(ChaCha(key=int.from_bytes(key, "little"), rounds=20)).standard_normal((4, 5))
    np.testing.assert_allclose(noise, expected.sum(axis=0) / 2)


@pytest.mark.parametrize("bit", [0, 63, 64, 127, 128, 191, 192, 255])
def test_every_part_of_the_key_counts(monkeypatch: pytest.MonkeyPatch, bit: int) -> None:
    keys = iter([bytes(32), (1 << bit).to_bytes(32, "little")])
    monkeypatch.setattr(secrets, "token_bytes", lambda size: next(keys))
    assert (SecureRandomness().gaussian(5, 1.0) != SecureRandomness().gaussian(5, 1.0)).all()


def test_numpys_global_seed_does_not_reach_it() -> None:
    draws = []
    for _ in range(2):
        np.random.seed(0)  # what the test is about
        draws.append(opened().gaussian(5, 1.0))
    assert (draws[0] != draws[1]).all()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # 3.12 warns of a fork among threads
def test_a_fork_cannot_draw_from_a_release_of_its_parent() -> None:
    randomness = SecureRandomness()
    refusals = []
    child = os.fork()
    if not child:
        # In the child: nothing may be raised or flushed twice, so it leaves by its status alone.
        for draw in (lambda: randomness.gaussian(1, 1.0), lambda: randomness.include(1, 0.5)):
            try:
                draw()
            except PlanError:
                refusals.append(1)
            except BaseException:
                os._exit(100)
        os._exit(len(refusals))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 2, "a fork was served"
    assert randomness.gaussian(1, 1.0).shape == (1,), "the parent goes on"


def test_a_fork_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    randomness = SecureRandomness()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(PlanError, match="expected the process that opened the release, a fork of it came; open anew"):
        randomness.include(1, 0.5)
