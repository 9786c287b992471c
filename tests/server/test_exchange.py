"""Nothing that is lost is lost for good, everybody has until the deadline, and who is left behind is named once."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pytest
from flwr.app import Error, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from faelles.errors import RunError
from faelles.records import Kind
from server.exchange import NODES_EVERY_S, Absent, Exchange, Heard, Moment, Patience
from tests.builders import identify
from tests.scripted import Clock, ScriptedGrid

LOST = tuple(range(9))  # Flower's own codes
REFUSED = 102
PATIENCE = Patience(deadline_s=100.0, wait_s=50.0, needed=2)


@dataclass(kw_only=True)
class Peer:
    """Be a node: connected at times, and answering each request after some seconds, with a code or with content.

    Args:
        replies: For each time that it is asked: seconds and an error's code, 0 for an answer; None for silence. After
            the last nothing comes.
        away: When it is not connected.
        turned_away: How often it is turned away when a message is pushed.
        twice: Whether each reply comes twice.
    """

    replies: list[tuple[float, int] | None] = field(default_factory=lambda: [(0.0, 0)])
    away: tuple[float, float] = (0.0, 0.0)
    turned_away: int = 0
    twice: bool = False

    def connected(self, now_s: float) -> bool:
        """Say whether it is there."""
        return not self.away[0] <= now_s < self.away[1]


class Network(ScriptedGrid):
    """Be a grid of peers."""

    def __init__(self, peers: Mapping[int, Peer], clock: Clock) -> None:
        super().__init__({}, clock)
        self.peers = peers
        self.pushed: list[tuple[float, int]] = []  # when and to whom
        self.held: list[tuple[float, Message]] = []

    def get_node_ids(self) -> list[int]:
        """List who is connected."""
        return [node for node, peer in self.peers.items() if peer.connected(self.clock.now_s)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages, and decide when their replies come."""
        return [self._push(message) for message in messages]  # type: ignore[misc]

    def _push(self, message: Message) -> str | None:
        node, now = message.metadata.dst_node_id, self.clock.now_s
        peer = self.peers[node]
        assert peer.connected(now) or now - peer.away[0] < NODES_EVERY_S  # a list of nodes may be so old
        if peer.turned_away:
            peer.turned_away -= 1
            return None
        self.pushed.append((now, node))
        message.metadata.__dict__["_message_id"] = f"m{len(self.pushed)}"
        reply = peer.replies.pop(0) if peer.replies else None
        if reply is not None:
            after_s, code = reply
            made = Message(Error(code=code, reason="x") if code else RecordDict(), reply_to=message)
            self.held += [(now + after_s, made)] * (1 + peer.twice)
        return str(message.metadata.message_id)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand over what has come to these requests."""
        asked, now = set(message_ids), self.clock.now_s
        come = [one for one in self.held if one[0] <= now and one[1].metadata.reply_to_message_id in asked]
        self.held = [one for one in self.held if one not in come]
        return [message for _, message in come]


class Asked:
    """Ask peers, and keep what happens."""

    def __init__(self, peers: Mapping[int, Peer]) -> None:
        identify()
        self.clock = Clock()
        self.grid = Network(peers, self.clock)
        self.moments: list[Moment] = []
        self.exchange = Exchange(self.grid, self.moments.append, self.clock.now, self.clock.pause)
        self.heard: list[tuple[int, bool]] = []
        self.late: list[int] = []

    def ask(self, patience: Patience = PATIENCE, accept: Callable[[int, Message], Heard] | None = None) -> Absent:
        """Ask everybody."""
        return self.exchange.ask(
            {node: asking(node) for node in self.grid.peers}, accept or self.accept, patience, self.late.append
        )

    def accept(self, node: int, message: Message) -> Heard:
        """Count what is no error."""
        self.heard.append((node, not message.has_error()))
        return Heard.ENDS if message.has_error() else Heard.COUNTS

    def times(self, node: int) -> list[float]:
        """Tell when a node was sent something."""
        return [when for when, to in self.grid.pushed if to == node]


def asking(node: int) -> Callable[[float], Message]:
    return lambda lives_s: Message(content=RecordDict(), message_type=Kind.TRAIN, dst_node_id=node, ttl=lives_s)


def answers(after_s: float = 0.0) -> Peer:
    return Peer(replies=[(after_s, 0)])


def never() -> Peer:
    return Peer(replies=[])


# who answers


def test_an_exchange_ends_when_all_have_answered() -> None:
    asked = Asked({1: answers(), 2: Peer(replies=[(3.0, REFUSED)]), 3: answers(5.0)})
    assert asked.ask() == Absent()
    assert sorted(asked.heard) == [(1, True), (2, False), (3, True)]
    assert 5.0 <= asked.clock.now_s < 6.0
    assert Counter(node for _, node in asked.grid.pushed) == {1: 1, 2: 1, 3: 1}
    last = asked.moments[-1]
    assert (last.asked, last.answered, last.counted, last.needed, last.waiting_for) == (3, 3, 2, 2, ())


def test_nobody_asked_is_nobody_absent() -> None:
    assert Asked({}).ask() == Absent()


@pytest.mark.parametrize("code", LOST)
def test_a_lost_request_is_sent_again_and_its_answer_counts_once(code: int) -> None:
    error = (2.0, code) if code else None  # Flower sends no error for 0; its loss is silence
    asked = Asked({1: Peer(replies=[error, (2.0, 0)]), 2: answers()})
    assert asked.ask() == Absent()
    assert sorted(asked.heard) == [(1, True), (2, True)]
    first, second = asked.times(1)
    assert 1.0 <= second - first - 2.0 < 2.0 if code else 30.0 <= second - first < 31.0


def test_a_node_that_answers_nothing_but_errors_is_asked_less_and_less() -> None:
    asked = Asked({1: Peer(replies=[(0.0, 8)] * 500), 2: answers(), 3: answers()})
    assert asked.ask(Patience(deadline_s=600.0)) == Absent(slow=(1,))
    assert 15 < len(asked.times(1)) < 30
    assert (1, True) not in asked.heard


def test_silence_is_answered_by_asking_again_after_30_then_60_then_120_seconds() -> None:
    asked = Asked({1: never(), 2: answers()})
    assert asked.ask(Patience(deadline_s=500.0)) == Absent(slow=(1,))
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked.times(1))]
    assert gaps == pytest.approx([30.0, 60.0, 120.0, 240.0], abs=0.51)
    assert len(asked.times(2)) == 1


def test_a_reply_to_any_of_several_requests_counts_and_counts_once() -> None:
    asked = Asked({1: Peer(replies=[(45.0, 0), (20.0, 0)])})
    assert asked.ask() == Absent()
    assert asked.heard == [(1, True)]
    asked.clock.pause(100.0)
    asked.exchange.settle()
    assert asked.heard == [(1, True)]
    assert not asked.late


def test_a_duplicate_counts_once() -> None:
    asked = Asked({1: Peer(replies=[(1.0, 5), (1.0, 0)], twice=True), 2: Peer(replies=[(2.0, 0)], twice=True)})
    assert asked.ask() == Absent()
    assert sorted(asked.heard) == [(1, True), (2, True)]


def test_a_reply_in_another_nodes_name_is_nobodys() -> None:
    asked = Asked({1: answers(), 2: answers()})
    pull = asked.grid.pull_messages

    def forged(message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(pull(message_ids))
        for reply in replies:
            reply.metadata.__dict__["_src_node_id"] = 2
        return replies

    asked.grid.pull_messages = forged  # type: ignore[method-assign]
    assert asked.ask() == Absent(slow=(1,))
    assert asked.heard == [(2, True)]


def test_a_reply_that_nobody_asked_for_is_left_alone() -> None:
    asked = Asked({1: answers(), 2: answers()})
    stray = Message(content=RecordDict(), message_type=Kind.TRAIN, dst_node_id=1)
    stray.metadata.__dict__["_message_id"] = "stray"
    reply = Message(RecordDict(), reply_to=stray)
    asked.grid.pull_messages = lambda message_ids: [reply]  # type: ignore[method-assign]
    assert asked.ask() == Absent(slow=(1, 2))
    assert not asked.heard


def test_who_is_to_be_asked_anew_is_asked_at_once() -> None:
    asked = Asked({1: Peer(replies=[(1.0, 107), (1.0, 0)]), 2: answers()})
    first: list[int] = []

    def accept(node: int, message: Message) -> Heard:
        if message.has_error() and not first:
            first.append(node)
            return Heard.AGAIN
        return asked.accept(node, message)

    assert asked.ask(accept=accept) == Absent()
    assert (first, sorted(asked.heard)) == ([1], [(1, True), (2, True)])
    assert asked.clock.now_s < 3.0


# who is connected


def test_a_node_that_is_away_is_sent_nothing_until_it_connects() -> None:
    asked = Asked({1: Peer(away=(0.0, 40.0)), 2: answers(), 3: Peer(away=(0.0, 1000.0))})
    assert asked.ask() == Absent(missing=(3,))
    assert [len(asked.times(node)) for node in (1, 2, 3)] == [1, 1, 0]
    assert 40.0 <= asked.times(1)[0] < 42.0
    assert sorted(asked.heard) == [(1, True), (2, True)]


def test_who_leaves_after_being_asked_is_missing_and_who_never_was_asked_is_not_slow() -> None:
    asked = Asked({1: answers(), 2: answers(), 3: Peer(replies=[], away=(10.0, 1000.0)), 4: Peer(away=(0.0, 100.0))})
    assert asked.ask() == Absent(missing=(3, 4))
    assert not asked.times(4)  # it connected at the deadline, too late to be asked for anything


def test_a_node_that_is_turned_away_is_tried_again() -> None:
    asked = Asked({1: Peer(turned_away=3), 2: answers()})
    assert asked.ask() == Absent()
    assert sorted(asked.heard) == [(1, True), (2, True)]
    assert 3.0 <= asked.times(1)[0] < 6.0


def test_requests_that_are_too_large_end_in_one_line() -> None:
    asked = Asked({1: answers()})
    asked.grid.push_messages = lambda messages: []  # type: ignore[method-assign]
    with pytest.raises(RunError, match="too large for it"):
        asked.ask()


# how long


def test_with_a_quorum_at_the_deadline_the_others_are_left_behind_at_once() -> None:
    asked = Asked({1: answers(), 2: answers(99.0), 3: never()})
    assert asked.ask() == Absent(slow=(3,))
    assert asked.clock.now_s == pytest.approx(100.0, abs=0.01)


def test_a_quorum_does_not_end_the_wait_before_the_deadline() -> None:
    asked = Asked({1: answers(), 2: answers(), 3: answers(80.0)})
    assert asked.ask() == Absent()
    assert len(asked.heard) == 3


def test_below_the_quorum_the_wait_goes_on_until_it_is_reached() -> None:
    asked = Asked({1: answers(), 2: answers(120.0), 3: answers(130.0)})
    assert asked.ask() == Absent(slow=(3,))
    assert 120.0 <= asked.clock.now_s < 121.0
    beyond = [moment for moment in asked.moments if moment.deadline_in_s < 0]
    assert beyond
    assert all(0 < moment.gives_up_in_s <= 50.0 for moment in beyond)
    assert all(early.gives_up_in_s > late.gives_up_in_s for early, late in itertools.pairwise(beyond))


def test_without_a_quorum_it_gives_up_after_the_stated_time() -> None:
    asked = Asked({1: answers(), 2: never(), 3: Peer(away=(0.0, 1000.0))})
    assert asked.ask() == Absent(slow=(2,), missing=(3,))
    assert asked.clock.now_s == pytest.approx(150.0, abs=0.01)


def test_a_quorum_that_nobody_is_left_for_is_not_waited_for() -> None:
    asked = Asked({1: Peer(replies=[(0.0, REFUSED)]), 2: Peer(replies=[(0.0, REFUSED)]), 3: never()})
    assert asked.ask() == Absent(slow=(3,))
    assert asked.clock.now_s == pytest.approx(100.0, abs=0.01)


def test_a_request_lives_longer_than_it_is_waited_for() -> None:
    lives: list[float] = []

    def ask(lives_s: float) -> Message:
        lives.append(lives_s)
        return asking(1)(lives_s)

    for deadline_s in (1.0, 10_000.0):
        asked = Asked({1: answers()})
        asked.exchange.ask({1: ask}, asked.accept, Patience(deadline_s=deadline_s, wait_s=5.0))
    assert lives == [300.0, 20_010.0]


# what comes late


def test_a_late_reply_is_dropped_and_named_once() -> None:
    asked = Asked({1: answers(), 2: answers(), 3: Peer(replies=[(200.0, 0), (150.0, 0), (130.0, 0)])})
    assert asked.ask() == Absent(slow=(3,))
    assert len(asked.times(3)) == 3
    for _ in range(3):
        asked.clock.pause(50.0)
        asked.exchange.settle()
    assert asked.late == [3]
    assert (3, True) not in asked.heard


def test_a_late_reply_is_noticed_in_the_exchange_after() -> None:
    asked = Asked({1: answers(), 2: answers(), 3: Peer(replies=[(110.0, 0), None, None, (0.0, 0)])})
    asked.ask()
    asked.grid.peers[1].replies.append((50.0, 0))
    asked.grid.peers[2].replies.append((50.0, 0))
    assert asked.ask() == Absent()
    assert asked.late == [3]
    assert Counter(asked.heard) == {(1, True): 2, (2, True): 2, (3, True): 1}


@pytest.mark.parametrize("code", [5, 8])
def test_a_request_that_was_lost_for_good_is_no_late_reply(code: int) -> None:
    asked = Asked({1: answers(), 2: answers(), 3: Peer(replies=[(500.0, code)])})
    assert asked.ask() == Absent(slow=(3,))
    asked.clock.pause(1000.0)
    asked.exchange.settle()
    assert not asked.late


# whatever happens

REPLIES = st.none() | st.tuples(st.floats(0.0, 300.0), st.sampled_from([0, 0, 0, 3, 5, 8, REFUSED, 107]))
PEERS = st.builds(
    Peer,
    replies=st.lists(REPLIES, max_size=5),
    away=st.tuples(st.floats(0.0, 200.0), st.floats(0.0, 400.0)),
    turned_away=st.integers(0, 3),
    twice=st.booleans(),
)


@given(
    peers=st.lists(PEERS, max_size=6), deadline_s=st.floats(0.5, 200.0), wait_s=st.floats(0.0, 200.0),
    needed=st.integers(0, 6),
)  # fmt: skip
def test_everybody_ends_in_exactly_one_place(peers: list[Peer], deadline_s: float, wait_s: float, needed: int) -> None:
    asked = Asked(dict(enumerate(peers, start=1)))
    absent = asked.ask(Patience(deadline_s=deadline_s, wait_s=wait_s, needed=needed))
    answered = [node for node, _ in asked.heard]
    assert sorted([*answered, *absent.slow, *absent.missing]) == sorted(asked.grid.peers)
    assert asked.clock.now_s <= deadline_s + wait_s + 0.01
    counted = sum(good for _, good in asked.heard)
    assert counted >= needed or not (absent.slow or absent.missing) or asked.clock.now_s >= deadline_s
    assert all(when < deadline_s + wait_s for when, _ in asked.grid.pushed)
    for _ in range(3):
        asked.clock.pause(500.0)
        asked.exchange.settle()
    assert len(asked.late) == len(set(asked.late))
    assert set(asked.late) <= {*absent.slow, *absent.missing}
    assert [node for node, _ in asked.heard] == answered
