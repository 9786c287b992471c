"""Exchange messages with municipalities over real time: a deadline, a quorum, and nothing that is lost for good.

Flower's own `send_and_receive` sends once. Here a request is sent when its node is connected, sent again when it was
lost, and a reply that comes after the deadline is dropped and named. Agents answer the same request with the same
bytes, so asking again costs a municipality nothing.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from flwr.app import Message
from flwr.serverapp import Grid

from faelles.errors import RunError

log = logging.getLogger(__name__)
OURS = 100  # codes from here on are a municipality's own words; below them Flower says that a message was lost
SHORTEST_PAUSE_S, LONGEST_PAUSE_S, SHARE_OF_ELAPSED = 0.001, 0.5, 0.05
NODES_EVERY_S = 1.0
LOST_AFTER_S = 30.0  # without a word for this long a request is sent again, then after twice as long, and so on
AGAIN_AFTER_S = 1.0  # a request that Flower says was lost; then after twice as long, and so on
SHORTEST_TTL_S = 300.0


class Heard(Enum):
    """Say what a node's reply is."""

    COUNTS = auto()  # an answer, towards the quorum
    ENDS = auto()  # a refusal or nothing of use: the node is done, and does not count
    AGAIN = auto()  # the node is to be asked anew, at once


Ask = Callable[[float], Message]  # makes a request anew, to live for so many seconds
Accept = Callable[[int, Message], Heard]  # is given a node's reply


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Say how long to wait: until the deadline for everybody, and beyond it for a quorum.

    Args:
        deadline_s: Seconds until those who have not answered are left behind, if enough have.
        wait_s: Seconds beyond it that a quorum is waited for.
        needed: How many answers are enough.
    """

    deadline_s: float
    wait_s: float = 0.0
    needed: int = 0


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Tell how far an exchange is, for who watches it."""

    asked: int
    answered: int
    counted: int
    needed: int
    deadline_in_s: float
    gives_up_in_s: float
    waiting_for: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Absent:
    """Hold who did not answer: slow ones were asked and are connected, missing ones were not or are not."""

    slow: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()


@dataclass(kw_only=True)
class _Open:
    """Follow one request until it is answered."""

    ask: Ask
    due: float  # when it may be sent, on the monotonic clock
    asked: bool = False
    silence_s: float = LOST_AFTER_S
    pause_s: float = AGAIN_AFTER_S
    ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Left:
    """Remember a request that nobody waits for any more."""

    node: int
    ids: tuple[str, ...]
    late: Callable[[int], None]


