"""Kill the agent at random points and look at what it left on disk: run as `python -m tests.kills`.

A warm parent, which has loaded what the work needs and holds no store itself, forks a child that works on a store
until it is killed. What leaves the municipality the child writes to a pipe. The parent then checks the store against
all that ever came out of the pipe, and goes on with the same store. The parent is a process of its own: one that runs
tests has threads, and is no place to fork from.
"""

import argparse
import json
import os
import random
import select
import signal
import sqlite3
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from client import head, ledger
from client.keys import Signer
from client.ledger import TRAINING, Budget
from client.store import Store
from faelles.card import UseCaseCard
from tests import custody
from tests.custody import CARDS, EVALUATE, START, TRAIN, Custodian, Declined, Place, audit, head_of, next_round

WAYS = ("statement", "instruction", "bytes", "time")
KILLS_OF_ONE_STORE = 25
LONGEST_S = 0.1  # that a child is given where it is killed by the clock
STUCK_S = 60.0  # no child lives that long


@dataclass
class Fuse:
    """End this process, as kill -9 does, at a spark that was chosen before."""

    way: str
    sparks: int

    def burn(self, *_: object) -> int:
        """Burn down by one; SQLite calls it before each statement, or every so many instructions of its machine."""
        self.sparks -= 1
        if self.sparks == 0 and self.way in WAYS[:2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def lay(self) -> None:
        """Lay it to every connection that this process opens."""
        fuse = self

        class Fused(sqlite3.Connection):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                if fuse.way == "statement":
                    self.set_trace_callback(fuse.burn)
                elif fuse.way == "instruction":
                    self.set_progress_handler(fuse.burn, 7)

        sqlite3.connect = partial(sqlite3.connect, factory=Fused)  # type: ignore[assignment]  # for this process only


@dataclass(frozen=True)
class Outbound:
    """Write what leaves to the pipe, in pieces between which the process may die."""

    pipe: int
    fuse: Fuse

    def leave(self, place: Place, answer: bytes, again: bool) -> None:
        """Let an answer leave."""
        data = json.dumps([*place, again, len(answer)]).encode() + b"\n" + answer
        for start in range(0, len(data), 400):
            self.fuse.burn()
            os.write(self.pipe, data[start : start + 400])
        self.fuse.burn()


class Work(Protocol):
    """Do what an agent does on a store, for ever."""

    budget: Budget
    signer: Signer
    ways: Sequence[str]  # to be killed

    def __call__(self, path: Path, rng: random.Random, now: datetime, outbound: Outbound) -> None:
        """Work until killed."""
        ...

    def head_of(self, answer: bytes) -> str:
        """Read the signed head of an answer."""
        ...

    def again(self, path: Path, place: Place, now: datetime) -> bytes | None:
        """Ask for the same again, after a restart; None where it is refused."""
        ...


class Custody:
    """Work on the store as the agent's core does."""

    budget = custody.BUDGET
    signer = custody.SIGNER
    ways: Sequence[str] = WAYS
    custodian: type[Custodian] = Custodian

    def __call__(self, path: Path, rng: random.Random, now: datetime, outbound: Outbound) -> None:
        """Work until killed."""
        custodian = self.custodian(Store(path, durable=True), now)
        custodian.prepare()
        while True:
            custodian.now += timedelta(minutes=rng.randrange(10))
            try:
                self._step(custodian, rng, outbound)
            except Declined:
                custodian.refuse(Place("", 0, TRAIN))

    def head_of(self, answer: bytes) -> str:
        """Read the signed head of an answer."""
        return head_of(answer)

    def again(self, path: Path, place: Place, now: datetime) -> bytes | None:
        """Ask for the same again."""
        custodian = Custodian(Store(path, durable=True), now)
        held = ledger.reservation(custodian.store.database, place.federation, TRAINING)
        assert held is not None
        card = next(card for card in CARDS if card.sha256 == held.card_sha256)
        try:
            answer, again = custodian.ask(place, card)
        except Declined:
            return None
        finally:
            custodian.store.close()
        assert again, f"{place} was made anew"
        return answer

    def _step(self, custodian: Custodian, rng: random.Random, outbound: Outbound) -> None:
        database = custodian.store.database
        runs = database.execute("SELECT federation, card FROM ledger WHERE kind = 'reserve' AND part = ?", (TRAINING,))
        federation, sha256 = rng.choice(runs.fetchall()[-6:] or [("", CARDS[0].sha256)])
        card = next(card for card in CARDS if card.sha256 == sha256)
        last, back = next_round(database, federation) - 1, rng.randrange(4)
        steps: list[tuple[int, Callable[[], object]]] = [
            (4, lambda: custodian.ready(str(rng.getrandbits(64)), rng.choice(CARDS), rng.randrange(1, 9))),
            (12, lambda: self._ask(custodian, Place(federation, last + 1, TRAIN), card, outbound)),
            (2, lambda: self._ask(custodian, Place(federation, max(last, 1), EVALUATE), card, outbound)),
            (5, lambda: self._ask(custodian, Place(federation, max(last - back, 1), TRAIN), card, outbound)),
            (1, lambda: custodian.close(federation)),
            (1, lambda: self._withdraw(custodian, rng, card)),
            (1, custodian.expire),
        ]  # fmt: skip
        rng.choices([step for _, step in steps], [weight for weight, _ in steps])[0]()

    def _ask(self, custodian: Custodian, place: Place, card: UseCaseCard, outbound: Outbound) -> None:
        if place.federation:
            outbound.leave(place, *custodian.ask(place, card))

    def _withdraw(self, custodian: Custodian, rng: random.Random, card: UseCaseCard) -> None:
        custodian.withdraw(card)
        if rng.random() < 0.8:
            custodian.approve(card)


class Careless(Custody):
    """Spend and keep in two transactions: a fault that the kills must find."""

    custodian = custody.CarelessCustodian
    ways = WAYS[:1]  # the one that finds it soonest


@dataclass
class History:
    """Hold one store and everything that ever left from it."""

    path: Path
    left: dict[Place, bytes] = field(default_factory=dict)
    resent: Counter[Place] = field(default_factory=Counter)
    heads: list[str] = field(default_factory=list)
    kills: int = 0

    def take(self, data: bytes, work: Work) -> None:
        """Take what a child wrote until it was killed; what it wrote only partly has left too."""
        while b"\n" in data:
            first, data = data.split(b"\n", 1)
            *words, again, length = json.loads(first)
            place, answer, data = Place(*words), data[:length], data[length:]
            if len(answer) < length:
                answer = self._whole(place, answer)
            self.resent[place] += again or place in self.left
            assert self.left.setdefault(place, answer) == answer, f"{place} left twice with different bytes"
            self.heads.append(work.head_of(answer))

    def check(self, work: Work, rng: random.Random, now: datetime) -> None:
        """Look at the store as the next process finds it."""
        store = Store(self.path)
        audit(store, self.left, self.resent, work.budget, now)
        if self.heads:
            with store.transaction() as database:
                head.present(database, work.signer, self.heads[-1])
            assert not head.frozen(store.database), "the newest head that left is not in the chain"
        store.close()
        if self.left and rng.random() < 0.5:
            place = rng.choice(list(self.left)[-3:])
            again = work.again(self.path, place, now)
            assert again in (None, self.left[place]), f"{place} is answered otherwise after a restart"
            self.resent[place] += again is not None

    def _whole(self, place: Place, start: bytes) -> bytes:
        store = Store(self.path)
        row = store.database.execute("SELECT answer FROM outbox WHERE (federation, server_round, kind) = (?, ?, ?)",
                                     tuple(place)).fetchone()  # fmt: skip
        store.close()
        assert row is not None, f"{place} left and is in no outbox"
        assert bytes(row[0]).startswith(start), f"{place} is kept with other bytes"
        return bytes(row[0])


def kill_once(history: History, work: Work, seed: int) -> None:
    """Let a child work, kill it, and check the store."""
    rng = random.Random(seed)
    now = START + timedelta(days=history.kills * 3)
    way = rng.choice(work.ways)
    fuse = Fuse(way, rng.randrange(1, {"statement": 250, "instruction": 4000}.get(way, 2)))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            fuse.lay()
            work(history.path, rng, now, Outbound(writer, fuse))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    data = _read(reader, rng, way)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while rest := os.read(reader, 1 << 16):
        data += rest
    os.close(reader)
    assert os.WIFSIGNALED(status), "the child ended by itself"
    history.kills += 1
    history.take(data, work)
    history.check(work, rng, now + timedelta(days=1))


def _read(reader: int, rng: random.Random, way: str) -> bytes:
    """Read until it is time to kill: after some bytes, at some moment, or when the child has killed itself."""
    data = b""
    most = rng.randrange(1, 8_000) if way == "bytes" else sys.maxsize
    moment = time.monotonic() + (rng.uniform(0, LONGEST_S) if way == "time" else STUCK_S)
    while len(data) < most:
        ready, _, _ = select.select([reader], [], [], max(0.0, moment - time.monotonic()))
        if not ready:
            assert way == "time", "the child is stuck"
            break
        more = os.read(reader, min(most - len(data), 1 << 16))
        if not more:
            break
        data += more
    return data


def main() -> None:
    """Kill as often as asked; end with status 1 and the seed at the first store that is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--work", choices=("custody", "careless", "node"), default="custody")
    given = parser.parse_args()
    work: Work = Careless() if given.work == "careless" else Custody()
    if given.work == "node":
        from tests.node_work import NodeWork

        work = NodeWork()
    else:
        assert not {"torch", "flwr"} & set(sys.modules), "the store's parent is warm with neither torch nor Flower"
    seeds = random.Random(given.seed)
    left = 0
    for number in range(given.kills):
        if number % KILLS_OF_ONE_STORE == 0:
            history = History(given.folder / str(number) / "0101.sqlite")
            history.path.parent.mkdir(parents=True)
        seed = seeds.getrandbits(32)
        try:
            kill_once(history, work, seed)
        except BaseException:
            sys.stderr.write(f"kill {number}, store {history.path}, seed {given.seed}\n")
            raise
        left += number % KILLS_OF_ONE_STORE == KILLS_OF_ONE_STORE - 1 and len(history.left)
    sys.stdout.write(json.dumps({"kills": given.kills, "left": left + len(history.left)}) + "\n")


if __name__ == "__main__":
    main()
