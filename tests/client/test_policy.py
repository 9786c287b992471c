"""The municipality has the last word, and what it does not name is refused."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.keys import Signer
from client.ledger import Budget
from client.policy import NO_BUDGET, Hours, Policy, load_policy, policy_or_nothing
from faelles.errors import PolicyError
from faelles.terms import RunTerms
from tests.books import DELTA, NOW, SEED
from tests.builders import build_card

CARD = build_card()
OTHER = build_card(training={"rounds": 4})
LIMITLESS = Budget(epsilon=float("inf"), delta=DELTA)
ANNA = Signer.from_seed(SEED).public
FIELDS: dict[str, Any] = {
    "version": 1,
    "budget": {
        "special_categories": {"epsilon": 3.0, "delta": 1e-5},
        "otherwise": {"epsilon": 8.0, "delta": 1e-6},
        "period_months": None,
        "largest_run_share": 0.7,
        "reservation_days": 60,
    },
    "cards": ["elder-admission"],
    "two_people": {"approval": True, "population": False},
    "people": {"Anna Å. Holm": ANNA},
    "releases": {"updates": True, "histograms": False},
    "working_hours": {"days": ["mon", "fri"], "start": "07:00", "end": "18:30"},
    "limits": {"threads": 2, "memory_mb": 4096},
}


def changed(place: str, value: Any) -> dict[str, Any]:
    """Give a good policy file with one place changed, or left out where the value is Ellipsis."""
    fields: dict[str, Any] = yaml.safe_load(yaml.safe_dump(FIELDS))
    *parents, last = place.split(".")
    inner = fields
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    if value is ...:
        del inner[last]
    return fields


def places(fields: dict[str, Any], prefix: str = "") -> list[str]:
    """List every key of a policy file, whole parts too."""
    found = []
    for key, value in fields.items():
        found.append(prefix + key)
        if isinstance(value, dict) and key != "people":
            found += places(value, f"{prefix}{key}.")
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


# the file


def test_a_policy_file_says_everything(path: Path) -> None:
    path.write_text(yaml.safe_dump(FIELDS, allow_unicode=True), encoding="utf-8")
    assert load_policy(path) == policy_or_nothing(path) == Policy(
        special=Budget(epsilon=3.0, delta=1e-5), otherwise=Budget(epsilon=8.0, delta=1e-6), largest_run_share=0.7,
        reservation_days=60, cards=("elder-admission",), two_people_approve=True, people={"Anna Å. Holm": ANNA},
        updates=True, hours=Hours(days=(0, 4), start=time(7), end=time(18, 30)), threads=2, memory_mb=4096,
    )  # fmt: skip


def test_a_policy_may_allow_all_cards_at_all_times(path: Path) -> None:
    path.write_text(yaml.safe_dump(changed("cards", "all") | {"working_hours": None}), encoding="utf-8")
    assert (load_policy(path).cards, load_policy(path).hours) == (None, Hours())


MISTAKES = [
    *((place, ..., "is missing") for place in places(FIELDS)),
    ("budget.otherwise.epsilon", 11, "should be less than or equal to 10"),
    ("budget.otherwise.epsilon", 0, "should be greater than 0"),
    ("budget.special_categories.epsilon", -1, "should be greater than 0"),
    ("budget.special_categories.epsilon", float("nan"), "should be"),
    ("budget.special_categories.epsilon", float("inf"), "should be"),
    ("budget.special_categories.epsilon", "much", "valid number"),
    ("budget.special_categories.delta", 0, "should be greater than 0"),
    ("budget.special_categories.delta", 0.01, "should be less than 0.01"),
    ("budget.special_categories.delta", float("nan"), "should be"),
    ("budget.special_categories.unit", "household", "is no known field"),
    ("budget.period_months", 0, "should be greater than or equal to 1"),
    ("budget.period_months", 1.5, "valid integer"),
    ("budget.largest_run_share", 1.1, "should be less than or equal to 1"),
    ("budget.largest_run_share", float("nan"), "should be"),
    ("budget.reservation_days", 0, "should be greater than or equal to 1"),
    ("budget.reservation_days", None, "valid integer"),
    ("version", 2, "should be 1"),
    *(
        ("cards", value, "cards: should be a list such as [elder-admission], or the word all")
        for value in ("elder-admission", None, 5, True, {"a": 1}, [5], [None], ["a", ["b"]])
    ),
    ("people", [], "people"),
    ("people", {"Bo": "a key"}, "public keys that begin with ed25519:"),
    ("people", {"Bo": ANNA, "Anna": ANNA}, "two names the same key"),
    ("people", {"": ANNA}, "should match pattern"),
    ("people", {"Bo\n": ANNA}, "should match pattern"),
    ("releases.updates", "perhaps", "valid boolean"),
    ("releases.models", True, "is no known field"),
    ("two_people.approval", None, "valid boolean"),
    ("working_hours.days", ["someday"], "should be 'mon', 'tue'"),
    ("working_hours.start", 1020, "should be"),  # what YAML makes of 17:00 without quotes
    ("working_hours.end", "25:00", "should be"),
    ("limits.threads", 0, "should be greater than or equal to 1"),
    ("limits.memory_mb", 511, "should be greater than or equal to 512"),
    ("more", 1, "is no known field"),
    (1, 1, "keys should be strings"),
]


@pytest.mark.parametrize(("place", "value", "words"), MISTAKES)
def test_every_mistake_is_one_line_and_refuses_everything(path: Path, place: Any, value: Any, words: str) -> None:
    fields = changed(place, value) if isinstance(place, str) else FIELDS | {place: value}
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    text = str(caught.value)
    assert words in text
    assert text.startswith(f"{path}: 1 mistake(s): ")
    assert text.endswith("; until it is mended everything is refused")
    assert "\n" not in text
    assert "indtil den er rettet, afvises alt" in caught.value.text("da")
    assert policy_or_nothing(path) == Policy()


def test_cards_that_are_no_list_are_told_in_danish_without_pythons_types(path: Path) -> None:
    path.write_text(yaml.safe_dump(changed("cards", "elder-admission")), encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    told = caught.value.text("da")
    assert "1 fejl: cards: skal være en liste som [elder-admission] eller ordet all; " in told
    assert not any(word in told + str(caught.value) for word in ("tuple", "literal"))


@pytest.mark.parametrize(
    ("spoilt", "line"),
    [("cards: [elder: admission: 0101701234", 2), ("cards: [0101701234", 3), ('cards: "0101701234', 3),
     ("cards: 0101701234: a", 2), ("\tcards: 0101701234", 2), ("cards: *0101701234", 2), ("cards: !!0101701234 a", 2)],
)  # fmt: skip
def test_a_mistake_in_yaml_is_told_with_its_line_and_no_value(path: Path, spoilt: str, line: int) -> None:
    path.write_text(f"version: 1\n{spoilt}\n", encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert f"line {line} cannot be read" in str(caught.value)
    assert f"linje {line} kan ikke læses" in caught.value.text("da")
    for language in ("da", "en"):
        assert "\n" not in caught.value.text(language)
        assert "0101701234" not in caught.value.text(language)
    assert policy_or_nothing(path) == Policy()


def test_all_mistakes_are_told_at_once(path: Path) -> None:
    path.write_text(yaml.safe_dump(changed("limits.threads", 0) | {"more": 1, "version": 3}), encoding="utf-8")
    with pytest.raises(PolicyError, match=r"3 mistake\(s\): .*version: .*limits\.threads: .*more: "):
        load_policy(path)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n# nothing but a comment\n", b"[]", b"- version: 1", b"5", b"yes", b"null", b"{", b"\t", b"a: b: c",
        b"\xff\xfe\x00", b"\x00" * 100, b"a: &a [*a]", b"a: 2020-99-99", b"a: !!bool x", b"a: !!int ''",
        b"a: !!float ''",
        b"!!timestamp x", b"a: !!python/object/apply:os.system [ls]", b"9" * 5000, b"[" * 5000, b"? [a]\n: b",
        b"---\na: 1\n---\nb: 2", b"&a *a", b"version: 1",
    ],
)  # fmt: skip
def test_a_file_that_is_no_policy_refuses_everything(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(PolicyError, match="until it is mended everything is refused"):
        load_policy(path)
    assert policy_or_nothing(path) == Policy()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.one_of(st.binary(max_size=60), st.text("a1:-{}[]!&*?|> \n'\"#%@`.,~", max_size=40).map(str.encode)))
def test_no_file_whatsoever_lets_anything_through(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert policy_or_nothing(path) == Policy()


def test_a_policy_that_is_not_there_or_is_a_folder_refuses_everything(path: Path) -> None:
    assert policy_or_nothing(path) == Policy()
    path.mkdir()
    with pytest.raises(PolicyError, match="found none that can be read"):
        load_policy(path)
    assert policy_or_nothing(path) == Policy()


# the rules


def test_an_empty_policy_refuses_everything() -> None:
    empty = Policy()
    assert empty.budget(True) == empty.budget(False) == NO_BUDGET
    assert (empty.run_cap(NO_BUDGET), empty.updates, empty.histograms) == (0.0, False, False)
    assert not empty.allows_card(CARD)


def test_a_card_is_allowed_by_its_name_or_its_hash() -> None:
    allowing: list[tuple[str, ...] | None] = [None, (CARD.id,), (CARD.sha256,), ("another", CARD.sha256)]
    refusing: list[tuple[str, ...]] = [(), ("another",), (OTHER.sha256,), (CARD.id.upper(),)]
    assert all(Policy(cards=cards).allows_card(CARD) for cards in allowing)
    assert not any(Policy(cards=cards).allows_card(CARD) for cards in refusing)


def test_special_categories_have_a_budget_of_their_own() -> None:
    policy = Policy(special=Budget(epsilon=3.0, delta=1e-5), otherwise=Budget(epsilon=8.0, delta=1e-6))
    assert (policy.budget(True).epsilon, policy.budget(False).epsilon) == (3.0, 8.0)
    assert replace(policy, largest_run_share=0.5).run_cap(policy.special) == 1.5


@given(st.floats(0, 4, exclude_min=True), st.integers(1, 6))
def test_terms_may_only_tighten_the_card(epsilon: float, rounds: int) -> None:
    tighter = epsilon <= CARD.privacy.epsilon and rounds <= CARD.training.rounds
    terms = RunTerms(epsilon=epsilon, rounds=rounds)
    assert Policy().allows_terms(CARD, terms, Budget(epsilon=100.0, delta=DELTA)) == tighter


@pytest.mark.parametrize(("cap", "allowed"), [(2.0, False), (1e300, False), (float("inf"), True)])
def test_no_privacy_needs_a_cap_without_a_bound(cap: float, allowed: bool) -> None:
    terms = RunTerms(epsilon=float("inf"), rounds=1)
    assert Policy().allows_terms(CARD, terms, Budget(epsilon=cap, delta=DELTA)) == allowed


# periods and hours


def test_a_budget_for_life_has_no_periods() -> None:
    assert Policy().period(NOW) == Policy().period(NOW.replace(year=2099)) == ""


def test_a_period_is_as_long_as_it_says_and_the_next_follows_without_a_gap() -> None:
    names = {}
    for months in (1, 3, 12, 120):
        policy = Policy(period_months=months)
        days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(365 * 11)]
        names[months] = list(dict.fromkeys(policy.period(day) for day in days))
    assert names[12][:2] == ["12 months, number 26", "12 months, number 27"]
    assert {months: len(found) for months, found in names.items()} == {1: 132, 3: 44, 12: 11, 120: 2}


def test_a_period_is_the_same_wherever_the_clock_stands() -> None:
    policy = Policy(period_months=12)
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    for hours in (-11, 0, 14):
        zone = timezone(timedelta(hours=hours))
        assert policy.period(new_year.astimezone(zone)) == "12 months, number 27"
        assert policy.period((new_year - timedelta(seconds=1)).astimezone(zone)) == "12 months, number 26"


def test_hours_are_the_machines_own() -> None:
    monday = datetime(2026, 5, 4).astimezone()  # local midnight
    hours = Hours(days=(0, 4), start=time(7), end=time(18, 30))
    assert [hours.open(monday + timedelta(hours=hour)) for hour in (6.99, 7, 18.5, 18.51)] == [False, True, True, False]
    assert [hours.open(monday + timedelta(days=day, hours=12)) for day in range(7)] == [
        True, False, False, False, True, False, False,
    ]  # fmt: skip
    assert all(Hours().open(monday + timedelta(hours=hour)) for hour in range(168))
