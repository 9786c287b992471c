"""Train many municipalities as one batch: what `train_locally` does with each of them, by batched matrix products.

This is for devices that want wide work; a processor is quicker with one after the other (`solo`).

A citizen's gradient is never formed. Its norm follows from the layers' inputs and backpropagated signals: over R rows
the squared norm of a weight's gradient is the sum over pairs of rows of (signal · signal)(input · input), and a bias is
an input that is always 1. Clipping scales the signals before one more product adds all citizens up.

Legend: S municipalities, N citizens of all of them, B citizens of a municipality's batch, R rows a citizen, F features,
I inputs and O outputs of a layer, K classes, D parameters.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faelles.models import Network
from simulations.work import NUMBERS_AT_ONCE, STEPS_AT_ONCE, Numbers, Rows, Terms, Work, delicate, drawn_some


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Place one linear layer in a vector of parameters: its weight (O, I) first, then its bias (O)."""

    inputs: int
    outputs: int
    start: int

    @property
    def bias(self) -> int:
        """Say where the bias begins."""
        return self.start + self.inputs * self.outputs

    @property
    def stop(self) -> int:
        """Say where the next layer begins."""
        return self.bias + self.outputs

    def of(self, vector_SD: Tensor) -> tuple[Tensor, Tensor]:
        """View the layer's weights (S, O, I) and biases (S, O) in vectors of parameters, however many there are."""
        shape = (*vector_SD.shape[:-1], self.outputs, self.inputs)
        return vector_SD[..., self.start : self.bias].view(shape), vector_SD[..., self.bias : self.stop]

    def placed(self, theta_SD: Tensor) -> "Placed":
        """View the layer in the vectors of some municipalities."""
        weight_SOI, bias_SO = self.of(theta_SD)
        return Placed(weight_SOI=weight_SOI, weight_SIO=weight_SOI.transpose(1, 2), bias_S1O=bias_SO[:, None])


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Hold one layer of some municipalities, each with its own parameters."""

    weight_SOI: Tensor
    weight_SIO: Tensor
    bias_S1O: Tensor

    def apply(self, input_SBI: Tensor, times: int = 1) -> Tensor:
        """Compute a multiple of the layer's outputs."""
        return torch.baddbmm(self.bias_S1O, input_SBI, self.weight_SIO, beta=times, alpha=times)


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Hold what a step adds up, noise first and then gradients: as vectors, and for each layer as views of them."""

    vector_SD: Tensor
    layers: list[tuple[Tensor, Tensor]]


def layers_of(model: Network) -> tuple[Layer, ...]:
    """Place a model's layers, in the order of its parameters."""
    layers: list[Layer] = []
    widths = [layer.in_features for layer in (*model.hidden, model.output)] + [model.output.out_features]
    for inputs, outputs in itertools.pairwise(int(width) for width in widths):
        layers.append(Layer(inputs=inputs, outputs=outputs, start=layers[-1].stop if layers else 0))
    return tuple(layers)


