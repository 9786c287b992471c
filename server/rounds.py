"""Run a federation: ask who takes part, train round by round, evaluate once, bring the model home.

Our own loop over Flower's Grid and strategies: a deadline and a quorum for every round, every reply validated before it
counts, a checkpoint after each round, and a record that names every expected municipality.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from faelles.errors import FaellesError, RunError, WireError
from faelles.metrics import histogram_metrics
from faelles.models import Arrays, initial_parameters
from faelles.privacy.plan import DECLARED_SIZES, PrivacyPlan
from faelles.privacy.release import HISTOGRAM
from faelles.records import (
    DECLARED_SIZE,
    LEDGER_HEAD,
    MUNICIPALITY,
    PLAN,
    TERMS,
    Answer,
    Kind,
    Request,
    Scalar,
    pack,
    parse_answer,
    refusal_text,
    request_content,
)
from server import checkpoint
from server.checkpoint import Checkpoint, write_model
from server.federation import FederationConfig
from server.heads import LedgerHeads
from server.result import EvaluationRecord, RoundRecord, RunRecord, finite, write_json
from server.validation import check_echo, check_histogram, check_update
from strategies.adapter import StrategyAdapter
from strategies.registry import build

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Replies:
    """Sort what came back: every municipality that was asked stands in exactly one of the four."""

    answers: dict[str, Answer] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)


def model_sha256(arrays: Arrays) -> str:
    """Identify a model by its parameters."""
    return hashlib.sha256(pack({}, arrays)).hexdigest()


class Federation:
    """Run one federation over a grid.

    Args:
        grid: Flower's, of a live run or of a simulation.
        config: What to run.
    """

    def __init__(self, grid: Grid, config: FederationConfig) -> None:
        self._grid = grid
        self._config = config
        self._card_sha256 = config.card.sha256
        self._names: dict[int, str] = {}  # node id -> municipality, bound for the run
        self._plans: dict[str, PrivacyPlan] = {}
        self._heads = LedgerHeads(config.folder)
        self._record = RunRecord(federation=str(config.federation), quorum=config.quorum)

    def run(self) -> RunRecord:
        """Run the federation to its end, from its newest checkpoint where it resumes.

        Returns:
            The record; its status is `completed` or `incomplete`.

        Raises:
            RunError: Nobody takes part, or the folder holds a federation that is not to be resumed.
        """
        self._config.folder.mkdir(parents=True, exist_ok=True)
        # Looked at first: a wrong folder is refused before anybody is asked to reserve budget.
        found = self._checkpoint()
        self._gather()
        adapter = self._adapter()
        latest = self._start(adapter) if found is None else self._resume(adapter, found)
        arrays = latest.arrays
        for number in range(latest.server_round + 1, self._config.terms.rounds + 1):
            trained = self._round(number, arrays, adapter)
            if trained is None:
                return self._finish(arrays, "incomplete")
            arrays = trained
            self._save(number, arrays, adapter)
        if self._config.terms.evaluate:
            self._evaluate(arrays)
        return self._finish(arrays, "completed")

    def _checkpoint(self) -> Checkpoint | None:
        folder = self._config.folder / "checkpoints"
        if self._config.resume:
            return checkpoint.load_newest(folder, self._config_sha256)
        if any(folder.glob("*")):
            raise RunError(f"{folder}: expected no checkpoints, a federation's came; resume it or take another folder")
        return None

    def _gather(self) -> None:
        """Ask every node whether it takes part, and make its plan from the size it declares."""
        # The name a node was registered under binds it; what a node says of itself does not.
        nodes = sorted(self._grid.get_nodes(), key=lambda node: node.node_id)
        self._names = {node.node_id: node.name or f"node {node.node_id}" for node in nodes}
        terms = self._config.terms.model_dump_json()
        counts = Counter(self._names.values())
        once = [node for node, name in self._names.items() if counts[name] == 1]
        replies = self._ask({node: self._request(Kind.READY, 0, {TERMS: terms, **self._head(node)}) for node in once})
        self._record.expected = sorted(counts)
        self._record.sits_out = {
            **replies.refused,
            **replies.rejected,
            **dict.fromkeys(replies.silent, "silent"),
            **{name: "several nodes are registered for it" for name, count in counts.items() if count > 1},
        }
        for name, answer in replies.answers.items():
            self._plans[name] = self._config.terms.plan(self._config.card, int(answer.extra[DECLARED_SIZE]))
            self._record.declared_sizes[name] = int(answer.extra[DECLARED_SIZE])
        if not self._plans:
            reasons = ", ".join(sorted(set(self._record.sits_out.values()))) or "no node is connected"
            raise RunError(f"federation: expected municipalities that take part, none does ({reasons})")
        log.info("event=gathered expected=%d taking_part=%d", len(self._record.expected), len(self._plans))

    def _adapter(self) -> StrategyAdapter:
        declared = self._config.weighting == "declared"
        weights = {name: float(plan.declared_size) if declared else 1.0 for name, plan in self._plans.items()}
        return StrategyAdapter(build(self._config.strategy.name, self._config.strategy.terms), weights)

    def _start(self, adapter: StrategyAdapter) -> Checkpoint:
        start = initial_parameters(self._config.card, self._config.seed)
        shared = {name: value for name, value in start.items() if name not in self._config.card.model.local}
        return self._save(0, shared, adapter)

    def _resume(self, adapter: StrategyAdapter, found: Checkpoint) -> Checkpoint:
        adapter.load_state(found.strategy_state)
        now = self._record
        gone = set(found.record.expected) - set(now.expected)
        self._record = found.record.model_copy(update={
            "expected": sorted(gone | set(now.expected)),
            "sits_out": now.sits_out | dict.fromkeys(sorted(gone), "no longer connected"),
            "declared_sizes": found.record.declared_sizes | now.declared_sizes,
        })  # fmt: skip
        log.info("event=resumed round=%d", found.server_round)
        return found

    def _round(self, number: int, arrays: Arrays, adapter: StrategyAdapter) -> Arrays | None:
        """Train one round; None where too few municipalities contributed or the strategy could not use them."""
        began = time.monotonic()
        extra = adapter.configure(number, arrays, {})
        requests = {
            node: self._request(
                Kind.TRAIN, number, {PLAN: self._plans[name].to_json(), **extra, **self._head(node)}, arrays
            )
            for node, name in self._names.items()
            if name in self._plans
        }
        card = self._config.card
        replies = self._ask(requests, lambda name, answer: check_update(card, self._plans[name], answer))
        trained: Arrays | None = None
        if self._enough(replies, number):
            try:
                updates = {name: answer.arrays for name, answer in replies.answers.items()}
                trained = adapter.aggregate(number, arrays, updates)
            except FaellesError as error:
                self._record.why = str(error)
        self._record.rounds.append(
            RoundRecord(
                number=number,
                contributing=sorted(replies.answers),
                refused=replies.refused,
                rejected=replies.rejected,
                silent=replies.silent,
                seconds=time.monotonic() - began,
                model_sha256=model_sha256(arrays if trained is None else trained),
            )
        )
        log.info("event=round number=%d contributing=%d asked=%d", number, len(replies.answers), len(requests))
        return trained

    def _enough(self, replies: Replies, number: int) -> bool:
        needed = self._record.needed
        if len(replies.answers) >= needed:
            return True
        self._record.why = f"round {number}: {len(replies.answers)} contributed, the quorum is {needed}"
        return False

    def _evaluate(self, arrays: Arrays) -> None:
        number = self._config.terms.rounds
        requests = {
            node: self._request(Kind.EVALUATE, number, self._head(node), arrays)
            for node, name in self._names.items()
            if name in self._plans
        }
        card = self._config.card
        replies = self._ask(requests, lambda name, answer: check_histogram(card, answer.arrays))
        counts = [replies.answers[name].arrays[HISTOGRAM].astype(float) for name in sorted(replies.answers)]
        metrics = histogram_metrics(sum(counts[1:], start=counts[0])) if counts else None
        self._record.evaluation = EvaluationRecord(
            contributing=sorted(replies.answers),
            refused=replies.refused,
            rejected=replies.rejected,
            silent=replies.silent,
            auc=finite(metrics.auc) if metrics else None,
            log_loss=finite(metrics.log_loss) if metrics else None,
            accuracy=finite(metrics.accuracy) if metrics else None,
            calibration_error=finite(metrics.calibration_error) if metrics else None,
        )

    def _finish(self, arrays: Arrays, status: str) -> RunRecord:
        """Bring the model home, free what the run reserved and did not spend, and write the record."""
        number = self._config.terms.rounds
        if status == "completed":
            self._ask({node: self._request(Kind.FINAL, number, {}, arrays) for node in self._taking_part()})
            # An incomplete run may be resumed, so its reservation stands.
            self._ask({node: self._request(Kind.CLOSE, number, {}) for node in self._taking_part()})
        self._record = self._record.model_copy(update={"status": status, "model_sha256": model_sha256(arrays)})
        write_model(self._config.folder / "model.npz", arrays)
        write_json(self._config.folder / "run.json", self._record)
        return self._record

    def _save(self, number: int, arrays: Arrays, adapter: StrategyAdapter) -> Checkpoint:
        made = Checkpoint(
            config_sha256=self._config_sha256,
            server_round=number,
            arrays=arrays,
            strategy_state=adapter.state(),
            record=self._record,
        )
        checkpoint.save(self._config.folder / "checkpoints", made)
        return made

    def _taking_part(self) -> list[int]:
        return [node for node, name in self._names.items() if name in self._plans]

    def _head(self, node: int) -> dict[str, Scalar]:
        """Present the last head that a municipality signed, so that an account which was set back is noticed."""
        known = self._heads.last(self._names[node])
        return {} if known is None else {LEDGER_HEAD: known}

    @property
    def _config_sha256(self) -> str:
        text = self._config.model_dump_json(exclude={"resume", "folder", "deadline_s"})
        return hashlib.sha256(text.encode()).hexdigest()

    def _request(self, kind: Kind, number: int, extra: dict[str, Scalar], arrays: Arrays | None = None) -> Request:
        return Request(
            kind=kind,
            federation=str(self._config.federation),
            server_round=number,
            card_sha256=self._card_sha256,
            extra=extra,
            arrays=arrays or {},
        )

    def _ask(self, requests: dict[int, Request], check: Callable[[str, Answer], None] | None = None) -> Replies:
        """Send requests, wait until the deadline, and sort what comes back."""
        messages = [
            Message(content=request_content(request), message_type=request.kind, dst_node_id=node)
            for node, request in requests.items()
        ]
        replies = Replies()
        seen: set[int] = set()
        for message in self._grid.send_and_receive(messages, timeout=self._config.deadline_s):
            node = message.metadata.src_node_id
            if node in requests and node not in seen:
                seen.add(node)
                self._sort(node, requests[node], message, check, replies)
        for node in requests.keys() - seen:
            replies.silent.append(self._names[node])
        replies.silent.sort()
        self._heads.save()
        return replies

    def _sort(
        self,
        node: int,
        request: Request,
        message: Message,
        check: Callable[[str, Answer], None] | None,
        replies: Replies,
    ) -> None:
        if message.has_error():
            replies.refused[self._names[node]] = refusal_text(message.error)
            return
        try:
            answer = parse_answer(message)
            if request.kind == Kind.READY:
                self._check_ready(node, answer)
            check_echo(request, answer)
            if check is not None:
                check(self._names[node], answer)
        except WireError as error:
            replies.rejected[self._names[node]] = str(error)
            return
        replies.answers[self._names[node]] = answer
        if LEDGER_HEAD in answer.extra:
            self._heads.keep(self._names[node], str(answer.extra[LEDGER_HEAD]))

    def _check_ready(self, node: int, answer: Answer) -> None:
        """Refuse a node that speaks for another municipality than it was registered for, or states no band."""
        if answer.extra.get(MUNICIPALITY) != self._names[node]:
            raise WireError("ready: expected the municipality that the node was registered for, another came")
        if answer.extra.get(DECLARED_SIZE) not in DECLARED_SIZES:
            raise WireError("ready: expected one of the public declared sizes, another came")
