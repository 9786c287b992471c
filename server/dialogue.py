"""Speak with the municipalities of one run: word requests, wait, check what comes, and sort it by who said what."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from flwr.app import Message
from flwr.serverapp import Grid

from faelles.errors import WireError
from faelles.models import Arrays
from faelles.records import (
    LEDGER_HEAD,
    SCHEMA_VERSION,
    SERVED,
    Answer,
    Code,
    Kind,
    Parcel,
    Request,
    Scalar,
    parse_answer,
    refusal_text,
    request_content,
)
from server.exchange import Ask, Exchange, Heard, Moment, Patience
from server.federation import FederationConfig
from server.heads import LedgerHeads
from server.progress import ProgressFile
from server.validation import check_echo

log = logging.getLogger(__name__)
Check = Callable[[str, Answer], None]  # a municipality's answer, refused by raising WireError
PRESENTED = (Kind.READY, Kind.TRAIN, Kind.EVALUATE)  # requests that show a municipality its own last ledger head


@dataclass(frozen=True, kw_only=True)
class Replies:
    """Sort what came back: every municipality that was asked stands in exactly one of the first five."""

    answers: dict[str, Answer] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)  # connected, and no reply before the deadline
    missing: list[str] = field(default_factory=list)  # not connected at the deadline
    late: list[str] = field(default_factory=list)  # replied after it; filled as that happens


class Dialogue:
    """Speak with municipalities over a grid.

    Args:
        grid: Flower's, of a live run or of a simulation.
        config: What is run.
        names: Node id to municipality, bound for the run.
        heads: Where their ledger heads are kept.
        clock: Monotonic seconds.
        pause: Sleeps.
    """

    def __init__(
        self,
        grid: Grid,
        config: FederationConfig,
        names: Mapping[int, str],
        heads: LedgerHeads,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config, self._names, self._heads, self._clock = config, names, heads, clock
        self._card_sha256 = config.card.sha256
        self._schemas = dict.fromkeys(names, SCHEMA_VERSION)  # which version each speaks
        self._understood: set[int] = set()  # who has shown that it speaks it
        self._progress = ProgressFile(config.folder, config.terms.rounds)
        self._about: tuple[Kind, int] = (Kind.READY, 0)
        self._exchange = Exchange(grid, self._watch, clock, pause)
        self.waited_s = 0.0  # beyond deadlines, for a quorum

    def ask(
        self,
        kind: Kind,
        number: int,
        extras: Mapping[int, Mapping[str, Scalar]],
        *,
        arrays: Arrays | None = None,
        check: Check = lambda name, answer: None,
        needed: int = 0,
    ) -> Replies:
        """Ask nodes for something of a round, and sort what comes back.

        Args:
            kind: What for.
            number: The round.
            extras: For each node that is asked, the terms beyond the common ones.
            arrays: The shared parameters, where they are part of it.
            check: Refuses an answer that cannot be used.
            needed: How many answers to wait for beyond the deadline.
        """
        self._about = (kind, number)
        replies = Replies()
        request = Request(
            kind=kind, federation=str(self._config.federation), server_round=number, card_sha256=self._card_sha256,
            arrays=arrays or {},
        )  # fmt: skip
        patience = Patience(deadline_s=self._config.deadline_s, wait_s=self._config.wait_s, needed=needed)
        parcel = Parcel(request.arrays)
        began = self._clock()
        absent = self._exchange.ask(
            {node: self._asking(node, request, extra, parcel) for node, extra in extras.items()},
            lambda node, message: self._sort(node, request, message, check, replies),
            patience,
            late=lambda node: replies.late.append(self._names[node]),
        )
        self.waited_s += max(0.0, self._clock() - began - patience.deadline_s) if patience.wait_s else 0.0
        replies.silent.extend(sorted(self._names[node] for node in absent.slow))
        replies.missing.extend(sorted(self._names[node] for node in absent.missing))
        return replies

    def settle(self) -> None:
        """Look once more for replies that came late."""
        self._exchange.settle()

    def _asking(self, node: int, request: Request, extra: Mapping[str, Scalar], parcel: Parcel) -> Ask:
        """Word a request each time that it is sent: in the version that the node speaks, with its latest head."""

        def ask(lives_s: float) -> Message:
            head = self._heads.last(self._names[node]) if request.kind in PRESENTED else None
            # A head shows an account that was set back.
            whole = extra if head is None else {**extra, LEDGER_HEAD: head}
            content = request_content(replace(request, extra=whole, schema=self._schemas[node]), parcel)
            return Message(content=content, message_type=request.kind, dst_node_id=node, ttl=lives_s)

        return ask

    def _sort(self, node: int, request: Request, message: Message, check: Check, replies: Replies) -> Heard:
        """Put one reply where it belongs."""
        name = self._names[node]
        if message.has_error():
            if message.error.code == Code.MALFORMED and self._step_back(node):
                return Heard.AGAIN
            replies.refused[name] = refusal_text(message.error)
            return Heard.ENDS
        try:
            answer = parse_answer(message)
            check_echo(request, answer)
            check(name, answer)
        except WireError as error:
            replies.rejected[name] = str(error)
            return Heard.ENDS
        self._understood.add(node)
        replies.answers[name] = answer
        if LEDGER_HEAD in answer.extra:
            self._heads.keep(name, str(answer.extra[LEDGER_HEAD]))
        return Heard.COUNTS

    def _step_back(self, node: int) -> bool:
        """Try the version before with who never understood the present one; say whether there is one to try."""
        if node in self._understood or self._schemas[node] == min(SERVED):
            return False
        self._schemas[node] = min(SERVED)
        log.info("event=older-schema node=%d schema=%d", node, self._schemas[node])
        return True

    def _watch(self, moment: Moment) -> None:
        self._progress.write(self._about[0], self._about[1], self._names, moment)
