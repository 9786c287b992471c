"""Each answer and each refusal is a line before it leaves, and work stops on an account that was set back."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from client import chain, consent, head, ledger
from client.ledger import HELD_OUT, TRAINING, Budget, moment
from client.source import TableSource
from client.store import Store
from faelles.privacy.accountant import epsilon
from faelles.records import LEDGER_HEAD, PLAN, TERMS, Answer, Code, Kind, parse_answer
from faelles.terms import RunTerms
from tests.books import NOW
from tests.builders import FEDERATION, OTHER_FEDERATION, Agent, build_card, build_policy, build_table, code_of

CARD = build_card()
DELTA = CARD.privacy.delta


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path, CARD, policy=build_policy(CARD, epsilon_cap=5.0))


def outcomes(agent: Agent) -> list[str]:
    return [str(line["outcome"]) for line in agent.journal()]


def whole_run(agent: Agent) -> None:
    agent.ready()
    for number in (1, 2, 3):
        agent.train(number)
    agent.ask(Kind.EVALUATE, 3, arrays=agent.start())
    agent.ask(Kind.FINAL, 3, arrays=agent.start())
    agent.ask(Kind.CLOSE, 3)


def withdraw(agent: Agent) -> None:
    with agent.store.transaction() as database:
        consent.withdraw(database, CARD.sha256, agent.now())


# a line for each thing that left


def test_a_run_is_told_line_by_line_with_what_each_release_cost(agent: Agent) -> None:
    whole_run(agent)
    lines = agent.journal()
    assert [(line["kind"], line["server_round"]) for line in lines] == [
        ("query.ready", 0), ("train", 1), ("train", 2), ("train", 3), ("evaluate", 3), ("query.final", 3),
        ("query.close", 3),
    ]  # fmt: skip
    assert set(outcomes(agent)) == {"cleared"}
    plan = RunTerms.of(CARD).plan(CARD, 50)
    for number, line in enumerate(lines[1:4], start=1):
        assert line["epsilon"] == pytest.approx(plan.epsilon_after(1))
        assert line["epsilon_after"] == pytest.approx(plan.epsilon_after(number))
        assert line["delta"] == DELTA
    assert lines[4]["epsilon"] == lines[4]["epsilon_after"] == pytest.approx(CARD.evaluation.epsilon, abs=0.01)
    assert {line["epsilon"] for line in (lines[0], *lines[5:])} == {None}
    for line in lines:
        assert (line["recipient"], line["federation"], line["card"], line["approval"]) == (
            "coordinator", FEDERATION, CARD.sha256, 2,
        )  # fmt: skip
    assert chain.verify(agent.store.database, "journal")[0] == len(lines)


def test_a_line_says_how_many_bytes_left_and_which(agent: Agent) -> None:
    whole_run(agent)
    for message, line in zip(agent.messages[1::2], agent.journal(), strict=True):
        packed = parse_answer(message).pack()
        assert (line["bytes"], line["sha256"]) == (len(packed), hashlib.sha256(packed).hexdigest())


def test_what_an_account_has_spent_is_of_all_its_runs(agent: Agent) -> None:
    whole_run(agent)
    agent.ready(federation=OTHER_FEDERATION)
    agent.train(1, federation=OTHER_FEDERATION)
    have = ledger.account(agent.store.database, "cyclists", TRAINING, agent.now())
    assert agent.journal()[-1]["epsilon_after"] == epsilon(have.spent, DELTA)
    assert epsilon(have.spent, DELTA) > RunTerms.of(CARD).plan(CARD, 50).epsilon


def test_a_resend_gets_a_line_of_its_own_and_costs_nothing(agent: Agent) -> None:
    agent.ready()
    first = parse_answer(agent.train(1))
    agent.train(1)
    cleared, resent = agent.journal()[-2:]
    assert (cleared["outcome"], resent["outcome"]) == ("cleared", "resent")
    assert (resent["epsilon"], resent["bytes"], resent["sha256"]) == (None, cleared["bytes"], cleared["sha256"])
    assert hashlib.sha256(first.pack()).hexdigest() == resent["sha256"]


def malformed(agent: Agent) -> None:
    agent.ask(Kind.TRAIN, 1, {PLAN: "{}"})


REFUSALS: dict[str, Callable[[Agent], object]] = {
    "card-not-approved": lambda agent: agent.ask(Kind.READY, 0, {TERMS: "{}"}, card_sha256="0" * 64),
    "terms-refused": lambda agent: agent.ready(RunTerms(epsilon=2.5, rounds=3), OTHER_FEDERATION),
    "request-conflicts": lambda agent: agent.ready(RunTerms(epsilon=1.0, rounds=3)),
    "not-ready": lambda agent: agent.train(1, federation=OTHER_FEDERATION),
    "budget-exhausted": lambda agent: agent.train(4),
    "plan-differs": lambda agent: agent.train(1, terms=RunTerms(epsilon=1.0, rounds=3)),
    "malformed": malformed,
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_gets_a_line_with_its_code(agent: Agent, code: str) -> None:
    agent.ready()
    REFUSALS[code](agent)
    line, reply = agent.journal()[-1], agent.messages[-1]
    assert line["outcome"] == f"refused:{code}"
    assert line["bytes"] == len(str(reply.error.reason))
    assert (line["epsilon"], line["sha256"], line["approval"]) == (None, "", 0)
    assert str(reply.error.reason).startswith(code)


def test_a_refusal_leaves_also_where_the_line_cannot_be_written(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    agent.ready()
    agent.store.close()
    with caplog.at_level(logging.ERROR):
        assert code_of(agent.train(1)) is Code.FAILED
    assert "event=unjournalled outcome=refused:failed error=ProgrammingError" in caplog.text


def test_nothing_leaves_where_its_line_cannot_be_written(agent: Agent) -> None:
    agent.ready()
    full = "BEGIN SELECT RAISE(ABORT, 'full'); END"
    agent.store.database.execute(f"CREATE TRIGGER full BEFORE INSERT ON journal WHEN NEW.outcome = 'cleared' {full}")
    for reply in (agent.train(1), agent.ask(Kind.EVALUATE, 3, arrays=agent.start()), agent.ask(Kind.CLOSE, 3)):
        assert code_of(reply) is Code.FAILED
    assert agent.releases() == agent.releases(HELD_OUT) == 0
    agent.store.database.execute("DROP TRIGGER full")
    assert code_of(agent.train(1)) is None
    agent.store.database.execute(f"CREATE TRIGGER full BEFORE INSERT ON journal WHEN NEW.outcome = 'resent' {full}")
    assert code_of(agent.train(1)) is Code.FAILED


# the policy and the approval are asked for every message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"updates": False}, Code.RELEASE_NOT_ALLOWED),
        ({"cards": ()}, Code.CARD_NOT_APPROVED),
        ({"two_people_approve": True}, Code.CARD_NOT_APPROVED),
    ],
)
def test_a_rule_counts_from_the_next_message_on(agent: Agent, change: dict[str, Any], code: Code) -> None:
    agent.ready()
    agent.train(1)
    agent.policy = replace(agent.policy, policy=replace(agent.policy.policy, **change))
    assert code_of(agent.train(2)) is code


def test_a_policy_that_cannot_be_read_fails_closed(agent: Agent) -> None:
    agent.ready()
    agent.policy = None  # type: ignore[assignment]  # what reads the policy raises
    assert code_of(agent.train(1)) is Code.FAILED


def test_an_approval_that_ends_stops_the_run(agent: Agent) -> None:
    approval = replace(next(iter(agent.policy.approvals.values())), until=date(2026, 5, 4))
    agent.now = lambda: NOW
    agent.restart(policy=replace(agent.policy, approvals={CARD.sha256: approval}))
    agent.ready()
    assert code_of(agent.train(1)) is None
    agent.now = lambda: NOW + timedelta(days=1)
    assert code_of(agent.train(2)) is Code.APPROVAL_EXPIRED


def test_a_reservation_that_ends_while_a_round_is_computed_sends_nothing(agent: Agent) -> None:
    agent.policy = replace(agent.policy, policy=replace(agent.policy.policy, reservation_days=1))
    moments = [NOW, NOW + timedelta(days=1)]
    agent.now = lambda: NOW
    agent.ready()
    table = agent.source.read()

    class Slow:
        def read(self) -> Any:
            agent.now = lambda: moments[1]
            return table

    agent.source = Slow()
    assert code_of(agent.train(1)) is Code.NOT_READY
    assert agent.releases() == 0
    assert outcomes(agent)[-1] == "refused:not-ready"


def test_a_withdrawal_while_a_round_is_computed_sends_nothing(agent: Agent, tmp_path: Path) -> None:
    agent.ready()
    table = agent.source.read()

    class Watched:
        def read(self) -> Any:
            desk = Store(tmp_path / "0101.sqlite", durable=False, serving=False)
            with desk.transaction() as database:
                consent.withdraw(database, CARD.sha256, agent.now())
            desk.close()
            return table

    agent.source = Watched()
    assert code_of(agent.train(1)) is Code.NOT_READY
    assert agent.account() == agent.account(HELD_OUT) == 0
    agent.source = TableSource(table=table)
    assert code_of(agent.train(1)) is Code.WITHDRAWN


def test_what_was_sent_before_a_withdrawal_is_not_sent_again(agent: Agent) -> None:
    agent.ready()
    agent.train(1)
    withdraw(agent)
    for reply in (agent.train(1), agent.train(2), agent.ready(), agent.ask(Kind.CLOSE, 3)):
        assert code_of(reply) is Code.WITHDRAWN


# an account that was set back


@pytest.fixture
def set_back(tmp_path: Path) -> tuple[Agent, str]:
    """Be an agent whose store is what it was before round 2, and the head that the coordinator saw in round 2."""
    (tmp_path / "old").mkdir()
    lost = Agent(tmp_path / "old", CARD, policy=build_policy(CARD, epsilon_cap=5.0))
    lost.ready()
    lost.train(1)
    copy = Store(tmp_path / "0101.sqlite", durable=False)
    lost.store.database.backup(copy.database)
    copy.close()
    seen = str(parse_answer(lost.train(2)).extra[LEDGER_HEAD])
    return Agent(tmp_path, CARD, policy=build_policy(CARD, epsilon_cap=5.0), seed=8), seen


def present(agent: Agent, text: str, kind: Kind = Kind.READY, card: str | None = None) -> Code | None:
    terms = {TERMS: RunTerms.of(CARD).model_dump_json()} if kind is Kind.READY else {}
    return code_of(agent.ask(kind, 3, {**terms, LEDGER_HEAD: text}, card_sha256=card))


def test_no_work_is_done_on_an_account_that_was_set_back(set_back: tuple[Agent, str]) -> None:
    agent, seen = set_back
    assert present(agent, seen) is Code.LEDGER_FROZEN
    for reply in (
        agent.ready(), agent.ready(federation=OTHER_FEDERATION), agent.train(1), agent.train(2),
        agent.ask(Kind.EVALUATE, 3, arrays=agent.start()),
    ):  # fmt: skip
        assert code_of(reply) is Code.LEDGER_FROZEN
    assert agent.releases() == 1
    assert code_of(agent.ask(Kind.FINAL, 3, arrays=agent.start())) is None


def test_it_is_noticed_also_by_a_request_that_is_refused_for_something_else(set_back: tuple[Agent, str]) -> None:
    agent, seen = set_back
    assert present(agent, seen, Kind.EVALUATE, card="0" * 64) is Code.CARD_NOT_APPROVED
    assert head.frozen(agent.store.database)


def test_the_round_that_was_lost_cannot_be_had_again_after_recovery(set_back: tuple[Agent, str]) -> None:
    agent, seen = set_back
    present(agent, seen)
    with agent.store.transaction() as database:
        head.recover(database, agent.signer, agent.now())
    assert agent.account() == pytest.approx(RunTerms.of(CARD).plan(CARD, 50).epsilon)
    assert present(agent, seen) is None  # ready says again what it said; the run itself is over
    assert code_of(agent.train(2)) is Code.NOT_READY
    assert code_of(agent.train(1)) is None  # the very same bytes are still there
    assert code_of(agent.ready(federation=OTHER_FEDERATION)) is None


def test_nonsense_for_a_head_is_malformed_and_stops_nobody_else(agent: Agent) -> None:
    agent.ready()
    other = Agent(agent.store.path.parent, CARD, municipality="0147")
    foreign = str(parse_answer(other.ready()).extra[LEDGER_HEAD])
    for text in ("", "{}", foreign, foreign + " "):
        for kind in (Kind.READY, Kind.TRAIN, Kind.EVALUATE):
            assert present(agent, text, kind) is Code.MALFORMED
    assert code_of(agent.train(1)) is None


def test_every_answer_that_costs_shows_a_head_after_what_it_cost(agent: Agent) -> None:
    whole_run(agent)
    answers = [parse_answer(message) for message in agent.messages[1::2]]
    numbers = [head.read(str(one.extra[LEDGER_HEAD]), agent.signer).number for one in answers[:5]]
    # A population, an approval, two parts reserved; then one row for each release.
    assert numbers == [4, 5, 6, 7, 8]


def test_a_run_without_rows_tells_the_journal_nothing_of_it(tmp_path: Path) -> None:
    lines = []
    for citizens in (0, 60):
        (tmp_path / str(citizens)).mkdir()
        agent = Agent(tmp_path / str(citizens), CARD, source=TableSource(table=build_table(citizens)))
        agent.now = lambda: NOW
        whole_run(agent)
        lines.append([{**line, "sha256": "", "hash": ""} for line in agent.journal()])
    assert lines[0] == lines[1]
    assert {line["time"] for line in lines[0]} == {moment(NOW)}


def test_an_answer_is_kept_as_the_bytes_that_the_journal_names(agent: Agent) -> None:
    agent.ready()
    agent.train(1)
    kept = agent.store.database.execute("SELECT answer FROM outbox").fetchone()[0]
    assert Answer.unpack(kept).pack() == kept
    assert agent.journal()[-1]["sha256"] == hashlib.sha256(kept).hexdigest()


def test_budgets_of_special_and_other_populations_are_kept_apart(tmp_path: Path) -> None:
    rules = build_policy(CARD, epsilon_cap=5.0)
    policy = replace(rules.policy, special=Budget(epsilon=1.0, delta=DELTA))
    ordinary = replace(rules.population, special_categories=False)
    (tmp_path / "other").mkdir()
    for folder, population, code in (
        (tmp_path, rules.population, Code.TERMS_REFUSED), (tmp_path / "other", ordinary, None),
    ):  # fmt: skip
        agent = Agent(folder, CARD, policy=replace(rules, policy=policy, population=population))
        assert code_of(agent.ready()) is code
