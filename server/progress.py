"""Write down how far a run is while it goes on, for whoever watches it; nothing rests on it."""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from server.exchange import Moment

FILE = "progress.json"
EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Hold how far a run is; times are seconds since 1970."""

    phase: str  # ready, train, evaluate, final, close
    server_round: int
    rounds: int
    asked: int
    answered: int
    counted: int
    needed: int
    deadline_at: float
    gives_up_at: float
    waiting_for: tuple[str, ...]
    written_at: float


_PROGRESS = TypeAdapter(Progress)


class ProgressFile:
    """Own the file of a run's folder.

    Args:
        folder: The run's.
        rounds: How many it has.
        clock: Seconds since 1970.
    """

    def __init__(self, folder: Path, rounds: int, clock: Callable[[], float] = time.time) -> None:
        self._path, self._rounds, self._clock = folder / FILE, rounds, clock
        self._written = float("-inf")
        self._last: tuple[object, ...] = ()

    def write(self, phase: str, server_round: int, names: Mapping[int, str], moment: Moment) -> None:
        """Write a moment, at most once a second unless somebody answered; a full disk does not end a run here."""
        now = self._clock()
        state = (phase, server_round, moment.answered)
        if state == self._last and now - self._written < EVERY_S:
            return
        self._last, self._written = state, now
        progress = Progress(
            phase=phase, server_round=server_round, rounds=self._rounds, asked=moment.asked, answered=moment.answered,
            counted=moment.counted, needed=moment.needed, deadline_at=now + moment.deadline_in_s,
            gives_up_at=now + moment.gives_up_in_s, waiting_for=tuple(names[node] for node in moment.waiting_for),
            written_at=now,
        )  # fmt: skip
        draft = self._path.with_name(self._path.name + ".draft")
        with suppress(OSError):
            draft.write_text(json.dumps(asdict(progress)), encoding="utf-8")
            os.replace(draft, self._path)


def read_progress(folder: Path) -> Progress | None:
    """Read what a run wrote last; None where there is nothing."""
    try:
        return _PROGRESS.validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None
