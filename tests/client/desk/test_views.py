"""Policy, account and journal are written for a screen, in two languages, and nothing spent is shown as less."""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import consent, head, journal
from client.consent import Population, Standing
from client.desk import views
from client.home import Home
from client.journal import Line
from client.language import Language
from client.ledger import Budget
from client.policy import Hours, Policy
from faelles.privacy.accountant import epsilon
from faelles.privacy.plan import plan_for
from tests import desk
from tests.builders import OTHER_FEDERATION, build_card
from tests.desk import LANGUAGES, NOW, SIZE, check_golden, live
from tests.municipality import Municipality

CARD = build_card()
PLAN = plan_for(CARD, SIZE)
BUDGET = Budget(epsilon=8.0, delta=1e-5)
STRICT = Policy(
    special=Budget(epsilon=1.25, delta=1e-6), otherwise=Budget(epsilon=2.5, delta=1e-5), period_months=6,
    largest_run_share=0.25, reservation_days=14, cards=None, two_people_approve=True, two_people_register=True,
    updates=True, hours=Hours(days=(0, 4), start=time(7), end=time(18, 30)), threads=1, memory_mb=4096,
)  # fmt: skip


def ledger_text(home: Home, policy: Policy, language: Language = "da") -> str:
    with closing(home.store()) as store:
        return "\n".join(views.ledger_lines(store.database, policy, NOW, language))


# The policy


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("name", "policy"), [("strict", STRICT), ("nothing", Policy())])
def test_a_policy_is_written_in_the_golden_words(name: str, policy: Policy, language: Language) -> None:
    check_golden(f"policy-{name}.{language}.txt", "\n".join(views.policy_lines(policy, language)) + "\n")


@given(
    policy=st.builds(
        Policy,
        special=st.builds(Budget, epsilon=st.floats(0.01, 10), delta=st.floats(1e-9, 0.009)),
        period_months=st.none() | st.integers(1, 120),
        cards=st.none() | st.lists(st.sampled_from(["a-card", "e" * 64])).map(tuple),
        memory_mb=st.none() | st.integers(512, 10**6),
    )
)
def test_every_policy_takes_a_line_for_each_rule_in_both_languages(policy: Policy) -> None:
    da, en = (list(views.policy_lines(policy, language)) for language in LANGUAGES)
    assert len(da) == len(en) == 10
    assert not any("\n" in line for line in (*da, *en))
    assert ("None" in "".join((*da, *en))) is False


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_period_says_that_k_periods_cost_k_times_as_much(home: Home, language: Language) -> None:
    words = {"da": "k perioder koster k gange så meget", "en": "k periods cost k times as much"}[language]
    policy = replace(home.policy(), period_months=12)
    assert words in "\n".join(views.policy_lines(policy, language))
    assert words in ledger_text(home, policy, language)
    approval = desk.approve(home, CARD)
    told = "\n".join(views.approved_lines(approval, PLAN, policy, BUDGET, language))
    assert words in told
    assert {"da": "to perioder ε 16,00", "en": "two periods ε 16.00"}[language] in told
    assert list(views.approved_lines(approval, PLAN, home.policy(), BUDGET, language)) == []


# Approvals


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_approval_says_what_a_run_costs_where_that_is_too_much(home: Home, language: Language) -> None:
    approval = desk.approve(home, CARD, cap=1.5)
    told = "\n".join(views.approved_lines(approval, PLAN, home.policy(), BUDGET, language))
    cost, most = {"da": ("ε 2,00", "1,50"), "en": ("ε 2.00", "1.50")}[language]
    assert cost in told
    assert most in told


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_standing_of_an_approval_is_said(home: Home, standing: Standing, language: Language) -> None:
    approval, policy = desk.approve(home, CARD), home.policy()
    with closing(home.store()) as store:
        with store.transaction() as database:
            if standing is Standing.EXPIRED:
                consent.approve(database, replace(approval, until=date(2026, 5, 3)), NOW)
            if standing is Standing.WITHDRAWN:
                consent.withdraw(database, CARD.sha256, NOW)
        if standing is Standing.NONE:
            policy = replace(policy, cards=())
        if standing is Standing.WAITING:
            policy = replace(policy, two_people_approve=True)
        first, second = views.approval_lines(store.database, policy, NOW, language)
    assert first == f"{CARD.id} v1 ({CARD.sha256[:12]})  {views.STANDINGS[standing][LANGUAGES.index(language)]}"
    assert "cyklister" in second


# The ledger


