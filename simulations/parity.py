"""Run a fast engine and the reference in lock-step, and measure how far apart their answers are.

Both are sent the same messages, so what differs in a round is that round's own; local parameters go on from where each
engine left them. The run's model is made of the fast engine's answers.
"""

from typing import Self

import numpy as np
from flwr.app import Message

from faelles.errors import RunError
from faelles.models import Arrays
from faelles.records import Answer, Kind, parse_answer, refusal_text
from simulations.grid import Observer, SimulationGrid, Tick
from simulations.questions import Question, Scores

Differences = dict[str, dict[str, float]]  # municipality -> array -> largest difference of any number, in any round


class ParityGrid(SimulationGrid):
    """Answer with a fast engine's answers, once the reference has answered too.

    Args:
        fast: The engine to certify.
        reference: What it is measured against, with the same municipalities.
        observe: Called with the message type and the messages before they are delivered.
        tick: Called for each reply.
    """

    def __init__(
        self, fast: SimulationGrid, reference: SimulationGrid, observe: Observer | None = None, tick: Tick | None = None
    ) -> None:
        super().__init__(fast.names, observe, tick)
        self._fast, self._reference = fast, reference
        self.differences: Differences = {name: {} for name in fast.names.values()}

    def __enter__(self) -> Self:
        self._reference.__enter__()  # first: its processes are forks, and a fast engine may have threads by then
        self._fast.__enter__()
        return self

    def close(self) -> None:
        """End both engines."""
        self._fast.close()
        self._reference.close()

    def ask_all(self, question: Question) -> dict[int, Scores]:
        """Ask every municipality of the fast engine."""
        return self._fast.ask_all(question)

    def local_parameters(self, federation: str, before_round: int) -> dict[int, Arrays]:
        """Return every municipality's local parameters, in the fast engine."""
        return self._fast.local_parameters(federation, before_round)

    def _deliver(self, messages: list[Message]) -> None:
        pairs = zip(messages, self._fast.exchange(messages), self._reference.exchange(messages), strict=True)
        trained = set[tuple[str, int]]()
        for message, ours, theirs in pairs:
            answer = self._compare(message.metadata.dst_node_id, ours, theirs)
            if answer is not None and message.metadata.message_type == Kind.TRAIN:
                trained.add((answer.federation, answer.server_round))
            self._arrive(message.metadata.message_id, ours)
        for federation, server_round in sorted(trained):
            self._compare_local(federation, server_round + 1)

    def _receive(self, timeout_s: float | None) -> bool:
        return False  # what was asked is answered by then

    def _compare(self, node: int, ours: Message, theirs: Message) -> Answer | None:
        name = self.names[node]
        words = [refusal_text(reply.error) if reply.has_error() else "an answer" for reply in (ours, theirs)]
        if words[0] != words[1]:
            raise RunError(f"parity: expected {name} to answer alike, {words[0]} came, from the reference {words[1]}")
        if ours.has_error():
            return None
        answer = parse_answer(ours)
        self._note(name, answer.arrays, parse_answer(theirs).arrays)
        return answer

    def _compare_local(self, federation: str, before_round: int) -> None:
        theirs = self._reference.local_parameters(federation, before_round)
        for node, ours in self._fast.local_parameters(federation, before_round).items():
            self._note(self.names[node], ours, theirs[node])

    def _note(self, name: str, ours: Arrays, theirs: Arrays) -> None:
        if {array: part.shape for array, part in ours.items()} != {array: part.shape for array, part in theirs.items()}:
            raise RunError(f"parity: expected {name} to send the same arrays, others than the reference's came")
        for array in sorted(ours):
            apart = float(np.abs(ours[array].astype(float) - theirs[array]).max(initial=0.0))
            self.differences[name][array] = max(apart, self.differences[name].get(array, 0.0))


def largest(differences: Differences) -> tuple[float, str, str]:
    """Find the largest difference, and in which municipality and array it is."""
    every = [(apart, name, array) for name, found in differences.items() for array, apart in found.items()]
    return max(every, default=(0.0, "", ""))
