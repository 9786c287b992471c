"""Small federations over the in-process grid: real ServerApp's rounds, real ClientApps, worker processes."""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from client import ledger
from client.store import Store
from faelles.card import UseCaseCard
from faelles.terms import RunTerms
from server.federation import FederationConfig, StrategyChoice
from server.result import RunRecord
from server.rounds import Federation
from simulations.grid import FIRST_NODE_ID, Observer, Tick
from simulations.reference import ReferenceGrid
from simulations.worker import Crew
from tests.builders import FEDERATION, build_sites

CITIZENS: Mapping[str, int] = {"0101": 90, "0147": 60, "0151": 45, "0751": 30, "0851": 12}


class TappedGrid(ReferenceGrid):
    """Keep every message that passes, in both directions."""

    def __init__(self, crews: list[Crew], observe: Observer | None = None, tick: Tick | None = None) -> None:
        super().__init__(crews, observe, tick)
        self.passed: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass messages on, and keep them."""
        batch = list(messages)
        self.passed += batch
        return super().push_messages(batch)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand over replies, and keep them."""
        replies = list(super().pull_messages(message_ids))
        self.passed += replies
        return replies


def build_crews(
    folder: Path, card: UseCaseCard, *, workers: int = 1, citizens: Mapping[str, int] = CITIZENS, reverse: bool = False
) -> list[Crew]:
    """Deal municipalities out to workers; `reverse` gives them their node ids in the opposite order."""
    (folder / "nodes").mkdir(parents=True, exist_ok=True)
    sites = build_sites(citizens)[:: -1 if reverse else 1]
    numbered = {FIRST_NODE_ID + place: site for place, site in enumerate(sites)}
    return [
        Crew(
            card=card,
            sites={node_id: site for node_id, site in numbered.items() if node_id % workers == worker},
            folder=folder / "nodes",
            seed=7,
            epsilon_cap=card.privacy.epsilon,
            partition=None,
        )
        for worker in range(workers)
    ]


def build_config(folder: Path, card: UseCaseCard, strategy: str = "fedavg", **changes: Any) -> FederationConfig:
    """Configure a federation of the card's own terms; a change replaces a field."""
    fields: dict[str, Any] = {
        "federation": uuid.UUID(FEDERATION),
        "card": card,
        "terms": RunTerms.of(card),
        "strategy": StrategyChoice(name=strategy),
        "folder": folder / "run",
    }
    return FederationConfig(**(fields | changes))


def run_federation(
    folder: Path,
    card: UseCaseCard,
    strategy: str = "fedavg",
    *,
    crews: list[Crew] | None = None,
    observe: Observer | None = None,
    tick: Tick | None = None,
    clock: Callable[[], float] = time.monotonic,
    **changes: Any,
) -> RunRecord:
    """Run a federation to its end, or to what `observe` and `tick` do to it."""
    with ReferenceGrid(crews or build_crews(folder, card), observe, tick) as grid:
        return Federation(grid, build_config(folder, card, strategy, **changes), clock=clock).run()


def spent_curves(folder: Path, part: str = "training") -> dict[str, NDArray[np.float64]]:
    """Read from each municipality's store what the federation has spent."""
    curves = {}
    for path in sorted((folder / "nodes").glob("*.sqlite")):
        store = Store(path, durable=False, serving=False)
        curves[path.stem] = ledger.spent(store.database, FEDERATION, part)
        store.close()
    return curves
