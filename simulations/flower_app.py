"""Be any of the municipalities in a process of Flower's own simulation: what it calls for each message.

Flower gives a message to whichever process is free, so a municipality moves from one to the other. Its store is opened
for one message only.
"""

import fcntl
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from simulations.ray_session import load_ray
from simulations.worker import Crew, Municipality

WHO, PARTITION = "query.partition", "partition-id"  # asks a node which municipality it is; Flower's name for the number


class MunicipalitiesApp(ClientApp):
    """Answer as the municipality that a node's partition stands for.

    Args:
        crew: Where Ray keeps the municipalities, in the order of their partitions.
    """

    def __init__(self, crew: Any) -> None:
        super().__init__()
        self._crew = crew

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        partition = int(context.node_config[PARTITION])
        if message.metadata.message_type == WHO:
            return Message(RecordDict({PARTITION: ConfigRecord({PARTITION: partition})}), reply_to=message)
        crew = _fetched(self._crew)
        with opened(crew, list(crew.sites)[partition]) as municipality:
            return municipality.app(message, municipality.context)


@contextmanager
def opened(crew: Crew, node_id: int) -> Iterator[Municipality]:
    """Be one municipality, as soon as no other process is."""
    # A store refuses a second process at once; here the second waits for its turn.
    with (crew.folder / f"{node_id:05d}.turn").open("wb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        municipality = replace(crew, sites={node_id: crew.sites[node_id]}).build()[node_id]
        try:
            yield municipality
        finally:
            municipality.node.store.close()


@functools.lru_cache(maxsize=1)
def _fetched(crew: Any) -> Crew:
    """Fetch the municipalities, once for each process."""
    torch.set_num_threads(1)
    found: Crew = load_ray().get(crew)
    return found
