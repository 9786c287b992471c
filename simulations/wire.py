"""Measure what a live federation costs: `python -m simulations.wire` prints the rows of docs/results.md.

Seconds beyond training, memory, bytes on the wire, and a message in the warm worker against one in a stock ClientApp's
process. Coordinator and agents are real, on loopback and over TLS; only the citizens are synthetic.
"""

import argparse
import logging
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar

import yaml
from rich.console import Console

from catalogue import shelf
from catalogue.shelf import UseCase
from faelles.card import UseCaseCard
from faelles.errors import FaellesError, RunError
from faelles.models import shared_shapes
from faelles.records import Kind
from simulations.demo import towns
from simulations.footprint import Lives, Memory, command, family, memory, processor_s
from simulations.live import LiveFederation
from simulations.pace import Answered, Followed, follow
from simulations.relay import Relay
from simulations.stock_node import CLIENTAPP, Handled, handled, order_stock, replace_agent

Seen = TypeVar("Seen")
USECASE: Final = "elder-admission"
# Small epsilons: an approval holds both runs of a federation.
TERMS: Final = ("strategy=fedadam", "quorum=1.0", "deadline=2m", "wait=1m", "deliver=2m", "evaluate=false",
                "privacy.epsilon=0.5")  # fmt: skip
PATIENCE_S: Final = 600.0
STOCK_ROUNDS: Final = 4  # at most: each takes many seconds
WIDTHS: Final = (1000, 980)  # of the large model
IDLE_S, SETTLING_S = 10.0, 35.0
BYTES: Final = 4  # of a float32
PARTS: Final = {"node": "flower-supernode", "worker": "client.worker"}
MISTAKE, INTERRUPTED = 2, 130
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Hold what was seen of one federation.

    Args:
        agents: How many take part.
        parameters: How many are shared.
        idle_bytes: Of each agent in a second without a run.
        idle_core: Which share of a core each keeps busy then.
        coordinator: What it takes without a run.
        followed: A run.
        parts: What each agent takes after it: its parent, its node, its worker.
        stock: The messages that a stock node's processes handled in another run; empty without one.
        warm: The messages that the other agents answered in that run.
    """

    agents: int
    parameters: int
    idle_bytes: float
    idle_core: float
    coordinator: Memory
    followed: Followed
    parts: dict[str, list[Memory]]
    stock: Sequence[Handled] = ()
    warm: Sequence[Answered] = ()


def measure(usecase: UseCase, agents: int, rounds: int, folder: Path, *, stock: bool = False) -> Measured:
    """Run a live federation and watch it.

    Args:
        usecase: With a twin.
        agents: How many municipalities.
        rounds: Of training.
        folder: Of everything it leaves.
        stock: Whether to run another one afterwards, with a stock node in the place of one agent.

    Raises:
        FaellesError: It could not be run.
    """
    with running(usecase, agents, folder) as (live, relay):
        codes = [town.code for town in live.towns]
        assert live.coordinator is not None
        coordinator = memory(family(live.coordinator.process.pid))
        followed = follow(live, live.order(f"rounds={rounds}", *TERMS), relay, codes, PATIENCE_S)
        idle, busy = rest(live, relay)
        measured = Measured(
            agents=agents, parameters=shared_parameters(usecase.card), idle_bytes=idle, idle_core=busy,
            coordinator=coordinator, followed=followed, parts=weigh(live),
        )  # fmt: skip
        return with_stock(measured, live, relay, min(rounds, STOCK_ROUNDS)) if stock else measured


def with_stock(measured: Measured, live: LiveFederation, relay: Relay, rounds: int) -> Measured:
    """Run once more, with a stock node in the place of one agent."""
    codes = [town.code for town in live.towns]
    chosen, *others = sorted(codes, key=lambda code: codes.index(code) != len(codes) // 2)
    with Lives(replace_agent(live, chosen), CLIENTAPP).watched() as lives:
        followed = follow(live, order_stock(live, (f"rounds={rounds}", *TERMS)), relay, others, PATIENCE_S)
        lives.settle(SETTLING_S)
    return replace(measured, stock=handled(live, chosen, lives.ended), warm=followed.answered)


@contextmanager
def running(usecase: UseCase, agents: int, folder: Path) -> Iterator[tuple[LiveFederation, Relay]]:
    """Start a coordinator and agents with a relay between them, and end them all."""
    relay = Relay()
    live = LiveFederation(
        folder=folder, usecase=str(usecase.folder), towns=towns(usecase, agents), reached_at=relay.address
    )
    with live:
        live.set_up()
        with relay.towards(live.home.settings.listen):
            live.start()
            yield live, relay


def rest(live: LiveFederation, relay: Relay) -> tuple[float, float]:
    """Wait until nothing goes on, and a little longer; return an agent's bytes a second, and its share of a core."""
    time.sleep(SETTLING_S)  # a worker looks often for half a minute after its last message
    pids = [pid for agent in live.agents.values() for pid in family(agent.process.pid)]
    carried, busy_s = relay.carried, processor_s(pids)
    time.sleep(IDLE_S)
    span = IDLE_S * len(live.agents)
    return (relay.carried - carried).both / span, (processor_s(pids) - busy_s) / span


