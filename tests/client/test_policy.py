"""The municipality has the last word, and what it does not name is refused."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.policy import Policy
from faelles.records import Code
from faelles.terms import RunTerms
from tests.builders import build_card, build_policy

CARD = build_card()
OTHER = build_card(training={"rounds": 4})


def test_an_empty_policy_refuses_every_card() -> None:
    assert Policy(municipality="0101").approval(CARD.sha256) is Code.CARD_NOT_APPROVED


def test_an_approval_is_of_one_card_by_its_hash() -> None:
    policy = build_policy(CARD)
    approval = policy.approval(CARD.sha256)
    assert not isinstance(approval, Code)
    assert approval.card == CARD
    assert policy.approval(OTHER.sha256) is Code.CARD_NOT_APPROVED


def test_an_approval_filed_under_another_hash_is_none() -> None:
    approvals = {OTHER.sha256: build_policy(CARD).approvals[CARD.sha256]}
    assert Policy(municipality="0101", approvals=approvals).approval(OTHER.sha256) is Code.CARD_NOT_APPROVED


def test_a_municipality_without_citizens_says_so() -> None:
    assert build_policy(CARD, declared_size=0).approval(CARD.sha256) is Code.NO_DATA


@given(st.floats(0, 4, exclude_min=True), st.integers(1, 6))
def test_terms_may_only_tighten_the_card(epsilon: float, rounds: int) -> None:
    policy = build_policy(CARD, epsilon_cap=100.0)
    approval = policy.approvals[CARD.sha256]
    tighter = epsilon <= CARD.privacy.epsilon and rounds <= CARD.training.rounds
    assert policy.allows(approval, RunTerms(epsilon=epsilon, rounds=rounds)) == tighter


@pytest.mark.parametrize(("cap", "allowed"), [(2.0, False), (1e300, False), (float("inf"), True)])
def test_no_privacy_needs_a_cap_without_a_bound(cap: float, allowed: bool) -> None:
    policy = build_policy(CARD, epsilon_cap=cap)
    assert policy.allows(policy.approvals[CARD.sha256], RunTerms(epsilon=float("inf"), rounds=1)) == allowed


@pytest.mark.parametrize("cap", [2.0, float("inf")])
def test_a_card_that_would_split_citizens_otherwise_is_refused(cap: float) -> None:
    # A citizen held out by 0.3 and not by 0.2 would be charged in one account and trained on from the other.
    card = build_card(evaluation={"held_out": 0.3})
    policy = build_policy(card, epsilon_cap=cap)
    assert not policy.allows(policy.approvals[card.sha256], RunTerms.of(card))
    same = dataclasses.replace(policy, held_out=0.3)
    assert same.allows(same.approvals[card.sha256], RunTerms.of(card))
