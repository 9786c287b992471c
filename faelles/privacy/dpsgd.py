"""Train locally with differential privacy: DP-SGD over citizens, on Opacus.

A citizen's contribution to a step is one clipped gradient of the mean loss over its used rows. Shared and local
parameters form one vector: clipped jointly, noised in every coordinate, so local state is private too. FedProx's pull
is added after clipping and noise.

Opacus' `make_private` derives sampling rate and divisor from the data and would therefore reveal the true count; this
module uses `GradSampleModule` and `DPOptimizer` directly, with terms that come from the declared size.

Everything from scores to sums is float64; float32 comes after the noise. How a matrix product rounds one row depends on
how many rows there are, so a citizen who comes along changes the others' gradients too: in float32, under weights that
somebody crafted, by parts in a thousand of the clipping norm; float64 takes nine digits off that.

Legend: B citizens, R rows a citizen, F features, D parameters.
"""

import functools
import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor

from faelles.features import Citizens
from faelles.models import Arrays, Network, citizen_losses, dump_parameters, load_parameters
from faelles.privacy.mechanisms import Randomness
from faelles.privacy.plan import PrivacyPlan

PHYSICAL_BATCH = 4096  # citizens whose gradients are held at once; larger Poisson batches are clipped in parts
NO_CLIPPING = float(torch.finfo(torch.float32).max)


@dataclass(frozen=True, kw_only=True)
class LocalTerms:
    """Hold what shapes local training and does not affect privacy."""

    learning_rate: float
    proximal_mu: float = 0.0


class CitizenOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Clip totally and add injected noise.

    Guarantees: a citizen's contribution has at most the clipping norm (to float64 rounding) whatever its gradient, zero
    where that is not finite; every coordinate gets Gaussian noise of `noise_multiplier` times the clipping norm.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, plan: PrivacyPlan, randomness: Randomness) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clipping_norm if plan.private else NO_CLIPPING,
            expected_batch_size=plan.divisor,
        )
        self._randomness = randomness

    def clip_and_accumulate(self) -> None:
        """Clip each citizen's one gradient over all parameters, take none that is not finite, and add up."""
        gradient_BD = torch.cat([sample.flatten(1) for sample in self.grad_samples], dim=1)
        norm_B = gradient_BD.norm(dim=1)
        finite_B = norm_B.isfinite()
        if not finite_B.all():
            gradient_BD, norm_B = gradient_BD[finite_B], norm_B[finite_B]
        sum_D = (self.max_grad_norm / norm_B).clamp(max=1.0) @ gradient_BD
        for p, part in zip(self.params, sum_D.split([p.numel() for p in self.params]), strict=True):
            part_sum = part.view_as(p)
            p.summed_grad = part_sum if p.summed_grad is None else p.summed_grad + part_sum

    def add_noise(self) -> None:
        """Add one noise vector over all D coordinates."""
        sizes = [p.numel() for p in self.params]
        std = self.noise_multiplier * self.max_grad_norm if self.noise_multiplier else 0.0
        noise_D = torch.from_numpy(self._randomness.gaussian(sum(sizes), std))
        for p, noise in zip(self.params, torch.split(noise_D, sizes), strict=True):
            p.grad = p.summed_grad + noise.view_as(p)


def train_locally(
    model: Network,
    start: Arrays,
    citizens: Citizens,
    plan: PrivacyPlan,
    terms: LocalTerms,
    randomness: Randomness,
    proximal: tuple[str, ...] = (),
) -> Arrays:
    """Run one round's local steps and return the parameters after them.

    Args:
        model: A model of the card; its parameters are overwritten.
        start: Parameters to start from, shared and local.
        citizens: The training part.
        plan: Sampling rate, divisor, steps of a round, clipping norm and noise; from the declared size only.
        terms: Learning rate and FedProx's pull.
        randomness: The source of this one release.
        proximal: Parameters that FedProx pulls back to `start`: the shared ones.

    Returns:
        Every parameter, float32.

    Guarantees: the result is the output of `plan.local_steps` Poisson-subsampled Gaussian mechanisms with sensitivity
        `plan.clipping_norm` under adding or removing one citizen; the number of citizens, of batches and of draws that
        others make changes nothing else; an empty batch adds noise and counts.
    Assumes: `start` does not depend on the citizens other than through earlier releases; `randomness` serves this
        release only; a citizen stands in `citizens` once.
    Source: Abadi et al. 2016, Deep Learning with Differential Privacy, algorithm 1; Li et al. 2020 (FedProx), eq. 2.
    """
    load_parameters(model.double(), start)
    wrapped = GradSampleModule(model, loss_reduction="sum", strict=False)
    try:
        optimizer = CitizenOptimizer(torch.optim.SGD(model.parameters(), lr=terms.learning_rate), plan, randomness)
        if terms.proximal_mu:
            anchors = {name: torch.tensor(start[name], dtype=torch.float64) for name in proximal}
            optimizer.attach_step_hook(functools.partial(_pull, model, anchors, terms.proximal_mu))
        with warnings.catch_warnings():
            # Opacus hooks the output's gradient; that the input needs none is as it should be.
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            for _ in range(plan.local_steps):
                _step(wrapped, optimizer, citizens, randomness.include(len(citizens), plan.sampling_rate))
        return dump_parameters(model.float())
    finally:
        wrapped.to_standard_module().float()


def _step(model: GradSampleModule, optimizer: CitizenOptimizer, citizens: Citizens, chosen_B: np.ndarray) -> None:
    index_B = np.flatnonzero(chosen_B)
    parts = max(1, math.ceil(len(index_B) / PHYSICAL_BATCH))
    for number, part_B in enumerate(np.array_split(index_B, parts), start=1):
        x_BRF, y_BR, weight_BR = _batch(citizens, part_B)
        optimizer.zero_grad(set_to_none=True)
        optimizer.signal_skip_step(number < parts)
        citizen_losses(model(x_BRF), y_BR, weight_BR).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _batch(citizens: Citizens, index_B: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Gather a batch; an empty one becomes one citizen without rows, whose gradient is zero."""
    if not len(index_B):
        rows, features = citizens.x_BRF.shape[1:]
        shapes_and_types = (((1, rows, features), torch.float64), ((1, rows), torch.int64), ((1, rows), torch.float64))
        x_BRF, y_BR, weight_BR = (torch.zeros(shape, dtype=dtype) for shape, dtype in shapes_and_types)
        return x_BRF, y_BR, weight_BR
    return (
        torch.from_numpy(citizens.x_BRF[index_B]).double(),
        torch.from_numpy(citizens.y_BR[index_B]),
        torch.from_numpy(citizens.weight_BR[index_B]).double(),
    )


def _pull(model: Network, anchors: dict[str, Tensor], mu: float, optimizer: DPOptimizer) -> None:
    for name, p in model.named_parameters():
        if name in anchors and p.grad is not None:
            p.grad += mu * (p.detach() - anchors[name])
