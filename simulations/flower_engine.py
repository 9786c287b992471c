"""Run every municipality with the production ClientApp inside Flower's own simulation, as Flower's users run theirs.

The rounds, and all that is asked in them, stay on our side: Flower's Grid is one more way for messages to go. Whatever
differs from the reference is Flower's, for the answers are the same bytes.
"""

from typing import Self

from flwr.app import Message, RecordDict

from faelles.models import Arrays, build_model, load_parameters
from simulations.fit import fit_alone
from simulations.flower_app import PARTITION, WHO, MunicipalitiesApp, opened
from simulations.flower_run import FlowerRun
from simulations.grid import Observer, SimulationGrid, Tick
from simulations.questions import LocalParameters, Question, Scores, score
from simulations.ray_session import RaySession, load_ray
from simulations.roll import Roll
from simulations.worker import Crew

ACTOR = "ClientAppActor"  # what Flower calls the processes that call the ClientApp


class FlowerGrid(SimulationGrid):
    """Be the municipalities' side of Flower's simulation.

    Args:
        crew: All municipalities.
        roll: Their citizens, in the same order.
        workers: How many processes; what is answered does not depend on it.
        observe: Called with the message type and the messages before they are delivered.
        tick: Called for each reply.
    """

    def __init__(
        self, crew: Crew, roll: Roll, workers: int, observe: Observer | None = None, tick: Tick | None = None
    ) -> None:
        super().__init__({node_id: site.label for node_id, site in crew.sites.items()}, observe, tick)
        self._crew, self._roll, self._workers = crew, roll, workers
        self._session = RaySession(alone=True)  # municipalities' stores are on this machine
        self._flower: FlowerRun | None = None
        self._theirs: dict[int, int] = {}  # our node -> Flower's

    def __enter__(self) -> Self:
        try:
            self._session.start(self._workers, self._workers)
            self._flower = FlowerRun(MunicipalitiesApp(load_ray().put(self._crew)), len(self.names))
            self._flower.start()
            self._find_nodes()
        except BaseException:
            self.close()  # a grid that could not be entered is not left
            raise
        return self

    def close(self) -> None:
        """End Flower's simulation, without waiting for what a slow municipality still computes."""
        if self._flower is not None:
            if self._flower.busy:
                self._session.kill(ACTOR)
            self._flower.close()
        self._session.close()

    def ask_all(self, question: Question) -> dict[int, Scores]:
        """Ask every municipality a question that only a simulation can ask; answered here, for all data are."""
        kept = {} if question.kind == "alone" else self.local_parameters(question.federation, question.before_round)
        places = {node: place for place, node in enumerate(self._crew.sites)}
        return {node: self._scores(question, places[node], kept.get(node, {})) for node in self.names}

    def local_parameters(self, federation: str, before_round: int) -> dict[int, Arrays]:
        """Return every municipality's local parameters, as the newest round before this one left them."""
        if not self._crew.card.model.local:
            return {node: {} for node in self.names}
        asked = LocalParameters(federation=federation, before_round=before_round)
        found = {}
        for node in self.names:
            with opened(self._crew, node) as municipality:
                found[node] = municipality.local_parameters(asked)
        return found

    def _scores(self, question: Question, place: int, local: Arrays) -> Scores:
        card, dataset = self._crew.card, self._roll.dataset(place)
        model = build_model(card)
        if question.kind == "alone":
            fit_alone(card, model, dataset.training)
        else:
            every = {**question.shared, **local}
            load_parameters(model, {name: every[name] for name in card.model.parameter_names})
        return score(model, dataset)

    def _find_nodes(self) -> None:
        """Ask each of Flower's nodes which municipality it is."""
        assert self._flower is not None
        ours = list(self._crew.sites)
        nodes = list(self._flower.grid.get_node_ids())
        self._flower.send((node, Message(RecordDict(), node, WHO)) for node in nodes)
        while len(self._theirs) < len(nodes):
            for reply in self._flower.receive(None):
                partition = reply.content.config_records[PARTITION][PARTITION]
                assert isinstance(partition, int)
                self._theirs[ours[partition]] = reply.metadata.src_node_id

    def _deliver(self, messages: list[Message]) -> None:
        assert self._flower is not None
        self._flower.send((self._theirs[message.metadata.dst_node_id], message) for message in messages)

    def _receive(self, timeout_s: float | None) -> bool:
        assert self._flower is not None
        replies = self._flower.receive(timeout_s)
        for reply in replies:
            self._arrive(reply.metadata.reply_to_message_id, reply)
        return bool(replies)
