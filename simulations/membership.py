"""Attack one update to learn whether a citizen took part, as a likelihood-ratio attack with full knowledge does.

The adversary knows the card, the plan, the start (which it crafted), every other citizen's rows and the target's. It
does not know who was sampled, the noise, and whether the target is there. It asks how far the update lies in the
direction that tells the target best from noise and from the sampling of the others. Over one step that takes everybody
no statistic of the update tells more (Neyman and Pearson); over several steps it is an approximation.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from faelles.card import UseCaseCard
from faelles.features import Citizens
from faelles.metrics import auc
from faelles.models import Arrays, build_model
from faelles.privacy.dpsgd import LocalTerms
from faelles.privacy.mechanisms import Randomness
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.update import release_update
from simulations.mechanisms import SeededMechanisms

Floats = NDArray[np.float64]
FALSE_POSITIVES = 0.01
LEAST_NOISE = 1e-2  # beside the target's move: what the first step does not say of the later ones


@dataclass(frozen=True, kw_only=True)
class Success:
    """Hold how well an attack tells in from out; each figure is a share of its runs.

    `advantage` is true positives minus false positives at a threshold that was fixed on other runs; `tpr` is the true
    positives where FALSE_POSITIVES of those who are out are taken for in.
    """

    advantage: float
    auc: float
    tpr: float


@dataclass(frozen=True, kw_only=True)
class Update:
    """Hold everything that makes one update, the target's presence and the randomness left open."""

    card: UseCaseCard
    start: Arrays
    citizens: Citizens
    target: int
    plan: PrivacyPlan

    def move(self, present: bool, randomness: Randomness) -> Floats:
        """Make the update that leaves, as one vector."""
        terms = LocalTerms(learning_rate=self.card.training.learning_rate)
        chosen_B = np.arange(len(self.citizens)) != self.target
        citizens = self.citizens if present else some(self.citizens, chosen_B)
        made = release_update(self.card, build_model(self.card), self.start, citizens, self.plan, terms, randomness)
        return np.concatenate([array.ravel().astype(np.float64) for array in made.update.arrays.values()])


class Everybody:
    """Take everybody and add no noise: what an adversary computes beforehand."""

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        """Choose everybody."""
        return np.ones(units, dtype=bool)

    def gaussian(self, size: int, std: float) -> Floats:
        """Draw zeros."""
        return np.zeros(size)


def some(citizens: Citizens, index: NDArray[np.bool_] | NDArray[np.int64]) -> Citizens:
    """Take a part of the citizens."""
    return Citizens(x_BRF=citizens.x_BRF[index], y_BR=citizens.y_BR[index], mask_BR=citizens.mask_BR[index])


def attack_membership(update: Update, runs: int, seed: int) -> Success:
    """Measure the attack over fresh runs of the mechanism, the target in for one half and out for the other.

    Args:
        update: What is attacked.
        runs: How many runs with the target and how many without; as many shadow runs again, a quarter of them, fix the
            threshold.
        seed: Equal seeds give equal figures.
    """
    direction_D, shadows = telling_direction(update), -(-runs // 4)
    score_PN = np.array([
        [update.move(present, _randomness(seed, run, present)) @ direction_D for run in range(runs + shadows)]
        for present in (False, True)
    ])  # fmt: skip
    threshold, (out_N, in_N) = score_PN[:, runs:].mean(), score_PN[:, :runs]
    return Success(
        advantage=float((in_N > threshold).mean() - (out_N > threshold).mean()),
        auc=auc(np.r_[out_N, in_N], np.repeat([False, True], runs), np.ones(2 * runs)),
        tpr=float((in_N > np.quantile(out_N, 1 - FALSE_POSITIVES, method="higher")).mean()),
    )


def telling_direction(update: Update) -> Floats:
    """Find the direction in which the target stands out most from the noise and from the sampling of the others.

    Source: Fisher 1936: the covariance's inverse times the difference of the means, both for one step from the start.
    """
    plan = update.plan
    moved_BD = moves_alone(update)
    std = plan.noise_multiplier * plan.clipping_norm / plan.divisor * update.card.training.learning_rate
    target_D, others_BD = moved_BD[update.target], np.delete(moved_BD, update.target, axis=0)
    floor = max(std, LEAST_NOISE * float(np.linalg.norm(target_D)))
    covariance_DD = plan.sampling_rate * (1 - plan.sampling_rate) * others_BD.T @ others_BD
    return np.linalg.solve(covariance_DD + floor**2 * np.eye(len(target_D)), target_D)


def moves_alone(update: Update) -> Floats:
    """Compute how far each citizen alone would move one step without noise, clipped where the plan clips."""
    alone = (some(update.citizens, np.array([citizen])) for citizen in range(len(update.citizens)))
    plan = replace(update.plan, local_steps=1)
    return np.array([replace(update, citizens=one, plan=plan).move(True, Everybody()) for one in alone])


def most_exposed(update: Update) -> Update:
    """Make the target the citizen whose gradient is largest, so that nobody's clipped one is larger."""
    unclipped = replace(update, plan=replace(update.plan, noise_multiplier=0.0))
    return replace(update, target=int(np.argmax(np.linalg.norm(moves_alone(unclipped), axis=1))))


def advantage_bound(epsilon: float, delta: float) -> float:
    """Bound the advantage of every attack on an (epsilon, delta)-private mechanism.

    Source: Kairouz, Oh and Viswanath 2015 (arXiv:1311.0776), theorem 2.1, the largest difference of the two rates.

        >>> round(advantage_bound(1.0, 0.0), 4)
        0.4621
    """
    return float(np.tanh(epsilon / 2) + 2 * delta / (1 + np.exp(epsilon))) if np.isfinite(epsilon) else 1.0


def best_advantage(noise_multiplier: float) -> float:
    """Compute the advantage of the best attack on one step that takes everybody and adds Gaussian noise.

    Source: Dong, Roth and Su 2022, Gaussian Differential Privacy (arXiv:1905.02383), with mu = 1 / noise_multiplier.

        >>> round(best_advantage(4.0), 4)
        0.0995
    """
    return float(2 * stats.norm.cdf(0.5 / noise_multiplier) - 1) if noise_multiplier else 1.0


def tpr_bound(epsilon: float, delta: float) -> float:
    """Bound the true positives of every attack at FALSE_POSITIVES.

    Source: as `advantage_bound`.

        >>> round(tpr_bound(1.0, 0.0), 4)
        0.0272
    """
    if not np.isfinite(epsilon):
        return 1.0
    few = np.exp(epsilon) * FALSE_POSITIVES + delta
    return float(min(few, 1 - np.exp(-epsilon) * (1 - FALSE_POSITIVES - delta)))


def _randomness(seed: int, run: int, present: bool) -> Randomness:
    mechanisms = SeededMechanisms(seed=seed, municipality="attacked")
    return mechanisms.open_release("", run, "in" if present else "out")
