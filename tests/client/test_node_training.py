"""An update is had once for each reserved round, under the reserved plan, from arrays within public bounds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.ledger import HELD_OUT
from client.source import TableSource
from client.store import Store
from faelles.card import UseCaseCard
from faelles.models import Arrays
from faelles.privacy.accountant import rdp_curve
from faelles.privacy.plan import PrivacyPlan
from faelles.records import PLAN, Code, Kind, parse_answer
from faelles.terms import RunTerms
from tests.builders import (
    Agent,
    build_card,
    build_policy,
    build_table,
    code_of,
    content_bytes,
    personal_card,
)

CARD = build_card()
INF = float("inf")


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path, CARD)


def plan_of(agent: Agent) -> PrivacyPlan:
    size = agent.policy.approvals[agent.card.sha256].declared_size
    return RunTerms.of(agent.card).plan(agent.card, size)


def without_privacy(card: UseCaseCard) -> RunTerms:
    return RunTerms(epsilon=INF, rounds=card.training.rounds)


def test_nothing_is_had_before_ready(agent: Agent) -> None:
    assert code_of(agent.train(1)) is Code.NOT_READY
    assert code_of(agent.ask(Kind.EVALUATE, 1, arrays=agent.start())) is Code.NOT_READY
    assert code_of(agent.ask(Kind.FINAL, 1, arrays=agent.start())) is Code.NOT_READY


def test_a_repeated_request_gets_the_very_same_bytes_and_spends_once(agent: Agent) -> None:
    agent.ready()
    first = agent.train(1)
    agent.restart(seed=8)  # whatever is drawn now would differ
    again = agent.train(1)
    assert content_bytes(again) == content_bytes(first)
    assert agent.releases() == 1
    np.testing.assert_array_equal(agent.spent(), rdp_curve(plan_of(agent).round_event))
    assert content_bytes(agent.train(2)) != content_bytes(first)


def test_a_repeated_request_is_answered_by_a_new_process_and_after_close(tmp_path: Path, agent: Agent) -> None:
    agent.ready()
    first = agent.train(1)
    histogram = agent.ask(Kind.EVALUATE, 1, arrays=agent.start())
    agent.ask(Kind.CLOSE, 3)
    agent.store.close()
    agent.store = Store(tmp_path / "0101.sqlite")
    agent.restart(seed=8)
    assert content_bytes(agent.train(1)) == content_bytes(first)
    assert content_bytes(agent.ask(Kind.EVALUATE, 1, arrays=agent.start())) == content_bytes(histogram)
    assert code_of(agent.train(2)) is Code.NOT_READY


def test_the_same_round_with_other_content_is_refused(agent: Agent) -> None:
    agent.ready()
    agent.train(1)
    other = {name: array + np.float32(0.5) for name, array in agent.start().items()}
    assert code_of(agent.train(1, other)) is Code.REQUEST_CONFLICTS
    assert code_of(agent.train(1, mu=0.1)) is Code.REQUEST_CONFLICTS
    agent.ask(Kind.EVALUATE, 3, arrays=agent.start())
    assert code_of(agent.ask(Kind.EVALUATE, 3, arrays=other)) is Code.REQUEST_CONFLICTS
    assert agent.releases() == 1


def test_old_rounds_are_superseded(agent: Agent) -> None:
    agent.ready()
    first, *_ = [agent.train(number) for number in (1, 2, 3)]
    assert code_of(first) is None
    assert code_of(agent.train(1)) is Code.SUPERSEDED
    assert code_of(agent.train(2)) is None


def test_a_round_that_was_left_out_cannot_be_had_later(agent: Agent) -> None:
    agent.ready()
    agent.train(2)
    assert code_of(agent.train(1)) is Code.SUPERSEDED


@pytest.mark.parametrize("server_round", [4, 1_000_000])
def test_there_are_no_more_rounds_than_reserved(agent: Agent, server_round: int) -> None:
    agent.ready()
    for number in (1, 2, 3):
        agent.train(number)
    assert code_of(agent.train(server_round)) is Code.BUDGET_EXHAUSTED
    assert agent.account() == pytest.approx(plan_of(agent).epsilon)


def test_round_zero_is_no_round_more(agent: Agent) -> None:
    agent.ready()
    for number in (0, 1, 2):
        agent.train(number)
    assert code_of(agent.train(3)) is Code.BUDGET_EXHAUSTED


def test_a_round_from_far_away_cannot_push_local_state_or_answers_out(tmp_path: Path) -> None:
    agent = Agent(tmp_path, personal_card())
    agent.ready()
    first = agent.train(1)
    for kind, extra in ((Kind.TRAIN, {PLAN: plan_of(agent).to_json()}), (Kind.EVALUATE, {})):
        assert code_of(agent.ask(kind, 1_000, extra, agent.start())) is Code.BUDGET_EXHAUSTED
    assert content_bytes(agent.train(1)) == content_bytes(first)
    assert agent.local_state(2) is not None


def test_after_all_rounds_the_spent_curve_is_the_plans(agent: Agent) -> None:
    agent.ready()
    for number in (1, 2, 3):
        agent.train(number)
    np.testing.assert_allclose(agent.spent(), plan_of(agent).curve, rtol=1e-12)
    agent.ask(Kind.CLOSE, 3)
    assert agent.account() == pytest.approx(plan_of(agent).epsilon, rel=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": 0.5},
        {"rounds": 2},
        {"local_steps": 1},
        {"batch_size": 31},
        {"declared_size": 100},
        {"clipping_norm": 1e9},
        {"delta": 1e-4},
        {"unit": "row"},
    ],
)
def test_a_plan_that_differs_in_anything_is_refused(agent: Agent, change: dict[str, Any]) -> None:
    agent.ready()
    plan = PrivacyPlan(**(vars(plan_of(agent)) | change))
    assert code_of(agent.ask(Kind.TRAIN, 1, {PLAN: plan.to_json()}, agent.start())) is Code.PLAN_DIFFERS
    assert not agent.spent().any()


@pytest.mark.parametrize("plan", ["", "{}", "[]", "null", '{"rounds":1', "x" * 1000])
def test_a_plan_that_is_none_is_malformed(agent: Agent, plan: str) -> None:
    agent.ready()
    assert code_of(agent.ask(Kind.TRAIN, 1, {PLAN: plan}, agent.start())) is Code.MALFORMED


def test_a_declared_size_restated_after_ready_cannot_be_spent(agent: Agent) -> None:
    agent.ready()
    agent.restart(policy=build_policy(CARD, declared_size=100))
    plan = {PLAN: plan_of(agent).to_json()}  # as the coordinator would compute it for the new size
    assert code_of(agent.ask(Kind.TRAIN, 1, plan, agent.start())) is Code.PLAN_DIFFERS


def test_a_run_on_one_population_cannot_go_on_with_another(agent: Agent) -> None:
    agent.ready()
    agent.restart(policy=build_policy(CARD, population="pedestrians"))
    assert code_of(agent.train(1)) is Code.NOT_READY


def crafted(name: str, value: float) -> Arrays:
    shapes = {"output.weight": (1, 5), "output.bias": (1,)}
    arrays = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    arrays[name].flat[0] = value
    return arrays


@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.EVALUATE, Kind.FINAL])
@pytest.mark.parametrize(
    "arrays",
    [
        crafted("output.weight", np.nan),
        crafted("output.weight", np.inf),
        crafted("output.bias", -np.inf),
        crafted("output.bias", 1e30),
        crafted("output.bias", 1.1e6),
        {},
        {"output.weight": np.zeros((1, 5), np.float32)},
        dict(reversed(crafted("output.bias", 0).items())),
        crafted("output.bias", 0) | {"more": np.zeros(1, np.float32)},
        crafted("output.bias", 0) | {"output.bias": np.zeros((1, 1), np.float32)},
        crafted("output.bias", 0) | {"output.bias": np.zeros(1, np.float64)},
        crafted("output.bias", 0) | {"output.bias": np.zeros(1, np.int32)},
        crafted("output.bias", 0) | {"output.bias": np.zeros(0, np.float32)},
        crafted("output.bias", 0) | {"output.bias": np.array(["text"])},
    ],
)
def test_crafted_arrays_are_malformed_and_spend_nothing(agent: Agent, kind: Kind, arrays: Arrays) -> None:
    agent.ready()
    extra = {PLAN: plan_of(agent).to_json()} if kind is Kind.TRAIN else {}
    assert code_of(agent.ask(kind, 1, extra, arrays)) is Code.MALFORMED
    assert not agent.spent().any()
    assert not agent.spent(HELD_OUT).any()
    assert agent.model() is None


@pytest.mark.parametrize("value", [-1e6, 1e6])
def test_the_largest_arrays_allowed_are_answered_with_finite_numbers(agent: Agent, value: float) -> None:
    agent.ready()
    reply = agent.train(1, {name: np.full_like(array, value) for name, array in agent.start().items()})
    assert code_of(reply) is None
    assert all(np.isfinite(array).all() for array in parse_answer(reply).arrays.values())


@pytest.mark.parametrize("mu", [-0.1, 101.0, "1", 1e300])
def test_a_pull_outside_its_public_bounds_is_malformed(agent: Agent, mu: float | str) -> None:
    agent.ready()
    assert code_of(agent.train(1, mu=mu)) is Code.MALFORMED
    assert not agent.spent().any()


def test_a_pull_shortens_the_update(tmp_path: Path) -> None:
    terms = without_privacy(CARD)
    norms = []
    for number, mu in enumerate((0.0, 1.0)):
        policy = build_policy(CARD, epsilon_cap=INF)
        folder = tmp_path / str(number)
        folder.mkdir()
        agent = Agent(folder, CARD, policy=policy)
        agent.ready(terms)
        arrays = parse_answer(agent.train(1, terms=terms, mu=mu)).arrays
        norms.append(sum(float(np.square(array).sum()) for array in arrays.values()))
    assert norms[1] < norms[0]


def test_the_true_count_changes_neither_code_nor_shape(tmp_path: Path) -> None:
    for citizens in (0, 1, 60, 600):
        folder = tmp_path / str(citizens)
        folder.mkdir()
        agent = Agent(folder, CARD, source=TableSource(table=build_table(citizens)))
        assert code_of(agent.ready()) is None
        update = parse_answer(agent.train(1)).arrays
        assert [array.shape for array in update.values()] == [array.shape for array in agent.start().values()]
        assert code_of(agent.ask(Kind.EVALUATE, 1, arrays=agent.start())) is None
        assert agent.account() == pytest.approx(plan_of(agent).epsilon)
