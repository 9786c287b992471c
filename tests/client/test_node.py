"""The coordinator may ask for anything; policy, account and outbox decide what it gets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from client.ledger import HELD_OUT, free
from client.source import TableSource
from faelles.card import UseCaseCard
from faelles.privacy.plan import PrivacyPlan
from faelles.records import LEDGER_HEAD, PLAN, TERMS, Code, Kind, Scalar, parse_answer
from faelles.terms import RunTerms
from tests.builders import (
    FEDERATION,
    LOCAL,
    OTHER_FEDERATION,
    Agent,
    build_card,
    build_policy,
    build_table,
    code_of,
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


def asked_back(reply: Message) -> dict[str, Scalar]:
    return {key: value for key, value in parse_answer(reply).extra.items() if key != LEDGER_HEAD}


def kinds(agent: Agent) -> list[str]:
    return [row[0] for row in agent.store.database.execute("SELECT kind FROM ledger ORDER BY number")]


def test_ready_reserves_the_whole_run_once(agent: Agent) -> None:
    first = agent.ready()
    assert agent.account() == pytest.approx(plan_of(agent).epsilon)
    assert agent.account(HELD_OUT) == pytest.approx(CARD.evaluation.epsilon, abs=0.01)
    again = agent.ready()
    # Only the head is another: it says what the account holds now, sealed anew.
    assert asked_back(again) == asked_back(first) == {"municipality": "0101", "declared-size": 50}
    assert len([row for row in kinds(agent) if row == "reserve"]) == 2
    assert agent.account() == pytest.approx(plan_of(agent).epsilon)


def test_ready_again_with_other_terms_is_refused(agent: Agent) -> None:
    agent.ready()
    assert code_of(agent.ready(RunTerms(epsilon=1.0, rounds=3))) is Code.REQUEST_CONFLICTS
    assert agent.account() == pytest.approx(plan_of(agent).epsilon)


def test_ready_again_with_another_approved_card_is_refused(tmp_path: Path) -> None:
    other = build_card(training={"learning_rate": 0.25})
    approvals = {**build_policy(CARD).approvals, **build_policy(other).approvals}
    agent = Agent(tmp_path, CARD, policy=replace(build_policy(CARD, epsilon_cap=10.0), approvals=approvals))
    agent.ready()
    terms = {TERMS: RunTerms.of(CARD).model_dump_json()}
    assert code_of(agent.ask(Kind.READY, 0, terms, card_sha256=other.sha256)) is Code.REQUEST_CONFLICTS
    plan = {PLAN: plan_of(agent).to_json()}
    for kind, extra in ((Kind.TRAIN, plan), (Kind.EVALUATE, {}), (Kind.FINAL, {})):
        reply = agent.ask(kind, 1, extra, agent.start(), card_sha256=other.sha256)
        assert code_of(reply) is Code.NOT_READY
    assert agent.model() is None


def test_another_card_is_not_approved_for_any_kind(agent: Agent) -> None:
    other = build_card(privacy={"epsilon": 3.0})
    agent.ready()
    for kind in Kind:
        assert code_of(agent.ask(kind, 1, card_sha256=other.sha256)) is Code.CARD_NOT_APPROVED


@pytest.mark.parametrize(
    "terms",
    [
        RunTerms(epsilon=2.001, rounds=3),
        RunTerms(epsilon=2.0, rounds=4),
        RunTerms(epsilon=INF, rounds=3),
        RunTerms(epsilon=INF, rounds=4),
    ],
)
def test_looser_terms_than_the_cards_are_refused(tmp_path: Path, terms: RunTerms) -> None:
    agent = Agent(tmp_path, CARD, policy=build_policy(CARD, epsilon_cap=1000.0))
    reply = agent.ready(terms)
    assert (code_of(reply), reply.error.reason) == (Code.TERMS_REFUSED, "terms-refused (cap 1000)")
    assert agent.account() == 0
    assert code_of(agent.train(1)) is Code.NOT_READY


def test_tighter_terms_are_taken_and_reserve_less(agent: Agent) -> None:
    terms = RunTerms(epsilon=1.0, rounds=2)
    assert code_of(agent.ready(terms)) is None
    assert agent.account() == pytest.approx(1.0, abs=0.01)
    assert code_of(agent.train(1)) is Code.PLAN_DIFFERS
    assert code_of(agent.train(1, terms=terms)) is None


def test_the_cap_of_the_population_is_shared_by_federations(agent: Agent) -> None:
    agent.ready()
    reply = agent.ready(federation=OTHER_FEDERATION)
    assert (code_of(reply), reply.error.reason) == (Code.BUDGET_EXHAUSTED, "budget-exhausted (cap 2)")
    agent.ask(Kind.CLOSE, 3)
    assert code_of(agent.ready(federation=OTHER_FEDERATION)) is None


def test_a_run_that_spent_leaves_less_to_the_next(agent: Agent) -> None:
    agent.ready()
    agent.train(1)
    agent.ask(Kind.CLOSE, 3)
    assert agent.account() == pytest.approx(plan_of(agent).epsilon_after(1))
    assert code_of(agent.ready(federation=OTHER_FEDERATION)) is Code.BUDGET_EXHAUSTED


def test_a_run_beyond_the_cap_even_alone_is_refused_with_the_cap(tmp_path: Path) -> None:
    agent = Agent(tmp_path, CARD, policy=build_policy(CARD, epsilon_cap=1.9))
    reply = agent.ready()
    assert (code_of(reply), reply.error.reason) == (Code.TERMS_REFUSED, "terms-refused (cap 1.9)")
    assert agent.account() == agent.account(HELD_OUT) == 0


def test_a_municipality_without_citizens_is_asked_for_nothing(tmp_path: Path) -> None:
    agent = Agent(tmp_path, CARD, policy=build_policy(CARD, declared_size=0))
    for kind in Kind:
        assert code_of(agent.ask(kind, 1)) is Code.NO_DATA


# evaluate, final, close


def test_evaluation_is_released_once(agent: Agent) -> None:
    agent.ready()
    assert code_of(agent.ask(Kind.EVALUATE, 2, arrays=agent.start())) is None
    for server_round in (1, 3):
        reply = agent.ask(Kind.EVALUATE, server_round, arrays=agent.start())
        assert code_of(reply) in (Code.BUDGET_EXHAUSTED, Code.SUPERSEDED)
    agent.ask(Kind.CLOSE, 3)
    assert agent.account(HELD_OUT) == pytest.approx(CARD.evaluation.epsilon, abs=0.01)


def test_a_run_that_did_not_ask_for_evaluation_gets_none(agent: Agent) -> None:
    agent.ready(RunTerms(epsilon=2.0, rounds=3, evaluate=False))
    assert agent.account(HELD_OUT) == 0
    assert code_of(agent.ask(Kind.EVALUATE, 3, arrays=agent.start())) is Code.NOT_READY


def test_evaluation_sees_the_local_state_of_the_last_round(tmp_path: Path) -> None:
    card, shared = personal_card(), None
    histograms = []
    for number, rounds in enumerate((0, 3)):
        folder = tmp_path / str(number)
        folder.mkdir()
        agent = Agent(folder, card, policy=build_policy(card, epsilon_cap=INF))
        terms = without_privacy(card)
        agent.ready(terms)
        for server_round in range(1, rounds + 1):
            agent.train(server_round, shared, terms=terms)
        reply = agent.ask(Kind.EVALUATE, 3, arrays=agent.start())
        histograms.append(parse_answer(reply).arrays["histogram"])
    assert histograms[0].sum() == histograms[1].sum() > 0
    assert (histograms[0] != histograms[1]).any()


def test_close_ends_a_run_and_frees_what_it_did_not_spend(agent: Agent) -> None:
    agent.ready()
    agent.train(1)
    agent.ask(Kind.CLOSE, 1)
    assert agent.account() == pytest.approx(plan_of(agent).epsilon_after(1))
    assert code_of(agent.ready()) is None  # it may ask again for what it was answered
    assert agent.account() == pytest.approx(plan_of(agent).epsilon_after(1))
    assert code_of(agent.train(2)) is Code.NOT_READY


def test_closing_an_unknown_run_closes_no_other(agent: Agent) -> None:
    agent.ready()
    agent.ask(Kind.CLOSE, 1, federation=OTHER_FEDERATION)
    assert code_of(agent.train(1)) is None


def test_a_run_closed_while_its_round_was_computed_sends_nothing(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.ready()
    read = agent.source.read

    def close_meanwhile() -> Any:
        with agent.store.transaction() as database:
            free(database, FEDERATION, "closed", agent.now())
        return read()

    with monkeypatch.context() as patch:
        patch.setattr(type(agent.source), "read", lambda _: close_meanwhile())
        assert code_of(agent.train(1)) is Code.NOT_READY
    assert agent.account() == 0


# without privacy


def test_a_run_without_privacy_costs_everything(tmp_path: Path) -> None:
    agent = Agent(tmp_path, CARD, policy=build_policy(CARD, epsilon_cap=INF))
    terms = without_privacy(CARD)
    agent.ready(terms)
    assert code_of(agent.train(1, terms=terms)) is None
    agent.ask(Kind.CLOSE, 3)
    assert agent.account() == INF
    agent.restart(policy=build_policy(CARD, epsilon_cap=100.0))
    assert code_of(agent.ready(federation=OTHER_FEDERATION)) is Code.BUDGET_EXHAUSTED


def test_local_state_is_private_too_and_kept_by_round(tmp_path: Path) -> None:
    agent = Agent(tmp_path, personal_card(), source=TableSource(table=build_table(0)))
    agent.ready()
    agent.train(1)
    state = agent.local_state(2)
    # Nobody is there, so whatever is in the local parameter is noise.
    assert state is not None
    assert agent.local_state(1) is None
    assert LOCAL[0].encode() in state
