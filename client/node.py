"""Answer the coordinator's requests: first policy, then account, then mechanism, and one transaction at the end.

Whatever the coordinator sends, the answer is an output of a DP mechanism, a public constant, or a code that is a
function of policy, approval and account; and each answer is a line in the journal before it leaves.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import pyarrow as pa

from client import head, journal, ledger, outbox
from client.admission import EXACT, WORK, Consented, Refused, admit, evaluation_event, open_run, reserve
from client.dataset import Dataset, Partition, build_dataset
from client.egress import Blocked, Gate
from client.journal import Line
from client.keys import Signer
from client.ledger import Spending, utc_now
from client.policy import Policy
from client.store import Store
from faelles.card import UseCaseCard
from faelles.errors import LedgerError, PlanError, WireError
from faelles.models import Arrays, build_model, check_arrays, initial_parameters, shared_shapes
from faelles.privacy.accountant import Event, epsilon, rdp_curve
from faelles.privacy.dpsgd import LocalTerms
from faelles.privacy.mechanisms import Mechanisms
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.release import Release, release_histogram
from faelles.privacy.update import release_update
from faelles.records import (
    LEDGER_HEAD,
    MODEL_SHA256,
    PLAN,
    TERMS,
    Answer,
    Code,
    Constants,
    Kind,
    Refusal,
    Request,
    model_sha256,
    pack,
    pull_of,
    unpack,
)
from faelles.terms import RunTerms

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Node:
    """Hold what one municipality answers with.

    Args:
        municipality: Its public name, the kommunekode.
        signer: The agent's key.
        mechanisms: Opens the randomness of each release.
        store: The one file: account, outbox, local state, journal, and what people decided.
        policy: Reads the municipality's rules; asked for every request, so that a change counts at once.
        rows: Reads a population's rows for a card, under the contract's names.
        partition: How citizens are held out; by the store's key where it is None.
        recipient: Whom answers go to, as the journal names it.
        clock: Tells the time.
    """

    municipality: str
    signer: Signer
    mechanisms: Mechanisms
    store: Store
    policy: Callable[[], Policy]
    rows: Callable[[str, UseCaseCard], pa.Table]
    partition: Partition | None = None
    recipient: str = "coordinator"
    clock: Callable[[], datetime] = utc_now
    _datasets: dict[tuple[str, str], Dataset] = field(default_factory=dict, init=False, repr=False)

    def answer(self, request: Request) -> Answer | Refusal:
        """Answer a request; whatever goes wrong becomes a code, never a text that data could colour."""
        handlers: dict[Kind, Callable[[Request, Consented], Answer]] = {
            Kind.READY: self._ready,
            Kind.TRAIN: self._train,
            Kind.EVALUATE: self._evaluate,
            Kind.FINAL: self._final,
            Kind.CLOSE: self._close,
        }
        try:
            self._notice_head(request)
            consented = admit(self.store.database, request, self.policy(), self.clock())
            if request.kind in WORK and head.frozen(self.store.database):
                raise Refused(Code.LEDGER_FROZEN)
            # Also what was answered before leaves in the version of who asks now, who may not know the one it had.
            return replace(handlers[request.kind](request, consented), schema=request.schema)
        except Refused as refused:
            return self.refuse(refused.refusal, request)
        except (WireError, PlanError):
            return self.refuse(Refusal(code=Code.MALFORMED), request)
        except Blocked:
            return self.refuse(Refusal(code=Code.FAILED), request, journal.BLOCKED)
        except Exception as error:
            log.error("event=failed kind=%s error=%s", request.kind, type(error).__name__)
            return self.refuse(Refusal(code=Code.FAILED), request)

    def refuse(self, refusal: Refusal, request: Request | None = None, outcome: str | None = None) -> Refusal:
        """Journal a refusal; a request that could not be read has no terms that a line may repeat."""
        line = Line(
            outcome=outcome or journal.REFUSED + refusal.code.text,
            recipient=self.recipient,
            kind=request.kind if request else "unknown",
            bytes=len(refusal.text),
            card=request.card_sha256 if request else "",
            federation=request.federation if request else "",
            server_round=request.server_round if request else 0,
        )
        try:
            with self.store.transaction() as database:
                journal.write(database, line, self.clock())
        except sqlite3.Error as error:
            # A constant code leaves all the same: silence would tell no less, and hang the round.
            log.error("event=unjournalled outcome=%s error=%s", line.outcome, type(error).__name__)
        return refusal

    def dataset(self, card: UseCaseCard, population: str) -> Dataset:
        """Read a population once for a card and keep its two parts in memory."""
        key = (card.sha256, population)
        if key not in self._datasets:
            self._datasets[key] = build_dataset(card, self.rows(population, card), self.store.key, self.partition)
        return self._datasets[key]

    def parameters(self, card: UseCaseCard, federation: str, before_round: int, shared: Arrays) -> Arrays:
        """Join shared arrays with the newest local state made before a round, in the card's order."""
        state = outbox.local_state(self.store.database, federation, before_round)
        local = unpack(state)[1] if state else initial_parameters(card)
        return {name: shared[name] if name in shared else local[name] for name in card.model.parameter_names}

    def _notice_head(self, request: Request) -> None:
        """Notice an account that was set back, also where the request itself is refused: others may ask for work."""
        presented = request.extra.get(LEDGER_HEAD)
        if presented is not None:
            with self.store.transaction() as database:
                head.present(database, self.signer, str(presented))

    def _ready(self, request: Request, consented: Consented) -> Answer:
        text = str(request.extra.get(TERMS, ""))
        terms = RunTerms.parse(text)
        now = self.clock()
        with self.store.transaction() as database:
            earlier = ledger.reservation(database, request.federation, ledger.TRAINING)
            if earlier is None:
                reserve(database, request, consented, terms, text, now)
                # A new run reads the newest extract.
                self._datasets.pop((consented.card.sha256, consented.population.name), None)
            elif (earlier.card_sha256, earlier.terms) != (request.card_sha256, text):
                raise Refused(Code.REQUEST_CONFLICTS)
            # Also where the run is closed: it may ask again for what it was answered, and cannot train on.
            constants = Constants(
                municipality=self.municipality,
                declared_size=consented.approval.declared_size,
                ledger_head=head.sign(database, self.signer, now),
            )
            return self._clear(database, request, consented, constants)

    def _train(self, request: Request, consented: Consented) -> Answer:
        card = consented.card
        repeated = self._repeated(request, consented)
        if repeated is not None:
            return repeated
        if not consented.policy.updates:
            raise Refused(Code.RELEASE_NOT_ALLOWED)
        reserved, terms = open_run(self.store.database, request, consented, ledger.TRAINING, self.clock())
        plan = terms.plan(card, consented.approval.declared_size)
        if ledger.rounds_spent(self.store.database, request.federation, ledger.TRAINING) >= plan.rounds:
            raise Refused(Code.BUDGET_EXHAUSTED)
        # The declared size may have been restated since: what was reserved is what may be spent.
        reserved_plan = np.array_equal(plan.curve, reserved.curve)
        if not reserved_plan or PrivacyPlan.from_json(str(request.extra.get(PLAN, ""))) != plan:
            raise Refused(Code.PLAN_DIFFERS)
        check_arrays(shared_shapes(card), request.arrays)
        start = self.parameters(card, request.federation, request.server_round, request.arrays)
        released = release_update(
            card, build_model(card), start, self.dataset(card, consented.population.name).training, plan,
            LocalTerms(learning_rate=card.training.learning_rate, proximal_mu=pull_of(request)),
            self.mechanisms.open_release(request.federation, request.server_round, Kind.TRAIN),
        )  # fmt: skip
        state = pack({}, released.local) if card.model.local else None
        event = plan.round_event if plan.private else EXACT
        return self._commit(request, consented, ledger.TRAINING, event, released.update, state)

    def _evaluate(self, request: Request, consented: Consented) -> Answer:
        card = consented.card
        repeated = self._repeated(request, consented)
        if repeated is not None:
            return repeated
        if not consented.policy.histograms:
            raise Refused(Code.RELEASE_NOT_ALLOWED)
        _, terms = open_run(self.store.database, request, consented, ledger.HELD_OUT, self.clock())
        if ledger.rounds_spent(self.store.database, request.federation, ledger.HELD_OUT):
            raise Refused(Code.BUDGET_EXHAUSTED)
        check_arrays(shared_shapes(card), request.arrays)
        parameters = self.parameters(card, request.federation, request.server_round + 1, request.arrays)
        event = evaluation_event(card, terms)
        released = release_histogram(
            card, build_model(card), parameters, self.dataset(card, consented.population.name).held_out,
            event.noise_multiplier,
            self.mechanisms.open_release(request.federation, request.server_round, Kind.EVALUATE),
        )  # fmt: skip
        return self._commit(request, consented, ledger.HELD_OUT, event, released, None)

    def _final(self, request: Request, consented: Consented) -> Answer:
        card = consented.card
        check_arrays(shared_shapes(card), request.arrays)
        digest = model_sha256(request.arrays)
        if request.extra.get(MODEL_SHA256, digest) != digest:  # version 1 does not say it
            raise WireError(f"{MODEL_SHA256}: expected the digest of the arrays that came, another came; send it again")
        reserved = ledger.reservation(self.store.database, request.federation, ledger.TRAINING)
        if reserved is None or reserved.card_sha256 != request.card_sha256:
            raise Refused(Code.NOT_READY)
        model = self.parameters(card, request.federation, request.server_round + 1, request.arrays)
        with self.store.transaction() as database:
            kept = outbox.model(database, request.federation)
            if kept is None:
                time = ledger.moment(self.clock())
                outbox.keep_model(database, request.federation, request.card_sha256, pack({}, model), time)
            elif model_sha256(_shared(kept, request.arrays)) != digest:
                raise Refused(Code.REQUEST_CONFLICTS)  # a federation ends in one model
            return self._clear(database, request, consented, Constants())

    def _close(self, request: Request, consented: Consented) -> Answer:
        reserved = ledger.reservation(self.store.database, request.federation, ledger.TRAINING)
        if reserved is not None and reserved.card_sha256 != request.card_sha256:
            raise Refused(Code.NOT_READY)
        with self.store.transaction() as database:
            ledger.free(database, request.federation, "closed", self.clock())
            return self._clear(database, request, consented, Constants())

    def _repeated(self, request: Request, consented: Consented) -> Answer | None:
        """Find what was answered to this very request before; it leaves as the very same bytes."""
        database = self.store.database
        kept = outbox.find(database, request.federation, request.server_round, request.kind)
        if kept is None:
            if request.server_round < outbox.last_round(database, request.federation, request.kind):
                raise Refused(Code.SUPERSEDED)
            if journal.cleared_before(database, request.federation, request.server_round, request.kind):
                raise Blocked  # the outbox lost what the journal says was cleared; noise is never drawn twice
            return None
        if kept.request != request.sha256:
            raise Refused(Code.REQUEST_CONFLICTS)
        if kept.answer is None:
            raise Refused(Code.SUPERSEDED)
        line = _line(journal.RESENT, self.recipient, request, consented, kept.answer)
        if not journal.left_before(database, line):
            raise Blocked  # the outbox holds other bytes than the journal says were cleared
        with self.store.transaction() as writing:
            journal.write(writing, line, self.clock())
        return Answer.unpack(kept.answer)

    def _commit(
        self, request: Request, consented: Consented, part: str, event: Event, release: Release, state: bytes | None
    ) -> Answer:
        """Spend, sign, clear, keep and journal: one transaction, before anything leaves.

        The event is what was planned and reserved; the gate sees to it that the release was made by no other.
        """
        now = self.clock()
        spending = Spending(
            federation=request.federation, part=part, server_round=request.server_round, kind=request.kind,
            event=event, curve=rdp_curve(event),
        )  # fmt: skip
        with self.store.transaction() as database:
            try:
                ledger.spend(database, spending, now)
            except LedgerError:
                raise Refused(Code.NOT_READY) from None  # withdrawn, closed or expired while the answer was made
            constants = Constants(ledger_head=head.sign(database, self.signer, now))
            answer = self._clear(database, request, consented, constants, release, spending)
            place = (request.federation, request.server_round, str(request.kind))
            outbox.put(database, place, request.sha256, answer.pack(), state)
        return answer

    def _clear(
        self,
        database: sqlite3.Connection,
        request: Request,
        consented: Consented,
        constants: Constants,
        release: Release | None = None,
        spending: Spending | None = None,
    ) -> Answer:
        """Pass the gate and write the line that says so; within the transaction of what it tells of."""
        gate = Gate(municipality=self.municipality, signer=self.signer)
        event = spending.event if spending else None
        answer = gate.clear(request, consented.card, consented.approval.declared_size, constants, release, event)
        line = _line(journal.CLEARED, self.recipient, request, consented, answer.pack())
        if spending is not None:
            after = ledger.spent_beside(database, spending, self.clock())
            line = line.costing(
                epsilon(spending.curve, consented.budget.delta),
                epsilon(after, consented.budget.delta),
                consented.budget.delta,
            )
        journal.write(database, line, self.clock())
        return answer


def _line(outcome: str, recipient: str, request: Request, consented: Consented, answer: bytes) -> Line:
    return Line(
        outcome=outcome, recipient=recipient, kind=request.kind, bytes=len(answer),
        sha256=hashlib.sha256(answer).hexdigest(), card=request.card_sha256, federation=request.federation,
        server_round=request.server_round, approval=consented.approval.number,
    )  # fmt: skip


def _shared(model: bytes, asked: Arrays) -> Arrays:
    """Pick the shared parameters of a kept model, in the order in which they are asked about."""
    kept = unpack(model)[1]
    return {name: kept[name] for name in asked}
