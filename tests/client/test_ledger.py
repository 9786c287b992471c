"""An account never goes above its cap and never below what was released."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import ledger
from client.ledger import HELD_OUT, TRAINING, moment
from client.store import Store
from faelles.errors import LedgerError
from faelles.privacy.accountant import ORDERS, Event, epsilon, rdp_curve
from tests.books import BUDGET, CAP, CARD, CURVE, DELTA, NOW, account, free, kinds, reserve, rows, spend, total

EXACT = Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1)
LIMITLESS = ledger.Budget(epsilon=float("inf"), delta=DELTA)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.sqlite", durable=False)
    yield opened
    opened.close()


# reserving


def test_a_run_fits_exactly_up_to_the_cap(store: Store) -> None:
    assert not reserve(store, "a", 11)
    assert reserve(store, "a", 10)
    assert total(store) == CAP


def test_what_was_refused_leaves_no_trace(store: Store) -> None:
    for curves in ({HELD_OUT: CURVE, TRAINING: 11 * CURVE}, {TRAINING: CURVE, HELD_OUT: 11 * CURVE}):
        assert not reserve(store, "a", curves=curves)
    assert total(store) == total(store, HELD_OUT) == 0
    assert ledger.reservation(store.database, "a", HELD_OUT) is None
    assert not rows(store)


def test_a_run_reserves_once(store: Store) -> None:
    reserve(store, "a", 1)
    for curves in ({TRAINING: CURVE}, {HELD_OUT: CURVE, TRAINING: CURVE}):
        with pytest.raises(LedgerError, match="a run reserves once"):
            reserve(store, "a", curves=curves)
    free(store, "a")
    with pytest.raises(LedgerError, match="a run reserves once"):
        reserve(store, "a", 1)
    assert kinds(store) == ["reserve", "free"]


def test_two_federations_share_an_account(store: Store) -> None:
    assert reserve(store, "a", 6)
    assert not reserve(store, "b", 6)
    assert reserve(store, "b", 4)
    assert not reserve(store, "c", 1)


def test_populations_and_parts_have_accounts_of_their_own(store: Store) -> None:
    assert reserve(store, "a", 10)
    assert reserve(store, "b", 10, part=HELD_OUT)
    assert reserve(store, "c", 10, population="q")
    assert total(store) == total(store, HELD_OUT) == total(store, population="q") == CAP
    assert ledger.accounts(store.database) == [("p", HELD_OUT, ""), ("p", TRAINING, ""), ("q", TRAINING, "")]


def test_an_open_run_counts_with_all_it_reserved_and_a_closed_one_with_what_it_spent(store: Store) -> None:
    reserve(store, "a", 10)
    spend(store, "a", 1)
    spend(store, "a", 2)
    assert total(store) == CAP
    free(store, "a")
    assert total(store) == epsilon(2 * CURVE, DELTA)
    assert not reserve(store, "b", 9)
    assert reserve(store, "b", 8)


# spending


def test_more_than_was_reserved_cannot_be_spent_and_leaves_no_trace(store: Store) -> None:
    reserve(store, "a", 5)
    for number in range(1, 6):
        spend(store, "a", number)
    before = rows(store)
    with pytest.raises(LedgerError, match="no more than was reserved; nothing was released"):
        spend(store, "a", 6)
    assert rows(store) == before
    np.testing.assert_allclose(ledger.spent(store.database, "a", TRAINING), 5 * CURVE)


@pytest.mark.parametrize("rounds", [3, 10, 30, 300])
def test_rounds_that_add_up_to_the_reservation_but_for_rounding_can_all_be_spent(store: Store, rounds: int) -> None:
    one = Event(sampling_rate=0.013, noise_multiplier=3.7, steps=3)
    assert reserve(store, "a", curves={TRAINING: rdp_curve(replace(one, steps=3 * rounds))})
    for number in range(1, rounds + 1):
        spend(store, "a", number, one)
    assert ledger.rounds_spent(store.database, "a", TRAINING) == rounds
    with pytest.raises(LedgerError, match="no more than was reserved"):
        spend(store, "a", rounds + 1, one)


@pytest.mark.parametrize("federation", ["a", "unknown"])
def test_nothing_is_spent_without_an_open_reservation(store: Store, federation: str) -> None:
    reserve(store, "a", 5)
    free(store, "a")
    with pytest.raises(LedgerError, match="open reservation"):
        spend(store, federation, 1)
    assert not ledger.spent(store.database, federation, TRAINING).any()


def test_releases_are_counted_by_run_and_part(store: Store) -> None:
    reserve(store, "a", curves={TRAINING: 5 * CURVE, HELD_OUT: CURVE})
    reserve(store, "b", 5)
    spend(store, "a", 2)
    spend(store, "b", 7)
    assert ledger.rounds_spent(store.database, "a", TRAINING) == ledger.rounds_spent(store.database, "b", TRAINING) == 1
    assert ledger.rounds_spent(store.database, "a", HELD_OUT) == ledger.rounds_spent(store.database, "c", TRAINING) == 0


def test_a_row_says_all_that_the_account_can_be_computed_from_again(store: Store) -> None:
    reserve(store, "a", 5, expires="2026-06-01T00:00:00Z")
    spend(store, "a", 2)
    reserved, spent = rows(store)
    order = account(store).order
    assert reserved["detail"] == f'{{"expires":"2026-06-01T00:00:00Z","order":{order},"terms":"{{}}"}}'
    terms = json.loads(spent["detail"])
    assert len(terms.pop("nonce")) == 16
    assert terms == {"kind": "train", "noise_multiplier": 2.0, "round": 2, "sampling_rate": 0.1, "steps": 10}
    for row, kind in ((reserved, "reserve"), (spent, "spend")):
        assert (row["kind"], row["population"], row["part"], row["federation"], row["card"], row["time"]) == (
            kind, "p", TRAINING, "a", CARD, "2026-05-04T12:00:00Z",
        )  # fmt: skip
    np.testing.assert_array_equal(np.frombuffer(spent["curve"]), CURVE)


def test_a_release_without_noise_costs_everything_even_when_its_run_is_closed(store: Store) -> None:
    assert not reserve(store, "a", curves={TRAINING: rdp_curve(EXACT)})
    assert reserve(store, "a", curves={TRAINING: rdp_curve(EXACT)}, budget=LIMITLESS)
    spend(store, "a", 1, EXACT)
    spend(store, "a", 2, EXACT)
    free(store, "a")
    assert total(store) == float("inf")
    assert not reserve(store, "b", 1)


# expiry


def test_a_run_can_draw_until_it_expires_and_not_at_that_moment(store: Store) -> None:
    end = NOW + timedelta(days=60)
    reserve(store, "a", 10, expires=moment(end))
    spend(store, "a", 1, now=end - timedelta(seconds=1))
    held = ledger.reservation(store.database, "a", TRAINING)
    assert held is not None
    assert (held.open(end - timedelta(seconds=1)), held.open(end)) == (True, False)
    with pytest.raises(LedgerError, match="open reservation"):
        spend(store, "a", 2, now=end)
    assert total(store, now=end - timedelta(seconds=1)) == CAP
    assert total(store, now=end) == epsilon(CURVE, DELTA)


def test_what_an_expired_run_left_is_reserved_by_the_next_which_closes_it_for_good(store: Store) -> None:
    end = NOW + timedelta(days=1)
    reserve(store, "a", 10, expires=moment(end))
    assert not reserve(store, "b", 1)
    assert reserve(store, "b", 10, now=end)
    assert kinds(store) == ["reserve", "free", "reserve"]
    assert rows(store)[1]["detail"] == '{"reason":"expired"}'
    # Not even a clock that is set back opens it again.
    with pytest.raises(LedgerError, match="open reservation"):
        spend(store, "a", 1, now=NOW)


def test_a_run_without_an_expiry_stands(store: Store) -> None:
    reserve(store, "a", 10)
    assert not reserve(store, "b", 1, now=NOW.replace(year=2099))
    spend(store, "a", 1, now=NOW.replace(year=2099))


def test_a_run_is_closed_once(store: Store) -> None:
    reserve(store, "a", curves={TRAINING: CURVE, HELD_OUT: CURVE})
    for federation in ("a", "a", "unknown"):
        free(store, federation)
    assert kinds(store) == ["reserve", "reserve", "free", "free"]


# periods


def test_each_period_has_an_account_of_its_own(store: Store) -> None:
    assert reserve(store, "a", 10, period="2026")
    assert not reserve(store, "b", 1, period="2026")
    assert reserve(store, "b", 10, period="2027")
    assert total(store, period="2026") == total(store, period="2027") == CAP
    assert total(store) == 0


def test_what_a_run_spends_counts_in_the_period_that_it_was_reserved_in(store: Store) -> None:
    reserve(store, "a", 10, period="2026")
    spend(store, "a", 1, now=NOW.replace(year=2027))
    free(store, "a", now=NOW.replace(year=2027))
    assert total(store, period="2026") == epsilon(CURVE, DELTA)
    assert total(store, period="2027") == 0
    assert [row["period"] for row in rows(store)] == ["2026"] * 3


# what a card has taken


def test_a_card_has_taken_what_its_open_runs_reserved_and_its_closed_ones_spent(store: Store) -> None:
    reserve(store, "a", 3)
    reserve(store, "b", 4)
    reserve(store, "other", 2, card="d" * 64)
    reserve(store, "elsewhere", 2, population="q")
    for federation in ("a", "b"):
        spend(store, federation, 1)
    free(store, "b")
    np.testing.assert_allclose(ledger.card_curve(store.database, CARD, "p", TRAINING, NOW), (3 + 1) * CURVE)
    assert not ledger.card_curve(store.database, CARD, "p", HELD_OUT, NOW).any()


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="with its zone"):
        moment(datetime(2026, 5, 4, 12))  # noqa: DTZ001 RUF100  # that is the point
    assert moment(datetime.fromisoformat("2026-05-04T01:30:00+02:00")) == "2026-05-03T23:30:00Z"


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 12), st.booleans()), max_size=8))
def test_whatever_is_asked_the_account_stays_between_what_was_released_and_the_cap(
    asked: list[tuple[str, int, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "agent.sqlite", durable=False)
        released = np.zeros(len(ORDERS))
        for federation, rounds, close in asked:
            if ledger.reservation(store.database, federation, TRAINING) is None and reserve(store, federation, rounds):
                for number in range(1, rounds + 1, 2):
                    spend(store, federation, number)
                    released += CURVE
            if close:
                free(store, federation)
            have = account(store)
            # Sums in another order differ by rounding, which is relative: a curve's largest values are 10,000.
            assert (have.spent >= released * (1 - 1e-13)).all()
            np.testing.assert_allclose(have.spent, released, rtol=1e-12)
            assert (have.total >= have.spent * (1 - 1e-13)).all()
            assert epsilon(have.total, BUDGET.delta) <= CAP + 1e-12
        store.close()
