"""The cap holds also where the coordinator chooses each run after seeing what the earlier ones released."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from client import ledger
from client.ledger import TRAINING, Budget, best_order
from client.store import Store
from faelles.privacy.accountant import ORDERS, Curve, Event, epsilon, epsilons, rdp_curve
from tests.books import BUDGET, CAP, CURVE, DELTA, NOW, account, free, reserve, rows, total

# Rare and with little noise: costs next to nothing at low orders and everything at high ones.
RARE = rdp_curve(Event(sampling_rate=0.001, noise_multiplier=0.6, steps=1))
events = st.builds(
    Event, sampling_rate=st.floats(0.001, 1.0), noise_multiplier=st.floats(0.6, 20.0), steps=st.integers(1, 200)
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.sqlite", durable=False)
    yield opened
    opened.close()


def charge(store: Store, value: float, order: int) -> None:
    """Charge what is known at one order only, as a recovery does."""
    curve = np.full(len(ORDERS), np.inf)
    curve[order] = value
    with store.transaction() as database:
        ledger.record(
            database, NOW, "charge", population="p", part=TRAINING, detail={"reason": "missing", "order": order},
            curve=curve,
        )  # fmt: skip


def pinned(store: Store) -> int:
    order = account(store).order
    assert order is not None
    return order


def test_the_first_reservation_pins_the_order_for_good(store: Store) -> None:
    assert account(store).order is None
    reserve(store, "a", 4)
    assert ORDERS[pinned(store)] == 7.6  # where ten of these rounds, which fill the budget, cost least
    reserve(store, "b", curves={TRAINING: RARE / 10})
    free(store, "a")
    assert ORDERS[pinned(store)] == 7.6
    reserve(store, "c", curves={TRAINING: RARE / 10})
    assert {row["detail"].split('"order":')[1][:2] for row in rows(store) if row["kind"] == "reserve"} == {
        f"{pinned(store):2d}"
    }


def test_a_run_that_would_fit_at_the_best_order_but_not_at_the_pinned_one_is_refused(store: Store) -> None:
    reserve(store, "a", 4)
    both = 4 * CURVE + RARE
    assert epsilon(both, DELTA) < CAP < epsilons(both, DELTA)[pinned(store)]
    assert not reserve(store, "b", curves={TRAINING: RARE})
    assert total(store) == epsilon(4 * CURVE, DELTA)


def test_an_account_that_begins_with_the_other_run_is_held_to_the_other_order(store: Store) -> None:
    assert reserve(store, "b", curves={TRAINING: RARE})
    assert ORDERS[pinned(store)] < 7.6
    assert not reserve(store, "a", 4)  # though it fits at the order that it would have pinned itself
    assert epsilon(RARE + CURVE, DELTA) < CAP


def test_an_order_is_pinned_for_each_account(store: Store) -> None:
    reserve(store, "a", 4)
    reserve(store, "b", curves={TRAINING: RARE}, population="q")
    reserve(store, "c", curves={TRAINING: RARE}, period="2026")
    orders = [one.order for one in (account(store), account(store, population="q"), account(store, period="2026"))]
    assert orders[0] != orders[1] == orders[2]


@settings(max_examples=60)
@given(events)
def test_the_first_run_whose_epsilon_is_the_cap_fits_exactly(event: Event) -> None:
    curve = rdp_curve(event)
    cap = epsilon(curve, DELTA)
    assume(0 < cap < 100)
    order = best_order(curve, Budget(epsilon=cap, delta=DELTA))
    assert epsilons(curve, DELTA)[order] == cap
    above = best_order(curve, Budget(epsilon=cap * 0.999, delta=DELTA))
    assert epsilons(curve, DELTA)[above] > cap * 0.999


@settings(max_examples=60)
@given(events, st.floats(0.05, 10))
def test_a_first_run_that_fits_at_its_best_order_fits_at_the_pinned_one(event: Event, cap: float) -> None:
    curve = rdp_curve(event)
    order = best_order(curve, Budget(epsilon=cap, delta=DELTA))
    assert (epsilons(curve, DELTA)[order] <= cap) == (epsilon(curve, DELTA) <= cap)


@pytest.mark.parametrize("curve", [np.zeros(len(ORDERS)), np.full(len(ORDERS), np.inf), 1e-300 * CURVE])
@pytest.mark.parametrize("cap", [0.0, 3.0, float("inf")])
def test_extreme_curves_have_an_order_too(curve: Curve, cap: float) -> None:
    assert 0 <= best_order(curve, Budget(epsilon=cap, delta=DELTA)) < len(ORDERS)


@settings(max_examples=30)
@given(st.lists(st.tuples(events, st.booleans()), max_size=6))
def test_whatever_runs_are_chosen_the_account_keeps_to_the_cap_at_the_order_pinned_before_anything_was_spent(
    chosen: list[tuple[Event, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "agent.sqlite", durable=False)
        orders: set[int] = set()
        for number, (event, close) in enumerate(chosen):
            reserve(store, str(number), curves={TRAINING: rdp_curve(event)})
            if close:
                free(store, str(number))
            have = account(store)
            if not have.total.any():
                orders.clear()  # nothing was ever released of it, so the next reservation may pin anew
            elif have.order is not None:
                orders.add(have.order)
                assert epsilons(have.total, DELTA)[have.order] <= CAP
        assert len(orders) <= 1
        store.close()


# what a recovery charged: infinite but at the pinned order


def test_an_account_goes_on_after_a_charge_that_is_known_at_one_order_only(store: Store) -> None:
    reserve(store, "a", 4)
    free(store, "a")
    order = pinned(store)
    charge(store, 4 * CURVE[order], order)
    have = account(store)
    assert have.order == order
    assert have.spent[order] == have.total[order] == 4 * CURVE[order]
    assert total(store) == epsilons(4 * CURVE, DELTA)[order]
    assert not reserve(store, "b", 7)
    assert reserve(store, "b", 5)
    assert total(store) == pytest.approx(epsilons(9 * CURVE, DELTA)[order])


def test_a_charge_pins_an_account_that_has_no_reservation(store: Store) -> None:
    order = ORDERS.index(7.6)
    charge(store, 4 * CURVE[order], order)
    assert account(store).order == order
    assert reserve(store, "a", 1)
    assert account(store).order == order
    assert ledger.accounts(store.database) == [("p", TRAINING, "")]


def test_a_charge_at_another_order_than_the_pinned_one_leaves_no_room(store: Store) -> None:
    reserve(store, "a", 1)
    charge(store, 0.0, pinned(store) + 1)
    assert account(store).total[pinned(store)] == np.inf
    free(store, "a")
    assert not reserve(store, "b", curves={TRAINING: CURVE / 1000})


def test_a_charge_larger_than_the_budget_leaves_no_room(store: Store) -> None:
    reserve(store, "a", 1)
    charge(store, 100 * CURVE[pinned(store)], pinned(store))
    assert total(store) > BUDGET.epsilon
    assert not reserve(store, "b", curves={TRAINING: CURVE / 1000})
