"""Citizens, scripted randomness and gradients by hand for the tests of DP-SGD."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from faelles.card import UseCaseCard, parse_card
from faelles.features import Citizens, input_width
from faelles.models import Arrays, build_model, load_parameters, parameter_shapes
from faelles.privacy import dpsgd
from faelles.privacy.dpsgd import LocalTerms, train_locally
from faelles.privacy.mechanisms import Randomness
from faelles.privacy.plan import PrivacyPlan

ROWS = 3
Mask = NDArray[np.bool_]


def card(hidden: tuple[int, ...] = (), classes: int = 2, local: tuple[str, ...] = ()) -> UseCaseCard:
    kind = "binary" if classes == 2 else "multiclass"
    return parse_card(
        {
            "id": "dpsgd",
            "version": 1,
            "title": {"da": "Træning", "en": "Training"},
            "category": "forecasting",
            "model_type": "general",
            "unit": "citizen",
            "max_rows_per_unit": ROWS,
            "label": {"column": "y", "kind": kind, "values": [str(value) for value in range(classes)]},
            "features": [{"name": name, "kind": "number", "min": 0, "max": 1} for name in "ab"],
            "model": {"kind": "mlp" if hidden else "logistic", "hidden": list(hidden), "local": list(local)},
            "training": {"rounds": 1, "local_steps": 1, "batch_size": 1, "learning_rate": 1},
            "privacy": {"epsilon": 1, "delta": 1e-5, "clipping_norm": 1},
            "law": {"special_categories": False, "ai_act": "none", "basis": {}},
        }
    )


def wide_card(hidden: tuple[int, ...]) -> UseCaseCard:
    """Give a card with many features, whose scores are long sums."""
    fields = card(hidden).model_dump(mode="json")
    fields["features"] = [{"name": f"x{i}", "kind": "number", "min": 0, "max": 1} for i in range(20)]
    return parse_card(fields)


CARDS = {
    "logistic": card(),
    "logistic, several classes": card(classes=4),
    "mlp": card((5, 3), local=("output.bias", "hidden.0.weight")),
    "mlp, several classes": card((5,), classes=3, local=("output.weight",)),
}


def plan_of(**terms: Any) -> PrivacyPlan:
    plan = {"declared_size": 20, "batch_size": 10, "rounds": 1, "local_steps": 1, "clipping_norm": 0.3}
    return PrivacyPlan(**(plan | {"noise_multiplier": 1.0, "delta": 1e-5} | terms))


@dataclass
class Scripted:
    """Include whom the script says, everybody where it says nothing; draw no noise; note what was asked for."""

    masks: list[Mask] = field(default_factory=list)
    included: list[tuple[int, float]] = field(default_factory=list)
    noised: list[tuple[int, float]] = field(default_factory=list)

    def include(self, units: int, rate: float) -> Mask:
        self.included.append((units, rate))
        return self.masks[len(self.included) - 1] if self.masks else np.ones(units, dtype=bool)

    def places(self, units: int, rate: float) -> NDArray[np.int64]:
        return np.flatnonzero(self.include(units, rate))

    def normals(self, size: int) -> NDArray[np.float32]:
        return np.zeros(size, np.float32)

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        self.noised.append((size, std))
        return np.zeros(size)


def draw_citizens(use_case: UseCaseCard, count: int, seed: int = 0) -> Citizens:
    """Draw citizens with 1 to ROWS rows; what stands in padded rows is absurd, for nobody may read it."""
    rng = np.random.default_rng(seed)
    shape = (count, ROWS)
    mask_BR = np.arange(ROWS) < rng.integers(1, ROWS + 1, (count, 1))
    x_BRF = rng.uniform(-1, 1, (*shape, input_width(use_case))).astype(np.float32)
    x_BRF[~mask_BR] = 1e3
    return Citizens(x_BRF=x_BRF, y_BR=rng.integers(0, len(use_case.label.values), shape), mask_BR=mask_BR)


def some(citizens: Citizens, index: Any) -> Citizens:
    return Citizens(x_BRF=citizens.x_BRF[index], y_BR=citizens.y_BR[index], mask_BR=citizens.mask_BR[index])


def draw_start(use_case: UseCaseCard, seed: int = 1, scale: float = 1.0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {n: (scale * rng.normal(size=s)).astype(np.float32) for n, s in parameter_shapes(use_case).items()}


def zeros(use_case: UseCaseCard) -> Arrays:
    return {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(use_case).items()}


def train(
    use_case: UseCaseCard,
    start: Arrays,
    citizens: Citizens,
    plan: PrivacyPlan,
    randomness: Randomness | None = None,
    terms: LocalTerms = LocalTerms(learning_rate=1.0),  # noqa: B008  # frozen
    proximal: tuple[str, ...] = (),
) -> Arrays:
    return train_locally(build_model(use_case), start, citizens, plan, terms, randomness or Scripted(), proximal)


def flat(arrays: Arrays) -> NDArray[np.float64]:
    return np.concatenate([array.ravel().astype(np.float64) for array in arrays.values()])


def contributions(use_case: UseCaseCard, start: Arrays, citizens: Citizens, norm: float) -> NDArray[np.float64]:
    """Compute by hand what each citizen adds: autograd on its used rows alone, clipped over all parameters."""
    model = build_model(use_case).double()
    load_parameters(model, start)
    added = []
    for x_RF, y_R, mask_R in zip(citizens.x_BRF, citizens.y_BR, citizens.mask_BR, strict=True):
        logits_RK = model(torch.from_numpy(x_RF[mask_R]).double())
        answer_R = torch.from_numpy(y_R[mask_R])
        if len(use_case.label.values) == 2:
            loss = nn.functional.binary_cross_entropy_with_logits(logits_RK[:, 0], answer_R.double())
        else:
            loss = nn.functional.cross_entropy(logits_RK, answer_R)
        gradient_D = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        added.append((gradient_D * min(1.0, norm / float(gradient_D.norm()))).numpy())
    return np.array(added)


@contextmanager
def recorded_sums() -> Iterator[list[NDArray[np.float64]]]:
    """Record the sum of clipped gradients of every step, before noise."""
    sums: list[NDArray[np.float64]] = []

    class Recorder(dpsgd.CitizenOptimizer):
        def add_noise(self) -> None:
            sums.append(torch.cat([p.summed_grad.flatten() for p in self.params]).numpy().copy())
            super().add_noise()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpsgd, "CitizenOptimizer", Recorder)
        yield sums


def first_sum(use_case: UseCaseCard, start: Arrays, citizens: Citizens, plan: PrivacyPlan) -> NDArray[np.float64]:
    with recorded_sums() as sums:
        train(use_case, start, citizens, plan)
    return sums[0]
