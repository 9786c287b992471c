"""Follow a live run while it goes on, and say where the time and the bytes of its rounds went."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from faelles.errors import RunError
from faelles.records import Kind
from server.result import RunRecord
from server.runs import RECORD, Run
from simulations.footprint import Memory, command, family, memory
from simulations.live import LiveFederation
from simulations.relay import Carried, Relay

LOOK_EVERY_S, WEIGH_EVERY_S = 0.02, 1.0
ANSWERED: Final = re.compile(r"event=answered kind=(\S+) seconds=([0-9.]+) work=([0-9.]+)")
SERVERAPP: Final = "server.serverapp"


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Hold one message that a warm worker answered.

    Args:
        code: Whose.
        kind: Of what kind.
        at: When it had, in seconds since 1970.
        seconds: How long it took, from the node's task to the node's having the answer.
        work: How much of it was the municipality's own app.
    """

    code: str
    kind: str
    at: float
    seconds: float
    work: float


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Hold the moment at which a round was written down; 0 is the one before the first.

    Args:
        number: The round.
        at: When, in seconds since 1970.
        carried: What the relay had carried by then.
    """

    number: int
    at: float
    carried: Carried


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Hold where one round went.

    Args:
        round_s: From its first request to the new model, as the run's record has it.
        beyond_s: That, less the longest work of a municipality.
        waited_s: Until the last to answer had begun: the node asks the coordinator for work now and then.
        handled_s: Around the last one's work: between its node and its worker.
        taken_s: From its answer to the new model: the node's sending, the coordinator's asking, aggregation.
        kept_s: After the round, until checkpoint and record are on disk.
        carried: Bytes of all municipalities from the last round's end to its own.
    """

    round_s: float
    beyond_s: float
    waited_s: float
    handled_s: float
    taken_s: float
    kept_s: float
    carried: Carried


@dataclass(kw_only=True)
class Followed:
    """Hold what was seen of one run.

    Args:
        record: What the run says of itself.
        answered: Every message that was answered.
        boundaries: The rounds' ends.
        coordinator: The most that the coordinator took.
        serverapp: The most that the run's own process took.
    """

    record: RunRecord
    answered: list[Answered] = field(default_factory=list)
    boundaries: list[Boundary] = field(default_factory=list)
    coordinator: Memory = field(default_factory=Memory)
    serverapp: Memory = field(default_factory=Memory)

    @property
    def paces(self) -> list[Pace]:
        """Reckon every round but the first, in which agents read their citizens.

        Raises:
            RunError: Something of it was not seen.
        """
        if len(self.boundaries) != len(self.record.rounds) + 1:
            raise RunError(
                f"expected the ends of {len(self.record.rounds)} rounds, saw {len(self.boundaries) - 1}; measure again"
            )
        pairs = zip(self.boundaries[1:], self.boundaries[2:], strict=False)
        return [self._pace(before, after) for before, after in pairs]

    def _pace(self, before: Boundary, after: Boundary) -> Pace:
        took_s = self.record.rounds[after.number - 1].seconds
        own = [one for one in self.answered if one.kind == Kind.TRAIN and before.at <= one.at < after.at]
        if not own:
            raise RunError(f"round {after.number}: expected answers in the agents' logs, found none; measure again")
        last = max(own, key=lambda one: one.at)
        return Pace(
            round_s=took_s,
            beyond_s=took_s - max(one.work for one in own),
            waited_s=last.at - last.seconds - before.at,
            handled_s=last.seconds - last.work,
            taken_s=took_s - (last.at - before.at),
            kept_s=after.at - before.at - took_s,
            carried=after.carried - before.carried,
        )


class _Logs:
    """Read what agents have logged since, and note when it was seen."""

    def __init__(self, live: LiveFederation, codes: Sequence[str]) -> None:
        self._files = {code: live.agents[code].log.open(encoding="utf-8", errors="replace") for code in codes}
        self._rest = dict.fromkeys(codes, "")
        self.news()  # what is older belongs to another run

    def news(self) -> list[Answered]:
        """List the messages that were answered since the last look."""
        now, found = time.time(), []
        for code, file in self._files.items():
            *lines, self._rest[code] = (self._rest[code] + file.read()).split("\n")
            for match in filter(None, map(ANSWERED.search, lines)):
                found.append(Answered(code=code, kind=match[1], at=now, seconds=float(match[2]), work=float(match[3])))
        return found

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            file.close()


def follow(live: LiveFederation, run: Run, relay: Relay, codes: Sequence[str], patience_s: float) -> Followed:
    """Follow a run that was just ordered to its end.

    Args:
        live: Where it runs.
        run: What is followed.
        relay: What agents' bytes go through.
        codes: The municipalities whose agents answer with a warm worker.
        patience_s: How long it may take.

    Raises:
        RunError: It has not ended in time, or has not completed.
    """
    logs, weighed, written = _Logs(live, codes), 0.0, 0
    seen = Followed(record=RunRecord(federation="", quorum=1.0))
    ends = time.monotonic() + patience_s
    try:
        while not run.ended and time.monotonic() < ends:
            seen.answered += logs.news()
            written = _note_round(seen, run, relay, written)
            if time.monotonic() - weighed >= WEIGH_EVERY_S:
                weighed = time.monotonic()
                _weigh(seen, live)
            time.sleep(LOOK_EVERY_S)
        seen.record = live.finish(run, 0.0)
        time.sleep(WEIGH_EVERY_S)  # the last line of a log is written after the answer is sent
        seen.answered += logs.news()
    finally:
        logs.close()
    if seen.record.status != "completed":
        raise RunError(f"run {run.name}: expected it to complete, it is {seen.record.status} ({seen.record.why})")
    return seen


def _note_round(seen: Followed, run: Run, relay: Relay, written: int) -> int:
    """Note a round that has ended since the record was looked at last; return which writing of it that is."""
    try:
        now = (run.folder / RECORD).stat().st_mtime_ns
    except FileNotFoundError:
        return written
    record = run.record if now != written else None
    if record is not None and len(record.rounds) == len(seen.boundaries):
        seen.boundaries.append(Boundary(number=len(record.rounds), at=now / 1e9, carried=relay.carried))
    return now


def _weigh(seen: Followed, live: LiveFederation) -> None:
    assert live.coordinator is not None
    pids = family(live.coordinator.process.pid)
    apps = [pid for pid in pids if SERVERAPP in command(pid)]
    seen.coordinator = max(seen.coordinator, memory(set(pids) - set(apps)), key=lambda one: one.pss)
    seen.serverapp = max(seen.serverapp, memory(apps), key=lambda one: one.pss)
