"""The books admit what the production agent admits; that every refusal is the agent's own, `test_cohort` shows."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from faelles.card import UseCaseCard
from faelles.models import initial_parameters
from faelles.records import PLAN, TERMS, Code, Kind, Refusal, Request, Scalar
from faelles.terms import RunTerms
from simulations.books import Books
from tests.builders import FEDERATION, OTHER_FEDERATION, build_card, personal_card

CARD = build_card()
SMALL, LARGE, EMPTY = 1001, 1002, 1003
SIZES = {SMALL: 25, LARGE: 500, EMPTY: 0}


def books(cap: float = 2.0, card: UseCaseCard = CARD) -> Books:
    return Books(card=card, declared_sizes=SIZES, epsilon_cap=cap)


def ask(
    kind: Kind, number: int = 0, federation: str = FEDERATION, extra: Mapping[str, Scalar] | None = None
) -> Request:
    return Request(kind=kind, federation=federation, server_round=number, card_sha256=CARD.sha256, extra=extra or {})


def ready(federation: str = FEDERATION, **changes: Any) -> Request:
    terms = RunTerms(**({"epsilon": 2.0, "rounds": 3} | changes))
    return ask(Kind.READY, federation=federation, extra={TERMS: terms.model_dump_json()})


def code(refusal: Refusal | None) -> Code | None:
    return refusal.code if refusal else None


def test_who_states_another_size_has_another_plan() -> None:
    kept = books()
    for node in (SMALL, LARGE):
        assert kept.admit(node, ready()) is None
        assert kept.reserved(node, FEDERATION).plan == RunTerms.of(CARD).plan(CARD, SIZES[node])
    plans = {node: kept.reserved(node, FEDERATION).plan.to_json() for node in (SMALL, LARGE)}
    assert kept.admit(SMALL, ask(Kind.TRAIN, 1, extra={PLAN: plans[SMALL]})) is None
    assert code(kept.admit(SMALL, ask(Kind.TRAIN, 1, extra={PLAN: plans[LARGE]}))) == Code.PLAN_DIFFERS
    assert code(kept.admit(SMALL, ask(Kind.TRAIN, 1))) == Code.MALFORMED


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_run_has_as_many_rounds_as_it_asked_for(number: int) -> None:
    kept = books()
    assert kept.admit(SMALL, ready(rounds=2)) is None
    request = ask(Kind.TRAIN, number, extra={PLAN: kept.reserved(SMALL, FEDERATION).plan.to_json()})
    assert code(kept.admit(SMALL, request)) == (Code.BUDGET_EXHAUSTED if number > 2 else None)


@pytest.mark.parametrize(("cap", "epsilon"), [(2.0, math.inf), (1.9, 2.0), (0.4, 0.3)])
def test_what_goes_beyond_the_cap_is_refused_with_the_cap(cap: float, epsilon: float) -> None:
    # The last of them for its histogram, which costs what the card says.
    refusal = books(cap).admit(SMALL, ready(epsilon=epsilon))
    assert refusal == Refusal(code=Code.TERMS_REFUSED, epsilon_cap=cap)


def test_only_without_a_cap_may_a_run_be_without_privacy() -> None:
    kept = books(math.inf)
    assert kept.admit(SMALL, ready(epsilon=math.inf)) is None
    assert not kept.reserved(SMALL, FEDERATION).plan.private


def test_a_refused_run_sets_nothing_aside_and_may_ask_for_less() -> None:
    kept = books(1.0)
    assert code(kept.admit(SMALL, ready())) == Code.TERMS_REFUSED
    assert not kept.runs.get(SMALL)
    assert kept.admit(SMALL, ready(epsilon=0.9)) is None


def test_the_same_run_may_ask_again_and_no_other_in_its_name() -> None:
    kept = books()
    assert kept.admit(SMALL, ready()) is None
    assert kept.admit(SMALL, ready()) is None
    assert code(kept.admit(SMALL, ready(rounds=2))) == Code.REQUEST_CONFLICTS
    assert kept.reserved(SMALL, FEDERATION).terms.rounds == 3


def test_a_close_is_heard_whoever_sends_it() -> None:
    kept = books()
    assert kept.admit(SMALL, ask(Kind.CLOSE, federation=OTHER_FEDERATION)) is None
    assert code(kept.admit(EMPTY, ask(Kind.CLOSE))) == Code.NO_DATA


@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.EVALUATE, Kind.FINAL])
def test_a_model_has_the_shared_arrays_and_finite_numbers(kind: Kind) -> None:
    card = personal_card()
    kept = books(card=card)
    whole = initial_parameters(card)
    shared = {name: array for name, array in whole.items() if name not in card.model.local}
    turned, endless = {"output.weight": shared["output.weight"].T}, {"output.weight": np.full((1, 5), np.inf, "f4")}
    for arrays, wrong in ((shared, False), (whole, True), ({}, True), (turned, True), (endless, True)):
        request = Request(kind=kind, federation=FEDERATION, server_round=1, card_sha256=card.sha256, arrays=arrays)
        assert kept.malformed(request) == wrong
    assert not kept.malformed(ready())
