"""What may be worked on follows from policy, approval and account, and from nothing that the data say."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import admission, consent, ledger
from client.admission import EXACT, Consented, Refused, admit, evaluation_event, open_run
from client.consent import Approval, Population
from client.ledger import HELD_OUT, TRAINING, Budget, moment
from client.policy import Hours, Policy
from client.store import Store
from faelles.card import UseCaseCard
from faelles.privacy.accountant import epsilon
from faelles.privacy.plan import gaussian_event
from faelles.records import Code, Kind, Request
from faelles.terms import RunTerms
from tests.books import DELTA, NOW, account, free
from tests.builders import FEDERATION, OTHER_FEDERATION, build_card

CARD = build_card()  # epsilon 2 for training, 0.5 for the evaluation
OTHER = build_card(training={"rounds": 4})
BUDGET = Budget(epsilon=3.0, delta=DELTA)
POLICY = Policy(special=BUDGET, otherwise=Budget(epsilon=0.1, delta=DELTA), cards=None, updates=True, histograms=True)
APPROVAL = Approval(card=CARD, population="p", declared_size=50, epsilon=3.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.sqlite", durable=False)
    with opened.transaction() as database:
        consent.register(database, Population(name="p", citizen="cpr"), NOW)
    yield opened
    opened.close()


def approve(store: Store, **changes: Any) -> Approval:
    with store.transaction() as database:
        return consent.approve(database, replace(APPROVAL, **changes), NOW)


def request(
    kind: Kind = Kind.READY, federation: str = FEDERATION, card: UseCaseCard = CARD, number: int = 0
) -> Request:
    return Request(kind=kind, federation=federation, server_round=number, card_sha256=card.sha256)


def refusal(asked: Any) -> tuple[Code, float | None]:
    with pytest.raises(Refused) as caught:
        asked()
    return caught.value.refusal.code, caught.value.refusal.epsilon_cap


def consented(store: Store, policy: Policy = POLICY, card: UseCaseCard = CARD) -> Consented:
    return admit(store.database, request(card=card), policy, NOW)


def reserve(
    store: Store,
    terms: RunTerms | None = None,
    *,
    policy: Policy = POLICY,
    card: UseCaseCard = CARD,
    federation: str = FEDERATION,
) -> None:
    terms = terms or RunTerms.of(card)
    asked = request(federation=federation, card=card)
    with store.transaction() as database:
        admission.reserve(database, asked, consented(store, policy, card), terms, terms.model_dump_json(), NOW)


def withdraw(store: Store) -> None:
    with store.transaction() as database:
        consent.withdraw(database, CARD.sha256, NOW)


# who is let in


def test_what_a_request_rests_on_is_found(store: Store) -> None:
    approval = approve(store)
    found = consented(store)
    assert found == Consented(
        approval=approval, population=Population(name="p", citizen="cpr", number=1), policy=POLICY
    )
    assert (found.card, found.budget) == (CARD, BUDGET)


@pytest.mark.parametrize("kind", Kind)
def test_nothing_is_had_without_a_valid_approval(store: Store, kind: Kind) -> None:
    def code(policy: Policy = POLICY, card: UseCaseCard = CARD) -> Code:
        return refusal(lambda: admit(store.database, request(kind, card=card), policy, NOW))[0]

    assert code() is Code.CARD_NOT_APPROVED
    approve(store, until=date(2026, 5, 3))
    assert code() is Code.APPROVAL_EXPIRED
    assert code(card=OTHER) is Code.CARD_NOT_APPROVED
    assert code(replace(POLICY, cards=("another",))) is Code.CARD_NOT_APPROVED
    assert code(Policy()) is Code.CARD_NOT_APPROVED
    approve(store)
    assert code(replace(POLICY, two_people_approve=True)) is Code.CARD_NOT_APPROVED
    withdraw(store)
    assert code() is Code.WITHDRAWN
    approve(store, declared_size=0)
    assert code() is Code.NO_DATA


def test_outside_working_hours_a_run_can_be_ended_and_nothing_else(store: Store) -> None:
    approve(store)
    day = NOW.astimezone().weekday()
    closed = replace(POLICY, hours=Hours(days=tuple({0, 1, 2, 3, 4, 5, 6} - {day})))
    for kind in (Kind.READY, Kind.TRAIN, Kind.EVALUATE):
        assert refusal(lambda kind=kind: admit(store.database, request(kind), closed, NOW))[0] is Code.OUTSIDE_HOURS
    for kind in (Kind.FINAL, Kind.CLOSE):
        admit(store.database, request(kind), closed, NOW)
    late = replace(POLICY, hours=Hours(start=time.max))
    assert refusal(lambda: admit(store.database, request(), late, NOW))[0] is Code.OUTSIDE_HOURS


# what is reserved


def test_a_run_reserves_both_its_parts_for_as_long_as_the_policy_says(store: Store) -> None:
    approve(store)
    reserve(store, policy=replace(POLICY, reservation_days=60, period_months=12))
    period = "12 months, number 26"
    for part, wanted in ((TRAINING, RunTerms.of(CARD).plan(CARD, 50).curve), (HELD_OUT, None)):
        held = ledger.reservation(store.database, FEDERATION, part)
        assert held is not None
        assert (held.period, held.expires, held.terms) == (
            period, moment(NOW + timedelta(days=60)), RunTerms.of(CARD).model_dump_json(),
        )  # fmt: skip
        if wanted is not None:
            np.testing.assert_array_equal(held.curve, wanted)
    assert epsilon(account(store, HELD_OUT, period=period).total, DELTA) == pytest.approx(0.5, abs=0.01)
    assert not account(store).total.any()


def test_a_run_without_an_evaluation_reserves_nothing_of_the_held_out_part(store: Store) -> None:
    approve(store)
    reserve(store, RunTerms(epsilon=2.0, rounds=3, evaluate=False))
    held = ledger.reservation(store.database, FEDERATION, TRAINING)
    assert held is not None
    assert held.expires == ""
    assert ledger.reservation(store.database, FEDERATION, HELD_OUT) is None


@pytest.mark.parametrize(
    ("forbids", "evaluate", "refused"),
    [("updates", True, True), ("updates", False, True), ("histograms", True, True), ("histograms", False, False)],
)
def test_a_release_that_the_policy_forbids_is_not_reserved(
    store: Store, forbids: str, evaluate: bool, refused: bool
) -> None:
    approve(store)
    terms = RunTerms(epsilon=2.0, rounds=3, evaluate=evaluate)
    policy = replace(POLICY, updates=forbids != "updates", histograms=forbids != "histograms")
    if refused:
        assert refusal(lambda: reserve(store, terms, policy=policy)) == (Code.RELEASE_NOT_ALLOWED, None)
        assert not ledger.accounts(store.database)
    else:
        reserve(store, terms, policy=policy)


@pytest.mark.parametrize(
    ("policy", "approval", "cap"),
    [
        ({"largest_run_share": 0.5}, {}, 1.5),
        ({"special": Budget(epsilon=1.9, delta=DELTA)}, {}, 1.9),
        ({}, {"epsilon": 1.9}, 1.9),
        ({"largest_run_share": 0.1}, {"epsilon": 0.2}, 0.2),
        ({}, {"epsilon": 0.0}, 0.0),
        ({}, {"epsilon": -1.0}, -1.0),
    ],
)
def test_a_run_that_goes_beyond_policy_or_approval_by_itself_is_refused_with_the_cap(
    store: Store, policy: dict[str, Any], approval: dict[str, Any], cap: float
) -> None:
    approve(store, **approval)
    code, told = refusal(lambda: reserve(store, policy=replace(POLICY, **policy)))
    assert code is Code.TERMS_REFUSED
    assert told == pytest.approx(cap)
    assert not ledger.accounts(store.database)


def test_an_approval_of_no_number_leaves_no_room(store: Store) -> None:
    approve(store, epsilon=float("nan"))
    assert refusal(lambda: reserve(store))[0] is Code.BUDGET_EXHAUSTED


def test_the_share_of_a_run_bounds_its_evaluation_too(store: Store) -> None:
    card = build_card(evaluation={"epsilon": 1.6})
    approve(store, card=card)
    half = replace(POLICY, largest_run_share=0.5)
    small = RunTerms(epsilon=1.0, rounds=3)
    assert refusal(lambda: reserve(store, small, policy=half, card=card)) == (Code.TERMS_REFUSED, 1.5)
    reserve(store, RunTerms(epsilon=1.0, rounds=3, evaluate=False), policy=half, card=card)


def test_a_run_is_measured_at_the_delta_of_the_account_whatever_its_card_says(store: Store) -> None:
    lax, strict = (build_card(privacy={"delta": delta}) for delta in (1e-3, 1e-9))
    costs = {card: epsilon(RunTerms.of(card).plan(card, 50).curve, DELTA) for card in (lax, strict)}
    assert costs[lax] > 2.0 > costs[strict]
    for card in (lax, strict):
        approve(store, card=card)
    two = replace(POLICY, special=Budget(epsilon=2.0, delta=DELTA))
    assert refusal(lambda: reserve(store, policy=two, card=lax)) == (Code.TERMS_REFUSED, 2.0)
    reserve(store, policy=two, card=strict)


def test_a_card_that_would_split_citizens_otherwise_is_refused(store: Store) -> None:
    # A citizen held out by 0.3 and not by 0.2 would be charged in one account and trained on from the other.
    card = build_card(evaluation={"held_out": 0.3})
    approve(store, card=card)
    assert refusal(lambda: reserve(store, card=card)) == (Code.TERMS_REFUSED, 3.0)
    limitless = Budget(epsilon=float("inf"), delta=DELTA)
    for terms in (None, RunTerms(epsilon=float("inf"), rounds=3)):
        assert (
            refusal(lambda terms=terms: reserve(store, terms, policy=replace(POLICY, special=limitless), card=card))[0]
            is Code.TERMS_REFUSED
        )
    with store.transaction() as database:
        consent.register(database, Population(name="q", citizen="cpr", held_out=0.3), NOW)
    approve(store, card=card, population="q")
    reserve(store, card=card)


def test_an_account_that_has_too_little_left_says_its_cap(store: Store) -> None:
    tight = replace(POLICY, special=Budget(epsilon=2.5, delta=DELTA))
    approve(store)
    reserve(store, policy=tight)
    code = refusal(lambda: reserve(store, policy=tight, federation=OTHER_FEDERATION))
    assert code == (Code.BUDGET_EXHAUSTED, 2.5)
    free(store, FEDERATION)
    reserve(store, policy=tight, federation=OTHER_FEDERATION)


def test_all_runs_of_a_card_together_keep_to_its_approval(store: Store) -> None:
    approve(store, epsilon=2.1)
    approve(store, card=OTHER, epsilon=2.1)
    large = replace(POLICY, special=Budget(epsilon=10.0, delta=DELTA))
    reserve(store, policy=large)
    # The account has room; but the card was given 2.1.
    assert refusal(lambda: reserve(store, policy=large, federation=OTHER_FEDERATION)) == (Code.BUDGET_EXHAUSTED, 2.1)
    reserve(store, policy=large, card=OTHER, federation=OTHER_FEDERATION)


# which run may be drawn on


def test_an_open_run_is_found_with_its_terms(store: Store) -> None:
    approve(store)
    reserve(store)
    held, terms = open_run(store.database, request(number=3), consented(store), TRAINING, NOW)
    assert (held.federation, terms) == (FEDERATION, RunTerms.of(CARD))


def test_a_run_that_is_not_open_or_of_something_else_is_not_ready(store: Store) -> None:
    def code(card: UseCaseCard = CARD, federation: str = FEDERATION, days: int = 0, number: int = 1) -> Code:
        asked = request(federation=federation, card=card, number=number)
        now = NOW + timedelta(days=days)
        return refusal(lambda: open_run(store.database, asked, consented(store, card=card), TRAINING, now))[0]

    approve(store)
    approve(store, card=OTHER)
    assert code() is Code.NOT_READY
    reserve(store, policy=replace(POLICY, reservation_days=1))
    assert code(federation=OTHER_FEDERATION) is Code.NOT_READY
    assert code(card=OTHER) is Code.NOT_READY
    assert code(days=1) is Code.NOT_READY
    assert code(number=4) is Code.BUDGET_EXHAUSTED
    with store.transaction() as database:
        consent.register(database, Population(name="q", citizen="cpr"), NOW)
    approve(store, population="q")
    assert code() is Code.NOT_READY
    approve(store)
    free(store, FEDERATION)
    assert code() is Code.NOT_READY


def test_an_evaluation_costs_what_its_card_says_and_everything_where_nothing_is_private() -> None:
    assert evaluation_event(CARD, RunTerms.of(CARD)) == gaussian_event(0.5, CARD.privacy.delta)
    assert evaluation_event(CARD, RunTerms(epsilon=float("inf"), rounds=1)) == EXACT


def test_a_refusal_says_nothing_but_its_code_and_the_cap() -> None:
    assert str(Refused(Code.TERMS_REFUSED, 1.5)) == "terms-refused"
    assert Refused(Code.TERMS_REFUSED, 1.5).refusal.text == "terms-refused (cap 1.5)"
