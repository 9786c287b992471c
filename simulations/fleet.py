"""Do the municipalities' work: train, count and score those that are asked for, many at a time.

A fleet keeps nothing between calls but the citizens, so any process that holds one can do any part of the work.

Legend: S municipalities, D parameters, L local parameters, K classes, H histogram columns.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from faelles.card import UseCaseCard
from faelles.metrics import HISTOGRAM
from faelles.models import Arrays, build_model, load_parameters, parameter_shapes, probabilities
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.release import bounded, release_histogram
from faelles.records import Kind
from simulations.batch import Batch, layers_of
from simulations.fit import fit_alone
from simulations.mechanisms import SeededMechanisms
from simulations.normals import compile_normals
from simulations.questions import Scores, score
from simulations.roll import Roll
from simulations.solo import Solo, compile_loops
from simulations.work import Rows, Terms, Work, drawn

Numbers = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Start:
    """Say from where municipalities start.

    Args:
        shared: The parameters that all received, one after the other.
        local_SL: What each kept; L may be 0.
    """

    shared: Numbers
    local_SL: Numbers


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """Ask for one round of some municipalities; those with more steps come first."""

    places: tuple[int, ...]
    plans: tuple[PrivacyPlan, ...]
    federation: str
    server_round: int
    start: Start
    proximal_mu: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Hold what a round made: the updates of the shared parameters, and what stays."""

    update_SD: Numbers
    local_SL: Numbers


@dataclass(frozen=True, kw_only=True)
class CountTask:
    """Ask for the score histograms of some municipalities."""

    places: tuple[int, ...]
    federation: str
    server_round: int
    start: Start
    noise_multiplier: float


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """Ask for exact scores of the held-out citizens; without a start each municipality fits a model of its own."""

    places: tuple[int, ...]
    start: Start | None


Task = TrainTask | CountTask | ScoreTask


class Fleet:
    """Hold the citizens of all municipalities.

    Args:
        card: What is learned.
        roll: The citizens.
        seed: Of batches and noise.
        device: Where to train.
    """

    def __init__(self, card: UseCaseCard, roll: Roll, seed: int, device: str = "cpu") -> None:
        self._card, self._roll = card, roll
        self._mechanisms = [SeededMechanisms(seed=seed, municipality=label) for label in roll.labels]
        self._shapes = parameter_shapes(card)
        self._model = build_model(card)
        self._layers = layers_of(self._model)
        sizes = [(int(np.prod(shape)), name not in card.model.local) for name, shape in self._shapes.items()]
        self._shared_D = np.repeat([shared for _, shared in sizes], [size for size, _ in sizes])
        self._rows = Rows(roll.training.citizens, roll.training.edges, torch.device(device))
        self._trainer = Solo if device == "cpu" else Batch
        compile_normals()
        if device == "cpu":
            compile_loops()

    def do(self, task: Task) -> object:
        """Do a task."""
        if isinstance(task, TrainTask):
            return self.train(task)
        return self.count(task) if isinstance(task, CountTask) else self.score(task)

    def train(self, task: TrainTask) -> Trained:
        """Run one round's local steps of every municipality of a task."""
        start_SD = np.stack([self._vector(task.start, number) for number in range(len(task.places))])
        terms = Terms(
            learning_rate=self._card.training.learning_rate, proximal_mu=task.proximal_mu, pulled_D=self._shared_D
        )
        trainer = self._trainer(self._layers, self._rows, task.places)
        after_SD = trainer.train(start_SD, self._works(task), terms)
        shared = self._shared_D
        return Trained(
            update_SD=bounded(_columns(after_SD - start_SD, shared)), local_SL=bounded(_columns(after_SD, ~shared))
        )

    def draw(self, task: TrainTask) -> int:
        """Draw a round's batches and noise, and do nothing with them; return how many steps there were."""
        sizes = [len(self._roll.training.of(place)) for place in task.places]
        return sum(
            len(some.edges) - 1
            for work, units in zip(self._works(task), sizes, strict=True)
            for some in drawn(work, units, len(self._shared_D))
        )

    def count(self, task: CountTask) -> list[NDArray[np.float32]]:
        """Release the score histogram of each municipality of a task."""
        return [
            release_histogram(
                self._card, self._model, self._named(self._vector(task.start, number)),
                self._roll.held_out.of(place), task.noise_multiplier,
                self._mechanisms[place].open_release(task.federation, task.server_round, Kind.EVALUATE),
            ).arrays[HISTOGRAM]
            for number, place in enumerate(task.places)
        ]  # fmt: skip

    def score(self, task: ScoreTask) -> list[Scores]:
        """Score the held-out citizens of each municipality of a task."""
        if task.start is not None and not task.start.local_SL.shape[1]:
            return self._score_all(task.places, task.start)
        found = []
        for number, place in enumerate(task.places):
            dataset = self._roll.dataset(place)
            if task.start is None:
                fit_alone(self._card, self._model, dataset.training)
            else:
                load_parameters(self._model, self._named(self._vector(task.start, number)))
            found.append(score(self._model, dataset))
        return found

    def _works(self, task: TrainTask) -> list[Work]:
        """Say what each municipality of a task does, and open its streams."""
        return [
            Work(
                plan=plan,
                randomness=self._mechanisms[place].open_release(task.federation, task.server_round, Kind.TRAIN),
            )
            for place, plan in zip(task.places, task.plans, strict=True)
        ]

    def _score_all(self, places: Sequence[int], start: Start) -> list[Scores]:
        """Score those who share one model, all at once."""
        load_parameters(self._model, self._named(start.shared))
        parts = [self._roll.held_out.of(place) for place in places]
        p_BRK = probabilities(self._model, np.concatenate([part.x_BRF for part in parts]))
        ends = np.cumsum([len(part) for part in parts])[:-1]
        training = self._roll.training.edges
        return [
            Scores(
                p_NK=p_PRK[part.mask_BR], y_N=part.y_BR[part.mask_BR], weight_N=part.weight_BR[part.mask_BR],
                citizens=(int(training[place + 1] - training[place]), len(part)),
            )
            for place, part, p_PRK in zip(places, parts, np.split(p_BRK, ends), strict=True)
        ]  # fmt: skip

    def _vector(self, start: Start, number: int) -> Numbers:
        vector_D = np.empty(len(self._shared_D), np.float32)
        vector_D[self._shared_D] = start.shared
        vector_D[~self._shared_D] = start.local_SL[number]
        return vector_D

    def _named(self, vector_D: Numbers) -> Arrays:
        return split(vector_D, self._shapes)


def _columns(numbers_SD: Numbers, chosen_D: NDArray[np.bool_]) -> Numbers:
    """Take some columns, in such an order in memory that a municipality's numbers lie side by side."""
    return numbers_SD if chosen_D.all() else np.ascontiguousarray(numbers_SD[:, chosen_D])


def join(arrays: Arrays) -> Numbers:
    """Put named arrays into one vector."""
    return np.concatenate([np.zeros(0, np.float32), *(array.ravel() for array in arrays.values())])


def split(vector_D: Numbers, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """View a vector as named arrays of these shapes."""
    starts = itertools.accumulate((math.prod(shape) for shape in shapes.values()), initial=0)
    return {
        name: vector_D[start : start + math.prod(shape)].reshape(shape)
        for (name, shape), start in zip(shapes.items(), starts, strict=False)  # the last start is the end
    }
