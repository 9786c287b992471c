"""Answer all municipalities' messages of a round together: a Flower Grid without a ClientApp, and without Opacus.

What is answered is what the production ClientApp answers, to float32 rounding: the same cards, plans, accounts, local
parameters, batches and noise. `parity=true` runs both and compares (`parity`).
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from client.admission import evaluation_event
from faelles.card import UseCaseCard
from faelles.errors import WireError
from faelles.metrics import HISTOGRAM
from faelles.models import Arrays, initial_parameters, parameter_shapes, shared_shapes
from faelles.npy import QuickArray, arrays_of
from faelles.records import (
    ARRAYS,
    DECLARED_SIZE,
    MUNICIPALITY,
    PLAN,
    PROXIMAL_MU,
    Answer,
    Code,
    Kind,
    Refusal,
    Request,
    answer_message,
    parse_request,
    pull_of,
    refusal_message,
)
from simulations.books import Books
from simulations.fleet import CountTask, ScoreTask, Start, Trained, TrainTask, join, split
from simulations.grid import Observer, SimulationGrid, Tick
from simulations.kept import Kept
from simulations.pool import Pool
from simulations.population import Site
from simulations.questions import Question, Scores

Numbers = NDArray[np.float32]
PARTS = 8  # at least, of a round's training: enough for the cores of a laptop
TOGETHER = 32  # municipalities of a part, at most about: what it sends and makes stays small


class CohortGrid(SimulationGrid):
    """Be all municipalities.

    Args:
        card: The approved card.
        sites: Node to municipality, in the order of the pool's roll.
        pool: Does their work.
        epsilon_cap: What a run may cost, in every municipality.
        folder: Where local parameters are kept.
        observe: Called with the message type and the messages before they are delivered.
        tick: Called for each reply.
    """

    def __init__(
        self,
        *,
        card: UseCaseCard,
        sites: Mapping[int, Site],
        pool: Pool,
        epsilon_cap: float,
        folder: Path,
        observe: Observer | None = None,
        tick: Tick | None = None,
    ) -> None:
        super().__init__({node: site.label for node, site in sites.items()}, observe, tick)
        self._card, self._sites, self._pool = card, dict(sites), pool
        self._places = {node: place for place, node in enumerate(sites)}
        sizes = {node: site.declared_size for node, site in sites.items()}
        self._books = Books(card=card, declared_sizes=sizes, epsilon_cap=epsilon_cap)
        self._shared, self._local = (
            shared_shapes(card),
            {name: shape for name, shape in parameter_shapes(card).items() if name in card.model.local},
        )
        initial = initial_parameters(card)
        self._kept = Kept(folder, join({name: initial[name] for name in self._local}), len(sites))

    def __enter__(self) -> Self:
        self._pool.start()
        return self

    def close(self) -> None:
        """End the pool."""
        self._pool.close()

    def ask_all(self, question: Question) -> dict[int, Scores]:
        """Ask every municipality a question that only a simulation can ask."""
        alone = question.kind == "alone"
        dealt = _dealt(list(self.names), 1 if alone else -(-len(self.names) // self._pool.size))
        shared = join(question.shared)
        found: list[list[Scores]] = self._pool.do([
            ScoreTask(
                places=self._placed(part), start=None if alone else self._start(part, shared, question.before_round)
            )
            for part in dealt
        ])  # fmt: skip
        return dict(zip(self.names, itertools.chain.from_iterable(found), strict=True))

    def local_parameters(self, federation: str, before_round: int) -> dict[int, Arrays]:
        """Return every municipality's local parameters, as the newest round before this one left them."""
        local_SL = self._kept.before(before_round)
        return {node: split(local_SL[place], self._local) for node, place in self._places.items()}

    def _receive(self, timeout_s: float | None) -> bool:
        return False  # what was asked is answered by then

    def _deliver(self, messages: list[Message]) -> None:
        """Answer messages; those who were sent the same arrays for the same round are answered together."""
        groups: dict[tuple[object, ...], list[tuple[Message, Request]]] = defaultdict(list)
        read = _reading_once()
        for message in messages:
            try:
                request = parse_request(message, read)
            except WireError:
                self._refuse(message, Refusal(code=Code.MALFORMED))
                continue
            data = tuple(array.data for array in message.content[ARRAYS].values())  # type: ignore[union-attr]
            asked = (request.kind, request.federation, request.server_round, request.extra.get(PROXIMAL_MU), data)
            groups[asked].append((message, request))
        for key, group in groups.items():
            self._answer(key, group)

    def _answer(self, key: tuple[object, ...], group: list[tuple[Message, Request]]) -> None:
        """Answer those who were asked the same; what tells one's request from another's is the plan."""
        malformed = self._books.malformed(group[0][1])
        able: list[tuple[Message, Request]] = []
        for message, request in group:
            asked = (key, request.extra.get(PLAN))
            refusal = self._books.admit(message.metadata.dst_node_id, request, asked, malformed=malformed)
            if refusal is None:
                able.append((message, request))
            else:
                self._refuse(message, refusal)
        released = self._released(group[0][1], [message.metadata.dst_node_id for message, _ in able]) if able else {}
        for message, request in able:
            node = message.metadata.dst_node_id
            self._books.remember(node, request, (key, request.extra.get(PLAN)))
            answer = self._worded(node, request, released.get(node, {}))
            self._arrive(message.metadata.message_id, answer_message(answer, message, QuickArray))

    def _refuse(self, message: Message, refusal: Refusal) -> None:
        self._arrive(message.metadata.message_id, refusal_message(refusal, message))

    def _worded(self, node: int, request: Request, arrays: Arrays) -> Answer:
        ready = request.kind == Kind.READY
        site = self._sites[node]
        return Answer(
            federation=request.federation,
            server_round=request.server_round,
            card_sha256=request.card_sha256,
            extra={MUNICIPALITY: site.label, DECLARED_SIZE: site.declared_size} if ready else {},
            arrays=arrays,
            schema=request.schema,
        )

    def _released(self, request: Request, nodes: list[int]) -> dict[int, Arrays]:
        if request.kind == Kind.TRAIN:
            return self._train(request, nodes)
        return self._count(request, nodes) if request.kind == Kind.EVALUATE else {}

    def _train(self, request: Request, nodes: list[int]) -> dict[int, Arrays]:
        plans = {node: self._books.reserved(node, request.federation).plan for node in nodes}
        by_work = sorted(nodes, key=lambda node: (-plans[node].local_steps, node))
        shared = join(request.arrays)
        found: list[Trained] = self._pool.do([
            TrainTask(
                places=self._placed(part), plans=tuple(plans[node] for node in part), federation=request.federation,
                server_round=request.server_round, start=self._start(part, shared, request.server_round),
                proximal_mu=pull_of(request),
            )
            for part in _dealt_by_work(by_work, [plans[node].local_steps for node in by_work])
        ])  # fmt: skip
        self._kept.keep(request.server_round, self._placed(by_work), np.concatenate([one.local_SL for one in found]))
        updates = (update_D for one in found for update_D in one.update_SD)
        return {node: split(update_D, self._shared) for node, update_D in zip(by_work, updates, strict=True)}

    def _count(self, request: Request, nodes: list[int]) -> dict[int, Arrays]:
        terms = self._books.reserved(nodes[0], request.federation).terms
        noise = evaluation_event(self._card, terms).noise_multiplier
        shared = join(request.arrays)
        found: list[list[NDArray[np.float32]]] = self._pool.do([
            CountTask(
                places=self._placed(part), federation=request.federation, server_round=request.server_round,
                start=self._start(part, shared, request.server_round + 1), noise_multiplier=noise,
            )
            for part in _dealt(nodes, TOGETHER)
        ])  # fmt: skip
        counted = itertools.chain.from_iterable(found)
        return {node: {HISTOGRAM: counts_KH} for node, counts_KH in zip(nodes, counted, strict=True)}

    def _start(self, nodes: Sequence[int], shared: Numbers, before_round: int) -> Start:
        return Start(shared=shared, local_SL=self._kept.before(before_round)[list(self._placed(nodes))])

    def _placed(self, nodes: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._places[node] for node in nodes)


