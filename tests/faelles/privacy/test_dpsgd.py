"""DP-SGD does what its plan says: one clipped gradient a citizen, noise in every coordinate, nothing from the count."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from faelles.card import UseCaseCard
from faelles.features import Citizens
from faelles.models import Arrays, build_model, parameter_shapes
from faelles.privacy import dpsgd
from faelles.privacy.dpsgd import LocalTerms, train_locally
from faelles.privacy.mechanisms import Randomness, SecureRandomness
from tests.gradients import (
    CARDS,
    ROWS,
    Mask,
    Scripted,
    contributions,
    draw_citizens,
    draw_start,
    first_sum,
    flat,
    plan_of,
    some,
    train,
    zeros,
)

ALPHA = 1e-6  # of each coordinate's test: production noise cannot be seeded, and these must not fail by chance


@dataclass
class NobodyButNoise:
    """Include nobody and draw production noise."""

    noise: Randomness = field(default_factory=SecureRandomness)

    def include(self, units: int, rate: float) -> Mask:
        return np.zeros(units, dtype=bool)

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        return self.noise.gaussian(size, std)


# What a step computes


@pytest.mark.parametrize("clipped", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", CARDS)
def test_a_step_is_the_mean_of_the_clipped_gradients_of_citizens(name: str, clipped: float) -> None:
    use_case = CARDS[name]
    citizens, start = draw_citizens(use_case, 17), draw_start(use_case)
    chosen = np.arange(17) % 3 > 0
    norm_B = np.linalg.norm(contributions(use_case, start, some(citizens, chosen), np.inf), axis=1)
    clipping_norm = {0.0: 2 * norm_B.max(), 0.5: np.median(norm_B), 1.0: norm_B.min() / 2}[clipped]
    by_hand_BD = contributions(use_case, start, some(citizens, chosen), clipping_norm)
    after = train(use_case, start, citizens, plan_of(clipping_norm=clipping_norm), Scripted(masks=[chosen]))
    mean_D = by_hand_BD.sum(axis=0) / 10  # the plan's divisor: batch_size, whoever came
    np.testing.assert_allclose(flat(start) - flat(after), mean_D, atol=1e-6)


@pytest.mark.parametrize("name", CARDS)
def test_several_steps_go_on_from_each_other(name: str) -> None:
    use_case, plan = CARDS[name], plan_of(local_steps=3)
    citizens, start = draw_citizens(use_case, 9), draw_start(use_case)
    masks = [np.arange(9) % 3 == step for step in range(3)]
    expected = flat(start)
    shapes, where = parameter_shapes(use_case), np.cumsum([a.size for a in start.values()])[:-1]
    for mask in masks:
        parts = np.split(expected, where)
        now = {n: p.reshape(s).astype(np.float32) for p, (n, s) in zip(parts, shapes.items(), strict=True)}
        expected = expected - 0.5 * contributions(use_case, now, some(citizens, mask), 0.3).sum(axis=0) / 10
    after = train(use_case, start, citizens, plan, Scripted(masks=masks), LocalTerms(learning_rate=0.5))
    np.testing.assert_allclose(flat(after), expected, atol=1e-6)


def test_without_noise_nothing_is_clipped() -> None:
    use_case = CARDS["mlp"]
    citizens, start = draw_citizens(use_case, 12), draw_start(use_case)
    after = train(use_case, start, citizens, plan_of(noise_multiplier=0.0))
    mean_D = contributions(use_case, start, citizens, np.inf).sum(axis=0) / 10
    np.testing.assert_allclose(flat(start) - flat(after), mean_D, atol=1e-6)


def test_what_stands_in_padded_rows_changes_nothing() -> None:
    use_case = CARDS["mlp, several classes"]
    citizens, start = draw_citizens(use_case, 12), draw_start(use_case)
    assert not citizens.mask_BR.all()
    plain = flat(train(use_case, start, citizens, plan_of()))
    for absurd in (0.0, -7.0, np.inf, np.nan):
        x_BRF = np.where(citizens.mask_BR[..., None], citizens.x_BRF, np.float32(absurd))
        y_BR = np.where(citizens.mask_BR, citizens.y_BR, 1)
        other = train(use_case, start, replace(citizens, x_BRF=x_BRF, y_BR=y_BR), plan_of())
        if np.isfinite(absurd):
            np.testing.assert_array_equal(flat(other), plain)
        assert np.isfinite(flat(other)).all()


def test_a_row_that_is_repeated_for_everybody_counts_once() -> None:
    use_case = CARDS["logistic"]
    once = draw_citizens(use_case, 8)
    once = replace(once, mask_BR=np.arange(ROWS) < np.ones((8, 1)))
    thrice = Citizens(
        x_BRF=np.repeat(once.x_BRF[:, :1], ROWS, axis=1),
        y_BR=np.repeat(once.y_BR[:, :1], ROWS, axis=1),
        mask_BR=np.ones((8, ROWS), dtype=bool),
    )
    start = draw_start(use_case)
    sums = [first_sum(use_case, start, citizens, plan_of()) for citizens in (once, thrice)]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5, 16, 17])
def test_a_large_batch_in_parts_is_one_batch(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    use_case, plan = CARDS["mlp"], plan_of(local_steps=3)
    citizens, start = draw_citizens(use_case, 17), draw_start(use_case)
    masks = [np.ones(17, dtype=bool), np.zeros(17, dtype=bool), np.arange(17) < 7]
    whole = train(use_case, start, citizens, plan, Scripted(masks=masks))
    monkeypatch.setattr(dpsgd, "PHYSICAL_BATCH", size)
    in_parts = Scripted(masks=masks)
    np.testing.assert_allclose(flat(train(use_case, start, citizens, plan, in_parts)), flat(whole), atol=1e-7)
    assert len(in_parts.noised) == 3, "noise comes once a step and not once a part"


def test_training_leaves_the_model_as_torch_made_it() -> None:
    use_case = CARDS["mlp"]
    model = build_model(use_case)
    start = draw_start(use_case)
    for _ in range(2):
        train_locally(model, start, draw_citizens(use_case, 3), plan_of(), LocalTerms(learning_rate=1.0), Scripted())
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
        assert not any(hasattr(p, "grad_sample") for p in model.parameters())


def test_the_start_is_not_changed_and_may_be_read_only() -> None:
    use_case = CARDS["mlp"]
    start = draw_start(use_case)
    before = flat(start)
    for array in start.values():
        array.flags.writeable = False
    names = tuple(start)
    terms = LocalTerms(learning_rate=1.0, proximal_mu=0.1)
    after = train(use_case, start, draw_citizens(use_case, 5), plan_of(), terms=terms, proximal=names)
    np.testing.assert_array_equal(flat(start), before)
    assert list(after) == list(start)
    assert {array.dtype for array in after.values()} == {np.dtype(np.float32)}


# Noise


def empty(use_case: UseCaseCard) -> Citizens:
    return some(draw_citizens(use_case, 1), slice(0, 0))


@pytest.mark.parametrize("crowd", [0, 4], ids=["no citizens", "empty batches"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", ["logistic, several classes", "mlp"])
def test_noise_of_the_stated_size_reaches_every_coordinate(name: str, steps: int, crowd: int) -> None:
    use_case = CARDS[name]
    citizens = draw_citizens(use_case, crowd) if crowd else empty(use_case)
    plan = plan_of(noise_multiplier=1.7, clipping_norm=0.6, batch_size=8, local_steps=steps)
    terms = LocalTerms(learning_rate=0.25)
    start = zeros(use_case)
    model = build_model(use_case)
    drawn_ND = np.array(
        [flat(train_locally(model, start, citizens, plan, terms, NobodyButNoise())) for _ in range(150)]
    )
    std = 1.7 * 0.6 / 8 * 0.25 * steps**0.5
    for drawn_N in drawn_ND.T:
        assert stats.kstest(drawn_N, stats.norm(0, std).cdf).pvalue > ALPHA
    spread = stats.chi2(drawn_ND.size).cdf(((drawn_ND / std) ** 2).sum())
    assert ALPHA < spread < 1 - ALPHA
    correlation_DD = np.corrcoef(drawn_ND.T) - np.eye(drawn_ND.shape[1])
    assert np.abs(correlation_DD).max() * 150**0.5 < 6.5  # no pair of coordinates shares noise


def test_production_randomness_trains_from_end_to_end() -> None:
    use_case, plan = CARDS["mlp"], plan_of(local_steps=5, noise_multiplier=2.0)
    citizens, start = draw_citizens(use_case, 30), draw_start(use_case)
    one, two = (flat(train(use_case, start, citizens, plan, SecureRandomness())) for _ in range(2))
    assert np.isfinite(one).all()
    assert (one != two).all()


@pytest.mark.parametrize("count", [0, 1, 6, 40])
def test_every_step_of_the_plan_is_done_whoever_is_there(count: int) -> None:
    use_case, plan = CARDS["mlp"], plan_of(local_steps=7, noise_multiplier=2.0)
    citizens = draw_citizens(use_case, count) if count else empty(use_case)
    script = Scripted()
    train(use_case, draw_start(use_case), citizens, plan, script)
    dimension = flat(draw_start(use_case)).size
    assert script.noised == [(dimension, 2.0 * 0.3)] * 7
    assert script.included == [(count, 0.5)] * 7


def test_an_empty_batch_counts_as_a_step_and_moves_nothing_but_by_noise() -> None:
    use_case = CARDS["mlp"]
    citizens, start = draw_citizens(use_case, 6), draw_start(use_case)
    script = Scripted(masks=[np.zeros(6, dtype=bool)] * 4)
    after = train(use_case, start, citizens, plan_of(local_steps=4), script)
    np.testing.assert_array_equal(flat(after), flat(start))
    assert len(script.noised) == 4


# What comes from the declared size


@pytest.mark.parametrize(("declared_size", "rate", "divisor"), [(20, 0.5, 10), (1000, 0.01, 10), (5, 1.0, 5)])
def test_rate_and_divisor_come_from_the_declared_size(declared_size: int, rate: float, divisor: float) -> None:
    use_case = CARDS["logistic"]
    start = draw_start(use_case)
    for count in (8, 16):
        citizens, script = draw_citizens(use_case, count), Scripted()
        plan = plan_of(declared_size=declared_size)
        after = train(use_case, start, citizens, plan, script)
        sum_D = contributions(use_case, start, citizens, 0.3).sum(axis=0)
        np.testing.assert_allclose(flat(start) - flat(after), sum_D / divisor, atol=1e-6)
        assert script.included == [(count, rate)]
        assert script.noised == [(len(sum_D), 0.3)]


def test_at_rate_1_everybody_takes_part_in_every_step() -> None:
    use_case, plan = CARDS["logistic"], plan_of(declared_size=10, batch_size=50, local_steps=2)
    assert plan.sampling_rate == 1

    class Everybody(NobodyButNoise):
        def include(self, units: int, rate: float) -> Mask:
            return self.noise.include(units, rate)

        def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
            return np.zeros(size)

    citizens, start = draw_citizens(use_case, 23), draw_start(use_case)
    np.testing.assert_array_equal(
        flat(train(use_case, start, citizens, plan, Everybody())), flat(train(use_case, start, citizens, plan))
    )


# FedProx


def steps_of(mu: float, names: tuple[str, ...], noise: Callable[[int], NDArray[np.float64]]) -> tuple[Arrays, Arrays]:
    """Take two steps of which the first is noise alone, and give the parameters before and after."""
    use_case = CARDS["mlp"]
    start = draw_start(use_case)

    class Kick(Scripted):
        def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
            super().gaussian(size, std)
            return noise(size) * std if len(self.noised) == 1 else np.zeros(size)

    nobody = [np.zeros(4, dtype=bool)] * 2
    plan = plan_of(local_steps=2, clipping_norm=0.01)
    terms = LocalTerms(learning_rate=0.5, proximal_mu=mu)
    return start, train(use_case, start, draw_citizens(use_case, 4), plan, Kick(masks=nobody), terms, names)


def test_fedprox_pulls_back_after_clipping_and_noise_on_the_parameters_given() -> None:
    use_case = CARDS["mlp"]
    shared = tuple(name for name in parameter_shapes(use_case) if name not in use_case.model.local)

    def kick(size: int) -> NDArray[np.float64]:
        return np.random.default_rng(5).normal(size=size) * 100

    start, after = steps_of(0.4, shared, kick)
    moved = -0.5 * kick(flat(start).size) * 0.01 / 10  # learning rate, noise, divisor
    offset = 0
    for name, array in start.items():
        drift = moved[offset : offset + array.size].reshape(array.shape)
        offset += array.size
        # Its size is far beyond the clipping norm, so a pull before clipping would be another.
        pulled = drift - 0.5 * 0.4 * drift if name in shared else drift
        np.testing.assert_allclose(after[name] - array, pulled, atol=1e-6)


def test_fedprox_takes_no_part_where_its_weight_is_0() -> None:
    def kick(size: int) -> NDArray[np.float64]:
        return np.ones(size)

    _, pulled = steps_of(0.0, tuple(parameter_shapes(CARDS["mlp"])), kick)
    _, plain = steps_of(0.0, (), kick)
    np.testing.assert_array_equal(flat(pulled), flat(plain))
