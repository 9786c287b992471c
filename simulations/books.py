"""Keep the accounts of a cohort: admit what the production agent admits, and refuse the rest with the same words.

A simulated municipality has one population and one approved card, so its account is the runs of that card. A simulation
has no use for ledger heads, expiry and working hours; answers are made anew and not kept.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from client.admission import EXACT, evaluation_event
from client.ledger import Budget
from client.policy import Policy
from faelles.card import UseCaseCard
from faelles.errors import PlanError, WireError
from faelles.models import check_arrays, shared_shapes
from faelles.privacy.accountant import Curve, epsilon, rdp_curve
from faelles.privacy.plan import PrivacyPlan
from faelles.records import MODEL_SHA256, PLAN, TERMS, Code, Kind, Refusal, Request, model_sha256, pull_of
from faelles.terms import RunTerms

RELEASES = (Kind.TRAIN, Kind.EVALUATE)
LAST = 2  # rounds whose requests are answered again


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """Hold what a municipality set aside."""

    text: str
    terms: RunTerms
    plan: PrivacyPlan
    plan_text: str
    curves: Mapping[Kind, Curve]  # of all training rounds, and of the evaluation where there is one


@dataclass(kw_only=True)
class Run:
    """Follow one run of one municipality."""

    reserved: Reserved
    closed: bool = False
    final: str = ""
    answered: dict[Kind, dict[int, int]] = field(default_factory=lambda: {kind: {} for kind in RELEASES})  # by round
    oldest: int = -LAST  # rounds up to this one are not answered again

    def curve(self, kind: Kind) -> Curve | None:
        """Say what the run costs: as reserved, and once it is closed as spent."""
        whole = self.reserved.curves.get(kind)
        answered = len(self.answered[kind])
        if whole is None or not self.closed or kind == Kind.EVALUATE:
            return whole if not self.closed or answered else None
        plan = self.reserved.plan
        return rdp_curve(plan.round_event if plan.private else EXACT) * answered if answered else None


@dataclass(kw_only=True)
class Books:
    """Admit requests, and remember what was answered.

    Args:
        card: The approved card.
        declared_sizes: Node to the band that it states; 0 where there is nobody to learn from.
        epsilon_cap: What the card may cost, in every municipality.
    """

    card: UseCaseCard
    declared_sizes: Mapping[int, int]
    epsilon_cap: float
    runs: dict[int, dict[str, Run]] = field(default_factory=dict)  # of each node, by federation
    _made: dict[tuple[str, int], Reserved | Refusal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._card_sha256 = self.card.sha256

    def admit(self, node: int, request: Request, asked: Hashable = None, *, malformed: bool = False) -> Refusal | None:
        """Say why a request is refused; None where it may be answered.

        Args:
            node: Who is asked.
            request: For what.
            asked: Equal for equal requests.
            malformed: What `malformed` says of it.
        """
        if request.card_sha256 != self._card_sha256:
            return Refusal(code=Code.CARD_NOT_APPROVED)
        if not self.declared_sizes[node]:
            return Refusal(code=Code.NO_DATA)
        run = self.runs.get(node, {}).get(request.federation)
        if request.kind == Kind.READY:
            return self._ready(node, request, run)
        if request.kind == Kind.FINAL and malformed:
            return Refusal(code=Code.MALFORMED)
        if run is None:
            return None if request.kind == Kind.CLOSE else Refusal(code=Code.NOT_READY)
        if request.kind in RELEASES:
            return _release(run, request, asked) or (Refusal(code=Code.MALFORMED) if malformed else None)
        if request.kind == Kind.CLOSE:
            run.closed = True
        return _final(run, request) if request.kind == Kind.FINAL else None

    def remember(self, node: int, request: Request, asked: Hashable) -> None:
        """Remember what was answered."""
        if request.kind in RELEASES:
            run = self.runs[node][request.federation]
            run.answered[request.kind][request.server_round] = hash(asked)
            run.oldest = max(run.oldest, request.server_round - LAST)

    def reserved(self, node: int, federation: str) -> Reserved:
        """Return what was set aside for a run that is there."""
        return self.runs[node][federation].reserved

    def malformed(self, request: Request) -> bool:
        """Say whether what all are sent cannot be used: no model of the card, or a pull beyond the public bound."""
        try:
            if request.kind not in (Kind.READY, Kind.CLOSE):
                check_arrays(shared_shapes(self.card), request.arrays)
            if request.kind == Kind.TRAIN:
                pull_of(request)
        except WireError:
            return True
        return False

    def _ready(self, node: int, request: Request, run: Run | None) -> Refusal | None:
        """Set a run aside, once."""
        text = str(request.extra.get(TERMS, ""))
        if run is not None:
            return None if run.reserved.text == text else Refusal(code=Code.REQUEST_CONFLICTS)
        key = (text, self.declared_sizes[node])  # who states the same size makes the same plan
        if key not in self._made:
            self._made[key] = self._make(*key)
        made = self._made[key]
        if isinstance(made, Refusal):
            return made
        runs = self.runs.setdefault(node, {})
        for kind, curve in made.curves.items() if runs else ():
            others = [other for one in runs.values() if (other := one.curve(kind)) is not None]
            if not epsilon(sum(others, start=curve), self.card.privacy.delta) <= self.epsilon_cap:
                return Refusal(code=Code.BUDGET_EXHAUSTED, epsilon_cap=self.epsilon_cap)
        runs[request.federation] = Run(reserved=made)
        return None

    def _make(self, text: str, declared_size: int) -> Reserved | Refusal:
        policy = willing_policy(Budget(epsilon=self.epsilon_cap, delta=self.card.privacy.delta))
        budget = policy.special
        cap = min(policy.run_cap(budget), self.epsilon_cap)
        refused = Refusal(code=Code.TERMS_REFUSED, epsilon_cap=cap)
        try:
            terms = RunTerms.parse(text)
            if not policy.allows_terms(self.card, terms, budget):
                return refused
            plan = terms.plan(self.card, declared_size)
            curves = {Kind.TRAIN: plan.curve}
            if terms.evaluate:
                curves[Kind.EVALUATE] = rdp_curve(evaluation_event(self.card, terms))
        except (WireError, PlanError):
            return Refusal(code=Code.MALFORMED)
        if not all(epsilon(curve, budget.delta) <= cap for curve in curves.values()):
            return refused
        return Reserved(text=text, terms=terms, plan=plan, plan_text=plan.to_json(), curves=curves)


def willing_policy(budget: Budget) -> Policy:
    """Allow every card and release within a budget, as a municipality of a simulation does."""
    return Policy(special=budget, otherwise=budget, cards=None, updates=True, histograms=True)


def _release(run: Run, request: Request, asked: Hashable) -> Refusal | None:
    answered = run.answered[request.kind]
    if request.server_round in answered:
        if answered[request.server_round] != hash(asked):
            return Refusal(code=Code.REQUEST_CONFLICTS)
        return Refusal(code=Code.SUPERSEDED) if request.server_round <= run.oldest else None
    if answered and request.server_round < max(answered):
        return Refusal(code=Code.SUPERSEDED)
    reserved = run.reserved
    if run.closed or request.kind not in reserved.curves:
        return Refusal(code=Code.NOT_READY)
    most = reserved.terms.rounds if request.kind == Kind.TRAIN else 1
    if request.server_round > reserved.terms.rounds or len(answered) >= most:
        return Refusal(code=Code.BUDGET_EXHAUSTED)
    if request.kind == Kind.TRAIN and request.extra.get(PLAN) != reserved.plan_text:
        try:
            same = PrivacyPlan.from_json(str(request.extra.get(PLAN, ""))) == reserved.plan
        except (WireError, PlanError):
            return Refusal(code=Code.MALFORMED)
        return None if same else Refusal(code=Code.PLAN_DIFFERS)
    return None


def _final(run: Run, request: Request) -> Refusal | None:
    """Take one model for good, if it is the one that the request names."""
    digest = model_sha256(request.arrays)
    if request.extra.get(MODEL_SHA256, digest) != digest:
        return Refusal(code=Code.MALFORMED)
    run.final = run.final or digest
    return None if run.final == digest else Refusal(code=Code.REQUEST_CONFLICTS)
