"""Train municipalities one after the other in compiled loops: what a processor does best.

A municipality's parameters, a chunk of its rows, and all that is computed from them stay in the caches of one core;
as a batch of many (`batch`, for devices that want wide work) they would travel through memory once for each operation.

Legend: S municipalities, B citizens of a step, D parameters.
"""

import functools
from collections.abc import Sequence

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - the loops' BLAS, loaded before its threads are limited
from threadpoolctl import ThreadpoolController

from simulations import loops
from simulations.batch import Layer
from simulations.work import Numbers, Rows, Terms, Work, delicate, drawn


class Solo:
    """Train some municipalities.

    Args:
        layers: The network's.
        rows: All citizens.
        sites: Which municipalities.
    """

    def __init__(self, layers: Sequence[Layer], rows: Rows, sites: Sequence[int]) -> None:
        self._widths = np.array([*(layer.inputs for layer in layers), layers[-1].outputs])
        self._x_NRF, self._besides_NR3, self._edges = rows.x_NRF.numpy(), rows.besides_NR3.numpy(), rows.edges
        self._sites = tuple(sites)

    def train(self, start_SD: Numbers, works: Sequence[Work], terms: Terms) -> Numbers:
        """Run one round's local steps of every municipality; arguments and promises are those of `Batch.train`."""
        with blas().limit(limits=1, user_api="blas"):
            return np.stack([
                self._train(site, start_D, work, terms)
                for site, start_D, work in zip(self._sites, start_SD, works, strict=True)
            ])  # fmt: skip

    def _train(self, site: int, start_D: Numbers, work: Work, terms: Terms) -> Numbers:
        several = self._x_NRF.shape[1] > 1
        number = np.float64 if delicate(start_D, [work], several=several) else np.float32
        anchor_D = start_D.astype(number)
        theta_D, plan = anchor_D.copy(), work.plan
        pulled = terms.pulled_D if terms.proximal_mu else terms.pulled_D[:0]
        pull_D = (terms.learning_rate * terms.proximal_mu * pulled).astype(number)
        first, units = int(self._edges[site]), int(self._edges[site + 1] - self._edges[site])
        for chosen in drawn(work, units, len(theta_D)):
            loops.run(
                self._x_NRF, self._besides_NR3, chosen.index_B + first, chosen.edges, chosen.normal_TD, theta_D,
                anchor_D, pull_D, self._widths, number(work.std), number(terms.learning_rate / plan.divisor),
                number(plan.clipping_norm if plan.private else np.inf),
            )  # fmt: skip
        return theta_D.astype(np.float32)


@functools.cache
def blas() -> ThreadpoolController:
    """Find the libraries whose threads would split small products, and sum up in an order that the machine decides."""
    return ThreadpoolController()


@functools.cache
def compile_loops() -> None:
    """Compile the loops, or load what was compiled before, so that processes forked later find them ready."""
    zeros_D = np.zeros(2, np.float32)
    loops.run(
        np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 3), np.float32), np.zeros(0, np.int64), np.zeros(1, np.int64),
        np.zeros((0, 2), np.float32), zeros_D, zeros_D, zeros_D, np.array([1, 1]), np.float32(1), np.float32(1),
        np.float32(1),
    )  # fmt: skip