@given(share=st.integers(1, 6), period=st.sampled_from(["", "12 months, number 26"]))
def test_what_is_spent_is_never_shown_as_less(
    town: Municipality, share: int, period: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = desk.copy_agent(town.folder, tmp_path_factory.mktemp("views") / "agent")
    card = build_card(privacy={"epsilon": share + 0.123456})
    plan = plan_for(card, SIZE)
    live(home, card, period=period)
    policy = replace(home.policy(), period_months=12 if period else None)
    shown = re.search(r"training +spent ε ([0-9.]+), with open runs ([0-9.]+)", ledger_text(home, policy, "en"))
    assert shown is not None
    spent, total = map(float, shown.groups())
    assert spent >= epsilon(2 * plan.curve / 3, 1e-5) - 1e-9
    assert total >= max(spent, epsilon(plan.curve, 1e-5) - 1e-9)


@pytest.mark.parametrize("language", LANGUAGES)
def test_earlier_periods_are_added_up(home: Home, language: Language) -> None:
    policy = replace(home.policy(), period_months=12)
    last_year = policy.period(NOW.replace(year=2025))
    live(home, CARD, rounds=3, period=last_year)
    live(home, CARD, rounds=3, federation=OTHER_FEDERATION, period=policy.period(NOW))
    both = epsilon(2 * PLAN.curve, 1e-5)
    told = ledger_text(home, policy, language)
    words = {"da": "i alle perioder tilsammen brugt ε ", "en": "spent in all periods together ε "}[language]
    (shown,) = re.findall(words + r"([0-9.,]+)", told)
    assert float(shown.replace(",", ".")) == pytest.approx(both, abs=0.01)
    assert 2.0 < both < 4.0


def test_one_period_is_not_added_up(home: Home) -> None:
    policy = replace(home.policy(), period_months=12)
    live(home, CARD, period=policy.period(NOW))
    assert "i alle perioder" not in ledger_text(home, policy)


def test_twice_as_many_rounds_take_twice_the_room(home: Home) -> None:
    live(home, CARD, rounds=3)
    (once,) = re.findall(r"træning .*; ([0-9]+) % af pladsen", ledger_text(home, home.policy()))
    live(home, CARD, rounds=3, federation=OTHER_FEDERATION)
    (twice,) = re.findall(r"træning .*; ([0-9]+) % af pladsen", ledger_text(home, home.policy()))
    assert abs(int(twice) - 2 * int(once)) <= 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_frozen_account_comes_first(home: Home, language: Language) -> None:
    with closing(home.store()) as store, store.transaction() as database:
        text = head.sign(database, home.signer(), NOW)
        database.execute("INSERT INTO freeze VALUES (?)", (text,))
    assert ledger_text(home, home.policy(), language).splitlines()[0].endswith("`faelles-agent ledger recover`")


def test_an_open_run_is_named_until_it_expires(home: Home) -> None:
    live(home, CARD)
    assert "reserveret til 2026-07-03" in ledger_text(home, home.policy())
    with closing(home.store()) as store:
        later = views.ledger_lines(store.database, home.policy(), NOW.replace(month=7), "da")
        assert "åben kørsel" not in "\n".join(later)


def test_every_population_has_its_own_cap(home: Home) -> None:
    with closing(home.store()) as store, store.transaction() as database:
        consent.register(database, Population(name="omsorg", citizen="cpr"), NOW)
    told = ledger_text(home, home.policy(), "en")
    assert "cyklister  ε at most 8.00 at δ 0.00001; for life" in told
    assert "omsorg  ε at most 3.00 at δ 0.00001; for life" in told


# The journal


def journal_rows() -> Iterator[dict[str, object]]:
    line = Line(outcome=f"{journal.REFUSED}budget-exhausted", recipient="coordinator", kind="train", bytes=12345)
    yield {"number": 1, "time": "2026-05-04T12:00:00Z", **vars(line)}


@pytest.mark.parametrize(
    ("language", "words"),
    [("da", ("afvist:budget-exhausted", "12.345 B")), ("en", ("refused:budget-exhausted", "12,345 B"))],
)
def test_a_line_of_the_journal_is_one_line(language: Language, words: tuple[str, ...]) -> None:
    (line,) = views.journal_lines(journal_rows(), "", language)  # type: ignore[arg-type]
    assert all(word in line for word in words)


@pytest.mark.parametrize(("since", "end"), [("", "afvist"), ("2026-05-05", "siden 2026-05-05")])
def test_an_empty_journal_says_since_when(since: str, end: str) -> None:
    (line,) = views.journal_lines([], since, "da")
    assert line.endswith(end)