class Exchange:
    """Exchange messages over a grid.

    Args:
        grid: Flower's, of a live run or of a simulation.
        watch: Told how far it is.
        clock: Monotonic seconds.
        pause: Sleeps.
    """

    def __init__(
        self,
        grid: Grid,
        watch: Callable[[Moment], None] = lambda moment: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid, self._watch, self._clock, self._pause = grid, watch, clock, pause
        self._left: dict[str, _Left] = {}  # by message id
        self._online: set[int] = set()
        self._looked = float("-inf")

    def ask(
        self,
        asks: Mapping[int, Ask],
        accept: Accept,
        patience: Patience,
        late: Callable[[int], None] = lambda node: None,
    ) -> Absent:
        """Ask nodes, and return when all have answered or patience ends.

        Args:
            asks: The request for each node.
            accept: Given one reply of each node, and one more each time that it wants the node asked again.
            patience: How long.
            late: Called once, in a later exchange, for a node whose reply came after this one ended.

        Raises:
            RunError: A request is too large for the coordinator to take.
        """
        began = self._clock()
        opened = {node: _Open(ask=ask, due=began) for node, ask in asks.items()}
        lives_s = max(2 * (patience.deadline_s + patience.wait_s), SHORTEST_TTL_S)
        counted = 0
        while opened:
            counted += self._receive(opened, accept)
            elapsed = self._clock() - began
            self._watch(_moment(asks, opened, counted, patience, elapsed))
            left = _limit_s(patience, counted, len(opened)) - elapsed
            if not opened or left <= 0:
                break
            # After the look at the clock: what is sent at the deadline would cost a municipality budget for nothing.
            if self._send(opened, lives_s):
                continue  # a simulation has answered by then
            self._pause(min(max(SHARE_OF_ELAPSED * elapsed, SHORTEST_PAUSE_S), LONGEST_PAUSE_S, left))
        self._leave(opened, late)
        online = self._connected(anew=True) if opened else set()
        slow = tuple(sorted(node for node, one in opened.items() if one.asked and node in online))
        return Absent(slow=slow, missing=tuple(sorted(opened.keys() - set(slow))))

    def settle(self) -> None:
        """Look once more for replies that came late."""
        self._receive({}, lambda node, message: Heard.ENDS)

    def _connected(self, anew: bool = False) -> set[int]:
        now = self._clock()
        if anew or now - self._looked >= NODES_EVERY_S:
            self._online, self._looked = set(self._grid.get_node_ids()), now
        return self._online

    def _send(self, opened: Mapping[int, _Open], lives_s: float) -> bool:
        """Send what is due to those who are connected; say whether that was anything."""
        now = self._clock()
        due = [node for node, one in opened.items() if one.due <= now]
        ready = sorted(set(due) & self._connected()) if due else []
        if not ready:
            return False
        numbers = list(self._grid.push_messages([opened[node].ask(lives_s) for node in ready]))
        if len(numbers) != len(ready):  # Flower's way to say so
            raise RunError(f"requests: expected the SuperLink to take {len(ready)}, too large for it; raise its limit")
        for number, node in zip(numbers, ready, strict=True):
            one = opened[node]
            if number:
                log.log(logging.INFO if one.asked else logging.DEBUG, "event=sent node=%d again=%s", node, one.asked)
                one.ids.append(number)
                one.asked, one.due = True, now + one.silence_s
                one.silence_s *= 2
            else:
                # It was turned away meanwhile.
                one.due = now + AGAIN_AFTER_S
        return True

    def _receive(self, opened: dict[int, _Open], accept: Accept) -> int:
        """Take in what has come; return how many count."""
        whose = {number: node for node, one in opened.items() for number in one.ids}
        wanted = [*whose, *self._left]
        counted = 0
        for message in self._grid.pull_messages(wanted) if wanted else ():
            number = message.metadata.reply_to_message_id
            if number in self._left:
                self._notice(number, message)
            elif (node := whose.get(number)) in opened:
                counted += self._take(node, message, opened, accept)
        return counted

    def _take(self, node: int, message: Message, opened: dict[int, _Open], accept: Accept) -> bool:
        """Take one reply to an open request; say whether it counts."""
        one, number = opened[node], message.metadata.reply_to_message_id
        if _lost(message):
            one.due = self._clock() + one.pause_s
            # Also a node that answers every request with an error is asked less and less often.
            one.pause_s = min(2 * one.pause_s, LOST_AFTER_S)
        elif message.metadata.src_node_id != node:
            return False
        elif (heard := accept(node, message)) is Heard.AGAIN:
            one.due = self._clock()
        else:
            del opened[node]
            return heard is Heard.COUNTS
        one.ids = [other for other in one.ids if other != number]
        return False

    def _notice(self, number: str, message: Message) -> None:
        """Name who replied too late, once for all the times that it was asked; a lost request is no reply."""
        left = self._left.pop(number)
        if not _lost(message):
            for other in left.ids:
                self._left.pop(other, None)
            left.late(left.node)

    def _leave(self, opened: Mapping[int, _Open], late: Callable[[int], None]) -> None:
        """Remember what is still out, so that it can be named when it comes."""
        for node, one in opened.items():
            left = _Left(node=node, ids=tuple(one.ids), late=late)
            self._left |= dict.fromkeys(left.ids, left)


def _lost(message: Message) -> bool:
    return message.has_error() and message.error.code < OURS


def _limit_s(patience: Patience, counted: int, opened: int) -> float:
    """Say how long to wait in all: beyond the deadline only for a quorum that can still be reached."""
    waits = counted < patience.needed <= counted + opened
    return patience.deadline_s + (patience.wait_s if waits else 0.0)


def _moment(asks: Mapping[int, Ask], opened: Iterable[int], counted: int, patience: Patience, elapsed: float) -> Moment:
    waiting = tuple(sorted(opened))
    return Moment(
        asked=len(asks), answered=len(asks) - len(waiting), counted=counted, needed=patience.needed,
        deadline_in_s=patience.deadline_s - elapsed, gives_up_in_s=patience.deadline_s + patience.wait_s - elapsed,
        waiting_for=waiting,
    )  # fmt: skip
