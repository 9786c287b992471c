"""Train as a researcher would without a simulator: plain PyTorch, one municipality after another, and no privacy.

It is the yardstick that everybody can picture, and a fair one: one module serves all, rows became tensors before the
clock starts, and nothing is copied that need not be.

Legend: N citizens of a municipality, F encoded features.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from faelles.models import Network, build_model, initial_parameters, load_parameters
from faelles.privacy.plan import declared_band
from simulations.speed.measured import Measured, clock, torch_threads
from simulations.speed.workload import LEARNING_RATE, Workload

# One. With two, 98 small takes 0.50 to 0.69 s a round instead of 0.49, and 98 large 10.5 to 18 s instead of 10.4:
# a batch is too small to be worth sharing.
THREADS = 1


@dataclass(frozen=True, kw_only=True)
class Town:
    """Hold one municipality's citizens, and how a round takes them."""

    x_NF: Tensor
    y_N: Tensor
    expected: int  # citizens of a step, on average
    rate: float  # with which a step takes one
    steps: int

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw a round's Poisson batches; some may be empty."""
        for _ in range(self.steps):
            drawn_N = rng.random(len(self.y_N), dtype=np.float32)  # twice as fast as torch.rand
            chosen = torch.from_numpy(np.flatnonzero(drawn_N < self.rate))
            yield self.x_NF[chosen], self.y_N[chosen]


def towns(workload: Workload) -> list[Town]:
    """Make every municipality's tensors."""
    made = []
    for site, steps in enumerate(workload.steps_S):
        citizens = workload.citizens(site)
        x_NF, y_N = torch.from_numpy(citizens.x_BRF[:, 0].copy()), torch.from_numpy(citizens.y_BR[:, 0]).float()
        band = declared_band(len(y_N))
        expected = min(workload.batch_size, band)
        made.append(Town(x_NF=x_NF, y_N=y_N, expected=expected, rate=expected / band, steps=int(steps)))
    return made


def measure(workload: Workload, rounds: int) -> Measured:
    """Train for some rounds; nothing is private, whatever the workload says.

    Args:
        workload: What to train on.
        rounds: How many, at least 1.

    Returns:
        The seconds of each.
    """
    everybody, model, rng = towns(workload), starting_model(workload, rounds), np.random.default_rng(98)
    with torch_threads(THREADS):
        return clock(lambda: train_round(model, everybody, rng), rounds)


def measure_documented(workload: Workload, rounds: int) -> Measured:
    """Train for some rounds as PyTorch's tutorial does: a `DataLoader` that shuffles, and one epoch of its batches.

    Args:
        workload: What to train on.
        rounds: How many, at least 1.

    Returns:
        The seconds of each.
    """
    loaders = [
        DataLoader(TensorDataset(town.x_NF, town.y_N), batch_size=workload.batch_size, shuffle=True)
        for town in towns(workload)
    ]
    model = starting_model(workload, rounds)
    with torch_threads(THREADS):
        return clock(lambda: _documented_round(model, loaders), rounds)


def train_documented(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> None:
    """Take one epoch of a loader's batches; one that Opacus drew may be empty."""
    for x_BF, y_B in loader:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(x_BF)[:, 0], y_B)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _documented_round(model: Network, loaders: list[DataLoader[Any]]) -> None:
    start = copy.deepcopy(model.state_dict())
    reached = []
    for loader in loaders:
        model.load_state_dict(start)
        train_documented(model, torch.optim.SGD(model.parameters(), lr=LEARNING_RATE), loader)
        reached.append(copy.deepcopy(model.state_dict()))
    sizes = [len(loader.dataset) for loader in loaders]  # type: ignore[arg-type]
    shares = [size / sum(sizes) for size in sizes]
    model.load_state_dict({
        name: sum(share * one[name] for share, one in zip(shares, reached, strict=True)) for name in start
    })  # fmt: skip


def starting_model(workload: Workload, rounds: int) -> Network:
    """Build the card's model at its starting point."""
    card = workload.card(rounds)
    model = build_model(card)
    load_parameters(model, initial_parameters(card))
    return model


def train_round(model: Network, everybody: list[Town], rng: np.random.Generator) -> None:
    """Train each municipality from the model's parameters, and average what they reach by their sizes.

    Args:
        model: Holds the shared parameters; overwritten with the round's average.
        everybody: The municipalities.
        rng: Draws the batches.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, fused=True)
    start = [p.detach().clone() for p in parameters]
    average = [torch.zeros_like(p) for p in start]
    citizens = sum(len(town.y_N) for town in everybody)
    for town in everybody:
        _copy(start, parameters)
        train(model, optimizer, town, rng)
        for total, p in zip(average, parameters, strict=True):
            total.add_(p.detach(), alpha=len(town.y_N) / citizens)
    _copy(average, parameters)


def train(model: Network, optimizer: torch.optim.Optimizer, town: Town, rng: np.random.Generator) -> None:
    """Take one round's steps of plain SGD in place; an empty batch is none."""
    for x_BF, y_B in town.batches(rng):
        if len(y_B):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(model(x_BF)[:, 0], y_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@torch.no_grad()
def _copy(values: list[Tensor], parameters: list[torch.nn.Parameter]) -> None:
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)
