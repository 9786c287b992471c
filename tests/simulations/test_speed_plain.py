"""Plain PyTorch does the work that the table says it does."""

import numpy as np
import pytest

from faelles.models import dump_parameters, initial_parameters
from simulations.speed.plain import measure, starting_model, towns, train_round
from simulations.speed.workload import LEARNING_RATE, Workload

FULL = Workload(name="full", sites=3, rows=300, batch_size=100, hidden=())  # each band is 100: one step takes everybody
BATCHED = Workload(name="batched", sites=3, rows=300, batch_size=10, hidden=(4,))


def test_a_full_batch_round_is_one_step_of_each_averaged() -> None:
    model = starting_model(FULL, 1)
    train_round(model, towns(FULL), np.random.default_rng(0))
    reached = dump_parameters(model)
    citizens = [FULL.citizens(site) for site in range(3)]
    x_NF, y_N = (
        np.concatenate(parts) for parts in zip(*((c.x_BRF[:, 0], c.y_BR[:, 0]) for c in citizens), strict=True)
    )
    error_N = 0.5 - y_N  # the start is zero, so everybody's probability is one half
    np.testing.assert_allclose(reached["output.weight"][0], -LEARNING_RATE * error_N @ x_NF / 300, atol=1e-6)
    np.testing.assert_allclose(reached["output.bias"][0], -LEARNING_RATE * error_N.mean(), atol=1e-6)


def test_municipalities_count_by_their_sizes() -> None:
    uneven = [towns(FULL)[0], towns(Workload(name="one", sites=1, rows=50, batch_size=100, hidden=()))[0]]
    alone = []
    for everybody in ([uneven[0]], [uneven[1]], uneven):
        model = starting_model(FULL, 1)
        train_round(model, everybody, np.random.default_rng(0))
        alone.append(dump_parameters(model)["output.weight"])
    np.testing.assert_allclose(alone[2], (100 * alone[0] + 50 * alone[1]) / 150, atol=1e-6)


def test_batches_are_poisson_draws_of_the_expected_size() -> None:
    town = towns(BATCHED)[0]
    rng = np.random.default_rng(1)
    sizes = [len(y_B) for _ in range(100) for _, y_B in town.batches(rng)]
    assert (town.steps, town.expected, town.rate) == (10, 10, 0.1)
    assert np.mean(sizes) == pytest.approx(10, abs=0.5)  # 5 standard errors
    assert np.var(sizes) == pytest.approx(9, abs=2)


def test_training_starts_at_the_cards_start_and_every_round_is_timed() -> None:
    start = initial_parameters(BATCHED.card(1))
    assert all((dump_parameters(starting_model(BATCHED, 1))[name] == array).all() for name, array in start.items())
    measured = measure(BATCHED, 2)
    assert len(measured.rounds_s) == 2
    assert sum(measured.rounds_s) == pytest.approx(measured.whole_s)
