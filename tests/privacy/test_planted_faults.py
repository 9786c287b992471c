"""The battery passes the code as it is and catches each fault that others have shipped, planted one at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from scipy import stats
from torch import Tensor

from faelles.card import UseCaseCard
from faelles.features import Citizens
from faelles.models import Arrays, Network
from faelles.privacy import dpsgd, release, update
from faelles.privacy.dpsgd import CitizenOptimizer, LocalTerms, train_locally
from faelles.privacy.mechanisms import Mechanisms, Randomness, SecureMechanisms
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.release import score_histogram
from tests.builders import DECLARED_SIZE
from tests.privacy import battery
from tests.privacy.battery import ALPHA, CHECKS, NOISE_SAMPLES, ROUNDS, Check
from tests.privacy.real_path import SEEDED, Altered, Bench, Floats, WithoutNoise, Wrapped


def name_of(value: object) -> str:
    return str(getattr(value, "__name__", value)).replace("_", " ")


# The code as it is


@pytest.mark.parametrize("mechanisms", [SEEDED, SecureMechanisms()], ids=["seeded", "production"])
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_the_code_as_it_is_passes(tmp_path: Path, check: Check, mechanisms: Mechanisms) -> None:
    assert check(Bench(folder=tmp_path, mechanisms=mechanisms))


def test_a_citizen_reaches_what_is_accounted_so_that_the_bound_is_no_empty_one(tmp_path: Path) -> None:
    assert battery.sensitivity(Bench(folder=tmp_path)) == pytest.approx(1, abs=1e-3)
    assert battery.histogram_sensitivity(Bench(folder=tmp_path)) == pytest.approx(1, abs=1e-6)


def missed(samples: int, factor: float, alpha: float) -> float:
    """Compute how often noise of a part of its size passes a chi-square test."""
    chi2 = stats.chi2(samples)
    low, high = chi2.isf(1 - alpha / 2), chi2.isf(alpha / 2)
    return float(chi2.cdf(high / factor**2) - chi2.cdf(low / factor**2))


def test_the_battery_takes_enough_samples_for_what_it_claims() -> None:
    needed = next(samples for samples in range(100, 10_000, 50) if missed(samples, 0.9, ALPHA) < ALPHA)
    assert needed == 6650
    assert needed <= NOISE_SAMPLES
    assert missed(ROUNDS, 1 / 4, ALPHA) < ALPHA


# Faults of the noise


@dataclass
class Less(Altered):
    factor: float

    def gaussian(self, size: int, std: float) -> Floats:
        return self.inner.gaussian(size, self.factor * std)


class Shifted(Altered):
    def gaussian(self, size: int, std: float) -> Floats:
        return self.inner.gaussian(size, std) + 0.1 * std


class Alike(Altered):
    """Draw one number for two coordinates that follow each other."""

    def gaussian(self, size: int, std: float) -> Floats:
        return np.repeat(self.inner.gaussian(size, std), 2)[:size]


@dataclass(frozen=True)
class Reused:
    """Open the same stream in every round, as a seed in a configuration does."""

    def open_release(self, federation: str, server_round: int, kind: str) -> Randomness:
        return SEEDED.open_release(federation, 1, kind)


def less_noise(factor: float) -> Mechanisms:
    return Wrapped(SEEDED, lambda inner: Less(inner, factor))


def noise_for_shared_parameters_only(patch: pytest.MonkeyPatch) -> None:
    add_noise = CitizenOptimizer.add_noise

    def add_some_noise(self: CitizenOptimizer) -> None:
        add_noise(self)
        self.params[-1].grad = self.params[-1].summed_grad  # the intercept, which stays local

    patch.setattr(CitizenOptimizer, "add_noise", add_some_noise)


def local_state_tuned_after_the_noise(patch: pytest.MonkeyPatch) -> None:
    def tuned(
        model: Network, start: Arrays, citizens: Citizens, plan: PrivacyPlan, terms: LocalTerms,
        randomness: Randomness, proximal: tuple[str, ...] = (),
    ) -> Arrays:  # fmt: skip
        private = train_locally(model, start, citizens, plan, terms, randomness, proximal)
        again = train_locally(model, private, citizens, plan, terms, WithoutNoise(randomness), proximal)
        return private | {name: again[name] for name in again if name not in proximal}

    patch.setattr(update, "train_locally", tuned)


def local_state_without_noise(patch: pytest.MonkeyPatch) -> None:
    def split(
        model: Network, start: Arrays, citizens: Citizens, plan: PrivacyPlan, terms: LocalTerms,
        randomness: Randomness, proximal: tuple[str, ...] = (),
    ) -> Arrays:  # fmt: skip
        exact = train_locally(model, start, citizens, plan, terms, WithoutNoise(randomness), proximal)
        private = train_locally(model, start, citizens, plan, terms, randomness, proximal)
        return {name: (private if name in proximal else exact)[name] for name in private}

    patch.setattr(update, "train_locally", split)


def no_noise_in_empty_batches(patch: pytest.MonkeyPatch) -> None:
    step = dpsgd._step

    def skipping(
        model: GradSampleModule, optimizer: CitizenOptimizer, citizens: Citizens, chosen_B: NDArray[np.bool_]
    ) -> None:
        if chosen_B.any():
            step(model, optimizer, citizens, chosen_B)

    patch.setattr(dpsgd, "_step", skipping)


# Faults of clipping and sampling


def rows_clipped_instead_of_citizens(patch: pytest.MonkeyPatch) -> None:
    batch = dpsgd._batch

    def rows(citizens: Citizens, index_B: NDArray[np.int64]) -> tuple[Tensor, ...]:
        x_BRF, y_BR, weight_BR = (part.flatten(0, 1)[:, None] for part in batch(citizens, index_B))
        return x_BRF, y_BR, (weight_BR > 0).double()

    patch.setattr(dpsgd, "_batch", rows)


def clipped_layer_by_layer(patch: pytest.MonkeyPatch) -> None:
    def clip(self: CitizenOptimizer) -> None:
        for p, sample in zip(self.params, self.grad_samples, strict=True):
            factor_B = (self.max_grad_norm / sample.flatten(1).norm(dim=1)).clamp(max=1.0)
            p.summed_grad = torch.einsum("b,b...->...", factor_B, sample)

    patch.setattr(CitizenOptimizer, "clip_and_accumulate", clip)


def nan_passes_the_clip(patch: pytest.MonkeyPatch) -> None:
    def clip(self: CitizenOptimizer) -> None:
        gradient_BD = torch.cat([sample.flatten(1) for sample in self.grad_samples], dim=1)
        factor_B = (self.max_grad_norm / gradient_BD.norm(dim=1)).clamp(max=1.0)
        for p, sample in zip(self.params, self.grad_samples, strict=True):
            p.summed_grad = torch.einsum("b,b...->...", factor_B, sample)

    patch.setattr(CitizenOptimizer, "clip_and_accumulate", clip)


def batch_divided_by_its_true_size(patch: pytest.MonkeyPatch) -> None:
    clip = CitizenOptimizer.clip_and_accumulate

    def clip_and_count(self: CitizenOptimizer) -> None:
        self.expected_batch_size = len(self.grad_samples[0])
        clip(self)

    patch.setattr(CitizenOptimizer, "clip_and_accumulate", clip_and_count)


class RateOfTheTrueCount(Altered):
    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        return self.inner.include(units, min(1.0, rate * DECLARED_SIZE / units))


class BatchesOfOneSize(Altered):
    """Shuffle and take as many as expected, which is not Poisson sampling."""

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        return np.argsort(self.inner.gaussian(units, 1.0)) < round(rate * units)


# Faults of the histogram


def histogram_of_rows(patch: pytest.MonkeyPatch) -> None:
    def of_rows(card: UseCaseCard, model: Network, parameters: Arrays, citizens: Citizens) -> Floats:
        used = citizens.mask_BR
        each_row = Citizens(
            x_BRF=citizens.x_BRF[used][:, None], y_BR=citizens.y_BR[used][:, None], mask_BR=used[used][:, None]
        )
        return score_histogram(card, model, parameters, each_row)

    patch.setattr(release, "score_histogram", of_rows)


def nothing(patch: pytest.MonkeyPatch) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """Hold a fault: how to plant it, in the code or in the mechanisms, and the check that must catch it."""

    caught_by: Check
    patch: Callable[[pytest.MonkeyPatch], None] = nothing
    mechanisms: Mechanisms = SEEDED


FAULTS = {
    "sigma / 4": Fault(battery.shared_noise_has_the_stated_variance, mechanisms=less_noise(1 / 4)),
    "sigma / 4, local": Fault(battery.local_noise_has_the_stated_variance, mechanisms=less_noise(1 / 4)),
    "sigma / 4, histogram": Fault(battery.histogram_noise_has_the_stated_variance, mechanisms=less_noise(1 / 4)),
    "sigma * 0.9": Fault(battery.shared_noise_has_the_stated_variance, mechanisms=less_noise(0.9)),
    "sigma * 0.9, histogram": Fault(battery.histogram_noise_has_the_stated_variance, mechanisms=less_noise(0.9)),
    "noise with a mean": Fault(battery.noise_has_no_mean, mechanisms=Wrapped(SEEDED, Shifted)),
    "noise shared by coordinates": Fault(battery.no_two_coordinates_share_noise, mechanisms=Wrapped(SEEDED, Alike)),
    "noise reused between rounds": Fault(battery.no_two_rounds_share_noise, mechanisms=Reused()),
    "shared parameters noised only": Fault(
        battery.local_noise_has_the_stated_variance, noise_for_shared_parameters_only
    ),
    "the same, by coordinate": Fault(
        battery.noise_has_the_stated_variance_in_every_coordinate, noise_for_shared_parameters_only
    ),
    "local state without noise": Fault(battery.local_noise_has_the_stated_variance, local_state_without_noise),
    "local state tuned after the noise": Fault(
        battery.one_citizen_changes_a_step_by_the_clipping_norm_at_most, local_state_tuned_after_the_noise
    ),
    "no noise in empty batches": Fault(battery.empty_batches_are_noised, no_noise_in_empty_batches),
    "no noise where nobody is": Fault(battery.nobody_at_all_is_noised, no_noise_in_empty_batches),
    "rows clipped instead of citizens": Fault(
        battery.one_citizen_changes_a_step_by_the_clipping_norm_at_most, rows_clipped_instead_of_citizens
    ),
    "clipped layer by layer": Fault(
        battery.one_citizen_changes_a_step_by_the_clipping_norm_at_most, clipped_layer_by_layer
    ),
    "NaN passes the clip": Fault(battery.a_gradient_that_is_not_finite_adds_nothing, nan_passes_the_clip),
    "batch divided by its true size": Fault(
        battery.one_citizen_changes_a_step_by_the_clipping_norm_at_most, batch_divided_by_its_true_size
    ),
    "the same, by hand": Fault(battery.a_step_is_the_clipped_sum_over_the_divisor, batch_divided_by_its_true_size),
    "sampling from the true count": Fault(
        battery.batches_are_drawn_at_the_declared_rate, mechanisms=Wrapped(SEEDED, RateOfTheTrueCount)
    ),
    "batches of one size": Fault(
        battery.batches_are_drawn_at_the_declared_rate, mechanisms=Wrapped(SEEDED, BatchesOfOneSize)
    ),
    "a histogram of rows": Fault(battery.one_citizen_adds_mass_1_to_the_histogram, histogram_of_rows),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    fault.patch(monkeypatch)
    assert not fault.caught_by(Bench(folder=tmp_path, mechanisms=fault.mechanisms))