def weigh(live: LiveFederation) -> dict[str, list[Memory]]:
    """Weigh each part of every agent that rests after its answers."""
    found: dict[str, list[Memory]] = {name: [] for name in ("parent", *PARTS)}
    for agent in live.agents.values():
        parent, *rest = family(agent.process.pid)
        found["parent"].append(memory([parent]))
        for name, word in PARTS.items():
            found[name].append(memory([pid for pid in rest if word in command(pid)]))
    return found


def large(usecase: UseCase, folder: Path) -> UseCase:
    """Derive a use case with about a million parameters, and as little work as there can be."""
    card = usecase.card
    training = card.training.model_copy(update={"local_steps": 1, "batch_size": 16})
    model = card.model.model_copy(update={"hidden": WIDTHS})
    derived = card.model_copy(update={"id": f"{card.id}-large", "training": training, "model": model})
    folder.mkdir()
    text = yaml.safe_dump(derived.model_dump(mode="json"), allow_unicode=True)
    (folder / "card.yaml").write_text(text, encoding="utf-8")
    return replace(usecase, card=shelf.find(str(folder)).card, folder=folder)


def shared_parameters(card: UseCaseCard) -> int:
    """Count the parameters that travel."""
    return sum(math.prod(shape) for shape in shared_shapes(card).values())


def pace_rows(measured: Measured) -> Iterator[str]:
    """Say how long rounds took beyond training, and with what."""
    who, paces = f"{measured.agents} agents", measured.followed.paces
    yield _row(f"{who}: seconds a round beyond training", paces, lambda one: one.beyond_s, "{:.2f}")
    yield _row(f"{who}: whole round", paces, lambda one: one.round_s, "{:.2f} s")
    yield _row(f"{who}: until the last to answer had begun", paces, lambda one: one.waited_s, "{:.2f} s")
    yield _row(f"{who}: around its work, between node and worker", paces, lambda one: one.handled_s, "{:.2f} s")
    yield _row(f"{who}: from its answer to the new model", paces, lambda one: one.taken_s, "{:.2f} s")
    yield _row(f"{who}: checkpoint and record, after the round", paces, lambda one: one.kept_s, "{:.3f} s")


def memory_rows(measured: Measured) -> Iterator[str]:
    """Say what the processes take."""
    who, seen = f"{measured.agents} agents", measured.followed
    yield f"| {who}: coordinator without a run | {_mib(measured.coordinator)} |"
    yield f"| {who}: coordinator during one, at most | {_mib(seen.coordinator)} |"
    yield f"| {who}: and the run's own process, at most | {_mib(seen.serverapp)} |"
    for name, found in measured.parts.items():
        each = Memory(pss=_median(one.pss for one in found), rss=_median(one.rss for one in found))
        yield f"| {who}: an idle agent's {name} (median) | {_mib(each)} |"
    whole = [
        Memory(pss=sum(one.pss for one in parts), rss=sum(one.rss for one in parts))
        for parts in zip(*measured.parts.values(), strict=True)
    ]
    each = Memory(pss=_median(one.pss for one in whole), rss=_median(one.rss for one in whole))
    yield f"| {who}: an idle agent in all (median) | {_mib(each)} |"
    yield f"| {who}: an agent that is asked nothing | {measured.idle_core:.1%} of a core |"


