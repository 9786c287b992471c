"""Answer the coordinator's requests: first policy, then account, then mechanism, and one transaction at the end.

The coordinator only asks. Whatever it sends, the answer is an output of a DP mechanism, a public constant, or a code
that is a function of policy, approval and account.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from client import ledger
from client.dataset import Dataset, Partition, build_dataset
from client.policy import Approval, Policy
from client.source import Source
from client.store import Reservation, Spending, Store
from faelles.card import UseCaseCard
from faelles.errors import PlanError, WireError
from faelles.models import Arrays, build_model, check_arrays, initial_parameters, shared_shapes
from faelles.privacy.accountant import Event, rdp_curve
from faelles.privacy.dpsgd import LocalTerms
from faelles.privacy.mechanisms import Mechanisms
from faelles.privacy.plan import PrivacyPlan, gaussian_event
from faelles.privacy.release import release_histogram, release_update
from faelles.records import (
    DECLARED_SIZE,
    LARGEST_PULL,
    MUNICIPALITY,
    PLAN,
    PROXIMAL_MU,
    TERMS,
    Answer,
    Code,
    Kind,
    Request,
    Scalar,
    pack,
    unpack,
)
from faelles.terms import RunTerms

log = logging.getLogger(__name__)
EXACT = Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1)  # what a release without noise costs: everything


class Refused(Exception):  # noqa: N818  # a refusal is an answer and not an error
    """Carry the code of a refusal to the place where the reply is made."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.text)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Node:
    """Hold what one municipality answers with.

    Args:
        mechanisms: Opens the randomness of each release.
        store: Account, outbox and local state.
        source: The population's rows.
        policy: The municipality's rules.
        partition: How citizens are held out; by the store's key where it is None.
    """

    mechanisms: Mechanisms
    store: Store
    source: Source
    policy: Policy
    partition: Partition | None = None
    _datasets: dict[str, Dataset] = field(default_factory=dict, init=False, repr=False)

    def answer(self, request: Request) -> Answer:
        """Answer a request.

        Raises:
            Refused: With the code that goes out instead.
        """
        handlers: dict[Kind, Callable[[Request, Approval], Answer]] = {
            Kind.READY: self._ready,
            Kind.TRAIN: self._train,
            Kind.EVALUATE: self._evaluate,
            Kind.FINAL: self._final,
            Kind.CLOSE: self._close,
        }
        approval = self.policy.approval(request.card_sha256)
        if isinstance(approval, Code):
            raise Refused(approval)
        try:
            return handlers[request.kind](request, approval)
        except (WireError, PlanError):
            raise Refused(Code.MALFORMED) from None

    def dataset(self, card: UseCaseCard) -> Dataset:
        """Read the population once and keep its two parts in memory."""
        if card.sha256 not in self._datasets:
            table = self.source.read()
            self._datasets[card.sha256] = build_dataset(card, table, self.store.key, self.partition)
        return self._datasets[card.sha256]

    def parameters(self, card: UseCaseCard, federation: str, before_round: int, shared: Arrays) -> Arrays:
        """Join shared arrays with the newest local state made before a round, in the card's order."""
        state = self.store.local_state(federation, before_round)
        local = unpack(state)[1] if state else initial_parameters(card)
        return {name: shared[name] if name in shared else local[name] for name in card.model.parameter_names}

    def _ready(self, request: Request, approval: Approval) -> Answer:
        text = str(request.extra.get(TERMS, ""))
        terms = RunTerms.parse(text)
        earlier = self.store.reservation(request.federation, ledger.TRAINING)
        if earlier is not None:
            # Also where the run is closed: it may ask again for what it was answered, and cannot train on.
            if (earlier.card_sha256, earlier.terms) != (request.card_sha256, text):
                raise Refused(Code.REQUEST_CONFLICTS)
        elif not self.policy.allows(approval, terms):
            raise Refused(Code.TERMS_REFUSED)
        elif not self._reserve(request, approval, terms, text):
            raise Refused(Code.BUDGET_EXHAUSTED)
        extra: dict[str, Scalar] = {MUNICIPALITY: self.policy.municipality, DECLARED_SIZE: approval.declared_size}
        return _echo(request, extra=extra)

    def _reserve(self, request: Request, approval: Approval, terms: RunTerms, text: str) -> bool:
        curves = {ledger.TRAINING: terms.plan(approval.card, approval.declared_size).curve}
        if terms.evaluate:
            curves[ledger.HELD_OUT] = rdp_curve(_evaluation_event(approval.card, terms))
        return ledger.reserve(
            self.store, request.federation, approval.population, request.card_sha256, text, curves,
            self.policy.epsilon_cap, self.policy.delta,
        )  # fmt: skip

    def _train(self, request: Request, approval: Approval) -> Answer:
        card = approval.card
        repeated = self._repeated(request)
        if repeated is not None:
            return repeated
        reserved, terms = self._open_run(request, approval, ledger.TRAINING)
        plan = terms.plan(card, approval.declared_size)
        if self.store.rounds_spent(request.federation, Kind.TRAIN) >= plan.rounds:
            raise Refused(Code.BUDGET_EXHAUSTED)
        # The declared size may have been restated since: what was reserved is what may be spent.
        reserved_plan = np.array_equal(plan.curve, reserved.curve)
        if not reserved_plan or PrivacyPlan.from_json(str(request.extra.get(PLAN, ""))) != plan:
            raise Refused(Code.PLAN_DIFFERS)
        check_arrays(shared_shapes(card), request.arrays)
        start = self.parameters(card, request.federation, request.server_round, request.arrays)
        released = release_update(
            card, build_model(card), start, self.dataset(card).training, plan,
            LocalTerms(learning_rate=card.training.learning_rate, proximal_mu=_pull(request)),
            self.mechanisms.open_release(request.federation, request.server_round, Kind.TRAIN),
        )  # fmt: skip
        answer = _echo(request, arrays=dict(released.update.arrays))
        state = pack({}, released.local) if card.model.local else None
        self._commit(request, approval, ledger.TRAINING, released.update.event, answer, state)
        return answer

    def _evaluate(self, request: Request, approval: Approval) -> Answer:
        card = approval.card
        repeated = self._repeated(request)
        if repeated is not None:
            return repeated
        _, terms = self._open_run(request, approval, ledger.HELD_OUT)
        if self.store.rounds_spent(request.federation, Kind.EVALUATE):
            raise Refused(Code.BUDGET_EXHAUSTED)
        check_arrays(shared_shapes(card), request.arrays)
        parameters = self.parameters(card, request.federation, request.server_round + 1, request.arrays)
        event = _evaluation_event(card, terms)
        released = release_histogram(
            card, build_model(card), parameters, self.dataset(card).held_out,
            event.noise_multiplier,
            self.mechanisms.open_release(request.federation, request.server_round, Kind.EVALUATE),
        )  # fmt: skip
        answer = _echo(request, arrays=dict(released.arrays))
        self._commit(request, approval, ledger.HELD_OUT, released.event, answer, None)
        return answer

    def _final(self, request: Request, approval: Approval) -> Answer:
        card = approval.card
        check_arrays(shared_shapes(card), request.arrays)
        reserved = self.store.reservation(request.federation, ledger.TRAINING)
        if reserved is None or reserved.card_sha256 != request.card_sha256:
            raise Refused(Code.NOT_READY)
        model = self.parameters(card, request.federation, request.server_round + 1, request.arrays)
        self.store.keep_model(request.federation, request.card_sha256, pack({}, model))
        return _echo(request)

    def _close(self, request: Request, approval: Approval) -> Answer:
        reserved = self.store.reservation(request.federation, ledger.TRAINING)
        if reserved is not None and reserved.card_sha256 != request.card_sha256:
            raise Refused(Code.NOT_READY)
        self.store.free(request.federation)
        return _echo(request)

    def _repeated(self, request: Request) -> Answer | None:
        """Find what was answered to this very request before; it leaves as the very same bytes."""
        kept = self.store.answer(request.federation, request.server_round, request.kind)
        if kept is None:
            if request.server_round < self.store.last_round(request.federation, request.kind):
                raise Refused(Code.SUPERSEDED)
            return None
        digest, answer = kept
        if digest != request.sha256:
            raise Refused(Code.REQUEST_CONFLICTS)
        if answer is None:
            raise Refused(Code.SUPERSEDED)
        return Answer.unpack(answer)

    def _open_run(self, request: Request, approval: Approval, part: str) -> tuple[Reservation, RunTerms]:
        reserved = self.store.reservation(request.federation, part)
        if reserved is None or not reserved.open:
            raise Refused(Code.NOT_READY)
        if (reserved.card_sha256, reserved.population) != (request.card_sha256, approval.population):
            raise Refused(Code.NOT_READY)
        terms = RunTerms.parse(reserved.terms)
        if request.server_round > terms.rounds:
            raise Refused(Code.BUDGET_EXHAUSTED)
        return reserved, terms

    def _commit(
        self, request: Request, approval: Approval, part: str, event: Event | None, answer: Answer, state: bytes | None
    ) -> None:
        spending = Spending(
            population=approval.population, part=part, federation=request.federation,
            server_round=request.server_round, kind=request.kind, event=event or EXACT,
            curve=rdp_curve(event or EXACT),
        )  # fmt: skip
        self.store.commit(spending, request.sha256, answer.pack(), state)
        log.info(
            "event=released kind=%s federation=%s round=%d", request.kind, request.federation, request.server_round
        )


def _evaluation_event(card: UseCaseCard, terms: RunTerms) -> Event:
    """Account for the score histogram; a run without privacy releases it exactly."""
    return EXACT if terms.epsilon == float("inf") else gaussian_event(card.evaluation.epsilon, card.privacy.delta)


def _pull(request: Request) -> float:
    mu = request.extra.get(PROXIMAL_MU, 0.0)
    if not isinstance(mu, (int, float)) or not 0 <= mu < LARGEST_PULL:
        raise WireError(f"{PROXIMAL_MU}: expected a number from 0 to below {LARGEST_PULL:g}, another came")
    return float(mu)


def _echo(request: Request, extra: dict[str, Scalar] | None = None, arrays: Arrays | None = None) -> Answer:
    return Answer(
        federation=request.federation, server_round=request.server_round, card_sha256=request.card_sha256,
        extra=extra or {}, arrays=arrays or {},
    )  # fmt: skip
