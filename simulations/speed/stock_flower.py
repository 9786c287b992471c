"""Simulate with Flower's own simulation, as its users write it: Ray's actors run a ClientApp for each municipality.

Nothing here is slower than it must be: an actor makes all citizens, the model and its hooks once and keeps them, each
actor has one core and one torch thread, and Flower's log is still. A first round that nobody counts carries Ray's start
and the imports.

Private work is DP-SGD over citizens with Opacus in float32: once with `GradSampleModule` and `DPOptimizer` directly,
the quickest way, and once with `make_private` as Flower's example has it, whose loader collates citizens one by one.

Legend: B citizens of a batch, F encoded features.
"""

import functools
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from flwr.app import ArrayRecord, ConfigRecordValues, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from opacus import PrivacyEngine
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from faelles.models import Network
from simulations.speed import plain
from simulations.speed.measured import Measured, between
from simulations.speed.plain import Town
from simulations.speed.workload import LEARNING_RATE, Workload

CLIPPING_NORM, NOISE = 1.0, 1.0  # any take the same time
PATIENCE_S = 60.0
ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray listens on the machine's own address and not on 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns of what it will once do
}


class Timed(FedAvg):
    """Average as FedAvg does, and note when rounds end; the next begins at once."""

    def __init__(self, sites: int) -> None:
        # Flower begins with whoever is there; without the minima round 1 trains on a part.
        super().__init__(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        self._sites = sites
        self.ends: list[float] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average; FedAvg itself would go on with fewer, and look faster."""
        came = list(replies)
        wrong = [reply.error.reason for reply in came if reply.has_error()]
        if wrong or len(came) != self._sites:
            raise RuntimeError(f"round {server_round}: expected {self._sites} answers, came {len(came)}; {wrong[:1]}")
        averaged = super().aggregate_train(server_round, came)
        self.ends.append(time.monotonic())
        return averaged


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Hold what an actor's process keeps between messages."""

    towns: list[Town]
    model: Network
    module: Network | GradSampleModule  # the model, or the wrapping that gives each citizen's gradient
    rng: np.random.Generator


def measure(workload: Workload, rounds: int) -> Measured:
    """Simulate some rounds, trained as quickly as Opacus can be made to."""
    return _simulate(workload, rounds, _train)


def measure_documented(workload: Workload, rounds: int) -> Measured:
    """Simulate some rounds, trained as Flower's Opacus example trains: `make_private` on a model and a `DataLoader`."""
    return _simulate(workload, rounds, _train_documented)


def _simulate(workload: Workload, rounds: int, train: Callable[[Workload, Message, Context], Message]) -> Measured:
    """Simulate some rounds and end Ray.

    Args:
        workload: What to train on, privately or not.
        rounds: How many, at least 1.
        train: Answers a message.

    Returns:
        The seconds of each, from the ServerApp's side.

    Guarantees: no process of Ray's is left, nor a file.
    """
    os.environ.update(ALONE)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    strategy, server_app, client_app = Timed(workload.sites), ServerApp(), ClientApp()
    client_app.train()(functools.partial(train, workload))

    processes: list[psutil.Process] = []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        arrays = ArrayRecord(dict(plain.starting_model(workload, rounds).state_dict()))
        strategy.start(grid, arrays, num_rounds=rounds + 1)
        processes.extend(psutil.Process().children(recursive=True))

    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        resources: dict[str, ConfigRecordValues] = {"num_cpus": 1, "num_gpus": 0.0}
        begin: dict[str, ConfigRecordValues] = {"_temp_dir": folder, "log_to_driver": False, "logging_level": "ERROR"}
        config = {"client_resources": resources, "init_args": begin}
        run_simulation(server_app, client_app, workload.sites, backend_config=config)
        psutil.wait_procs(processes, timeout=PATIENCE_S)  # Ray tells its actors to end, and does not wait
    return between(strategy.ends)


@functools.cache
def _towns(workload: Workload) -> list[Town]:
    return plain.towns(workload)


@functools.cache
def _actor(workload: Workload) -> Actor:
    torch.set_num_threads(1)
    # Opacus hooks the output's gradient; that the input needs none is as it should be.
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
    model = plain.starting_model(workload, 1)
    module = GradSampleModule(model) if workload.private else model
    return Actor(towns=plain.towns(workload), model=model, module=module, rng=np.random.default_rng(os.getpid()))


def _train(workload: Workload, message: Message, context: Context) -> Message:
    """Answer as one municipality."""
    actor = _actor(workload)
    town = actor.towns[int(context.node_config["partition-id"])]
    actor.model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    sgd = torch.optim.SGD(actor.model.parameters(), lr=LEARNING_RATE)
    if workload.private:
        _train_privately(actor, town, sgd)
    else:
        plain.train(actor.model, sgd, town, actor.rng)
    return _answer(actor.model, town, message)


def _train_documented(workload: Workload, message: Message, context: Context) -> Message:
    """Answer as one municipality, as the example does."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)  # as the example does
    town = _towns(workload)[int(context.node_config["partition-id"])]
    model = plain.starting_model(workload, 1)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    module: torch.nn.Module = model
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loader = DataLoader(TensorDataset(town.x_NF, town.y_N), batch_size=town.expected)
    if workload.private:
        module, optimizer, loader = PrivacyEngine(secure_mode=False).make_private(
            module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=NOISE, max_grad_norm=CLIPPING_NORM
        )
    plain.train_documented(module, optimizer, loader)
    return _answer(model, town, message)


def _answer(model: Network, town: Town, message: Message) -> Message:
    arrays, metrics = ArrayRecord(dict(model.state_dict())), MetricRecord({"num-examples": len(town.y_N)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def _train_privately(actor: Actor, town: Town, sgd: torch.optim.Optimizer) -> None:
    optimizer = DPOptimizer(sgd, noise_multiplier=NOISE, max_grad_norm=CLIPPING_NORM, expected_batch_size=town.expected)
    for x_BF, y_B in town.batches(actor.rng):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(actor.module(x_BF)[:, 0], y_B).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
