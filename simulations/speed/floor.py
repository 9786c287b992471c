"""Measure the floor: how fast this machine multiplies what any simulator of the work has to multiply.

A round's rows go through the layers once forward and once back, stacked as if all municipalities shared one model and
there were no batches, sampling, activations, clipping, noise or averages. What is left is dense float32 products into
memory that is there already, and no engine that trains on these rows does with fewer multiply-adds.

Legend: N rows, I inputs, O outputs of a layer.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from simulations.speed.measured import Measured, clock, torch_threads
from simulations.speed.workload import FEATURES, Workload

CHUNK = 2_048  # rows multiplied at once: activations of more leave a core's cache
# Each multiplies chunks of its own with one torch thread. Torch's own two threads share each product instead, and with
# layers this narrow that is slower than one: measured 0.033 s for 98 small, 0.021 s with one, 0.011 s this way.
WORKERS = 2


class Products:
    """Multiply what a chunk's rows need, into the same memory each time."""

    def __init__(self, rows: int, widths: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(98)
        pairs = list(itertools.pairwise(widths))
        self.weights_IO = [torch.randn(pair, generator=generator) for pair in pairs]
        self.weight_gradients_IO = [torch.empty(pair) for pair in pairs]
        first_NI = torch.randn(rows, widths[0], generator=generator)
        self.values_NI = [first_NI, *(torch.empty(rows, width) for width in widths[1:])]
        self._gradients_NI = [torch.empty(rows, width) for width in widths[:-1]]

    def multiply(self) -> None:
        """Go forward and back; the scores stand in for their own gradient."""
        for layer, weight_IO in enumerate(self.weights_IO):
            torch.matmul(self.values_NI[layer], weight_IO, out=self.values_NI[layer + 1])
        gradient_NO: Tensor = self.values_NI[-1]
        for layer in range(len(self.weights_IO) - 1, -1, -1):
            torch.matmul(self.values_NI[layer].T, gradient_NO, out=self.weight_gradients_IO[layer])
            if layer:  # nobody needs the gradient of the rows themselves
                torch.matmul(gradient_NO, self.weights_IO[layer].T, out=self._gradients_NI[layer])
                gradient_NO = self._gradients_NI[layer]


def measure(workload: Workload, rounds: int) -> Measured:
    """Multiply a round's products as often as there are rounds.

    Args:
        workload: What a round trains on.
        rounds: Repeats, at least 1.

    Returns:
        The seconds of each repeat.
    """
    edges = [workload.citizens_a_round * worker // WORKERS for worker in range(WORKERS + 1)]
    shares = [_share(after - before, _widths(workload)) for before, after in itertools.pairwise(edges)]
    with torch_threads(1), ThreadPoolExecutor(WORKERS) as pool:

        def multiply_all() -> None:
            for done in [pool.submit(_multiply, share) for share in shares]:
                done.result()

        return clock(multiply_all, rounds)


def multiply_adds(workload: Workload) -> int:
    """Count the multiply-adds of a round: forward, the weights' gradients, the gradients of all inputs but the first.

    Args:
        workload: What a round trains on.

    Returns:
        The number over all of a round's rows.
    """
    layers = [inputs * outputs for inputs, outputs in itertools.pairwise(_widths(workload))]
    return workload.citizens_a_round * (2 * sum(layers) + sum(layers[1:]))


def _widths(workload: Workload) -> tuple[int, ...]:
    return (FEATURES, *workload.hidden, 1)


def _share(rows: int, widths: tuple[int, ...]) -> list[Products]:
    """Cut one worker's rows into chunks; those of one length share their memory."""
    whole, rest = divmod(rows, CHUNK)
    chunks = [Products(CHUNK, widths)] * whole
    return [*chunks, Products(rest, widths)] if rest else chunks


def _multiply(chunks: list[Products]) -> None:
    torch.set_num_threads(1)  # a new thread does not inherit it
    for chunk in chunks:
        chunk.multiply()
