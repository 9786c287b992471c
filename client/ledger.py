"""Keep the account of each population: what is spent, what is reserved, and whether a run still fits under the cap.

An account is the sum of RDP curves, because the coordinator chooses events adaptively (a Renyi filter). The training
and the held-out part of a population are disjoint, so each has an account of its own (parallel composition).
Source: Feldman and Zrnic 2021, Individual Privacy Accounting via a Renyi Filter, theorem 4.3 with a constant bound.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from client.store import Reservation, Store
from faelles.privacy.accountant import ORDERS, epsilon

TRAINING = "training"
HELD_OUT = "held-out"


def account_curve(store: Store, population: str, part: str) -> NDArray[np.float64]:
    """Add up an account: open runs with all they reserved, closed runs with what they spent.

    Guarantees: never below what has been released, for a run cannot spend more than it reserved.
    """
    total = np.zeros(len(ORDERS))
    for one in store.reservations(population, part):
        total = total + (one.curve if one.open else store.spent(one.federation, part))
    return total


def reserve(
    store: Store,
    federation: str,
    population: str,
    card_sha256: str,
    terms: str,
    curves: Mapping[str, NDArray[np.float64]],
    epsilon_cap: float,
    delta: float,
) -> bool:
    """Set a whole run's curves aside if every part's account stays within the cap.

    Args:
        store: The municipality's store.
        federation: The run's federation.
        population: Whose accounts are charged.
        card_sha256: The approved card.
        terms: The run's terms, as they came.
        curves: What the run will cost, by part.
        epsilon_cap: The policy's cap for the population.
        delta: The account's delta.

    Returns:
        Whether there was room; if not, nothing was written.
    """
    reservations = [
        Reservation(
            federation=federation, part=part, population=population, card_sha256=card_sha256, terms=terms, curve=curve
        )
        for part, curve in curves.items()
    ]  # fmt: skip

    def fits() -> bool:
        accounts = {part: account_curve(store, population, part) + curve for part, curve in curves.items()}
        return all(epsilon(account, delta) <= epsilon_cap for account in accounts.values())

    return store.reserve(reservations, fits)
