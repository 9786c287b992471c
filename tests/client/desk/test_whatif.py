"""What-if says what an account would be, as the ledger itself would find it."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import consent, ledger
from client.desk.whatif import QUESTION, WhatIf, what_if
from client.home import Home
from client.ledger import Run
from client.policy import Policy
from client.store import Store
from faelles.errors import ConfigError
from faelles.privacy.accountant import epsilon, rdp_curve
from faelles.privacy.plan import plan_for
from tests import desk
from tests.builders import build_card
from tests.desk import NOW, SIZE, live

CARD, OTHER = build_card(), build_card(training={"rounds": 4})
PLAN = plan_for(CARD, SIZE)


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """Approve a card that has run once."""
    desk.approve(home, CARD, cap=6.0)
    live(home, CARD)
    opened = home.store()
    yield opened
    opened.close()


@pytest.fixture
def policy(home: Home) -> Policy:
    return home.policy()


def asked(store: Store, policy: Policy, question: str) -> WhatIf:
    (answer,) = what_if(store.database, policy, question, NOW)
    return answer


@pytest.mark.parametrize(
    "question",
    ["30 more rounds", "30 rounds", "30 rounds more", " 30  Rounds ", "30 runder mere", "30 runder", "30 RUNDER MERE",
     "30 more rounds of bicycle-repair", "30 runder mere af bicycle-repair", "30 runder af bicycle-repair"],
)  # fmt: skip
def test_a_question_is_asked_in_either_language(store: Store, policy: Policy, question: str) -> None:
    answer = asked(store, policy, question)
    assert (answer.card, answer.population, answer.rounds) == (CARD.id, "cyklister", 30)


@given(text=st.text(max_size=40))
def test_anything_else_is_told_how_to_ask(text: str) -> None:
    if QUESTION.fullmatch(text) is None:
        with pytest.raises(ConfigError) as caught:
            what_if(None, Policy(), text, NOW)  # type: ignore[arg-type]  # it is not reached
        assert "30 runder mere" in caught.value.text("da")


def test_the_answer_is_the_account_with_as_many_more_rounds(store: Store, policy: Policy) -> None:
    answer = asked(store, policy, "3 more rounds")
    account = ledger.account(store.database, "cyklister", ledger.TRAINING, NOW)
    delta = policy.otherwise.delta
    assert answer.now == epsilon(account.total, delta)
    assert answer.after == epsilon(account.total + 3 * rdp_curve(PLAN.round_event), delta)
    assert answer.cap == policy.otherwise.epsilon


def test_it_fits_exactly_as_long_as_the_ledger_would_reserve_it(store: Store, policy: Policy) -> None:
    most = next(n for n in range(1, 200) if not asked(store, policy, f"{n + 1} rounds").fits)
    assert not asked(store, policy, f"{most + 50} rounds").fits
    for rounds, fits in ((most + 1, False), (most, True)):
        run = Run(federation="f" * 8, population="cyklister", card_sha256=CARD.sha256, terms="{}",
                  curves={ledger.TRAINING: rounds * rdp_curve(PLAN.round_event)})  # fmt: skip
        with store.transaction() as database:
            assert ledger.reserve(database, run, policy.otherwise, NOW) is fits


def test_an_approval_may_stretch_less_far_than_the_cap(store: Store, policy: Policy) -> None:
    few, many = asked(store, policy, "3 rounds"), asked(store, policy, "30 rounds")
    assert (few.fits, few.agreed) == (True, True)
    assert (many.fits, many.agreed) == (True, False)


def test_a_new_period_begins_with_nothing(store: Store, policy: Policy) -> None:
    yearly = replace(policy, period_months=12)
    assert asked(store, yearly, "3 rounds").now == 0
    assert asked(store, yearly, "3 rounds").after == pytest.approx(PLAN.epsilon, abs=0.01)


def test_every_valid_approval_answers_and_no_other(home: Home, store: Store, policy: Policy) -> None:
    desk.approve(home, OTHER)
    assert [one.rounds for one in what_if(store.database, policy, "3 rounds", NOW)] == [3, 3]
    desk.approve(home, OTHER, declared_size=0)
    assert len(what_if(store.database, policy, "3 rounds", NOW)) == 1
    with store.transaction() as database:
        consent.withdraw(database, CARD.sha256, NOW)
    with pytest.raises(ConfigError, match="approve one first"):
        what_if(store.database, policy, "3 rounds", NOW)


def test_an_expired_approval_does_not_answer(home: Home, policy: Policy) -> None:
    approval = desk.approve(home, CARD)
    with closing(home.store()) as opened:
        with opened.transaction() as database:
            consent.approve(database, replace(approval, until=date(2026, 5, 3)), NOW)
        with pytest.raises(ConfigError):
            what_if(opened.database, policy, "3 rounds", NOW)
