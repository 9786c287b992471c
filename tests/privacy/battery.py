"""Check on the real path that what leaves, and what stays as local state, is the mechanism that was accounted.

A check takes a bench, which makes agents, and says whether their releases are right. It sees nothing but messages and
the local state on disk. All of it is one vector: the shared parameters that leave and the local ones that stay.

Noise is measured on citizens whose clipped gradient does not depend on the model, so that it can be taken away exactly.
Chi-square tests of it are two-sided with a false-alarm rate of ALPHA for a whole check, whatever the seed. What they
catch: NOISE_SAMPLES numbers together tell sigma from 0.9 sigma, with a rate of misses below ALPHA too; a single
coordinate, with ROUNDS numbers, tells sigma from a quarter of it.

Legend: N rounds, D coordinates, B citizens.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats
from torch import Tensor

from faelles.card import UseCaseCard
from faelles.models import Arrays, citizen_losses, initial_parameters
from faelles.privacy import dpsgd
from faelles.privacy.plan import gaussian_noise_multiplier
from tests.builders import DECLARED_SIZE, build_card
from tests.privacy.real_path import (
    SEEDED,
    Altered,
    Bench,
    Floats,
    Nobody,
    WithoutNoise,
    Wrap,
    card_of,
    histogram,
    local_state,
    names,
    plan_of,
    released,
)

ALPHA = 1e-9
ROUNDS = 50
VALUES = 220  # categories, each with a coordinate of its own
NOISE_SAMPLES = ROUNDS * (VALUES + 1)
CLIPPING_NORM = 0.01  # below every gradient's norm, so that each is clipped
CROWD = 4  # citizens of whom each is left out in turn
STARTS = (0.0, 1.0, 50.0)  # sizes of the weights that a coordinator crafts
EVALUATIONS = 20

Check = Callable[[Bench], bool]


def noise_card(batch_size: int = DECLARED_SIZE) -> UseCaseCard:
    """Give a card with a coordinate for each category, and a local intercept, that takes one step a round."""
    values = [str(value) for value in range(VALUES)]
    return card_of(
        [{"name": "kind", "kind": "category", "values": values}],
        model={"local": ["output.bias"]},
        training={"rounds": ROUNDS, "local_steps": 1, "batch_size": batch_size, "learning_rate": 0.5},
        privacy={"clipping_norm": CLIPPING_NORM},
    )


def steady_table(citizens: int) -> pa.Table:
    """Make citizens of one class: the direction of their gradient is fixed, and its norm is above the clipping norm."""
    return pa.table({
        "citizen": pa.array(names(citizens), pa.string()),
        "kind": pa.array([str(number % VALUES) for number in range(citizens)], pa.string()),
        "repaired": pa.array(["yes"] * citizens, pa.string()),
    })  # fmt: skip


def neighbour_card(**model: Any) -> UseCaseCard:
    """Give a card whose steps are large, so that rounding to float32 is nothing beside them."""
    return build_card(
        model=model,
        training={"rounds": 1, "local_steps": 1, "batch_size": DECLARED_SIZE, "learning_rate": DECLARED_SIZE},
        privacy={"clipping_norm": 0.3},
    )


NEIGHBOUR_CARDS = (
    neighbour_card(kind="logistic", local=["output.bias"]),
    neighbour_card(kind="mlp", hidden=[6], local=["hidden.0.bias", "output.weight"]),
)
HISTOGRAM_CARD = build_card(training={"rounds": EVALUATIONS}, evaluation={"bins": 200})


def rows_of(citizens: Iterable[int], held_out: bool = False, single: int | None = None) -> pa.Table:
    """Make citizens with two rows each that pull the same way, apart from one with a single row."""
    everybody = names(CROWD, held_out)
    rows = [(n, age) for n in citizens for age in (29.0 - n, 30.0 - n)[: 1 if n == single else 2]]
    return pa.table({
        "citizen": pa.array([everybody[n] for n, _ in rows], pa.string()),
        "age": pa.array([age for _, age in rows], pa.float64()),
        "brand": pa.array(["city" if n % 2 else "cargo" for n, _ in rows], pa.string()),
        "repaired": pa.array(["yes" if n < CROWD / 2 else "no" for n, _ in rows], pa.string()),
    })  # fmt: skip


def moves(bench: Bench, card: UseCaseCard, table: pa.Table, rounds: int, wrap: Wrap = Altered) -> Floats:
    """Train some rounds from the same start; give what each moved, x_ND: shared coordinates first, then local ones."""
    agent = bench.agent(card, table, wrap)
    before = {name: initial_parameters(card)[name] for name in card.model.local}
    moved = []
    for server_round in range(1, rounds + 1):
        shared, after = released(agent, server_round), local_state(agent, server_round)
        local = {name: after[name] - before[name] for name in after}
        moved.append(vector(shared) if not local else np.r_[vector(shared), vector(local)])
        before = after
    return np.array(moved)


def vector(arrays: Arrays) -> Floats:
    return np.concatenate([array.ravel().astype(np.float64) for array in arrays.values()])


def noise_of(bench: Bench, citizens: int = 5, wrap: Wrap = Altered) -> Floats:
    """Measure the noise of every round and coordinate, in units of what the plan states for it: z_ND."""
    card, table = noise_card(), steady_table(citizens)
    plan = plan_of(card)
    (signal_D,) = moves(replace(bench, mechanisms=SEEDED), card, table, 1, lambda inner: wrap(WithoutNoise(inner)))
    std = plan.noise_multiplier * plan.clipping_norm / plan.divisor * card.training.learning_rate
    return np.asarray((moves(bench, card, table, ROUNDS, wrap) - signal_D) / std)


def likely_variance(z: Floats, alpha: float) -> bool:
    """Say whether numbers may be standard normal: their sum of squares is chi-square."""
    share = stats.chi2(z.size).cdf(np.square(z).sum())
    return bool(alpha / 2 < share < 1 - alpha / 2)


def uncorrelated(z_XY: Floats) -> bool:
    """Say whether the rows may be independent: a correlation of normal numbers has a known distribution."""
    rows, size = z_XY.shape
    r = np.abs(np.triu(np.corrcoef(z_XY), 1)).max()
    t = r * ((size - 2) / max(1 - r**2, 1e-300)) ** 0.5
    return bool(stats.t(size - 2).sf(t) > ALPHA / rows**2)


# Noise


def shared_noise_has_the_stated_variance(bench: Bench) -> bool:
    return likely_variance(noise_of(bench)[:, :-1], ALPHA)


def local_noise_has_the_stated_variance(bench: Bench) -> bool:
    return likely_variance(noise_of(bench)[:, -1:], ALPHA)


def noise_has_the_stated_variance_in_every_coordinate(bench: Bench) -> bool:
    z_ND = noise_of(bench)
    return all(likely_variance(z_N, ALPHA / z_ND.shape[1]) for z_N in z_ND.T)


def noise_has_no_mean(bench: Bench) -> bool:
    z_ND = noise_of(bench)
    together, alone_D = z_ND.sum() / z_ND.size**0.5, z_ND.sum(axis=0) / ROUNDS**0.5
    worst = np.abs(alone_D).max()
    return bool(stats.norm.sf(abs(together)) > ALPHA / 4 and stats.norm.sf(worst) > ALPHA / 4 / z_ND.shape[1])


def no_two_rounds_share_noise(bench: Bench) -> bool:
    return uncorrelated(noise_of(bench))


def no_two_coordinates_share_noise(bench: Bench) -> bool:
    return uncorrelated(noise_of(bench).T)


def empty_batches_are_noised(bench: Bench) -> bool:
    return likely_variance(noise_of(bench, wrap=Nobody), ALPHA)


def nobody_at_all_is_noised(bench: Bench) -> bool:
    return likely_variance(noise_of(bench, citizens=0), ALPHA)


# What a step takes from citizens, with the noise removed


def a_step_is_the_clipped_sum_over_the_divisor(bench: Bench) -> bool:
    """Compare a step with the one by hand: a steady citizen moves its own coordinate and the intercept, equally."""
    card, citizens = noise_card(), 7
    (moved_D,) = moves(bench, card, steady_table(citizens), 1, WithoutNoise)
    each = CLIPPING_NORM / 2**0.5 / plan_of(card).divisor * card.training.learning_rate
    by_hand_D = np.zeros(VALUES + 2)
    by_hand_D[:citizens], by_hand_D[-1] = each, citizens * each
    return bool(np.allclose(moved_D, by_hand_D, rtol=1e-4, atol=each * 1e-4))


def batches_are_drawn_at_the_declared_rate(bench: Bench) -> bool:
    """Read off who took part, for each citizen has a coordinate; more citizens are there than were declared."""
    card, citizens = noise_card(batch_size=10), 120
    rate = plan_of(card).sampling_rate
    drawn_NB = moves(bench, card, steady_table(citizens), ROUNDS, WithoutNoise)[:, :citizens] > 0
    spread_N = (drawn_NB.sum(axis=1) - citizens * rate) / (citizens * rate * (1 - rate)) ** 0.5
    return (
        _likely_count(drawn_NB.sum(), drawn_NB.size, rate, ALPHA / 2)
        and all(_likely_count(count, ROUNDS, rate, ALPHA / 2 / citizens) for count in drawn_NB.sum(axis=0))
        and likely_variance(spread_N, ALPHA)  # binomial counts of 24 +- 4: their excess of kurtosis is 0.002
    )


def _likely_count(count: int, trials: int, rate: float, alpha: float) -> bool:
    chance = stats.binom(trials, rate)
    return bool(chance.cdf(count) > alpha / 2 and chance.sf(count - 1) > alpha / 2)


def sensitivity(bench: Bench) -> float:
    """Leave out each citizen in turn under crafted weights; give the largest change, in units of what is accounted."""
    return max(_sensitivity(bench, card, size) for card in NEIGHBOUR_CARDS for size in STARTS)


def _sensitivity(bench: Bench, card: UseCaseCard, size: float) -> float:
    plan = plan_of(card)
    whole_D = _one_step(bench, card, rows_of(range(CROWD)), size)
    changes = [
        whole_D - _one_step(bench, card, rows_of(other for other in range(CROWD) if other != left_out), size)
        for left_out in range(CROWD)
    ]
    unit = plan.clipping_norm / plan.divisor * card.training.learning_rate
    return float(max(np.linalg.norm(change_D) for change_D in changes) / unit)


def _one_step(bench: Bench, card: UseCaseCard, table: pa.Table, size: float) -> Floats:
    agent = bench.agent(card, table, WithoutNoise)
    rng = np.random.default_rng(4)
    start = {name: (size * rng.normal(size=array.shape)).astype(np.float32) for name, array in agent.start().items()}
    return np.concatenate([vector(released(agent, 1, start)), vector(local_state(agent, 1))])


def one_citizen_changes_a_step_by_the_clipping_norm_at_most(bench: Bench) -> bool:
    return sensitivity(bench) <= 1 + 1e-3  # rounding to float32 of weights as large as STARTS


def a_gradient_that_is_not_finite_adds_nothing(bench: Bench) -> bool:
    """Give a citizen an infinite loss, which no data can bring about; what leaves is as if it were absent."""

    def infinite(logits_BRK: Tensor, y_BR: Tensor, weight_BR: Tensor) -> Tensor:
        single_B = weight_BR[:, 0] == 1
        return citizen_losses(logits_BRK, y_BR, weight_BR) * torch.where(single_B, torch.inf, 1.0)

    card = NEIGHBOUR_CARDS[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpsgd, "citizen_losses", infinite)
        with_them = _one_step(bench, card, rows_of(range(CROWD), single=CROWD - 1), 1.0)
        without = _one_step(bench, card, rows_of(range(CROWD - 1)), 1.0)
    return bool(np.abs(without).max() > 0 and np.allclose(with_them, without, atol=1e-6))


# The histogram


def histogram_noise_has_the_stated_variance(bench: Bench) -> bool:
    std = gaussian_noise_multiplier(HISTOGRAM_CARD.evaluation.epsilon, HISTOGRAM_CARD.privacy.delta)
    table = rows_of(range(CROWD), held_out=True)
    exact = histogram(bench.agent(HISTOGRAM_CARD, table, WithoutNoise))
    noisy = [histogram(bench.agent(HISTOGRAM_CARD, table), number) for number in range(1, EVALUATIONS + 1)]
    return likely_variance((np.array(noisy) - exact) / std, ALPHA)


def one_citizen_adds_mass_1_to_the_histogram(bench: Bench) -> bool:
    return histogram_sensitivity(bench) <= 1 + 1e-6


def histogram_sensitivity(bench: Bench) -> float:
    """Leave out each held-out citizen in turn; give the largest L2 change of the counts."""
    whole, *fewer = (
        histogram(bench.agent(HISTOGRAM_CARD, rows_of(those, held_out=True), WithoutNoise))
        for those in [range(CROWD), *([n for n in range(CROWD) if n != left_out] for left_out in range(CROWD))]
    )
    return max(float(np.linalg.norm(whole - one)) for one in fewer)


CHECKS: tuple[Check, ...] = (
    shared_noise_has_the_stated_variance,
    local_noise_has_the_stated_variance,
    noise_has_the_stated_variance_in_every_coordinate,
    noise_has_no_mean,
    no_two_rounds_share_noise,
    no_two_coordinates_share_noise,
    empty_batches_are_noised,
    nobody_at_all_is_noised,
    a_step_is_the_clipped_sum_over_the_divisor,
    batches_are_drawn_at_the_declared_rate,
    one_citizen_changes_a_step_by_the_clipping_norm_at_most,
    a_gradient_that_is_not_finite_adds_nothing,
    histogram_noise_has_the_stated_variance,
    one_citizen_adds_mass_1_to_the_histogram,
)
