"""Each strategy against its formula, computed by hand over two rounds, with the deviations Flower makes."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from strategies.adapter import StrategyAdapter
from strategies.registry import build

Vector = NDArray[np.float64]

START = np.array([0.5, -1.0, 2.0])
UPDATES = (
    {"0101": np.array([0.4, -0.2, 0.0]), "0751": np.array([-0.1, 0.3, 1.0]), "0851": np.array([0.2, 0.2, -0.5])},
    {"0101": np.array([0.1, 0.1, 0.1]), "0751": np.array([0.3, -0.4, 0.2]), "0851": np.array([-0.6, 0.0, 0.4])},
)
WEIGHTS = {"0101": 1.0, "0751": 3.0, "0851": 4.0}
BETA_1, BETA_2, TAU, ETA = 0.9, 0.99, 1e-3, 0.1


def rounds(
    name: str,
    terms: Mapping[str, float],
    updates: Sequence[Mapping[str, Vector]] = UPDATES,
    weights: Mapping[str, float] = WEIGHTS,
) -> list[Vector]:
    """Return the model after each round."""
    adapter = StrategyAdapter(build(name, terms), weights)
    arrays = {"w": START.astype(np.float32)}
    models = []
    for number, update in enumerate(updates, start=1):
        adapter.configure(number, arrays, {})
        sent = {code: {"w": vector.astype(np.float32)} for code, vector in update.items()}
        arrays = adapter.aggregate(number, arrays, sent)
        models.append(arrays["w"].astype(np.float64))
    return models


def mean(update: Mapping[str, Vector]) -> Vector:
    """Mean by public weight; WEIGHTS sum to 8."""
    return (1 * update["0101"] + 3 * update["0751"] + 4 * update["0851"]) / 8


def close(models: Sequence[Vector], expected: Sequence[Vector]) -> None:
    np.testing.assert_allclose(models, expected, rtol=2e-6, atol=2e-6)


def test_two_municipalities_of_weights_1_and_3_count_one_and_three_quarters() -> None:
    updates = [{"0101": np.array([4.0, 0.0, 0.0]), "0751": np.array([0.0, 4.0, 0.0])}]
    models = rounds("fedavg", {}, updates, {"0101": 1.0, "0751": 3.0})
    close(models, [START + np.array([1.0, 3.0, 0.0])])


def test_only_those_that_contribute_are_counted() -> None:
    models = rounds("fedavg", {}, [{code: UPDATES[0][code] for code in ("0101", "0751")}])
    close(models, [START + (UPDATES[0]["0101"] + 3 * UPDATES[0]["0751"]) / 4])


@pytest.mark.parametrize(("name", "terms"), [("fedavg", {}), ("fedprox", {"proximal_mu": 0.3})])
def test_fedavg_and_fedprox(name: str, terms: dict[str, float]) -> None:
    first = START + mean(UPDATES[0])
    close(rounds(name, terms), [first, first + mean(UPDATES[1])])


def test_fedavgm() -> None:
    """Hsu et al. 2019: v <- beta v + update, w <- w + eta v."""
    models = rounds("fedavgm", {"server_learning_rate": 0.4, "server_momentum": 0.7})
    v = mean(UPDATES[0])
    first = START + 0.4 * v
    close(models, [first, first + 0.4 * (0.7 * v + mean(UPDATES[1]))])


def test_fedavgm_with_unit_terms_is_fedavg() -> None:
    close(rounds("fedavgm", {"server_learning_rate": 1.0, "server_momentum": 0.0}), rounds("fedavg", {}))


def test_fedavgm_defaults_let_a_steady_update_through_as_it_is() -> None:
    steady = [UPDATES[0]] * 20
    models = rounds("fedavgm", {}, steady)
    np.testing.assert_allclose(models[-1] - models[-2], mean(UPDATES[0]), rtol=1e-4)


def adaptive(second_moment: Callable[[Vector, Vector], Vector], *, beta_1: float, corrected: bool) -> list[Vector]:
    """Reddi et al. 2021, algorithm 2, with v from 0; `corrected` as Kingma and Ba 2015, but with round + 1."""
    w, m, v, models = START, np.zeros(3), np.zeros(3), []
    for number, update in enumerate(UPDATES, start=1):
        delta = mean(update)
        m = beta_1 * m + (1 - beta_1) * delta
        v = second_moment(v, delta**2)
        bias = np.sqrt(1 - BETA_2 ** (number + 1)) / (1 - BETA_1 ** (number + 1)) if corrected else 1.0
        w = w + ETA * bias * m / (np.sqrt(v) + TAU)
        models.append(w)
    return models


def test_fedadam() -> None:
    terms = {"server_learning_rate": ETA, "beta_1": BETA_1, "beta_2": BETA_2, "tau": TAU}
    expected = adaptive(lambda v, square: BETA_2 * v + (1 - BETA_2) * square, beta_1=BETA_1, corrected=True)
    close(rounds("fedadam", terms), expected)


def test_fedyogi() -> None:
    terms = {"server_learning_rate": ETA, "beta_1": BETA_1, "beta_2": BETA_2, "tau": TAU}
    expected = adaptive(
        lambda v, square: v - (1 - BETA_2) * square * np.sign(v - square), beta_1=BETA_1, corrected=False
    )
    close(rounds("fedyogi", terms), expected)


def test_fedadagrad() -> None:
    expected = adaptive(lambda v, square: v + square, beta_1=0.0, corrected=False)
    close(rounds("fedadagrad", {"server_learning_rate": ETA, "tau": TAU}), expected)


def test_median_ignores_weights() -> None:
    first = START + np.array([0.2, 0.2, 0.0])
    close(rounds("median", {}), [first, first + np.array([0.1, 0.0, 0.2])])


def test_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    models = rounds("median", {}, [{code: UPDATES[0][code] for code in ("0101", "0751")}])
    close(models, [START + np.array([0.15, 0.05, 0.5])])


def test_trimmed_mean_drops_both_ends_and_ignores_weights() -> None:
    first = START + np.array([0.2, 0.2, 0.0])  # of three, floor(0.4 * 3) = 1 at each end
    close(rounds("trimmed-mean", {"beta": 0.4}), [first, first + np.array([0.1, 0.0, 0.2])])


def test_trimmed_mean_drops_nobody_below_one_over_beta() -> None:
    models = rounds("trimmed-mean", {"beta": 0.2}, UPDATES[:1])
    close(models, [START + np.array([0.5 / 3, 0.1, 0.5 / 3])])


CROWD = {
    "0101": np.array([0.0, 0.0, 0.0]),
    "0147": np.array([0.3, 0.0, 0.0]),
    "0461": np.array([0.0, 0.2, 0.0]),
    "0751": np.array([0.1, 0.1, 0.1]),
    "0851": np.array([50.0, -50.0, 50.0]),  # the faulty one
}
CROWD_WEIGHTS = {"0101": 1.0, "0147": 2.0, "0461": 3.0, "0751": 4.0, "0851": 1000.0}


def krum_order() -> list[str]:
    """Blanchard et al. 2017: by the sum of squared distances to the n - f - 2 nearest others; n = 5, f = 1."""
    scores = {}
    for code, vector in CROWD.items():
        squares = sorted(float(np.sum((vector - other) ** 2)) for key, other in CROWD.items() if key != code)
        scores[code] = sum(squares[:2])
    return sorted(scores, key=lambda code: scores[code])


def test_krum_takes_one_municipality_as_it_is() -> None:
    close(rounds("krum", {"num_malicious_nodes": 1}, [CROWD], CROWD_WEIGHTS), [START + CROWD[krum_order()[0]]])


def test_multi_krum_is_the_weighted_mean_of_the_best() -> None:
    best = krum_order()[:3]
    total = sum(CROWD_WEIGHTS[code] for code in best)
    expected = START + sum(CROWD_WEIGHTS[code] / total * CROWD[code] for code in best)
    close(
        rounds("multi-krum", {"num_malicious_nodes": 1, "num_nodes_to_select": 3}, [CROWD], CROWD_WEIGHTS), [expected]
    )


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "krum", "multi-krum"])
def test_robust_strategies_survive_a_huge_update_and_fedavg_does_not(name: str) -> None:
    assert np.linalg.norm(rounds(name, {}, [CROWD], CROWD_WEIGHTS)[0] - START) < 1
    assert np.linalg.norm(rounds("fedavg", {}, [CROWD], CROWD_WEIGHTS)[0] - START) > 50