def _reading_once() -> Callable[[ArrayRecord], Arrays]:
    """Read each record once, however many messages carry it."""
    found: dict[int, tuple[ArrayRecord, Arrays]] = {}  # by identity; each record is held, so that none takes another's

    def read(record: ArrayRecord) -> Arrays:
        if id(record) not in found:
            found[id(record)] = record, arrays_of(record)
        return found[id(record)][1]

    return read


def _dealt_by_work(nodes: Sequence[int], steps: Sequence[int]) -> list[Sequence[int]]:
    """Deal out nodes, those with more steps first, in parts that take about as long as each other.

    How many parts there are does not depend on the cores, so that the same numbers come out on any of them.
    """
    most = max(PARTS, -(-len(nodes) // TOGETHER))
    least, enough = 0, sum(steps)
    while enough - least > 1:
        limit = (least + enough) // 2
        least, enough = (least, limit) if len(_edges(steps, limit)) <= most else (limit, enough)
    return [nodes[start:stop] for start, stop in itertools.pairwise([*_edges(steps, enough), len(nodes)])]


def _edges(steps: Sequence[int], limit: int) -> list[int]:
    """Say where parts begin none of which costs more than a limit, unless a single node does."""
    edges, cost = [0], 0
    for place, one in enumerate(steps):
        if place > edges[-1] and (cost + one > limit or place - edges[-1] == 2 * TOGETHER):
            edges.append(place)
            cost = 0
        cost += one
    return edges


def _dealt(nodes: Sequence[int], most: int) -> list[Sequence[int]]:
    """Deal nodes out in their order: parts of about the same size, none larger than `most`."""
    count = -(-len(nodes) // most)
    edges = [len(nodes) * place // count for place in range(count + 1)]
    return [nodes[start:stop] for start, stop in itertools.pairwise(edges)]
