"""Simulate with Apple's pfl: every municipality is a user, and all of them are in each iteration's cohort.

It does less than our work. pfl knows privacy of users and not of their rows: private work here is its Gaussian
mechanism as a local one, so a municipality's whole update is clipped and noised once a round, and no citizen's gradient
is computed alone or clipped, nor any step noised. A round takes each row once, in batches that were cut once and are
the same ever after, where our work draws Poisson batches.

It is pfl's own best on two cores: two processes that share a cohort by sizes and add up over gloo, one torch thread
each, rows that are tensors already, and no evaluation. A first iteration is not counted: batches are cut in it.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from simulations.speed import plain
from simulations.speed.measured import Measured, between
from simulations.speed.workload import LEARNING_RATE, Workload

PROCESSES = 2
CLIPPING_NORM, NOISE = 1.0, 1.0  # any take the same time
QUIET = {
    "OMP_NUM_THREADS": "1",  # else torchrun says that it sets just this
    "PYTHONWARNINGS": "ignore",  # pfl calls what torch has renamed since, once in each process
}


class Scored(nn.Module):
    """Give the card's model the two methods that pfl calls."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, x_BF: Tensor, y_B: Tensor) -> Tensor:
        """Compute a batch's mean loss."""
        return binary_cross_entropy_with_logits(self.network(x_BF)[:, 0], y_B)

    def metrics(self, x_BF: Tensor, y_B: Tensor) -> dict[str, object]:
        """Report nothing; the first iteration evaluates whatever one says."""
        return {}


class Clock(TrainingProcessCallback):  # type: ignore[misc]  # pfl ships no types
    """Note when iterations end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Note one; the next begins at once."""
        self.ends.append(time.monotonic())
        return False, Metrics()


def measure(workload: Workload, rounds: int) -> Measured:
    """Simulate some rounds in processes of their own, which `torchrun` starts and ends.

    Args:
        workload: What to train on; an even number of municipalities.
        rounds: How many, at least 1.

    Returns:
        The seconds of each.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}", "-m", __name__]
    asked = json.dumps({**dataclasses.asdict(workload), "rounds": rounds})
    with tempfile.TemporaryDirectory(prefix="pfl") as folder:
        answer = Path(folder, "ends.json")
        subprocess.run([sys.executable, *launch, asked, str(answer)], check=True, env={**os.environ, **QUIET})
        return between(json.loads(answer.read_text(encoding="utf-8")))


def simulate(workload: Workload, rounds: int) -> list[float]:
    """Run pfl in this process, beside its like, and note when each iteration ended, the uncounted one included."""
    torch.set_num_threads(1)
    np.random.seed(98)  # pfl draws from it, and all processes must draw alike
    network, clock = Scored(plain.starting_model(workload, rounds)), Clock()
    local, central = functools.partial(torch.optim.SGD, fused=True), torch.optim.SGD(network.parameters(), lr=1.0)
    local_terms = {"local_num_epochs": 1, "local_learning_rate": LEARNING_RATE}
    terms = {"train_cohort_size": workload.sites, "val_cohort_size": 0, "evaluation_frequency": rounds + 1}
    FederatedAveraging().run(
        NNAlgorithmParams(central_num_iterations=rounds + 1, **terms), _backend(workload),
        PyTorchModel(network, local, central),
        NNTrainHyperParams(local_batch_size=workload.batch_size, **local_terms),
        NNEvalHyperParams(local_batch_size=None), [clock], send_metrics_to_platform=False,
    )  # fmt: skip
    return clock.ends


def _backend(workload: Workload) -> SimulatedBackend:
    users = [PyTorchTensorDataset((town.x_NF, town.y_N)) for town in plain.towns(workload)]
    # Without pfl's weights of users: they start a process beside each, which takes its core for the first rounds.
    data = FederatedDataset(users.__getitem__, MinimizeReuseUserSampler(_dealt([len(user) for user in users])))
    noise = [GaussianMechanism(CLIPPING_NORM, NOISE)] if workload.private else []
    return SimulatedBackend(data, data, [*noise, WeightByDatapoints()])


def _dealt(sizes: list[int]) -> list[int]:
    """Order an even number of users so that two processes, to which pfl deals them in turn, have as much to do."""
    order = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)
    dealt, ahead = list[int](), 0
    for larger, smaller in zip(order[::2], order[1::2], strict=True):
        first, second = (larger, smaller) if ahead <= 0 else (smaller, larger)
        ahead += sizes[first] - sizes[second]
        dealt += first, second
    return dealt


def _answer(asked: str, answer: Path) -> None:
    """Be one of the processes; the first writes down what it saw."""
    fields = json.loads(asked)
    rounds, hidden = fields.pop("rounds"), tuple(fields.pop("hidden"))
    ends = simulate(Workload(**fields, hidden=hidden), rounds)
    if torch.distributed.get_rank() == 0:
        answer.write_text(json.dumps(ends), encoding="utf-8")
    torch.distributed.barrier()
    os._exit(0)  # torch's own threads now and then abort a process that takes itself down in order


if __name__ == "__main__":
    _answer(sys.argv[1], Path(sys.argv[2]))
