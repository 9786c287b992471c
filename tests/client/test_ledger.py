"""An account never goes above its cap and never below what was released."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger import HELD_OUT, TRAINING, account_curve, reserve
from client.store import Spending, Store
from faelles.privacy.accountant import ORDERS, Event, epsilon, rdp_curve

DELTA = 1e-5
ROUND = Event(sampling_rate=0.1, noise_multiplier=2.0, steps=10)
ROUND_CURVE = rdp_curve(ROUND)
CAP = epsilon(10 * ROUND_CURVE, DELTA)  # room for ten rounds


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.sqlite", durable=False)
    yield opened
    opened.close()


def ask(store: Store, federation: str, rounds: int, population: str = "p", part: str = TRAINING) -> bool:
    curves = {part: rounds * ROUND_CURVE}
    return reserve(store, federation, population, "card", "{}", curves, CAP, DELTA)


def spend(store: Store, federation: str, server_round: int) -> None:
    spending = Spending(
        population="p",
        part=TRAINING,
        federation=federation,
        server_round=server_round,
        kind="train",
        event=ROUND,
        curve=ROUND_CURVE,
    )
    store.commit(spending, "request", b"answer")


def spent(store: Store, part: str = TRAINING) -> float:
    return epsilon(account_curve(store, "p", part), DELTA)


def test_a_run_fits_exactly_up_to_the_cap(store: Store) -> None:
    assert not ask(store, "a", 11)
    assert ask(store, "a", 10)
    assert spent(store) == CAP


def test_what_was_refused_leaves_no_trace(store: Store) -> None:
    both = {HELD_OUT: ROUND_CURVE, TRAINING: 11 * ROUND_CURVE}
    assert not reserve(store, "a", "p", "card", "{}", both, CAP, DELTA)
    assert spent(store) == spent(store, HELD_OUT) == 0
    assert store.reservation("a", HELD_OUT) is None


def test_two_federations_share_an_account(store: Store) -> None:
    assert ask(store, "a", 6)
    assert not ask(store, "b", 6)
    assert ask(store, "b", 4)
    assert not ask(store, "c", 1)


def test_populations_and_parts_have_accounts_of_their_own(store: Store) -> None:
    assert ask(store, "a", 10)
    assert ask(store, "a", 10, part=HELD_OUT)
    assert ask(store, "b", 10, population="q")
    assert spent(store) == spent(store, HELD_OUT) == CAP


def test_an_open_run_counts_with_all_it_reserved_and_a_closed_one_with_what_it_spent(store: Store) -> None:
    ask(store, "a", 10)
    spend(store, "a", 1)
    spend(store, "a", 2)
    assert spent(store) == CAP
    store.free("a")
    assert spent(store) == epsilon(2 * ROUND_CURVE, DELTA)
    assert not ask(store, "b", 9)
    assert ask(store, "b", 8)


def test_a_release_without_noise_costs_everything_even_when_its_run_is_closed(store: Store) -> None:
    exact = Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1)
    assert reserve(store, "a", "p", "card", "{}", {TRAINING: rdp_curve(exact)}, float("inf"), DELTA)
    spending = Spending(
        population="p",
        part=TRAINING,
        federation="a",
        server_round=1,
        kind="train",
        event=exact,
        curve=rdp_curve(exact),
    )
    store.commit(spending, "request", b"answer")
    store.free("a")
    assert spent(store) == float("inf")
    assert not ask(store, "b", 1)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 12), st.booleans()), max_size=8))
def test_whatever_is_asked_the_account_stays_between_what_was_released_and_the_cap(
    asked: list[tuple[str, int, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "agent.sqlite", durable=False)
        released = np.zeros(len(ORDERS))
        for federation, rounds, close in asked:
            if store.reservation(federation, TRAINING) is None and ask(store, federation, rounds):
                for number in range(1, rounds + 1, 2):
                    spend(store, federation, number)
                    released += ROUND_CURVE
            if close:
                store.free(federation)
            account = account_curve(store, "p", TRAINING)
            # Sums in another order differ by rounding, which is relative: a curve's largest values are 10,000.
            assert (account >= released * (1 - 1e-13)).all()
            assert epsilon(account, DELTA) <= CAP + 1e-12
        store.close()
