"""What goes beyond the policy is refused with its cap, in both languages, and nothing of it is written."""

from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from client import consent, keys, ledger
from client.consent import Standing
from client.contract import ContractReport
from client.desk import decisions, people, receipt
from client.desk.decisions import Wish
from client.home import KEY, POLICY, RECEIPTS, Home
from faelles.card import UseCaseCard
from faelles.errors import CardError, ConfigError, DataError, FaellesError, KeyFileError, PlanError, PolicyError
from tests import desk
from tests.builders import build_card
from tests.desk import NOW, SIZE, live, written
from tests.municipality import Municipality, write_card

pytestmark = pytest.mark.usefixtures("clock")
CARD = build_card()


def nothing_shown(_: ContractReport) -> None:
    raise AssertionError("nothing blocks")


def wish(town: Municipality, **changes: Any) -> Wish:
    given: dict[str, Any] = {"card": str(town.card_folder), "population": "cyklister", "declared_size": SIZE,
                             "epsilon": 2.0, "until": None}  # fmt: skip
    return Wish(**(given | changes))


def change(home: Home, old: str, new: str, name: str = POLICY) -> None:
    path = home.folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def people_of(home: Home, *names: str) -> list[Path]:
    """Make people's keys, and list them in the policy."""
    files = [home.folder.parent / f"{name}.key" for name in names]
    lines = ", ".join(f'{file.stem}: "{people.make_person(file.stem, file).public}"' for file in files)
    change(home, "people: {}", f"people: {{{lines}}}")
    return files


def refused(home: Home, town: Municipality, *, kind: type[FaellesError] = PolicyError, key: Path | None = None,
            **changes: Any) -> FaellesError:  # fmt: skip
    before = written(home)
    with pytest.raises(kind) as caught:
        decisions.approve(home, wish(town, **changes), key, nothing_shown)
    assert written(home) == before
    assert "\n" not in caught.value.text("en") + caught.value.text("da")
    return caught.value


# Approving


def test_an_approval_pins_the_card_and_gives_its_plan(home: Home, town: Municipality) -> None:
    approval, plan = decisions.approve(home, wish(town, until=date(2027, 6, 30)), None, nothing_shown)
    assert (approval.card, approval.declared_size, approval.epsilon) == (CARD, SIZE, 2.0)
    assert plan is not None
    assert plan.declared_size == SIZE
    with closing(home.store()) as store:
        assert consent.find_approval(store.database, CARD.sha256) == approval
        assert consent.standing(store.database, approval, home.policy(), NOW) is Standing.VALID


@given(
    epsilon=st.one_of(st.floats(max_value=0), st.floats(min_value=8, exclude_min=True), st.just(float("nan"))),
)
def test_an_epsilon_beyond_the_cap_is_refused_with_the_cap_and_never_cut_down(
    town: Municipality, epsilon: float
) -> None:
    home = town.home()
    with pytest.raises(PolicyError) as caught:
        decisions._allow(home.policy(), CARD, home.population("cyklister"), wish(town, epsilon=epsilon))
    assert "at most 8, the policy's cap" in caught.value.text("en")
    assert "højst 8, politikkens loft" in caught.value.text("da")


def test_the_cap_is_that_of_the_kind_of_data(home: Home, town: Municipality) -> None:
    change(home, "epsilon: 8.0", "epsilon: 2.5")
    error = refused(home, town, epsilon=2.6)
    assert "at most 2.5" in error.text("en")
    assert "højst 2,5" in error.text("da")
    approval, _ = decisions.approve(home, wish(town, epsilon=2.5), None, nothing_shown)
    assert approval.epsilon == 2.5


