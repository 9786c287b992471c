"""Say what an account would be after more rounds, before anybody asks for them."""

import re
import sqlite3
from dataclasses import dataclass
from datetime import datetime

from client import consent, ledger
from client.consent import Standing
from client.policy import Policy
from faelles.errors import ConfigError
from faelles.privacy.accountant import epsilon, epsilons, rdp_curve
from faelles.privacy.plan import plan_for

QUESTION = re.compile(
    r"\s*(?P<rounds>[0-9]{1,6})\s*(?:more\s+)?(?:rounds?|runder?)(?:\s+(?:more|mere))?(?:\s+(?:of|af)\s+(?P<card>[a-z0-9-]+))?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """Hold the answer for one approved card.

    Args:
        card: Its id.
        population: Whose training account it is.
        rounds: How many more.
        now: What the account has spent and reserved, as epsilon.
        after: What it would have then.
        cap: What the policy allows.
        fits: Whether the account would take it.
        agreed: Whether what all runs of the card cost would stay within its approval.
    """

    card: str
    population: str
    rounds: int
    now: float
    after: float
    cap: float
    fits: bool
    agreed: bool


def what_if(database: sqlite3.Connection, policy: Policy, question: str, now: datetime) -> list[WhatIf]:
    """Answer a question such as `30 more rounds`, `30 runder mere` or `30 more rounds of elder-admission`.

    Raises:
        ConfigError: The question is another one, or no approved card is meant.
    """
    asked = QUESTION.fullmatch(question)
    if asked is None:
        raise ConfigError(
            "what-if: expected something like `30 more rounds` or `30 more rounds of elder-admission`",
            da="what-if: skal være noget som `30 runder mere` eller `30 runder mere af elder-admission`",
        )
    wanted = [
        one for one in consent.approvals(database)
        if one.declared_size and asked["card"] in (None, one.card.id)
        and consent.standing(database, one, policy, now) is Standing.VALID
    ]  # fmt: skip
    if not wanted:
        raise ConfigError(
            "what-if: expected an approved card to ask about, found none; approve one first",
            da="what-if: der er intet godkendt kort at spørge om; godkend et først",
        )
    return [_answer(database, policy, one, int(asked["rounds"]), now) for one in wanted]


def _answer(
    database: sqlite3.Connection, policy: Policy, approval: consent.Approval, rounds: int, now: datetime
) -> WhatIf:
    population = consent.find_population(database, approval.population)
    assert population is not None  # a valid approval has one
    budget = policy.budget(population.special_categories)
    have = ledger.account(database, approval.population, ledger.TRAINING, now, policy.period(now))
    more = rounds * rdp_curve(plan_for(approval.card, approval.declared_size).round_event)
    after = have.total + more
    of_card = more + ledger.card_curve(
        database, approval.card.sha256, approval.population, ledger.TRAINING, now)  # fmt: skip
    pinned = have.order if have.total.any() else None  # as `ledger.reserve` does
    order = ledger.best_order(after, budget) if pinned is None else pinned
    return WhatIf(
        card=approval.card.id, population=approval.population, rounds=rounds,
        now=epsilon(have.total, budget.delta), after=epsilon(after, budget.delta), cap=budget.epsilon,
        fits=bool(epsilons(after, budget.delta)[order] <= budget.epsilon),
        agreed=epsilon(of_card, budget.delta) <= approval.epsilon,
    )  # fmt: skip
