"""What only tightens a card is a term of the run; whatever else is typed makes another card."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from catalogue.shelf import UseCase
from configs.schema import ModelConfig, PrivacyConfig, SimulationConfig, StrategyConfig, TrainingConfig
from faelles.errors import CardError, ConfigError
from server.federation import FederationConfig
from simulations.study import Study, federation_config, resolve, with_local
from tests.builders import build_card, personal_card

CARD = build_card()
USECASE = UseCase(card=CARD, folder=Path())


def config(**changes: Any) -> SimulationConfig:
    fields: dict[str, Any] = {"usecase": CARD.id, "strategy": StrategyConfig(name="fedavg")}
    return SimulationConfig(**(fields | changes))


def study(**changes: Any) -> Study:
    return resolve(USECASE, config(**changes))


def federation(**changes: Any) -> FederationConfig:
    return federation_config(study(**changes), config(**changes), Path("run"))


def test_nothing_typed_is_the_card_itself() -> None:
    assert study().card == CARD
    assert not study().derived
    assert (study().terms.epsilon, study().terms.rounds, study().terms.evaluate) == (2.0, 3, True)
    assert study().main_arm == "federated"


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": PrivacyConfig(epsilon=0.5)},
        {"privacy": PrivacyConfig(epsilon=2.0)},
        {"rounds": 1},
        {"evaluate": False},
        {"privacy": PrivacyConfig(epsilon=float("inf"))},
    ],
)
def test_what_tightens_is_a_term_and_the_card_keeps_its_hash(changes: dict[str, Any]) -> None:
    resolved = study(**changes)
    assert resolved.card.sha256 == CARD.sha256
    assert not resolved.derived


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": PrivacyConfig(epsilon=2.5)},
        {"privacy": PrivacyConfig(delta=1e-6)},
        {"privacy": PrivacyConfig(clipping_norm=0.5)},
        {"rounds": 4},
        {"training": TrainingConfig(batch_size=16)},
        {"training": TrainingConfig(learning_rate=0.1)},
        {"training": TrainingConfig(local_steps=1)},
        {"training": TrainingConfig(local_epochs=1)},
        {"model": ModelConfig(local=["output.bias"])},
    ],
)
def test_anything_else_makes_another_card(changes: dict[str, Any]) -> None:
    resolved = study(**changes)
    assert resolved.derived
    assert resolved.card.sha256 != CARD.sha256
    assert resolved.terms.within(resolved.card)


def test_epochs_take_the_place_of_steps() -> None:
    training = study(training=TrainingConfig(local_epochs=2)).card.training
    assert (training.local_steps, training.local_epochs) == (None, 2)


def test_a_card_with_local_parameters_is_personalised() -> None:
    assert study(model=ModelConfig(local=["output.bias"])).main_arm == "personalised"
    other = with_local(study(), ("output.bias",))
    assert other.main_arm == "personalised"
    assert other.card == personal_card()
    assert other.terms == study().terms
    assert with_local(other, ()).card == CARD


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"privacy": PrivacyConfig(epsilon=0.0)}, ConfigError, "terms: epsilon"),
        ({"privacy": PrivacyConfig(epsilon=float("nan"))}, ConfigError, "terms: epsilon"),
        ({"rounds": 0}, ConfigError, "terms: rounds"),
        ({"privacy": PrivacyConfig(delta=2.0)}, CardError, "privacy.delta"),
        ({"training": TrainingConfig(batch_size=0)}, CardError, "training.batch_size"),
        ({"training": TrainingConfig(local_steps=1, local_epochs=1)}, CardError, "either local_steps or local_epochs"),
        ({"model": ModelConfig(local=["bias"])}, CardError, "local names bias; known are output.weight, output.bias"),
        ({"quorum": 0.0}, ConfigError, "quorum"),
        ({"deadline_s": 0.0}, ConfigError, "deadline_s"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"weighting": "true"}, ConfigError, "weighting"),
    ],
)
def test_a_wrong_override_is_named_in_one_line(changes: dict[str, Any], error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected) as caught:
        federation(**changes)
    assert "\n" not in str(caught.value)


def test_equal_studies_are_one_federation_and_others_are_not() -> None:
    assert federation() == federation()
    others = [
        federation(seed=2),
        federation(rounds=2),
        federation(weighting="equal"),
        federation(strategy=StrategyConfig(name="fedadam")),
        federation(strategy=StrategyConfig(name="fedavgm", terms={"server_momentum": 0.1})),
        federation(privacy=PrivacyConfig(epsilon=1.0)),
        federation(training=TrainingConfig(batch_size=16)),
    ]
    assert len({one.federation for one in [federation(), *others]}) == 1 + len(others)


def test_how_it_is_run_is_no_part_of_what_is_run() -> None:
    same = [federation(workers=3), federation(deadline_s=5.0), federation(resume=True), federation(compare=True)]
    assert {one.federation for one in same} == {federation().federation}
    assert dataclasses.asdict(config(resume=True))["resume"] == same[2].resume
