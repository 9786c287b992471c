"""Terms of a run only ever tighten a card's, and whatever else comes as terms is refused."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faelles.card import UseCaseCard, parse_card
from faelles.errors import WireError
from faelles.privacy.plan import plan_for
from faelles.terms import RunTerms


def card(**training: int) -> UseCaseCard:
    return parse_card(
        {
            "id": "terms",
            "version": 1,
            "title": {"da": "Vilkår", "en": "Terms"},
            "category": "forecasting",
            "model_type": "general",
            "unit": "citizen",
            "label": {"column": "y", "kind": "binary"},
            "features": [{"name": "a", "kind": "number", "min": 0, "max": 1}],
            "model": {"kind": "logistic"},
            "training": {"rounds": 30, "local_steps": 10, "batch_size": 64, "learning_rate": 1} | training,
            "privacy": {"epsilon": 2, "delta": 1e-5, "clipping_norm": 1},
            "law": {"special_categories": False, "ai_act": "none", "basis": {}},
        }
    )


CARD = card()
epsilons = st.floats(0, math.inf, exclude_min=True)
terms = st.builds(RunTerms, epsilon=epsilons, rounds=st.integers(1, 10_000), evaluate=st.booleans())


def test_a_card_asks_for_what_it_says() -> None:
    assert RunTerms.of(CARD) == RunTerms(epsilon=2.0, rounds=30, evaluate=True)
    assert RunTerms.of(CARD).within(CARD)


@given(terms)
def test_terms_come_back_from_the_wire_as_they_were_sent(sent: RunTerms) -> None:
    assert RunTerms.parse(sent.model_dump_json()) == sent


@given(terms)
def test_equal_terms_are_one_text(sent: RunTerms) -> None:
    assert RunTerms.parse(sent.model_dump_json()).model_dump_json() == sent.model_dump_json()


@given(terms)
def test_terms_are_within_a_card_only_where_they_ask_for_no_more(asked: RunTerms) -> None:
    assert asked.within(CARD) == (asked.epsilon <= 2 and asked.rounds <= 30)


def test_no_privacy_is_never_within_a_card() -> None:
    assert not RunTerms(epsilon=math.inf, rounds=1).within(CARD)


HOSTILE: list[Any] = [
    *(None, 7, b"{}", {}, [], "", "[]", "null", "{}", "1", '"text"', "\ud800", "[" * 100_000, "{" * 1000),
    '{"epsilon": 1}',
    '{"rounds": 1}',
    '{"epsilon": 1, "rounds": 1, "clipping_norm": 1000}',
    '{"epsilon": 0, "rounds": 1}',
    '{"epsilon": -1, "rounds": 1}',
    '{"epsilon": NaN, "rounds": 1}',
    '{"epsilon": "NaN", "rounds": 1}',
    '{"epsilon": -Infinity, "rounds": 1}',
    '{"epsilon": null, "rounds": 1}',
    '{"epsilon": 1, "rounds": 0}',
    '{"epsilon": 1, "rounds": -1}',
    '{"epsilon": 1, "rounds": 1.5}',
    '{"epsilon": 1, "rounds": "many"}',
    '{"epsilon": 1, "rounds": 1, "evaluate": "perhaps"}',
    '{"epsilon": 1, "rounds": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_terms_is_refused_in_words_that_hold_nothing_of_it(text: object) -> None:
    with pytest.raises(WireError) as caught:
        RunTerms.parse(text)
    assert str(caught.value) == "terms: expected epsilon, rounds and evaluate as JSON, something else came"


@given(st.text())
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with pytest.raises(WireError):
        RunTerms.parse(text + "x")


@pytest.mark.parametrize("declared_size", [10, 1000, 100_000])
def test_the_plan_is_the_cards_with_the_epsilon_and_rounds_asked_for(declared_size: int) -> None:
    plan = RunTerms(epsilon=1.0, rounds=7).plan(CARD, declared_size)
    assert plan == plan_for(CARD, declared_size, epsilon=1.0, rounds=7)
    assert (plan.rounds, plan.local_steps, plan.declared_size) == (7, 10, declared_size)
    assert 0.98 < plan.epsilon <= 1.0


def test_no_privacy_is_a_plan_without_noise() -> None:
    assert not RunTerms(epsilon=math.inf, rounds=1).plan(CARD, 1000).private
