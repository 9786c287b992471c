"""The fast engine is certified: every strategy, model and use case, in lock-step with the production ClientApps.

A federation's messages are sent to both; what differs is rounding of float32, and the run comes to its end.
"""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catalogue import shelf
from faelles.card import CategoryFeature, UseCaseCard
from faelles.terms import RunTerms
from server.result import RunRecord
from simulations.parity import Differences, largest
from simulations.population import Site
from strategies.registry import STRATEGIES
from tests.builders import LOCAL, build_card
from tests.cohorts import build_parity, run_grid
from tests.federations import CITIZENS

EPSILON = float(np.finfo(np.float32).eps)
ROUNDINGS = 16  # of 1, about which parameters and updates are; the most found was 4
CLASSES = {"kind": "multiclass", "values": ["no", "yes", "never"]}
MODELS = {
    "logistic": build_card(),
    "logistic, personalised": build_card(model={"local": list(LOCAL)}),
    "mlp": build_card(model={"kind": "mlp", "hidden": [6, 4]}, label=CLASSES),
    "mlp, personalised": build_card(model={"kind": "mlp", "hidden": [5], "local": ["hidden.0.weight", "output.bias"]}),
}
# Every strategy with every kind of model; by turns with parameters that never leave.
PAIRS = [
    (strategy, f"{kind}, personalised" if (number + turn) % 2 else kind)
    for number, strategy in enumerate(sorted(STRATEGIES))
    for turn, kind in enumerate(("logistic", "mlp"))
]


def check(record: RunRecord, differences: Differences) -> None:
    assert record.status == "completed", record.why
    apart, name, array = largest(differences)
    assert apart <= ROUNDINGS * EPSILON, f"{array} of {name}"


@pytest.mark.parametrize(("strategy", "model"), PAIRS)
def test_every_strategy_and_model_is_the_references_to_rounding(tmp_path: Path, strategy: str, model: str) -> None:
    card = MODELS[model]
    grid = build_parity(tmp_path, card)
    terms = RunTerms(epsilon=card.privacy.epsilon, rounds=2)
    check(run_grid(grid, tmp_path, card, strategy, terms=terms), grid.differences)
    compared = {"histogram", *card.model.parameter_names}
    assert all(found.keys() == compared for found in grid.differences.values())
    assert grid.differences.keys() == CITIZENS.keys()


@pytest.mark.parametrize("model", MODELS)
def test_so_it_is_without_privacy(tmp_path: Path, model: str) -> None:
    card = MODELS[model]
    grid = build_parity(tmp_path, card, epsilon_cap=math.inf)
    terms = RunTerms(epsilon=math.inf, rounds=3)
    check(run_grid(grid, tmp_path, card, "fedprox", terms=terms), grid.differences)


def test_who_has_nobody_to_learn_from_sits_out_in_both(tmp_path: Path) -> None:
    card = MODELS["logistic"]
    sites = [site_of(card, label, count) for label, count in {"0101": 30, "0400": 0, "0751": 12}.items()]
    grid = build_parity(tmp_path, card, sites)
    record = run_grid(grid, tmp_path, card, quorum=0.5)
    check(record, grid.differences)
    assert record.sits_out == {"0400": "no-data"}
    assert grid.differences["0400"] == {}


@pytest.mark.parametrize("name", shelf.names())
def test_every_use_case_is_the_references_to_rounding(tmp_path: Path, name: str) -> None:
    card = shelf.find(name).card
    sites = [site_of(card, label, count) for label, count in {"0101": 40, "0147": 25, "0751": 10}.items()]
    grid = build_parity(tmp_path, card, sites)
    terms = RunTerms(epsilon=card.privacy.epsilon, rounds=1)
    check(run_grid(grid, tmp_path, card, terms=terms), grid.differences)


def site_of(card: UseCaseCard, label: str, citizens: int) -> Site:
    """Draw a municipality under a card's contract: values within the declared ranges, some of them missing."""
    rng = np.random.default_rng(int(label))
    citizen_N = np.repeat(np.arange(citizens), rng.integers(1, card.max_rows_per_unit + 2, citizens))
    columns: dict[str, list[object]] = {card.label.column: list(rng.choice(card.label.values, len(citizen_N)))}
    if card.unit is not None:
        columns[card.unit] = [f"c{number}" for number in citizen_N]
    for feature in card.features:
        if isinstance(feature, CategoryFeature):
            values = list(rng.choice(feature.values, len(citizen_N)))
        else:
            values = list(rng.uniform(feature.min, feature.max, len(citizen_N)))
        lacks_N = rng.random(len(values)) < 0.1
        columns[feature.name] = [None if lacks else one for lacks, one in zip(lacks_N, values, strict=True)]
    numbers = {feature.name for feature in card.features if not isinstance(feature, CategoryFeature)}
    kinds = {name: pa.float64() if name in numbers else pa.string() for name in columns}
    table = pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})
    return Site(label=label, name=label, table=table, citizens=citizens, declared_size=50 if citizens else 0)
