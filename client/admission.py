"""Decide whether a request may be worked on, from policy, approval and account alone: the coordinator only asks.

Nothing here reads a row of data, so no refusal can depend on one.
"""

import math
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta

from client import consent, ledger
from client.consent import Approval, Population, Standing
from client.ledger import Budget, Reservation, Run
from client.policy import Policy
from faelles.card import UseCaseCard
from faelles.privacy.accountant import Curve, Event, epsilon, rdp_curve
from faelles.privacy.plan import gaussian_event
from faelles.records import Code, Kind, Refusal, Request
from faelles.terms import RunTerms

EXACT = Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1)  # what a release without noise costs: everything
WORK = (Kind.READY, Kind.TRAIN, Kind.EVALUATE)  # the kinds that take budget, working hours and a trusted account
STANDINGS = {
    Standing.NONE: Code.CARD_NOT_APPROVED,
    Standing.WAITING: Code.CARD_NOT_APPROVED,
    Standing.EXPIRED: Code.APPROVAL_EXPIRED,
    Standing.WITHDRAWN: Code.WITHDRAWN,
}


class Refused(Exception):  # noqa: N818  # a refusal is an answer and not an error
    """Carry a refusal to the place where the reply is made."""

    def __init__(self, code: Code, epsilon_cap: float | None = None) -> None:
        super().__init__(code.text)
        self.refusal = Refusal(code=code, epsilon_cap=epsilon_cap)


@dataclass(frozen=True, kw_only=True)
class Consented:
    """Hold what a request rests on: the approval, its population, and the policy of this moment."""

    approval: Approval
    population: Population
    policy: Policy

    @property
    def card(self) -> UseCaseCard:
        """Return the approved card."""
        return self.approval.card

    @property
    def budget(self) -> Budget:
        """Return the budget of the population."""
        return self.policy.budget(self.population.special_categories)

    @property
    def run_cap(self) -> float:
        """Return the most that one run may cost in either part."""
        return min(self.policy.run_cap(self.budget), self.approval.epsilon)


def admit(database: sqlite3.Connection, request: Request, policy: Policy, now: datetime) -> Consented:
    """Find what a request rests on.

    Raises:
        Refused: There is no valid approval, nobody to learn from, or it is outside working hours.
    """
    approval = consent.find_approval(database, request.card_sha256)
    standing = consent.standing(database, approval, policy, now)
    if approval is None or standing != Standing.VALID:
        raise Refused(STANDINGS[standing])
    population = consent.find_population(database, approval.population)
    assert population is not None  # an approval without one has no standing
    if not approval.declared_size:
        raise Refused(Code.NO_DATA)
    if request.kind in WORK and not policy.hours.open(now):
        raise Refused(Code.OUTSIDE_HOURS)
    return Consented(approval=approval, population=population, policy=policy)


def reserve(
    database: sqlite3.Connection, request: Request, consented: Consented, terms: RunTerms, text: str, now: datetime
) -> None:
    """Set a whole run aside; within a transaction.

    Args:
        database: In a transaction.
        request: Who asks.
        consented: What it rests on.
        terms: The run's terms.
        text: The same as they came.
        now: The time.

    Raises:
        Refused: The run goes beyond policy, approval or account; the refusal states the public cap.
    """
    card, approval, policy, budget = consented.card, consented.approval, consented.policy, consented.budget
    if not policy.updates or (terms.evaluate and not policy.histograms):
        raise Refused(Code.RELEASE_NOT_ALLOWED)
    # One share for all cards of a population, or its two accounts would not be of different people.
    one_split = card.evaluation.held_out == consented.population.held_out
    if not one_split or not policy.allows_terms(card, terms, budget):
        raise Refused(Code.TERMS_REFUSED, consented.run_cap)
    curves = {ledger.TRAINING: terms.plan(card, approval.declared_size).curve}
    if terms.evaluate:
        curves[ledger.HELD_OUT] = rdp_curve(evaluation_event(card, terms))
    _keep_within(consented, *curves.values())
    for part, curve in curves.items():
        so_far = ledger.card_curve(database, card.sha256, approval.population, part, now)
        if not epsilon(so_far + curve, budget.delta) <= approval.epsilon:
            raise Refused(Code.BUDGET_EXHAUSTED, approval.epsilon)
    days = policy.reservation_days
    run = Run(
        federation=request.federation, population=approval.population, card_sha256=card.sha256, terms=text,
        curves=curves, period=policy.period(now),
        expires=ledger.moment(now + timedelta(days=days)) if days else "",
    )  # fmt: skip
    if not ledger.reserve(database, run, budget, now):
        raise Refused(Code.BUDGET_EXHAUSTED, budget.epsilon)


def open_run(
    database: sqlite3.Connection, request: Request, consented: Consented, part: str, now: datetime
) -> tuple[Reservation, RunTerms]:
    """Find the run that a request may draw on.

    Raises:
        Refused: There is none, it is closed or of something else, or the round is beyond it.
    """
    reserved = ledger.reservation(database, request.federation, part)
    if reserved is None or not reserved.open(now):
        raise Refused(Code.NOT_READY)
    if (reserved.card_sha256, reserved.population) != (request.card_sha256, consented.population.name):
        raise Refused(Code.NOT_READY)
    terms = RunTerms.parse(reserved.terms)
    if request.server_round > terms.rounds:
        raise Refused(Code.BUDGET_EXHAUSTED)
    # A policy or an approval that was tightened since binds a run under way too.
    _keep_within(consented, reserved.curve)
    return reserved, terms


def _keep_within(consented: Consented, *curves: Curve) -> None:
    """Refuse a run that costs more than one may, at the account's delta, whatever the card's is."""
    if not all(epsilon(curve, consented.budget.delta) <= consented.run_cap for curve in curves):
        raise Refused(Code.TERMS_REFUSED, consented.run_cap)


def evaluation_event(card: UseCaseCard, terms: RunTerms) -> Event:
    """Account for the score histogram; a run without privacy releases it exactly."""
    return EXACT if terms.epsilon == math.inf else gaussian_event(card.evaluation.epsilon, card.privacy.delta)
