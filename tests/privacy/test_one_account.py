"""A population has one account: whatever begins anew, what was spent on its citizens stays spent."""

import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from client import head, ledger
from client.admission import evaluation_event
from client.app import build_client_app
from client.dataset import build_dataset
from client.ledger import HELD_OUT, TRAINING, Account
from client.source import TableSource
from faelles.errors import RunError
from faelles.privacy.accountant import Curve, epsilon, epsilons, rdp_curve
from faelles.records import CONFIG, LEDGER_HEAD, TERMS, Code, Kind
from faelles.terms import RunTerms
from server.participation import MUNICIPALITY, status
from server.report import render
from server.rounds import Federation
from simulations.worker import Crew
from tests.builders import (
    DECLARED_SIZE,
    FEDERATION,
    OTHER_FEDERATION,
    Agent,
    Rules,
    build_card,
    build_policy,
    build_table,
    code_of,
)
from tests.federations import build_config, build_crews, run_federation
from tests.privacy.neighbours import rows_of
from tests.privacy.real_path import names
from tests.scripted import ScriptedGrid, honest
from tests.server.test_report import make_result

ROOT = Path(__file__).parents[2]
CARD = build_card()
SLOWER = build_card(training={"learning_rate": 0.25})  # another card on the same citizens
DELTA = CARD.privacy.delta
CAP = 6.0
RUN_TERMS = RunTerms.of(CARD)
THIRD_FEDERATION = "6f1b2a52-3c6f-5d0a-9a53-0f4f1de1c003"
RUN = RUN_TERMS.plan(CARD, DECLARED_SIZE)
ROUND: Curve = rdp_curve(RUN.round_event)
EVALUATION: Curve = rdp_curve(evaluation_event(CARD, RUN_TERMS))
START = datetime(2026, 11, 2, 10, tzinfo=UTC)
Change = Callable[[Agent, Path], Agent]


def rules(cap: float = CAP, **policy: Any) -> Rules:
    """Approve both cards, with room for a few runs."""
    both = build_policy(CARD, epsilon_cap=cap, **policy)
    return replace(both, approvals={**both.approvals, **build_policy(SLOWER, epsilon_cap=cap).approvals})


def account(agent: Agent, part: str = TRAINING, period: str = "") -> Account:
    return ledger.account(agent.store.database, "cyclists", part, agent.now(), period)


def cost(agent: Agent, part: str = TRAINING) -> float:
    return epsilon(account(agent, part).total, DELTA)


def exactly(curve: Curve) -> object:
    """Expect the epsilon of a curve, but for the order in which float64 adds."""
    return pytest.approx(epsilon(curve, DELTA), rel=1e-12)


def one_round_and_one_evaluation(agent: Agent) -> None:
    """Spend on both accounts, and close."""
    assert code_of(agent.ready()) is None
    assert code_of(agent.train(1)) is None
    assert code_of(agent.ask(Kind.EVALUATE, 1, arrays=agent.start())) is None
    assert code_of(agent.ask(Kind.CLOSE, 1)) is None


# What begins anew


def nothing(agent: Agent, folder: Path) -> Agent:
    return agent


def restarted(agent: Agent, folder: Path) -> Agent:
    agent.restart()
    return agent


def reinstalled(agent: Agent, folder: Path) -> Agent:
    """Take the program away and put it back beside the store."""
    agent.store.close()
    return Agent(folder, CARD, policy=rules(), seed=8)


def moved(agent: Agent, folder: Path) -> Agent:
    """Bring the store to another machine."""
    agent.store.close()
    shutil.copytree(folder, folder / "other machine")
    return Agent(folder / "other machine", CARD, policy=rules())


def recipient_changed(agent: Agent, folder: Path) -> Agent:
    agent.node = replace(agent.node, recipient="another coordinator")
    agent.app = build_client_app(agent.node)
    return agent


def another_card(agent: Agent, folder: Path) -> Agent:
    agent.card = SLOWER
    return agent


def another_extract(agent: Agent, folder: Path) -> Agent:
    agent.restart(source=TableSource(table=build_table(200, seed=99)))
    return agent


