"""Attack one update to reconstruct the citizens of its batch: in closed form, by matching, and by inference.

The adversary knows the card, the plan, the start (which it crafted), how many citizens the batch has, their labels and
that each has one row. In closed form, the first layer's gradients of a batch of one give its features. Matching looks
for the batch whose clipped gradients add up to the update, over all rows that the contract allows. Inference weighs the
rows of a public population by how well each explains the update of a batch of one, which is the best there is where the
population is like the citizens; without an update it is the blind guess.

Legend: T trials, B citizens of a batch, F features, D parameters.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from faelles.card import CategoryFeature, UseCaseCard
from faelles.features import Citizens, feature_width, input_width
from faelles.models import Arrays, Network, build_model, citizen_losses, load_parameters, parameter_shapes
from faelles.privacy.dpsgd import LocalTerms
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.update import release_update
from simulations.mechanisms import SeededMechanisms

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
STEPS, STEP_SIZE, RESTARTS = 300, 0.1, 2


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """Hold how near the reconstruction of x_TBF came, the citizens of a batch matched in the best order.

    `error` is the mean over citizens of |x' - x| / |x|; `categories` the share of categorical values that are exactly
    right, a missing one counting as a value.
    """

    error: float
    categories: float


def observe(card: UseCaseCard, start: Arrays, batches: list[Citizens], plan: PrivacyPlan, seed: int) -> Floats:
    """Release one step for each batch, and turn each update back into the noisy sum that it is.

    Assumes: the plan takes everybody, so that the batch is the municipality.

    Returns:
        sum_TD.
    """
    terms = LocalTerms(learning_rate=card.training.learning_rate)
    scale = -plan.divisor / terms.learning_rate
    sum_TD = []
    mechanisms = SeededMechanisms(seed=seed, municipality="attacked")
    for trial, batch in enumerate(batches):
        randomness = mechanisms.open_release("", trial, "train")
        update = release_update(card, build_model(card), start, batch, plan, terms, randomness).update
        sum_TD.append(np.concatenate([array.ravel() for array in update.arrays.values()]) * scale)
    return np.array(sum_TD, dtype=np.float64)


def solve(card: UseCaseCard, sum_TD: Floats) -> Floats:
    """Reconstruct batches of one in closed form: the first layer's weight gradient is its bias gradient times x.

    Source: Phong et al. 2018, Privacy-Preserving Deep Learning via Additively Homomorphic Encryption, section 3.
    """
    outputs, features = next(iter(parameter_shapes(card).values()))
    weight_TOF = sum_TD[:, : outputs * features].reshape(-1, outputs, features)
    bias_TO = sum_TD[:, outputs * features :][:, :outputs]
    x_TF = np.einsum("to,tof->tf", bias_TO, weight_TOF) / np.square(bias_TO).sum(axis=1, keepdims=True)
    return np.asarray(x_TF[:, None])


def infer(
    card: UseCaseCard, start: Arrays, sum_TD: Floats | None, y_TB: Labels, plan: PrivacyPlan, public: Citizens
) -> Floats:
    """Reconstruct each citizen as the mean of the public rows with its label, weighed by their likelihood.

    Args:
        card: The use case.
        start: The crafted parameters.
        sum_TD: Updates of batches of one; None for a guess without them.
        y_TB: The labels.
        plan: Clipping and noise; without noise the row that fits best is taken.
        public: Rows of others.

    Returns:
        x_TBF; a category's mean is its posterior probability.
    """
    model = _load(card, start)
    x_PF, y_P = torch.from_numpy(public.x_BRF[:, 0]).double(), torch.from_numpy(public.y_BR[:, 0])
    alike_TBP = torch.from_numpy(y_TB)[..., None] == y_P
    distance_TBP = torch.zeros(alike_TBP.shape, dtype=torch.float64)
    if sum_TD is not None:
        gradient_PD = _sums(model, x_PF[:, None], y_P[:, None], plan)
        distance_TBP = torch.cdist(torch.from_numpy(sum_TD), gradient_PD)[:, None].square()
    std = max(plan.noise_multiplier * plan.clipping_norm, 1e-6)
    weight_TBP = torch.softmax(torch.where(alike_TBP, -distance_TBP / (2 * std**2), -torch.inf), dim=-1)
    return np.asarray((weight_TBP @ x_PF).numpy())


def match(card: UseCaseCard, start: Arrays, sum_TD: Floats, y_TB: Labels, plan: PrivacyPlan, seed: int) -> Floats:
    """Reconstruct batches by gradient matching, from several random beginnings of which the best match counts.

    Source: Zhu, Liu and Han 2019, Deep Leakage from Gradients (arXiv:1906.08935), eq. 4, with known labels and the
    contract's ranges as prior, as Geiping et al. 2020 (arXiv:2003.14053) use priors; clipping is part of the match.

    Returns:
        x_TBF.
    """
    seen_TD, label_TB = torch.from_numpy(sum_TD), torch.from_numpy(y_TB)
    model, best_T, found_TBF = _load(card, start), torch.full((len(seen_TD),), torch.inf), torch.zeros(0)
    for restart in range(RESTARTS):
        generator = torch.Generator().manual_seed(seed + restart)
        shape = (*y_TB.shape, input_width(card))
        free_TBF = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        adam = torch.optim.Adam([free_TBF], lr=STEP_SIZE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
        for _ in range(STEPS):
            adam.zero_grad()
            misfit_T = (_sums(model, _rows(card, free_TBF), label_TB, plan) - seen_TD).square().sum(1)
            (misfit_T / seen_TD.square().sum(1)).sum().backward()  # type: ignore[no-untyped-call]
            adam.step()
            schedule.step()
        x_TBF, misfit_T = _rows(card, free_TBF).detach(), misfit_T.detach()
        found_TBF = torch.where((misfit_T < best_T)[:, None, None], x_TBF, found_TBF) if restart else x_TBF
        best_T = torch.minimum(misfit_T, best_T)
    return np.asarray(found_TBF.numpy())


def compare(card: UseCaseCard, x_TBF: Floats, guessed_TBF: Floats) -> Recovered:
    """Measure reconstructions against the truth."""
    errors, rights = [], []
    for x_BF, guessed_BF in zip(x_TBF, guessed_TBF, strict=True):
        distance_BB = np.linalg.norm(x_BF[:, None] - guessed_BF[None], axis=2)
        truth_B, guess_B = linear_sum_assignment(distance_BB)
        errors.append(distance_BB[truth_B, guess_B] / np.linalg.norm(x_BF[truth_B], axis=1))
        for part in _categories(card):
            rights.append(x_BF[truth_B, part].argmax(1) == guessed_BF[guess_B, part].argmax(1))
    return Recovered(error=float(np.mean(errors)), categories=float(np.mean(rights)))


def _load(card: UseCaseCard, start: Arrays) -> Network:
    model = build_model(card)
    load_parameters(model.double(), start)
    return model


def _sums(model: Network, x_TBF: Tensor, y_TB: Tensor, plan: PrivacyPlan) -> Tensor:
    """Add up the clipped gradients of batches, as a function that can itself be differentiated: sum_TD."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x_F: Tensor, y: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, weights, (x_F[None, None],))
        return citizen_losses(logits, y[None, None], torch.ones(1, 1, dtype=torch.float64)).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    gradients = each(parameters, x_TBF.flatten(0, 1), y_TB.flatten())
    gradient_ND = torch.cat([part.flatten(1) for part in gradients.values()], dim=1)
    if plan.private:
        gradient_ND = gradient_ND * (plan.clipping_norm / gradient_ND.norm(dim=1, keepdim=True)).clamp(max=1.0)
    return gradient_ND.reshape(*y_TB.shape, -1).sum(1)


def _rows(card: UseCaseCard, free_TBF: Tensor) -> Tensor:
    """Map free numbers to what the contract allows: shares of categories, numbers within their range."""
    parts = []
    for feature, start, stop in _places(card):
        part = free_TBF[..., start:stop]
        if isinstance(feature, CategoryFeature) or stop - start > 2:
            parts.append(torch.softmax(part, dim=-1))
        else:
            missing = torch.sigmoid(part[..., 1:] - 2)
            parts.append(torch.cat([torch.tanh(part[..., :1]) * (1 - missing), missing], dim=-1))
    return torch.cat(parts, dim=-1)


def _places(card: UseCaseCard) -> Iterator[tuple[object, int, int]]:
    start = 0
    for feature in card.features:
        yield feature, start, start + feature_width(feature)
        start += feature_width(feature)


def _categories(card: UseCaseCard) -> list[slice]:
    return [slice(start, stop) for feature, start, stop in _places(card) if isinstance(feature, CategoryFeature)]
