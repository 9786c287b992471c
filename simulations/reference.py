"""Run every municipality with the production ClientApp, in worker processes: what a faster engine is measured against.

Municipalities are spread over worker processes and stay where they are. Each has its own randomness and store, so the
result is the same for any number of workers and any order in which they answer.
"""

import functools
from typing import Self

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

from faelles.models import Arrays
from simulations.grid import Observer, SimulationGrid, Tick
from simulations.processes import Processes
from simulations.questions import LocalParameters, Question, Scores
from simulations.worker import Crew, prepare, serve


class ReferenceGrid(SimulationGrid):
    """Run municipalities in worker processes.

    Args:
        crews: What each worker is; their node ids are disjoint.
        observe: Called with the message type and the messages before they are delivered.
        tick: Called for each reply.
    """

    def __init__(self, crews: list[Crew], observe: Observer | None = None, tick: Tick | None = None) -> None:
        super().__init__({node_id: site.label for crew in crews for node_id, site in crew.sites.items()}, observe, tick)
        self._crews = crews
        self._processes = Processes()

    def __enter__(self) -> Self:
        prepare()
        self._processes.start([functools.partial(serve, crew) for crew in self._crews])
        return self

    def close(self) -> None:
        """End the workers, without waiting for what a slow municipality still computes: its store is whole always."""
        self._processes.close()

    def ask_all(self, question: Question) -> dict[int, Scores]:
        """Ask every municipality a question that only a simulation can ask."""
        return {node: item for node, item in self._questioned(question).items() if isinstance(item, Scores)}

    def local_parameters(self, federation: str, before_round: int) -> dict[int, Arrays]:
        """Return every municipality's local parameters, as the newest round before this one left them."""
        found = self._questioned(LocalParameters(federation=federation, before_round=before_round))
        return {node: item for node, item in found.items() if isinstance(item, dict)}

    def _questioned(self, question: Question | LocalParameters) -> dict[int, object]:
        first = self._number + 1
        nodes = list(self.names)
        self._number += len(nodes)
        self._send([(first + place, node_id, question) for place, node_id in enumerate(nodes)])
        found: dict[int, object] = {}
        while len(found) < len(nodes):
            for _, (number, item) in self._processes.read(None):
                if isinstance(item, bytes):
                    self._take_in(number, item)
                else:
                    found[nodes[number - first]] = item
        return found

    def _deliver(self, messages: list[Message]) -> None:
        self._send([
            (int(message.metadata.message_id), message.metadata.dst_node_id,
             message_to_proto(message).SerializeToString())
            for message in messages
        ])  # fmt: skip

    def _send(self, items: list[tuple[int, int, object]]) -> None:
        for crew, connection in zip(self._crews, self._processes.connections, strict=True):
            mine = [item for item in items if item[1] in crew.sites]
            if mine:
                self._processes.send(connection, mine)

    def _receive(self, timeout_s: float | None) -> bool:
        read = self._processes.read(timeout_s)
        for _, (number, item) in read:
            assert isinstance(item, bytes)  # questions are waited for where they are asked
            self._take_in(number, item)
        return bool(read)

    def _take_in(self, number: int, data: bytes) -> None:
        self._arrive(str(number), message_from_proto(MessageProto.FromString(data)))