CHANGES: list[Change] = [
    nothing, restarted, reinstalled, moved, recipient_changed, another_card, another_extract,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_begins_anew_goes_on_with_the_same_account(tmp_path: Path, change: Change) -> None:
    agent = Agent(tmp_path, CARD, policy=rules())
    one_round_and_one_evaluation(agent)
    agent = change(agent, tmp_path)
    assert (cost(agent), cost(agent, HELD_OUT)) == (exactly(ROUND), exactly(EVALUATION))
    assert code_of(agent.ready(federation=OTHER_FEDERATION)) is None
    assert cost(agent) == exactly(ROUND + RUN.curve)
    assert cost(agent, HELD_OUT) == exactly(2 * EVALUATION)
    assert code_of(agent.train(1, federation=OTHER_FEDERATION)) is None
    agent.ask(Kind.CLOSE, 3, federation=OTHER_FEDERATION)
    assert cost(agent) == exactly(2 * ROUND)
    assert cost(agent, HELD_OUT) == exactly(EVALUATION)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_begins_anew_is_held_to_the_same_cap(tmp_path: Path, change: Change) -> None:
    agent = Agent(tmp_path, CARD, policy=rules(cap=2.0))
    one_round_and_one_evaluation(agent)
    agent.policy = rules(cap=2.0)
    agent = change(agent, tmp_path)
    agent.policy = rules(cap=2.0)
    reply = agent.ready(federation=OTHER_FEDERATION)
    assert (code_of(reply), reply.error.reason) == (Code.BUDGET_EXHAUSTED, "budget-exhausted (cap 2)")
    assert cost(agent) == exactly(ROUND)


def spend_elsewhere(folder: str) -> None:
    """Spend in this process, which then ends without a word."""
    agent = Agent(Path(folder), CARD, policy=rules())
    one_round_and_one_evaluation(agent)
    agent.ready(federation=OTHER_FEDERATION)


def test_another_process_goes_on_with_the_same_account(tmp_path: Path) -> None:
    # A new interpreter and not a fork: what torch has started in this process would not go along.
    program = "import sys; from tests.privacy.test_one_account import spend_elsewhere; spend_elsewhere(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, cwd=ROOT)
    agent = Agent(tmp_path, CARD, policy=rules())
    assert cost(agent) == exactly(ROUND + RUN.curve)
    assert cost(agent, HELD_OUT) == exactly(2 * EVALUATION)


def test_citizens_stay_in_their_part_in_every_extract_and_for_every_card(tmp_path: Path) -> None:
    key = Agent(tmp_path, CARD).store.key
    trained = names(40, held_out=False)
    for card, extract in ((CARD, trained), (SLOWER, trained[:25]), (SLOWER, trained[::-1])):
        parts = build_dataset(card, pa.concat_tables(rows_of(name, [(5.0, "city", "yes")]) for name in extract), key)
        assert (len(parts.training), len(parts.held_out)) == (len(extract), 0)


# The store is lost


def test_a_lost_store_freezes_on_what_it_signed_and_recovers_all_of_it(tmp_path: Path) -> None:
    before = Agent(tmp_path, CARD, policy=rules())
    one_round_and_one_evaluation(before)
    before.ready(federation=OTHER_FEDERATION)  # still open when the store is lost
    reply = before.train(1, federation=OTHER_FEDERATION)
    signed = str(reply.content.config_records[CONFIG][LEDGER_HEAD])
    held = {part: account(before, part) for part in (TRAINING, HELD_OUT)}
    before.store.close()
    for path in tmp_path.glob("0101.sqlite*"):
        path.unlink()

    after = Agent(tmp_path, CARD, policy=rules())
    assert cost(after) == 0  # all that it knows, until a coordinator shows what it was told
    presented = {TERMS: RUN_TERMS.model_dump_json(), LEDGER_HEAD: signed}
    frozen = after.ask(Kind.READY, 0, presented, federation=THIRD_FEDERATION)
    assert code_of(frozen) is Code.LEDGER_FROZEN
    assert code_of(after.ready(federation=THIRD_FEDERATION)) is Code.LEDGER_FROZEN
    with after.store.transaction() as database:
        assert head.recover(database, after.signer, after.now()) == 2
    for part, known in held.items():
        order = known.order
        assert order is not None
        assert account(after, part).order == order
        assert account(after, part).spent[order] == pytest.approx(known.total[order], rel=1e-12)
    assert code_of(after.ask(Kind.READY, 0, presented, federation=THIRD_FEDERATION)) is None
    assert account(after).total[held[TRAINING].order] == pytest.approx((ROUND + 2 * RUN.curve)[held[TRAINING].order])


def test_a_recovered_account_is_held_to_its_cap(tmp_path: Path) -> None:
    before = Agent(tmp_path, CARD, policy=rules(cap=2.0))
    reply = before.ready()
    signed = str(reply.content.config_records[CONFIG][LEDGER_HEAD])
    before.store.close()
    for path in tmp_path.glob("0101.sqlite*"):
        path.unlink()
    after = Agent(tmp_path, CARD, policy=rules(cap=2.0))
    after.ask(Kind.READY, 0, {TERMS: RUN_TERMS.model_dump_json(), LEDGER_HEAD: signed})
    with after.store.transaction() as database:
        head.recover(database, after.signer, after.now())
    assert code_of(after.ready()) is Code.BUDGET_EXHAUSTED
    assert code_of(after.train(1)) is Code.NOT_READY


# Evaluation alone


def test_evaluation_alone_is_charged_each_time_until_the_cap(tmp_path: Path) -> None:
    agent = Agent(tmp_path, CARD, policy=rules(cap=2.0))
    for number in range(1, 20):
        federation = str(uuid.uuid5(uuid.NAMESPACE_URL, str(number)))
        if code_of(agent.ready(federation=federation)) is Code.BUDGET_EXHAUSTED:
            break
        assert code_of(agent.ask(Kind.EVALUATE, 3, arrays=agent.start(), federation=federation)) is None
        agent.ask(Kind.CLOSE, 3, federation=federation)
        assert cost(agent, HELD_OUT) == exactly(number * EVALUATION)
        assert cost(agent, TRAINING) == 0
    have = account(agent, HELD_OUT)
    assert have.order is not None
    assert number > 3
    assert epsilons(have.total, DELTA)[have.order] <= 2 < epsilons(have.total + EVALUATION, DELTA)[have.order]


def test_a_run_that_only_reserved_costs_nothing_once_it_is_closed_and_all_of_it_until_then(tmp_path: Path) -> None:
    agent = Agent(tmp_path, CARD, policy=rules())
    agent.ready()
    agent.restart()
    assert (cost(agent), cost(agent, HELD_OUT)) == (exactly(RUN.curve), exactly(EVALUATION))
    agent.ask(Kind.CLOSE, 3)
    assert (cost(agent), cost(agent, HELD_OUT)) == (0, 0)


# Periods


def test_the_next_period_has_a_fresh_account_and_the_old_one_stands(tmp_path: Path) -> None:
    yearly = rules(cap=2.0, period_months=12)
    approvals = {card: replace(one, epsilon=4.0) for card, one in yearly.approvals.items()}
    agent = Agent(tmp_path, CARD, policy=replace(yearly, approvals=approvals))
    agent.now = lambda: START
    first, second = (agent.policy.policy.period(START + timedelta(days=days)) for days in (0, 90))
    assert code_of(agent.ready()) is None
    assert code_of(agent.train(1)) is None
    assert code_of(agent.ready(federation=OTHER_FEDERATION)) is Code.BUDGET_EXHAUSTED

    agent.now = lambda: START + timedelta(days=90)
    assert code_of(agent.ready(federation=OTHER_FEDERATION)) is None
    assert code_of(agent.train(1, federation=OTHER_FEDERATION)) is None
    assert code_of(agent.train(2)) is None  # the first run goes on, and draws on what it reserved
    spent = [epsilon(account(agent, period=period).spent, DELTA) for period in (first, second)]
    assert spent == [exactly(2 * ROUND), exactly(ROUND)]
    assert code_of(agent.ready(federation=THIRD_FEDERATION)) is Code.BUDGET_EXHAUSTED
    for federation in (FEDERATION, OTHER_FEDERATION):
        agent.ask(Kind.CLOSE, 3, federation=federation)
    totals = [epsilon(account(agent, period=period).total, DELTA) for period in (first, second)]
    assert totals == [exactly(2 * ROUND), exactly(ROUND)]


def test_an_approval_bounds_its_card_over_all_periods(tmp_path: Path) -> None:
    agent = Agent(tmp_path, CARD, policy=rules(cap=2.0, period_months=1))
    agent.now = lambda: START
    one_round_and_one_evaluation(agent)
    agent.now = lambda: START + timedelta(days=90)
    reply = agent.ready(federation=OTHER_FEDERATION)
    assert (code_of(reply), reply.error.reason) == (Code.BUDGET_EXHAUSTED, "budget-exhausted (cap 2)")


# At the cap


def test_a_second_coordinator_finds_a_spent_account_and_says_so(tmp_path: Path) -> None:
    agent = Agent(tmp_path, CARD, policy=rules(cap=2.0))
    first = build_config(tmp_path / "first", CARD, quorum=1.0)
    assert Federation(ScriptedGrid({1001: ("0101", honest(agent))}), first).run().status == "completed"
    assert (cost(agent), cost(agent, HELD_OUT)) == (exactly(RUN.curve), exactly(EVALUATION))

    agent = recipient_changed(agent, tmp_path)
    second = build_config(tmp_path / "second", CARD, federation=uuid.UUID(OTHER_FEDERATION))
    with pytest.raises(RunError, match=r"none does \(budget-exhausted \(cap 2\)\)"):
        Federation(ScriptedGrid({7: ("0101", honest(agent))}), second).run()
    assert cost(agent) == exactly(RUN.curve)
    assert agent.journal()[-1]["recipient"] == "another coordinator"
    assert agent.journal()[-1]["outcome"] == "refused:budget-exhausted"


def spend_all_of(crews: list[Crew], name: str, folder: Path) -> None:
    """Run a federation with one of the municipalities alone."""
    (crew,) = crews
    alone = {node_id: site for node_id, site in crew.sites.items() if site.label == name}
    only = [replace(crew, sites=alone)]
    run_federation(folder / "first", CARD, crews=only, federation=uuid.UUID(OTHER_FEDERATION))


def test_a_municipality_at_its_cap_sits_out_and_the_federation_goes_on(tmp_path: Path) -> None:
    crews = build_crews(tmp_path, CARD)
    spend_all_of(crews, "0151", tmp_path)
    record = run_federation(tmp_path, CARD, crews=crews, quorum=0.8)
    others = ["0101", "0147", "0751", "0851"]
    assert record.status == "completed"
    assert record.expected == sorted([*others, "0151"])
    assert record.sits_out == {"0151": "budget-exhausted (cap 2)"}
    assert sorted(record.declared_sizes) == others
    assert [one.contributing for one in record.rounds] == [others] * 3
    assert not any(one.refused or one.rejected or one.silent for one in record.rounds)
    assert record.evaluation is not None
    assert record.evaluation.contributing == others

    said = status(record, MUNICIPALITY)
    assert said.en == (
        "Completed: of 5 municipalities expected, 4 take part and 1 sits out; "
        "all 4 contributed to each of the 3 rounds (quorum 4)."
    )
    page = render(make_result(sites=5, rounds=3).model_copy(update={"run": record}))
    for text in (said.en, said.da, "sits out", "budget-exhausted (cap 2)"):
        assert text in page


def test_a_run_that_needs_who_sits_out_is_not_called_completed(tmp_path: Path) -> None:
    crews = build_crews(tmp_path, CARD)
    spend_all_of(crews, "0851", tmp_path)
    record = run_federation(tmp_path, CARD, crews=crews, quorum=1.0)
    assert record.status == "incomplete"
    assert record.why == "4 take part, the quorum is 5"
    assert not record.rounds
    assert record.sits_out == {"0851": "budget-exhausted (cap 2)"}
    assert status(record, MUNICIPALITY).en.startswith(
        "Incomplete: of 5 municipalities expected, 4 take part and 1 sits"
    )
