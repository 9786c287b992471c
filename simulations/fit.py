"""Fit a model without privacy: what a municipality can learn alone, and what all rows together could teach.

Both are yardsticks of a simulation. A municipality's own model never leaves it and needs no noise, so the comparison is
against its best: full-batch L-BFGS to convergence with the ridge that scikit-learn's default gives.
"""

import torch
from torch import Tensor

from faelles.card import UseCaseCard
from faelles.features import Citizens
from faelles.models import Network, citizen_losses, initial_parameters, load_parameters

ITERATIONS = 200


def fit_alone(card: UseCaseCard, model: Network, citizens: Citizens) -> None:
    """Fit a model to some citizens in place: mean loss plus a ridge of 1/(2B) on all but the biases.

    Args:
        card: The use case.
        model: Overwritten with the card's starting point, then fitted.
        citizens: B citizens; with none the model stays at its start.
    """
    load_parameters(model, initial_parameters(card))
    if not len(citizens):
        return
    x_BRF, y_BR = torch.from_numpy(citizens.x_BRF), torch.from_numpy(citizens.y_BR)
    weight_BR = torch.from_numpy(citizens.weight_BR)
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=ITERATIONS, history_size=20, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        ridge = sum((p.square().sum() for p in weights), start=torch.zeros(()))
        loss = citizen_losses(model(x_BRF), y_BR, weight_BR).mean() + ridge / (2 * len(citizens))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