def byte_rows(measured: Measured) -> Iterator[str]:
    """Say what went over the wire, down and up, TLS and polling and all."""
    agents, size = measured.agents, measured.parameters * BYTES
    who, paces = f"{agents} agents, {measured.parameters:,} shared parameters", measured.followed.paces
    yield _row(f"{who}: bytes a round and agent over their size (2 is the least)", paces,
               lambda one: one.carried.both / agents / size, "{:.2f}")  # fmt: skip
    yield _row(f"{who}: of which down", paces, lambda one: one.carried.down / agents, "{:,.0f} bytes")
    yield _row(f"{who}: and up", paces, lambda one: one.carried.up / agents, "{:,.0f} bytes")
    yield f"| {who}: an agent that is asked nothing | {measured.idle_bytes:,.0f} bytes a second |"


def stock_rows(measured: Measured) -> Iterator[str]:
    """Set a message in the warm worker against one in a process of its own."""
    for what, kinds in (("every message", set(Kind)), ("train messages", {Kind.TRAIN})):
        warm = [one.seconds for one in measured.warm if one.kind in kinds]
        stock = [one.seconds for one in measured.stock if one.kind in kinds]
        if not warm or not stock:
            raise RunError(f"{what}: expected some that were answered, found none; see the logs and measure again")
        yield _row(f"{what}, warm worker", warm, float, "{:.2f} s")
        yield _row(f"{what}, stock ClientApp's process", stock, float, "{:.2f} s")
        yield f"| {what}, stock over warm (at least 5 wanted) | {_median(stock) / max(_median(warm), 0.01):.1f} |"
    beside = [one.seconds - one.work for one in measured.stock]
    yield _row("of the stock process: start, imports and end", beside, float, "{:.2f} s")


def _row(what: str, seen: Sequence[Seen], figure: Callable[[Seen], float], form: str) -> str:
    values = [figure(one) for one in seen]
    spread = f"{form.format(min(values))} to {form.format(max(values))}"
    return f"| {what} | {form.format(_median(values))} ({spread}; {len(values)}) |"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _mib(one: Memory) -> str:
    return f"{one.pss:.0f} MiB (alone at most {one.rss:.0f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="simulations.wire", description=__doc__)
    parser.add_argument("--agents", type=int, nargs="+", default=[4, 16], help="of each federation; 4 16")
    parser.add_argument("--rounds", type=int, default=6, help="of training; 6")
    parser.add_argument("--folder", type=Path, help="where everything is left, logs too; without it nothing is")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.disable(logging.WARNING)  # the processes have logs of their own
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (given.folder or Path(temporary)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            for row in _rows(given.agents, given.rounds, folder):
                console.print(row, markup=False)
    except FaellesError as error:
        console.print(f"error: {error}", markup=False)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _rows(agents: Sequence[int], rounds: int, folder: Path) -> Iterator[str]:
    yield f"| what | measured: median (least to most; how many) over rounds 2 to {rounds} |"
    yield "| --- | --- |"
    usecase = shelf.find(USECASE)
    for count in agents:
        first = count == agents[0]
        measured = measure(usecase, count, rounds, folder / str(count), stock=first)
        yield from pace_rows(measured)
        yield from memory_rows(measured)
        yield from byte_rows(measured)
        yield from stock_rows(measured) if first else ()
    yield from byte_rows(measure(large(usecase, folder / "large"), agents[0], rounds, folder / "large-live"))


def _interrupt(number: int, frame: FrameType | None) -> None:
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)  # once is enough, and what was started is ended in peace
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
