"""The attacks do what they say: they win without privacy, lose against noise, and theory bounds them."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from faelles.card import UseCaseCard
from faelles.features import Citizens
from faelles.privacy.plan import PrivacyPlan, plan_for
from simulations import attacks
from simulations.attacks import crafted, inversion_rows, membership_rows
from simulations.inversion import compare, infer, match, observe, solve
from simulations.membership import Update, advantage_bound, attack_membership, best_advantage, most_exposed, tpr_bound
from tests.builders import build_card

CARD = build_card(model={"kind": "mlp", "hidden": [8, 4]})
START = crafted(CARD, 3)


def draw(count: int, seed: int = 0) -> Citizens:
    """Draw citizens with one row: an age, a brand, nothing missing."""
    rng = np.random.default_rng(seed)
    brand_B = rng.integers(0, 2, count)
    x_BF = np.zeros((count, 5), dtype=np.float32)
    x_BF[:, 0], x_BF[np.arange(count), 2 + brand_B] = rng.uniform(-1, 1, count), 1
    return Citizens(x_BRF=x_BF[:, None], y_BR=rng.integers(0, 2, (count, 1)), mask_BR=np.ones((count, 1), dtype=bool))


def one_step(citizens: int, epsilon: float) -> PrivacyPlan:
    return plan_for(CARD, citizens, epsilon=epsilon, rounds=1, local_steps=1, batch_size=citizens)


def truth(batches: Sequence[Citizens]) -> np.ndarray:
    return np.array([batch.x_BRF[:, 0] for batch in batches], dtype=np.float64)


def labels(batches: Sequence[Citizens]) -> np.ndarray:
    return np.array([batch.y_BR[:, 0] for batch in batches])


# Membership


def attacked(epsilon: float) -> Update:
    update = Update(card=CARD, start=START, citizens=draw(20), target=0, plan=one_step(20, np.inf))
    chosen = most_exposed(update)
    return Update(card=CARD, start=START, citizens=chosen.citizens, target=chosen.target, plan=one_step(20, epsilon))


def test_without_noise_membership_is_certain() -> None:
    success = attack_membership(attacked(np.inf), runs=10, seed=1)
    assert (success.advantage, success.auc, success.tpr) == (1, 1, 1)


def test_against_one_noisy_step_the_attack_is_as_good_as_theory_lets_it_be() -> None:
    update, runs = attacked(8.0), 200
    success = attack_membership(update, runs, seed=1)
    # The target moves the sum by C at most and each direction has noise sigma C: two normal laws 1 / sigma apart.
    apart = 1 / update.plan.noise_multiplier
    assert success.auc == pytest.approx(stats.norm.cdf(apart / 2**0.5), abs=5 * 0.5 / runs**0.5)
    assert success.advantage == pytest.approx(best_advantage(update.plan.noise_multiplier), abs=5 / (2 * runs) ** 0.5)
    assert success.advantage < advantage_bound(8.0, 1e-5)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 4.0])
def test_the_bounds_are_those_of_randomised_response(epsilon: float) -> None:
    # The mechanism that (epsilon, 0) allows at worst tells the truth with q and lies with 1 - q.
    q = 1 / (1 + np.exp(-epsilon))
    assert advantage_bound(epsilon, 0.0) == pytest.approx(2 * q - 1)
    assert tpr_bound(epsilon, 0.0) == pytest.approx(0.01 * q / (1 - q) if 1 - q > 0.01 else 1 - 0.99 * (1 - q) / q)
    assert advantage_bound(epsilon, 1e-3) == pytest.approx((np.exp(epsilon) - 1 + 2e-3) / (np.exp(epsilon) + 1))


def test_without_privacy_nothing_is_bounded() -> None:
    assert advantage_bound(np.inf, 1e-5) == tpr_bound(np.inf, 1e-5) == best_advantage(0.0) == 1


# Inversion


@pytest.mark.parametrize("epsilon", [np.inf, 8.0])
def test_a_batch_of_one_is_read_off_in_closed_form_without_privacy_only(epsilon: float) -> None:
    batches, plan = [draw(1, seed) for seed in range(10)], one_step(1, epsilon)
    found = compare(CARD, truth(batches), solve(CARD, observe(CARD, START, batches, plan, seed=1)))
    if plan.private:
        assert found.error > 0.5
    else:
        assert found.error < 1e-4
        assert found.categories == 1


@pytest.mark.parametrize("size", [1, 3])
def test_matching_finds_batches_without_privacy(size: int) -> None:
    batches, plan = [draw(size, seed) for seed in range(3)], one_step(size, np.inf)
    seen = observe(CARD, START, batches, plan, seed=1)
    found = compare(CARD, truth(batches), match(CARD, START, seen, labels(batches), plan, seed=1))
    assert found.error < 0.3
    assert found.categories > 0.8


def test_inference_finds_the_row_that_is_public_and_is_a_blind_guess_without_an_update() -> None:
    public, plan = draw(30), one_step(1, np.inf)
    batches = [Citizens(x_BRF=public.x_BRF[[n]], y_BR=public.y_BR[[n]], mask_BR=public.mask_BR[[n]]) for n in range(5)]
    seen = observe(CARD, START, batches, plan, seed=1)
    found = compare(CARD, truth(batches), infer(CARD, START, seen, labels(batches), plan, public))
    assert found.error == pytest.approx(0, abs=1e-3)
    assert found.categories == 1
    blind = infer(CARD, START, None, labels(batches), plan, public)
    alike = public.y_BR[:, 0] == batches[0].y_BR[0, 0]
    np.testing.assert_allclose(blind[0, 0], public.x_BRF[alike, 0].mean(axis=0), atol=1e-6)


def test_reconstructions_are_matched_with_citizens_in_the_best_order() -> None:
    x_TBF = truth([draw(4)])
    assert compare(CARD, x_TBF, x_TBF[:, ::-1]) == compare(CARD, x_TBF, x_TBF)
    assert compare(CARD, x_TBF, np.zeros_like(x_TBF)).error == pytest.approx(1)


# The tables


def rows(card: UseCaseCard) -> list[tuple[str, ...]]:
    citizens = draw(12)
    return [
        *membership_rows(card, START, citizens, runs=4, seed=1),
        *inversion_rows(card, START, citizens, draw(12, 5), count=1, seed=1),
    ]


def test_equal_seeds_make_equal_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "BATCHES", ((1, (np.inf, 1.0)),))
    monkeypatch.setattr("simulations.inversion.STEPS", 20)
    once = rows(CARD)
    assert once == rows(CARD)
    assert {len(row) for row in once} == {len(attacks.MEMBERSHIP), len(attacks.INVERSION)}


def test_the_command_prints_both_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(attacks, "EPSILONS", (1.0,))
    monkeypatch.setattr(attacks, "BATCHES", ((1, (1.0,)),))
    monkeypatch.setattr("simulations.inversion.STEPS", 2)
    monkeypatch.setattr(attacks, "ATTACKED", "0825")  # a small island
    monkeypatch.setattr(attacks, "PUBLIC", "0825")
    attacks.main(["--runs", "4", "--citizens", "1"])
    printed = capsys.readouterr().out
    assert "| one step, everybody | 1.00 | 1.00 |" in printed
    assert "| blind guess | 1 |" in printed
