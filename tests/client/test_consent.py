"""What people decided counts from when enough of them have signed it until they take it back."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from client import chain, consent, ledger
from client.consent import Approval, Person, Population, Standing
from client.keys import Signer
from client.ledger import Budget
from client.policy import Policy
from client.store import Store
from faelles.errors import PolicyError
from faelles.privacy.plan import DECLARED_SIZES
from tests.books import NOW, SEED, kinds, reserve, rows
from tests.builders import build_card

CARD, OTHER = build_card(), build_card(training={"rounds": 4})
ANNA, BO = (Person(name=name, signer=Signer.from_seed(seed)) for name, seed in (("Anna", SEED), ("Bo", SEED[::-1])))
PEOPLE = {one.name: one.signer.public for one in (ANNA, BO)}
ONE = Policy(special=Budget(epsilon=3.0, delta=1e-5), cards=None, people=PEOPLE)
TWO = replace(ONE, two_people_approve=True)
APPROVAL = Approval(card=CARD, population="p", declared_size=50, epsilon=2.0)
POPULATION = Population(name="p", citizen="cpr")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.sqlite", durable=False)
    with opened.transaction() as database:
        consent.register(database, POPULATION, NOW)
    yield opened
    opened.close()


def approve(store: Store, by: Person | None = None, **changes: Any) -> int:
    with store.transaction() as database:
        return consent.approve(database, replace(APPROVAL, **changes), NOW, by).number


def countersign(store: Store, number: int, by: Person) -> None:
    with store.transaction() as database:
        consent.countersign(database, number, by, NOW)


def standing(store: Store, policy: Policy = ONE, days: int = 0) -> Standing:
    approval = consent.find_approval(store.database, CARD.sha256)
    return consent.standing(store.database, approval, policy, NOW + timedelta(days=days))


def forged(store: Store, number: int, by: Person, **changes: str) -> None:
    """Write a countersignature that `countersign` itself would not write."""
    row = rows(store)[number - 1]
    signed = consent._sign(json.loads(row["detail"])["words"], row["kind"], row["population"], by) | changes
    with store.transaction() as database:
        ledger.record(database, NOW, "countersign", detail={"of": number, "signed": signed})


# populations


def test_a_population_is_registered_once_and_stays_what_it_was(store: Store) -> None:
    found = consent.find_population(store.database, "p")
    assert found == replace(POPULATION, number=1)
    with pytest.raises(
        PolicyError, match="population p: expected a new name, it is registered; a new extract needs no"
    ):
        _register(store, replace(POPULATION, citizen="other", held_out=0.5))
    assert consent.find_population(store.database, "p") == found
    assert consent.find_population(store.database, "q") is None


def _register(store: Store, population: Population, by: Person | None = None) -> int:
    with store.transaction() as database:
        return consent.register(database, population, NOW, by).number


def test_every_population_is_listed_in_order(store: Store) -> None:
    _register(store, Population(name="a", citizen="id", special_categories=False, held_out=0.3))
    assert [one.name for one in consent.populations(store.database)] == ["p", "a"]
    assert consent.populations(store.database)[1].held_out == 0.3


def _attach(store: Store, population: str, identity: str) -> None:
    with store.transaction() as database:
        consent.attach_source(database, population, identity, NOW)


def test_a_source_belongs_to_one_population_for_good(store: Store) -> None:
    for identity in ("first", "second", "first"):
        _attach(store, "p", identity)
    with pytest.raises(PolicyError, match="population q: expected a source of its own, this one belongs to p"):
        _attach(store, "q", "first")
    assert kinds(store) == ["population", "source", "source"]


# approvals


def test_an_approval_is_of_one_card_by_its_hash(store: Store) -> None:
    number = approve(store)
    assert consent.find_approval(store.database, CARD.sha256) == replace(APPROVAL, number=number)
    assert consent.find_approval(store.database, OTHER.sha256) is None
    assert standing(store) is Standing.VALID
    assert consent.standing(store.database, None, ONE, NOW) is Standing.NONE


def test_an_approval_filed_under_another_hash_is_none(store: Store) -> None:
    approve(store)
    words = json.loads(rows(store)[-1]["detail"])
    with store.transaction() as database:
        ledger.record(database, NOW, "approve", population="p", card=OTHER.sha256, detail=words)
    assert consent.find_approval(store.database, OTHER.sha256) is None
    assert [one.card for one in consent.approvals(store.database)] == [CARD]


@pytest.mark.parametrize("size", [1, 49, 51, -50, 10**9])
def test_a_declared_size_is_a_public_band_or_nobody(store: Store, size: int) -> None:
    with pytest.raises(PolicyError, match=f"declared size {size}: expected one of the public bands 10, 25, 50"):
        approve(store, declared_size=size)
    assert kinds(store) == ["population"]
    for band in (0, *DECLARED_SIZES):
        approve(store, declared_size=band)


def test_a_later_approval_takes_the_place_of_an_earlier_one(store: Store) -> None:
    approve(store)
    number = approve(store, declared_size=100, epsilon=1.0, until=date(2027, 6, 30))
    found = consent.find_approval(store.database, CARD.sha256)
    assert found == replace(APPROVAL, declared_size=100, epsilon=1.0, until=date(2027, 6, 30), number=number)
    assert consent.approvals(store.database) == [found]


def test_an_approval_ends_with_its_last_day(store: Store) -> None:
    approve(store, until=date(2026, 5, 6))
    assert [standing(store, days=days) for days in (0, 1, 2, 3)] == [*[Standing.VALID] * 3, Standing.EXPIRED]
    approve(store)
    assert standing(store, days=99_999) is Standing.VALID


@pytest.mark.parametrize("cards", [(), (OTHER.sha256,), ("another",)])
def test_an_approved_card_that_the_policy_does_not_list_counts_for_nothing(
    store: Store, cards: tuple[str, ...]
) -> None:
    approve(store)
    assert standing(store, replace(ONE, cards=cards)) is Standing.NONE
    for allowed in ((CARD.id,), ("another", CARD.sha256)):
        assert standing(store, replace(ONE, cards=allowed)) is Standing.VALID


def test_an_approval_for_a_population_that_nobody_registered_counts_for_nothing(store: Store) -> None:
    approve(store, population="q")
    assert standing(store) is Standing.NONE


# withdrawal


def test_a_withdrawal_counts_at_once_and_frees_what_the_cards_runs_reserved(store: Store) -> None:
    approve(store)
    reserve(store, "a", 2, card=CARD.sha256)
    reserve(store, "b", 2, card=OTHER.sha256)
    with store.transaction() as database:
        number = consent.withdraw(database, CARD.sha256, NOW)
    assert standing(store) is Standing.WITHDRAWN
    assert [one.federation for one in ledger.open_reservations(store.database)] == ["b"]
    assert rows(store)[-2]["detail"] == '{"reason":"withdrawn"}'
    assert number == chain.head(store.database, "ledger")[0]


def test_only_a_new_approval_ends_a_withdrawal(store: Store) -> None:
    approve(store)
    with store.transaction() as database:
        consent.withdraw(database, CARD.sha256, NOW)
    approve(store)
    assert standing(store) is Standing.VALID


# two people


def test_where_the_policy_asks_for_two_an_approval_waits_for_the_second(store: Store) -> None:
    number = approve(store, by=ANNA)
    assert standing(store, ONE) is Standing.VALID
    assert standing(store, TWO) is Standing.WAITING
    countersign(store, number, BO)
    assert standing(store, TWO) is Standing.VALID


def test_an_approval_that_nobody_signed_takes_two_more_people(store: Store) -> None:
    number = approve(store)
    countersign(store, number, ANNA)
    assert standing(store, TWO) is Standing.WAITING
    countersign(store, number, BO)
    assert standing(store, TWO) is Standing.VALID


@pytest.mark.parametrize("again", [ANNA, replace(ANNA, name="Bo"), replace(BO, name="Anna")])
def test_the_same_name_or_key_signs_once(store: Store, again: Person) -> None:
    number = approve(store, by=ANNA)
    with pytest.raises(PolicyError, match=f"countersign: expected a second person, {again.name} signed already"):
        countersign(store, number, again)
    assert standing(store, TWO) is Standing.WAITING


def test_a_signature_that_was_written_past_the_command_counts_only_if_it_is_the_second_persons(store: Store) -> None:
    number = approve(store, by=ANNA)
    forged(store, number, ANNA)
    forged(store, number, ANNA, person="Bo")  # the same key under the other's name
    forged(store, number, ANNA, person="Bo", key=BO.signer.public)
    forged(store, number, BO, signature=ANNA.signer.sign(b"other words"))
    forged(store, number, BO, person="Cecilie")
    assert standing(store, TWO) is Standing.WAITING
    forged(store, number, BO)
    assert standing(store, TWO) is Standing.VALID


def test_the_same_key_under_two_names_of_the_policy_is_one_person(store: Store) -> None:
    twice = replace(TWO, people={"Anna": ANNA.signer.public, "Anne": ANNA.signer.public})
    number = approve(store, by=ANNA)
    forged(store, number, replace(ANNA, name="Anne"))
    assert standing(store, twice) is Standing.WAITING


@pytest.mark.parametrize("people", [{}, {"Anna": PEOPLE["Anna"]}, {**PEOPLE, "Bo": "ed25519:another"}])
def test_a_key_that_left_the_policy_no_longer_counts(store: Store, people: dict[str, str]) -> None:
    countersign(store, approve(store, by=ANNA), BO)
    assert standing(store, replace(TWO, people=people)) is Standing.WAITING
    assert standing(store, TWO) is Standing.VALID


@pytest.mark.parametrize("change", [{"declared_size": 100}, {"epsilon": 3.0}, {"until": date(2030, 1, 1)}])
def test_two_people_sign_the_same_words(store: Store, change: dict[str, Any]) -> None:
    countersign(store, approve(store, by=ANNA), BO)
    approve(store, by=ANNA, **change)
    assert standing(store, TWO) is Standing.WAITING


def test_a_signature_of_one_decision_is_none_of_another(store: Store) -> None:
    first = approve(store, by=ANNA)
    other = approve(store, by=ANNA, epsilon=1.0)
    countersign(store, first, BO)
    signed = json.loads(rows(store)[-1]["detail"])["signed"]
    with store.transaction() as database:
        ledger.record(database, NOW, "countersign", detail={"of": other, "signed": signed})
    assert standing(store, TWO) is Standing.WAITING


def test_a_new_population_may_take_two_people_too(tmp_path: Path) -> None:
    store = Store(tmp_path / "fresh.sqlite", durable=False)
    number = _register(store, POPULATION, ANNA)
    approve(store)
    both = replace(ONE, two_people_register=True)
    assert (standing(store, ONE), standing(store, both)) == (Standing.VALID, Standing.WAITING)
    countersign(store, number, BO)
    assert standing(store, both) is Standing.VALID
    assert standing(store, replace(both, two_people_approve=True)) is Standing.WAITING
    store.close()
