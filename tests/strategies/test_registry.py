"""Strategies are found by name, and their terms are checked."""

import logging
from math import inf, nan

import pytest
from flwr.serverapp.strategy import Bulyan, FedAdam, FedAvgM, FedProx, FedTrimmedAvg, Krum

from faelles.errors import StrategyError
from strategies.registry import STRATEGIES, Term, build, entry_of


@pytest.mark.parametrize("name", STRATEGIES)
def test_build_takes_every_node_and_logs_no_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("flwr"), "handle", warnings.append)
    strategy = build(name, {})
    assert type(strategy) is STRATEGIES[name].flower
    assert (strategy.fraction_train, strategy.fraction_evaluate) == (1.0, 0.0)
    assert [record.getMessage() for record in warnings if record.levelno >= logging.WARNING] == []


def test_terms_reach_flower() -> None:
    adam = build("fedadam", {"server_learning_rate": 0.5, "beta_1": 0.8, "beta_2": 0.7, "tau": 0.6})
    assert isinstance(adam, FedAdam)
    assert (adam.eta, adam.beta_1, adam.beta_2, adam.tau) == (0.5, 0.8, 0.7, 0.6)
    momentum = build("fedavgm", {"server_momentum": 0.25})
    assert isinstance(momentum, FedAvgM)
    assert (momentum.server_learning_rate, momentum.server_momentum) == (0.5, 0.25)
    prox, trimmed, krum = (
        build("fedprox", {"proximal_mu": 3}),
        build("trimmed-mean", {"beta": 0.4}),
        build("krum", {"num_malicious_nodes": 2.0}),
    )
    assert isinstance(prox, FedProx)
    assert prox.proximal_mu == 3.0
    assert isinstance(trimmed, FedTrimmedAvg)
    assert trimmed.beta == 0.4
    assert isinstance(krum, Krum)
    assert krum.num_malicious_nodes == 2
    assert isinstance(krum.num_malicious_nodes, int)


def test_an_unknown_name_is_met_with_the_closest_and_the_known_ones() -> None:
    with pytest.raises(StrategyError) as caught:
        build("fedadm", {})
    message = str(caught.value)
    assert "did you mean 'fedadam'?" in message
    assert all(name in message for name in STRATEGIES)
    assert "\n" not in message


def test_an_unknown_term_is_met_with_the_closest_and_the_known_ones() -> None:
    with pytest.raises(
        StrategyError, match=r"unknown fedadam term 'beta1', did you mean 'beta_1'\? Known: server_lear"
    ):
        build("fedadam", {"beta1": 0.9})
    with pytest.raises(StrategyError, match=r"unknown fedavg term 'beta'\. Known: none"):
        build("fedavg", {"beta": 0.1})


@pytest.mark.parametrize(
    ("name", "term", "value"),
    [
        ("fedadam", "server_learning_rate", 0.0),
        ("fedadam", "beta_1", 1.0),
        ("fedyogi", "beta_2", -0.1),
        ("fedadagrad", "tau", 0.0),
        ("fedprox", "proximal_mu", inf),
        ("fedprox", "proximal_mu", 0.0),
        ("fedavgm", "server_momentum", nan),
        ("trimmed-mean", "beta", 0.5),
        ("krum", "num_malicious_nodes", 1.5),
        ("multi-krum", "num_nodes_to_select", 0),
        ("fedavgm", "server_momentum", True),
        ("fedavgm", "server_momentum", "0.5"),
    ],
)
def test_a_term_outside_its_range_is_refused(name: str, term: str, value: float) -> None:
    with pytest.raises(StrategyError, match=f"strategy {name}: {term} must be a"):
        build(name, {term: value})


def test_a_range_is_said_in_words() -> None:
    assert Term(default=1, above=True).range == "a number above 0"
    assert Term(default=1, low=1, high=9, whole=True).range == "a whole number at least 1 and below 9"


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_entry_is_found_by_exact_class_and_its_state_exists(name: str) -> None:
    strategy = build(name, {})
    assert entry_of(strategy) == (name, STRATEGIES[name])
    assert all(getattr(strategy, attribute) is None for attribute in STRATEGIES[name].state)


def test_a_class_that_is_not_registered_is_refused() -> None:
    with pytest.raises(StrategyError, match="Bulyan is not registered"):
        entry_of(Bulyan())