def card_in(folder: Path, **fields: Any) -> str:
    """Write a card that differs in some fields."""
    raw = CARD.model_dump(mode="json") | fields
    write_card(folder)
    (folder / "card.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return str(folder)


def test_a_card_that_the_policy_does_not_list_is_refused(home: Home, town: Municipality) -> None:
    change(home, "cards: all", "cards: [elder-admission]")
    assert "write bicycle-repair there" in refused(home, town).text("en")
    change(home, "cards: [elder-admission]", f"cards: [{CARD.sha256}]")
    decisions.approve(home, wish(town), None, nothing_shown)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"unit": None, "max_rows_per_unit": 1}, "its unit is null"),
        ({"law": {"special_categories": True, "ai_act": "minimal", "basis": {}}}, "cyklister has none"),
        ({"evaluation": {"held_out": 0.4}}, "expected held_out 0.2 as the population's, it is 0.4"),
    ],
)
def test_a_card_that_does_not_suit_the_population_is_refused(
    home: Home, town: Municipality, tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    assert told in refused(home, town, card=card_in(tmp_path / "other", **fields)).text("en")


def test_a_card_with_a_mistake_or_none_at_all_is_told(home: Home, town: Municipality, tmp_path: Path) -> None:
    error = refused(home, town, kind=CardError, card=card_in(tmp_path / "bad", version="one"))
    assert error.text("da").startswith("kortet kan ikke læses: ")
    assert "findes ikke i kataloget" in refused(home, town, kind=ConfigError, card="nothing-such").text("da")


def test_the_last_day_may_be_today_and_not_be_over(home: Home, town: Municipality) -> None:
    today = NOW.astimezone().date()
    assert "it is over" in refused(home, town, until=today - timedelta(days=1)).text("en")
    approval, _ = decisions.approve(home, wish(town, until=today), None, nothing_shown)
    assert approval.until == today


@pytest.mark.parametrize("size", [-50, 1, 49, 51, 10**9])
def test_a_size_off_the_bands_is_refused_with_the_bands(home: Home, town: Municipality, size: int) -> None:
    assert "10, 25, 50, 100" in refused(home, town, declared_size=size).text("da")


def test_a_municipality_with_nobody_to_learn_from_can_say_so(home: Home, town: Municipality) -> None:
    approval, plan = decisions.approve(home, wish(town, declared_size=0), None, nothing_shown)
    assert (approval.declared_size, plan) == (0, None)


def test_a_plan_that_cannot_be_met_approves_nothing(
    home: Home, town: Municipality, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PlanError("no noise keeps it")

    monkeypatch.setattr(decisions, "plan_for", fail)
    refused(home, town, kind=PlanError)


def test_rows_that_do_not_fit_are_shown_and_approve_nothing(home: Home, town: Municipality, tmp_path: Path) -> None:
    data = tmp_path / "bad.csv"
    data.write_text(town.data.read_text(encoding="utf-8").replace("cargo", "0101501234"), encoding="utf-8")
    change(home, str(town.data), str(data), "agent.yaml")
    shown: list[ContractReport] = []
    with pytest.raises(DataError, match="block it"):
        decisions.approve(Home.open(home.folder), wish(town), None, shown.append)
    assert len(shown) == 1
    with closing(home.store()) as store:
        assert consent.approvals(store.database) == []


# Two people


def test_where_two_people_are_asked_for_the_first_needs_a_key_of_the_policy(
    home: Home, town: Municipality, tmp_path: Path
) -> None:
    change(home, "approval: false", "approval: true")
    (anna,) = people_of(home, "anna")
    assert "--key" in refused(home, town).text("da")
    stranger = tmp_path / "stranger.key"
    public = keys.create(stranger).public
    assert f'NAVN: "{public}"' in refused(home, town, key=stranger).text("da")
    refused(home, town, kind=KeyFileError, key=tmp_path / "nowhere")
    decisions.approve(home, wish(town), anna, nothing_shown)


def test_the_second_person_sees_what_was_signed_and_cannot_be_the_first(home: Home, town: Municipality) -> None:
    change(home, "approval: false", "approval: true")
    anna, bo = people_of(home, "anna", "bo")
    approval, _ = decisions.approve(home, wish(town), anna, nothing_shown)
    before = written(home)
    with pytest.raises(PolicyError, match="anna signed already"):
        decisions.countersign(home, anna, CARD.id, None)
    assert written(home) == before
    assert decisions.countersign(home, bo, CARD.id, None) == ("bo", approval)
    with closing(home.store()) as store:
        assert consent.standing(store.database, approval, home.policy(), NOW) is Standing.VALID


def test_a_population_is_signed_by_its_name(home: Home) -> None:
    (anna,) = people_of(home, "anna")
    assert decisions.countersign(home, anna, None, "cyklister") == ("anna", None)


@pytest.mark.parametrize(("card", "population"), [(None, None), (CARD.id, "cyklister"), ("x", None), (None, "x")])
def test_it_has_to_be_clear_what_is_signed(home: Home, card: str | None, population: str | None) -> None:
    (anna,) = people_of(home, "anna")
    before = written(home)
    with pytest.raises(ConfigError) as caught:
        decisions.countersign(home, anna, card, population)
    assert "None" not in caught.value.text("en") + caught.value.text("da")
    assert written(home) == before


# Withdrawing


def standing(home: Home, card: UseCaseCard = CARD) -> Standing:
    with closing(home.store()) as store:
        approval = consent.find_approval(store.database, card.sha256)
        return consent.standing(store.database, approval, home.policy(), NOW)


def test_a_withdrawal_ends_the_run_under_way_and_gives_a_receipt_each_time(home: Home) -> None:
    desk.approve(home, CARD)
    live(home, CARD)
    (path,) = decisions.withdraw(home, CARD.id)
    assert receipt.check(path.read_text(encoding="utf-8"))["releases_before"] == 2
    assert path.stat().st_mode & 0o077 == 0
    assert standing(home) is Standing.WITHDRAWN
    with closing(home.store()) as store:
        assert ledger.open_reservations(store.database) == []
    (again,) = decisions.withdraw(home, CARD.sha256)
    assert again != path


@pytest.mark.parametrize("spoil", ["no-key", "open-key", "no-receipts"])
def test_a_withdrawal_holds_also_where_no_receipt_can_be_made(home: Home, spoil: str) -> None:
    desk.approve(home, CARD)
    key = (home.folder / KEY).read_bytes()
    if spoil == "no-key":
        (home.folder / KEY).unlink()
    elif spoil == "open-key":
        (home.folder / KEY).chmod(0o644)
    else:
        (home.folder / RECEIPTS).write_text("in the way", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        decisions.withdraw(home, CARD.id)
    assert "it is withdrawn" in caught.value.text("en")
    assert "er trukket tilbage" in caught.value.text("da")
    assert standing(home) is Standing.WITHDRAWN
    (home.folder / KEY).unlink(missing_ok=True)
    (home.folder / KEY).touch(mode=0o600)
    (home.folder / KEY).write_bytes(key)
    if spoil == "no-receipts":
        (home.folder / RECEIPTS).unlink()
    assert len(decisions.withdraw(home, CARD.id)) == 1


def test_a_withdrawal_needs_no_policy(home: Home) -> None:
    desk.approve(home, CARD)
    (home.folder / POLICY).unlink()
    assert len(decisions.withdraw(home, CARD.id)) == 1


def test_only_an_approved_card_can_be_withdrawn(home: Home) -> None:
    before = written(home)
    with pytest.raises(ConfigError, match="found none"):
        decisions.withdraw(home, CARD.id)
    assert written(home) == before