class Batch:
    """Train some municipalities together.

    Args:
        layers: The network's.
        rows: All citizens.
        sites: Which municipalities; those with more steps come first.
    """

    def __init__(self, layers: Sequence[Layer], rows: Rows, sites: Sequence[int]) -> None:
        self._layers, self._rows = tuple(layers), rows
        self._starts = [int(rows.edges[site]) for site in sites]
        self._sizes = [int(rows.edges[site + 1] - rows.edges[site]) for site in sites]

    @torch.inference_mode()
    def train(self, start_SD: Numbers, works: Sequence[Work], terms: Terms) -> Numbers:
        """Run one round's local steps of every municipality.

        Args:
            start_SD: Where each starts, shared and local parameters.
            works: What each does.
            terms: What they share.

        Returns:
            Every parameter after them, as (S, D).

        Guarantees: as `train_locally` for each municipality, to rounding; the same bits for the same arguments.
        Assumes: `randomness` draws several steps at once as it draws them one by one.
        Source: Goodfellow 2015, Efficient Per-Example Gradient Computations; Li et al. 2022 (ghost clipping).
        """
        several = self._rows.x_NRF.shape[1] > 1
        dtype = torch.float64 if delicate(start_SD, works, several=several) else torch.float32
        device = self._rows.device
        theta_SD = torch.tensor(start_SD, dtype=dtype, device=device)
        anchor_SD = theta_SD.clone() if terms.proximal_mu else theta_SD
        pull_D = torch.from_numpy(terms.learning_rate * terms.proximal_mu * terms.pulled_D).to(device, dtype)
        rate_S1 = torch.tensor([[terms.learning_rate / one.plan.divisor] for one in works], dtype=dtype, device=device)
        clipping = [[one.plan.clipping_norm if one.plan.private else torch.inf] for one in works]
        clipping_S1 = torch.tensor(clipping, dtype=dtype, device=device)
        active, now_SD, network = 0, theta_SD, list[Placed]()
        for index_SB, sums in self.steps(works, dtype):
            if len(index_SB) != active:  # who is done has left the end of the batch
                active = len(index_SB)
                now_SD, clipping_S1, rate_S1 = theta_SD[:active], clipping_S1[:active], rate_S1[:active]
                network = [layer.placed(now_SD) for layer in self._layers]
            self._add(sums, network, index_SB, clipping_S1)
            if terms.proximal_mu:
                now_SD.sub_(pull_D * (now_SD - anchor_SD[:active]))
            now_SD.addcmul_(sums.vector_SD, rate_S1, value=-1)
        return np.asarray(theta_SD.to("cpu", torch.float32).numpy())

    def steps(self, works: Sequence[Work], dtype: torch.dtype) -> Iterator[tuple[NDArray[np.int64], Sums]]:
        """Yield who takes part in each step (S, B), and the noise to which gradients are added."""
        steps = np.array([one.plan.local_steps for one in works])
        size = self._layers[-1].stop
        together = max(1, min(STEPS_AT_ONCE, NUMBERS_AT_ONCE // (len(works) * size)))
        for first in range(0, steps[0], together):
            active = int((steps > first).sum())
            counts = [min(together, int(step) - first) for step in steps[:active]]
            chosen, drawn_TSD = self._draw(works[:active], counts)
            noise_TSD = drawn_TSD.to(self._rows.device, dtype)
            views = [layer.of(noise_TSD) for layer in self._layers]
            for step in range(counts[0]):
                now = int((steps > first + step).sum())
                layers = [(weight_TSOI[step, :now], bias_TSO[step, :now]) for weight_TSOI, bias_TSO in views]
                index_SB = self._padded([one[step] for one in chosen[:now]])
                yield index_SB, Sums(vector_SD=noise_TSD[step, :now], layers=layers)

    def _draw(self, works: Sequence[Work], steps: Sequence[int]) -> tuple[list[list[NDArray[np.int64]]], Tensor]:
        """Draw some steps of each municipality, each from its own streams: who takes part, and noise (T, S, D)."""
        size = self._layers[-1].stop
        noise_TSD = np.zeros((steps[0], len(works), size), dtype=np.float32)
        chosen: list[list[NDArray[np.int64]]] = []
        for site, (work, count) in enumerate(zip(works, steps, strict=True)):
            some = drawn_some(work, self._sizes[site], count, size)
            chosen.append(np.split(some.index_B + self._starts[site], some.edges[1:-1]))
            if work.plan.private:
                noise_TSD[:count, site] = np.float32(work.std) * some.normal_TD
        return chosen, torch.from_numpy(noise_TSD)

    def _padded(self, chosen: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Fill short batches with nobody."""
        index_SB = np.full((len(chosen), max(1, *map(len, chosen))), self._rows.nobody)
        for site, one in enumerate(chosen):
            index_SB[site, : len(one)] = one
        return index_SB

    def _add(self, sums: Sums, network: Sequence[Placed], index_SB: NDArray[np.int64], clipping_S1: Tensor) -> None:
        """Add the clipped gradients of each municipality's batch, as many citizens at once as memory allows."""
        sites, batch = index_SB.shape
        rows = self._rows.x_NRF.shape[1]
        widths = sum(2 * layer.inputs + 2 * layer.outputs for layer in self._layers) + 2 * rows
        together = max(1, NUMBERS_AT_ONCE // (sites * rows * widths))
        for start in range(0, batch, together):
            part_SB = torch.from_numpy(index_SB[:, start : start + together]).to(self._rows.device)
            self._add_some(sums, network, part_SB, clipping_S1)

    def _add_some(self, sums: Sums, network: Sequence[Placed], index_SB: Tensor, clipping_S1: Tensor) -> None:
        flat = index_SB.flatten()
        sites, rows, dtype = len(index_SB), self._rows.x_NRF.shape[1], sums.vector_SD.dtype
        x_SBF = self._rows.x_NRF.index_select(0, flat).view(sites, -1, self._layers[0].inputs).to(dtype)
        besides_SB3 = self._rows.besides_NR3.index_select(0, flat).view(sites, -1, 3).to(dtype)
        passed = _backpropagated(network, x_SBF, besides_SB3)
        _clip(passed, clipping_S1, rows)
        for (weight_SOI, bias_SO), input_SBI, signal_SBO in zip(
            sums.layers, passed.inputs, passed.signals, strict=True
        ):
            weight_SOI.add_(torch.bmm(signal_SBO.transpose(1, 2), input_SBI))
            bias_SO.add_(signal_SBO.sum(dim=1))


@dataclass(frozen=True, kw_only=True)
class Passed:
    """Hold what went through the layers: inputs, squared norms of them with a 1, and gradients at the outputs."""

    inputs: list[Tensor]
    norms: list[Tensor]
    signals: list[Tensor]


def _backpropagated(network: Sequence[Placed], x_SBF: Tensor, besides_SB3: Tensor) -> Passed:
    """Compute each layer's inputs, and the gradient of each row's weighted loss at its outputs."""
    y_SB1, weight_SB1 = besides_SB3[..., :1], besides_SB3[..., 1:2]
    inputs, norms, slopes = [x_SBF], [besides_SB3[..., 2]], []
    for layer in network[:-1]:
        # tanh(x) is 2 sigmoid(2 x) - 1, which takes a fifth of the time.
        inputs.append(torch.rsub(layer.apply(inputs[-1], times=2).sigmoid_(), -1, alpha=-2))
        square_SBO = inputs[-1].square()
        norms.append(square_SBO.sum(dim=2).add_(1))  # a bias is an input of 1
        slopes.append(square_SBO)
    logits_SBK = network[-1].apply(inputs[-1])
    if logits_SBK.shape[-1] == 1:
        signal_SBO = logits_SBK.sigmoid_().sub_(y_SB1)
    else:
        signal_SBO = logits_SBK.softmax(dim=-1)
        signal_SBO.scatter_add_(2, y_SB1.long(), -torch.ones_like(y_SB1))
    signals = [signal_SBO.mul_(weight_SB1)]
    for layer, square_SBO in zip(network[:0:-1], slopes[::-1], strict=True):
        back_SBO = torch.bmm(signals[-1], layer.weight_SOI)
        signals.append(back_SBO.addcmul_(back_SBO, square_SBO, value=-1))  # the slope of tanh is 1 - tanh²
    return Passed(inputs=inputs, norms=norms, signals=signals[::-1])


def _clip(passed: Passed, clipping_S1: Tensor, rows: int) -> None:
    """Scale the signals so that no citizen adds more than the clipping norm; who has no finite one adds nothing."""
    layers = zip(passed.inputs, passed.norms, passed.signals, strict=True)
    squares = [_squared(*one, rows) for one in layers]
    for square_SB in squares[1:]:
        squares[0].add_(square_SB)
    norm_SB = squares[0].sqrt_()
    scale_SB = (clipping_S1 / norm_SB).clamp_(max=1.0)
    finite_SB = norm_SB.isfinite()
    if not finite_SB.all():
        scale_SB = torch.where(finite_SB, scale_SB, 0.0)
        for part in (*passed.inputs, *passed.signals):
            part.nan_to_num_(0.0, 0.0, 0.0)  # zero times infinity is no number
    scale_SB1 = scale_SB.repeat_interleave(rows, dim=1)[..., None] if rows > 1 else scale_SB[..., None]
    for signal_SBO in passed.signals:
        signal_SBO.mul_(scale_SB1)


def _squared(input_SBI: Tensor, norm_SB: Tensor, signal_SBO: Tensor, rows: int) -> Tensor:
    """Compute each citizen's squared norm of one layer's gradient, weight and bias together."""
    if rows == 1:
        return signal_SBO.square().sum(dim=2).mul_(norm_SB)
    sites = len(input_SBI)
    input_NRI, signal_NRO = (part.reshape(-1, rows, part.shape[-1]) for part in (input_SBI, signal_SBO))
    pairs_NRR = (torch.bmm(input_NRI, input_NRI.mT) + 1) * torch.bmm(signal_NRO, signal_NRO.mT)
    return pairs_NRR.sum(dim=(1, 2)).clamp_(min=0).view(sites, -1)
