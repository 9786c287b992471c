"""What each branch of a history that was set back spent by itself is all charged, and what they share only once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from client import head
from client.keys import Signer
from client.store import Store
from tests.books import BUDGET, CURVE, NOW, SEED, account, free, reserve, spend

SIGNER = Signer.from_seed(SEED)


class Machine:
    """Copy one store again and again, as backups do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stores = folder, list[Store]()

    def open(self, of: Store | None = None) -> Store:
        """Open a new store, or a copy of another as it is now."""
        made = Store(self.folder / f"{len(self.stores)}.sqlite", durable=False)
        if of is not None:
            of.database.backup(made.database)
        self.stores.append(made)
        return made


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    for store in made.stores:
        store.close()


def run(store: Store, federation: str, rounds: int) -> None:
    """Reserve, spend and close some rounds."""
    assert reserve(store, federation, rounds)
    for number in range(1, rounds + 1):
        spend(store, federation, number)
    free(store, federation)


def sign(store: Store) -> str:
    return head.sign(store.database, SIGNER, NOW)


def recover(store: Store, *presented: str) -> None:
    with store.transaction() as database:
        for text in presented:
            head.present(database, SIGNER, text)
    with store.transaction() as database:
        head.recover(database, SIGNER, NOW)


def rounds_charged(store: Store) -> float:
    """Say how many rounds an account holds, at its pinned order."""
    have = account(store)
    assert have.order is not None
    return float(have.total[have.order] / CURVE[have.order])


def test_an_ordinary_restore_costs_exactly_what_was_lost(machine: Machine) -> None:
    lost = machine.open()
    run(lost, "a", 2)
    restored = machine.open(of=lost)
    run(lost, "b", 3)
    recover(restored, sign(lost))
    assert rounds_charged(restored) == pytest.approx(5)


def test_what_the_copy_began_before_anybody_noticed_comes_on_top(machine: Machine) -> None:
    lost = machine.open()
    run(lost, "a", 2)
    restored = machine.open(of=lost)
    run(lost, "b", 3)
    run(restored, "c", 1)
    recover(restored, sign(lost))
    assert rounds_charged(restored) == pytest.approx(6)


def test_two_lost_branches_are_both_charged(machine: Machine) -> None:
    first = machine.open()
    run(first, "a", 2)
    second, third = machine.open(of=first), machine.open(of=first)
    run(first, "b", 3)
    run(second, "c", 2)
    recover(third, sign(first), sign(second))
    assert rounds_charged(third) == pytest.approx(7)


def test_two_heads_of_one_branch_are_charged_once(machine: Machine) -> None:
    lost = machine.open()
    run(lost, "a", 2)
    restored = machine.open(of=lost)
    run(lost, "b", 1)
    early = sign(lost)
    run(lost, "c", 2)
    recover(restored, sign(lost), early)
    assert rounds_charged(restored) == pytest.approx(5)


def test_a_branch_that_shows_up_after_a_recovery_freezes_again_whatever_its_number(machine: Machine) -> None:
    first = machine.open()
    run(first, "a", 2)
    second, third = machine.open(of=first), machine.open(of=first)
    run(first, "b", 3)
    run(second, "c", 1)
    recover(third, sign(first))
    recover(third, sign(second))
    assert rounds_charged(third) >= 6


def test_a_branch_that_parted_long_ago_is_charged_at_least_in_full(machine: Machine) -> None:
    lost = machine.open()
    run(lost, "a", 1)
    restored = machine.open(of=lost)
    for number in range(40):  # more rows than the dense part of a trail holds
        assert reserve(lost, f"x{number}", curves={"training": CURVE / 1000})
        free(lost, f"x{number}")
    run(lost, "b", 3)
    recover(restored, sign(lost))
    assert rounds_charged(restored) >= 4


def test_an_open_run_of_both_is_charged_in_full_once(machine: Machine) -> None:
    lost = machine.open()
    assert reserve(lost, "a", 6)
    spend(lost, "a", 1)
    restored = machine.open(of=lost)
    for number in (2, 3):
        spend(lost, "a", number)
    recover(restored, sign(lost))
    assert rounds_charged(restored) == pytest.approx(6)
    assert not reserve(restored, "b", 5, budget=BUDGET)
