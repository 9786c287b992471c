"""Run a federation: ask who takes part, train round by round, evaluate once, bring the model home.

Our own loop over Flower's Grid and strategies: a deadline and a quorum for every round, every reply validated before it
counts, a checkpoint after each round, and a record that names every expected municipality.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

from flwr.serverapp import Grid

from faelles.errors import FaellesError, RunError, WireError
from faelles.metrics import HISTOGRAM, histogram_metrics
from faelles.models import Arrays, initial_parameters, shared_shapes
from faelles.privacy.plan import DECLARED_SIZES, PrivacyPlan
from faelles.records import DECLARED_SIZE, MUNICIPALITY, PLAN, TERMS, Answer, Kind, model_sha256
from server import checkpoint, heads
from server.checkpoint import Checkpoint, write_model
from server.dialogue import Dialogue, Replies
from server.federation import FederationConfig
from server.heads import LedgerHeads
from server.result import EvaluationRecord, RoundRecord, RunRecord, Status, finite, read_record, write_json
from server.validation import check_histogram, check_update, update_limit
from strategies.adapter import StrategyAdapter
from strategies.registry import build

log = logging.getLogger(__name__)
RECORD, MODEL = "run.json", "model.npz"


class Federation:
    """Run one federation over a grid.

    Args:
        grid: Flower's, of a live run or of a simulation.
        config: What to run.
        clock: Monotonic seconds.
        pause: Sleeps.
    """

    def __init__(
        self,
        grid: Grid,
        config: FederationConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid = grid
        self._config = config
        self._clock, self._pause = clock, pause
        self._plans: dict[str, PrivacyPlan] = {}
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
        self._nodes, expected = self._bind()
        self._heads = LedgerHeads(self._config.heads or self._config.folder / heads.FILE)
        self._dialogue = Dialogue(
            self._grid, self._config, self._nodes, self._heads, clock=self._clock, pause=self._pause
        )
        try:
            ended = read_record(self._config.folder / RECORD) if found else None
            if found and ended and ended.status == "completed":
                self._record = ended
                self._dialogue.waited_s += ended.waited_s
                return self._deliver(found.arrays)
            return self._learn(found, expected)
        finally:
            self._heads.close()

    def _learn(self, found: Checkpoint | None, expected: list[str]) -> RunRecord:
        self._gather(expected)
        adapter = self._adapter()
        latest = self._start(adapter) if found is None else self._resume(adapter, found)
        arrays = latest.arrays
        if len(self._plans) < self._record.needed:
            # Before anybody trains, and pays for it.
            self._record.why = f"{len(self._plans)} take part, the quorum is {self._record.needed}"
            return self._finish(arrays, "incomplete")
        for number in range(latest.server_round + 1, self._config.terms.rounds + 1):
            trained = self._round(number, arrays, adapter)
            if trained is None:
                return self._finish(arrays, "incomplete")
            arrays = trained
            self._save(number, arrays, adapter)
        if self._config.terms.evaluate and not self._evaluate(arrays):
            return self._finish(arrays, "incomplete")
        self._finish(arrays, "completed")
        return self._deliver(arrays)

    def _checkpoint(self) -> Checkpoint | None:
        folder = self._config.folder / "checkpoints"
        if self._config.resume:
            return checkpoint.load_newest(folder, self._config.sha256)
        if any(folder.glob("*")):
            raise RunError(f"{folder}: expected no checkpoints, a federation's came; resume it or take another folder")
        return None

    def _bind(self) -> tuple[dict[int, str], list[str]]:
        """Bind nodes to municipalities for the run; a municipality with several nodes takes part with none of them."""
        if self._config.nodes is not None:
            return {node: name for name, node in self._config.nodes.items()}, sorted(self._config.nodes)
        # The name a node was registered under binds it; what a node says of itself does not.
        found = {node.node_id: node.name or f"node {node.node_id}" for node in self._grid.get_nodes()}
        counts = Counter(found.values())
        several = {name: "several nodes are registered for it" for name, count in counts.items() if count > 1}
        self._record.sits_out = several
        return {node: name for node, name in sorted(found.items()) if name not in several}, sorted(counts)

    def _gather(self, expected: list[str]) -> None:
        """Ask every node whether it takes part, and make its plan from the size it declares."""
        self._record.expected = expected
        terms = self._config.terms.model_dump_json()
        replies = self._dialogue.ask(
            Kind.READY,
            0,
            {node: {TERMS: terms} for node in self._nodes},
            check=_check_ready,
            needed=self._record.needed,
        )
        self._record.sits_out |= {
            **replies.refused,
            **replies.rejected,
            **dict.fromkeys(replies.silent, "silent"),
            **dict.fromkeys(replies.missing, "not connected"),
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
        self._dialogue.waited_s += self._record.waited_s
        log.info("event=resumed round=%d", found.server_round)
        return found

    def _round(self, number: int, arrays: Arrays, adapter: StrategyAdapter) -> Arrays | None:
        """Train one round; None where too few municipalities contributed or the strategy could not use them."""
        began = self._clock()
        extra = adapter.configure(number, arrays, {})
        card = self._config.card
        plans = set(self._plans.values())  # most state one of a few sizes
        shapes, limits = shared_shapes(card), {plan: update_limit(card, plan) for plan in plans}
        texts = {plan: plan.to_json() for plan in plans}
        replies = self._dialogue.ask(
            Kind.TRAIN,
            number,
            {node: {PLAN: texts[self._plans[name]], **extra} for node, name in self._taking_part().items()},
            arrays=arrays,
            check=lambda name, answer: check_update(shapes, limits[self._plans[name]], answer),
            needed=self._record.needed,
        )
        trained: Arrays | None = None
        if self._enough(replies, f"round {number}"):
            try:
                updates = {name: answer.arrays for name, answer in replies.answers.items()}
                trained = adapter.aggregate(number, arrays, updates)
            except FaellesError as error:
                self._record.why = str(error)
        ended = RoundRecord(
            number=number,
            contributing=sorted(replies.answers),
            refused=replies.refused,
            rejected=replies.rejected,
            silent=replies.silent,
            missing=replies.missing,
            seconds=self._clock() - began,
            model_sha256=model_sha256(arrays if trained is None else trained),
        )
        ended.late = replies.late  # that very list: it grows as late replies come
        self._record.rounds.append(ended)
        log.info("event=round number=%d contributing=%d asked=%d", number, len(replies.answers), len(self._plans))
        return trained

    def _enough(self, replies: Replies, what: str) -> bool:
        needed = self._record.needed
        if len(replies.answers) >= needed:
            return True
        self._record.why = f"{what}: {len(replies.answers)} contributed, the quorum is {needed}"
        return False

    def _evaluate(self, arrays: Arrays) -> bool:
        """Evaluate once; whether enough municipalities contributed."""
        card = self._config.card
        replies = self._dialogue.ask(
            Kind.EVALUATE,
            self._config.terms.rounds,
            {node: {} for node in self._taking_part()},
            arrays=arrays,
            check=lambda name, answer: check_histogram(card, answer.arrays),
            needed=self._record.needed,
        )
        counts = [replies.answers[name].arrays[HISTOGRAM].astype(float) for name in sorted(replies.answers)]
        metrics = histogram_metrics(sum(counts[1:], start=counts[0])) if counts else None
        self._record.evaluation = EvaluationRecord(
            contributing=sorted(replies.answers),
            refused=replies.refused,
            rejected=replies.rejected,
            silent=replies.silent,
            missing=replies.missing,
            auc=finite(metrics.auc) if metrics else None,
            log_loss=finite(metrics.log_loss) if metrics else None,
            accuracy=finite(metrics.accuracy) if metrics else None,
            calibration_error=finite(metrics.calibration_error) if metrics else None,
        )
        return self._enough(replies, "evaluation")

    def _finish(self, arrays: Arrays, status: Status) -> RunRecord:
        """Write what was learned and how it ended; an incomplete run may be resumed, so its reservations stand."""
        self._dialogue.settle()
        self._record = self._record.model_copy(update={"status": status, "model_sha256": model_sha256(arrays)})
        write_model(self._config.folder / MODEL, arrays)
        self._write()
        return self._record

    def _deliver(self, arrays: Arrays) -> RunRecord:
        """Bring the model home, also to who was away that minute, and free what was reserved and not spent."""
        number = self._config.terms.rounds
        ends = self._clock() + self._config.deliver_s
        undelivered = set(self._record.declared_sizes) - {*self._record.delivered, *self._record.unwanted}
        while undelivered:
            home = self._dialogue.ask(
                Kind.FINAL, number, {node: {} for node in self._among(undelivered)}, arrays=arrays
            )
            self._dialogue.ask(Kind.CLOSE, number, {node: {} for node in self._among(home.answers)})
            self._record.delivered = sorted({*self._record.delivered, *home.answers})
            self._record.unwanted = sorted({*self._record.unwanted, *home.refused})
            self._write()
            # Who refuses it does not want it, and whose reply is of no use would send it again.
            undelivered -= {*home.answers, *home.refused, *home.rejected}
            if self._clock() >= ends or not self._among(undelivered):
                break
        self._record.undelivered = sorted(
            set(self._record.declared_sizes) - {*self._record.delivered, *self._record.unwanted}
        )
        self._write()
        return self._record

    def _save(self, number: int, arrays: Arrays, adapter: StrategyAdapter) -> Checkpoint:
        self._record.waited_s = self._dialogue.waited_s
        made = Checkpoint(
            config_sha256=self._config.sha256,
            server_round=number,
            arrays=arrays,
            strategy_state=adapter.state(),
            record=self._record,
        )
        checkpoint.save(self._config.folder / "checkpoints", made)
        self._write()
        return made

    def _write(self) -> None:
        self._record.waited_s = self._dialogue.waited_s
        write_json(self._config.folder / RECORD, self._record)

    def _taking_part(self) -> dict[int, str]:
        return {node: name for node, name in self._nodes.items() if name in self._plans}

    def _among(self, names: Iterable[str]) -> list[int]:
        wanted = set(names)
        return [node for node, name in self._nodes.items() if name in wanted]


def _check_ready(name: str, answer: Answer) -> None:
    """Refuse a node that speaks for another municipality than it was registered for, or states no band."""
    if answer.extra.get(MUNICIPALITY) != name:
        raise WireError("ready: expected the municipality that the node was registered for, another came")
    if answer.extra.get(DECLARED_SIZE) not in DECLARED_SIZES:
        raise WireError("ready: expected one of the public declared sizes, another came")
