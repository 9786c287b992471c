import json
import math
from dataclasses import FrozenInstanceError, asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faelles.card import UseCaseCard, parse_card
from faelles.errors import FaellesError, PlanError, WireError
from faelles.privacy._validate import MAX_COUNT
from faelles.privacy.accountant import ORDERS, Event, compose, epsilon, prv_epsilon, rdp_curve
from faelles.privacy.calibration import smallest_noise_multiplier
from faelles.privacy.plan import (
    DECLARED_SIZES,
    MAX_ROUNDS,
    PrivacyPlan,
    declared_band,
    gaussian_event,
    gaussian_noise_multiplier,
    plan_for,
)

PLAN = PrivacyPlan(
    declared_size=1000,
    batch_size=256,
    rounds=30,
    local_steps=10,
    clipping_norm=1.0,
    noise_multiplier=10.0,
    delta=1e-5,
)
SOLVABLE = ("epsilon", "delta", "noise_multiplier", "rounds", "batch_size", "declared_size")
PLANS = st.builds(
    PrivacyPlan,
    declared_size=st.integers(1, MAX_COUNT),
    batch_size=st.integers(1, MAX_COUNT),
    rounds=st.integers(1, MAX_COUNT),
    local_steps=st.integers(1, MAX_COUNT),
    clipping_norm=st.floats(0, 1e299, exclude_min=True),
    noise_multiplier=st.floats(0, 1e299),
    delta=st.floats(0, 1, exclude_min=True, exclude_max=True),
    unit=st.sampled_from(["citizen", "person-year", "række"]),
)


def card(**training: int) -> UseCaseCard:
    return parse_card(
        {
            "id": "elder-admission",
            "version": 1,
            "title": {"da": "Indlæggelser", "en": "Admissions"},
            "category": "forecasting",
            "model_type": "specific",
            "unit": "citizen",
            "label": {"column": "admitted", "kind": "binary"},
            "features": [{"name": "age", "kind": "number", "min": 65, "max": 105}],
            "model": {"kind": "logistic"},
            "training": {"rounds": 30, "batch_size": 64, "learning_rate": 0.5, **(training or {"local_steps": 10})},
            "privacy": {"epsilon": 2.0, "delta": 1e-5, "clipping_norm": 1.5},
            "law": {"special_categories": True, "ai_act": "annex-iii-5a", "basis": {}},
        }
    )


def terms(**changes: Any) -> dict[str, Any]:
    """Give the terms that `solve` takes, with the noise multiplier left to solve."""
    known = asdict(PLAN) | {"epsilon": 2.0, "noise_multiplier": None}
    return known | changes


def test_sampling_and_divisor_follow_from_the_declared_size() -> None:
    assert (PLAN.sampling_rate, PLAN.divisor, PLAN.steps) == (0.256, 256.0, 300)
    small = replace(PLAN, declared_size=100)
    assert (small.sampling_rate, small.divisor) == (1.0, 100.0)


@given(plan=PLANS)
def test_divisor_is_rate_times_declared_size(plan: PrivacyPlan) -> None:
    assert plan.divisor == pytest.approx(plan.sampling_rate * plan.declared_size, rel=1e-12)
    assert 0 < plan.sampling_rate <= 1


def test_accounting_follows_from_the_fields() -> None:
    assert PLAN.round_event == Event(sampling_rate=0.256, noise_multiplier=10.0, steps=10)
    np.testing.assert_allclose(PLAN.curve, compose(*[rdp_curve(PLAN.round_event)] * 30), rtol=1e-12)
    assert PLAN.epsilon == epsilon(PLAN.curve, 1e-5)
    assert PLAN.prv_epsilon == prv_epsilon([Event(sampling_rate=0.256, noise_multiplier=10.0, steps=300)], 1e-5)
    assert PLAN.prv_epsilon < PLAN.epsilon


def test_epsilon_after_grows_from_nothing_to_epsilon() -> None:
    spent = [PLAN.epsilon_after(rounds) for rounds in range(31)]
    assert spent[0] == 0
    assert spent[30] == PLAN.epsilon
    assert all(now < later for now, later in pairwise(spent))


@pytest.mark.parametrize("rounds", [-1, 31, True])
def test_epsilon_after_knows_only_the_rounds_of_the_plan(rounds: int) -> None:
    with pytest.raises(PlanError, match="expected a whole number from 0 to 30"):
        PLAN.epsilon_after(rounds)


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.noise_multiplier = 0.0  # type: ignore[misc]  # what the test is about


def test_no_noise_is_not_private() -> None:
    plan = replace(PLAN, noise_multiplier=0)
    assert not plan.private
    assert plan.epsilon == math.inf
    assert PLAN.private


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("declared_size", "batch_size", "rounds", "local_steps") for value in (0, -1)],
        *[(name, value) for name in ("declared_size", "rounds") for value in (1.0, True, "1", None, MAX_COUNT + 1)],
        *[("clipping_norm", value) for value in (0.0, -1.0, math.nan, math.inf, "1", True, 10**400)],
        *[("noise_multiplier", value) for value in (-0.1, math.nan, math.inf, None, True)],
        *[("delta", value) for value in (0.0, 1.0, math.nan, 1, "1e-5")],
        *[("unit", value) for value in ("", "a\nb", "x" * 65, 7)],
        *[("noise", value) for value in ("distributed", "", None)],
    ],
)
def test_a_term_outside_its_range_is_refused_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(PlanError, match=f"^{name}.*expected.*; ") as caught:
        PrivacyPlan(**(asdict(PLAN) | {name: value}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_distributed_noise_is_refused_until_it_is_supported() -> None:
    with pytest.raises(PlanError, match="noise='distributed': expected 'local', the only one supported so far"):
        replace(PLAN, noise="distributed")


@given(plan=PLANS)
def test_json_gives_an_equal_plan_and_one_text(plan: PrivacyPlan) -> None:
    text = plan.to_json()
    again = PrivacyPlan.from_json(text)
    assert again == plan
    assert again.to_json() == text


def test_json_is_canonical() -> None:
    assert replace(PLAN, clipping_norm=1, unit="række").to_json() == (
        '{"batch_size":256,"clipping_norm":1.0,"declared_size":1000,"delta":1e-05,"local_steps":10,"noise":"local",'
        '"noise_multiplier":10.0,"rounds":30,"unit":"række"}'
    )


def change(**changes: Any) -> str:
    return json.dumps(asdict(PLAN) | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "[" * 100_000,
        change(extra=1),
        json.dumps({name: value for name, value in asdict(PLAN).items() if name != "noise"}),
        change()[:-1] + ', "rounds": 1}',
        change(rounds=30.0),
        change(rounds=True),
        change(rounds="30"),
        change(rounds=None),
        change(rounds=[30]),
        change(clipping_norm="1"),
        change(clipping_norm=False),
        change(noise_multiplier=math.nan),
        change(noise_multiplier=math.inf),
        change(noise_multiplier=-math.inf),
        change(unit=1),
        change(rounds=7).replace("7", "7" * 5000),
    ],
)
def test_json_that_is_no_plan_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(WireError, match=r"^plan.*expected.*write it with to_json$") as caught:
        PrivacyPlan.from_json(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    [change(rounds=0), change(delta=0.0), change(noise="elsewhere"), change().replace("10.0", "1e999")],
)
def test_json_with_impossible_terms_is_refused_as_a_plan_is(text: str) -> None:
    with pytest.raises(PlanError, match="expected"):
        PrivacyPlan.from_json(text)


@given(text=st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_text_gives_anything_but_a_plan_or_our_error(text: str) -> None:
    with pytest.raises(FaellesError):
        PrivacyPlan.from_json(text)


@settings(max_examples=40)
@given(
    declared_size=st.sampled_from(DECLARED_SIZES),
    batch_size=st.integers(1, 5000),
    rounds=st.integers(1, 500),
    local_steps=st.integers(1, 100),
)
def test_solved_noise_spends_the_epsilon_and_never_more(
    declared_size: int, batch_size: int, rounds: int, local_steps: int
) -> None:
    plan = PrivacyPlan.solve(
        **terms(declared_size=declared_size, batch_size=batch_size, rounds=rounds, local_steps=local_steps)
    )
    assert 1.98 <= plan.epsilon <= 2.0
    assert (plan.declared_size, plan.batch_size, plan.rounds) == (declared_size, batch_size, rounds)


@settings(max_examples=25)
@given(
    missing=st.sampled_from([name for name in SOLVABLE if name != "epsilon"]),
    sigma=st.floats(0.8, 20.0),
    target=st.floats(0.2, 10.0),
    batch_size=st.integers(1, 1000),
)
def test_no_solved_plan_spends_more_than_asked(missing: str, sigma: float, target: float, batch_size: int) -> None:
    asked = terms(epsilon=target, noise_multiplier=sigma, batch_size=batch_size) | {missing: None}
    try:
        plan = PrivacyPlan.solve(**asked)
    except PlanError:  # the refusals have their own test
        return
    assert plan.epsilon <= target


def test_solved_rounds_and_batch_are_the_largest() -> None:
    rounds = PrivacyPlan.solve(**terms(noise_multiplier=8.0, rounds=None))
    assert replace(rounds, rounds=rounds.rounds + 1).epsilon > 2.0
    batch = PrivacyPlan.solve(**terms(noise_multiplier=8.0, batch_size=None))
    assert replace(batch, batch_size=batch.batch_size + 1).epsilon > 2.0


def test_solved_size_and_delta_are_the_smallest() -> None:
    size = PrivacyPlan.solve(**terms(noise_multiplier=8.0, declared_size=None))
    assert replace(size, declared_size=size.declared_size - 1).epsilon > 2.0
    delta = PrivacyPlan.solve(**terms(noise_multiplier=8.0, delta=None))
    assert replace(delta, delta=delta.delta * 0.998).epsilon > 2.0


def test_solved_terms_have_their_ends() -> None:
    assert PrivacyPlan.solve(**terms(noise_multiplier=1e6, rounds=None)).rounds == MAX_ROUNDS
    assert PrivacyPlan.solve(**terms(noise_multiplier=1e6, batch_size=None)).batch_size == 1000
    assert PrivacyPlan.solve(**terms(noise_multiplier=1e6, declared_size=None)).declared_size == 256


@pytest.mark.parametrize("missing", SOLVABLE)
def test_every_term_is_found_again(missing: str) -> None:
    plan = PrivacyPlan.solve(**terms())
    asked = asdict(plan) | {"epsilon": plan.epsilon} | {missing: None}
    found = PrivacyPlan.solve(**asked)
    for name, value in asdict(plan).items():
        assert getattr(found, name) == (pytest.approx(value, rel=2e-3) if name == missing else value)
    assert found.epsilon <= plan.epsilon


def test_equal_terms_are_solved_once() -> None:
    first = PrivacyPlan.solve(**terms(epsilon=1.2345))
    hits = smallest_noise_multiplier.cache_info().hits
    assert PrivacyPlan.solve(**terms(epsilon=1.2345, declared_size=2000, batch_size=512)) == replace(
        first, declared_size=2000, batch_size=512
    )
    assert smallest_noise_multiplier.cache_info().hits == hits + 1


def test_infinite_epsilon_means_no_noise() -> None:
    assert PrivacyPlan.solve(**terms(epsilon=math.inf)).noise_multiplier == 0
    assert PrivacyPlan.solve(**terms(epsilon=None, noise_multiplier=0)).epsilon == math.inf


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_multiplier": 1.0}, "exactly one of .* came none; leave out one"),
        ({"rounds": None, "delta": None}, "came delta, noise_multiplier, rounds; leave out one"),
        ({"epsilon": math.inf, "noise_multiplier": 1.0, "rounds": None}, "epsilon=inf leaves rounds open"),
        ({"noise_multiplier": 0.0, "rounds": None}, "noise_multiplier=0 with a finite epsilon"),
        ({"noise_multiplier": 0.5, "rounds": None}, "expected a rounds that keeps it, none does"),
        ({"noise_multiplier": 0.1, "batch_size": None}, "expected a batch_size that keeps it, none does"),
        ({"noise_multiplier": 0.01, "declared_size": None}, "expected a declared_size that keeps it, none does"),
        ({"epsilon": 0.0}, "epsilon=0.0: expected > 0"),
        ({"epsilon": -1.0}, "epsilon=-1.0: expected > 0"),
        ({"epsilon": math.nan}, "epsilon=nan: expected > 0"),
        ({"epsilon": True}, "epsilon=True: expected > 0"),
        ({"epsilon": 1e-5, "delta": 1e-12, "rounds": MAX_COUNT, "batch_size": 1000}, "none does; raise epsilon or"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_contradictions_are_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        PrivacyPlan.solve(**terms(**changes))
    assert "\n" not in str(caught.value)


def test_plan_for_a_card_takes_its_terms() -> None:
    plan = plan_for(card(), 1000)
    assert asdict(plan) == asdict(PLAN) | {
        "batch_size": 64,
        "clipping_norm": 1.5,
        "noise_multiplier": plan.noise_multiplier,
    }
    assert 1.98 <= plan.epsilon <= 2.0
    assert plan_for(card(), 1000).to_json() == plan.to_json()


def test_plan_for_a_card_counts_epochs_of_the_declared_size() -> None:
    assert [plan_for(card(local_epochs=3), size).local_steps for size in (10, 64, 100, 1000)] == [3, 3, 6, 48]
    assert plan_for(card(local_epochs=3), 1000, batch_size=500).local_steps == 6


def test_plan_for_a_card_takes_overrides() -> None:
    plan = plan_for(card(), 500, epsilon=1.0, rounds=5, local_steps=2, batch_size=100, delta=1e-6, clipping_norm=0.5)
    assert (plan.rounds, plan.local_steps, plan.batch_size, plan.delta, plan.clipping_norm) == (5, 2, 100, 1e-6, 0.5)
    assert 0.99 <= plan.epsilon <= 1.0
    assert not plan_for(card(), 500, epsilon=math.inf).private


@pytest.mark.parametrize("declared_size", [0, -10, 10.0, True])
def test_plan_for_refuses_a_size_that_is_none(declared_size: int) -> None:
    with pytest.raises(PlanError, match="declared_size"):
        plan_for(card(local_epochs=1), declared_size)


@given(count=st.integers(0, 10**7))
def test_band_is_the_nearest_in_ratio(count: int) -> None:
    band = declared_band(count)
    assert band in DECLARED_SIZES
    distance = {size: abs(math.log(max(count, 1) / size)) for size in DECLARED_SIZES}
    assert distance[band] == pytest.approx(min(distance.values()))


@given(counts=st.tuples(st.integers(0, 2 * 10**6), st.integers(0, 2 * 10**6)))
def test_band_never_falls_when_the_count_rises(counts: tuple[int, int]) -> None:
    assert declared_band(min(counts)) <= declared_band(max(counts))


def test_band_of_a_tie_is_the_lower_one() -> None:
    assert declared_band(50) == 50
    assert declared_band(5_000) == 5_000
    assert [declared_band(count) for count in (158, 159)] == [100, 250]  # sqrt(100 * 250) = 158.1
    assert declared_band(500) == 500


@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_band_of_no_count_is_refused(count: int) -> None:
    with pytest.raises(PlanError, match="count"):
        declared_band(count)


@settings(max_examples=25)
@given(target=st.floats(0.05, 10.0), delta=st.sampled_from([1e-3, 1e-5, 1e-8]))
def test_one_release_keeps_its_epsilon(target: float, delta: float) -> None:
    event = gaussian_event(target, delta)
    assert (event.sampling_rate, event.steps) == (1.0, 1)
    assert event.noise_multiplier == gaussian_noise_multiplier(target, delta)
    assert 0.99 * target <= epsilon(rdp_curve(event), delta) <= target


def test_one_release_without_a_bound_has_no_noise() -> None:
    assert gaussian_noise_multiplier(math.inf, 1e-5) == 0
    assert np.all(np.isinf(rdp_curve(gaussian_event(math.inf, 1e-5))))
    assert len(rdp_curve(gaussian_event(1.0, 1e-5))) == len(ORDERS)


@pytest.mark.parametrize(("target", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_one_release_refuses_impossible_terms(target: float, delta: float) -> None:
    with pytest.raises(PlanError, match="expected"):
        gaussian_noise_multiplier(target, delta)
