"""A federation's whole configuration is one text, and wrong settings are told in one line."""

import json
import uuid
from pathlib import Path

import pytest
from pydantic import ValidationError

from faelles.errors import ConfigError
from faelles.terms import RunTerms
from server.federation import FederationConfig, StrategyChoice
from tests.builders import FEDERATION, build_card

CARD = build_card()


def config(epsilon: float = 2.0) -> FederationConfig:
    return FederationConfig(
        federation=uuid.UUID(FEDERATION),
        card=CARD,
        terms=RunTerms(epsilon=epsilon, rounds=3),
        strategy=StrategyChoice(name="fedadam", terms={"tau": 0.01}),
        folder=Path("somewhere"),
    )


@pytest.mark.parametrize("epsilon", [2.0, 0.1 + 0.2, float("inf")])
def test_the_text_gives_the_same_configuration_and_card(epsilon: float) -> None:
    again = FederationConfig.parse(config(epsilon).model_dump_json())
    assert again == config(epsilon)
    assert again.card.sha256 == CARD.sha256


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quorum", 0),
        ("quorum", 1.01),
        ("deadline_s", 0),
        ("wait_s", -1),
        ("deliver_s", -1),
        ("nodes", {"0101": "first"}),
        ("seed", -1),
        ("weighting", "true count"),
        ("federation", "mine"),
        ("terms", {"epsilon": 0, "rounds": 3}),
        ("extra", 1),
        ("card", {}),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(field: str, value: object) -> None:
    fields = json.loads(config().model_dump_json())
    with pytest.raises(ConfigError, match=f"federation config: .*{field}") as caught:
        FederationConfig.parse(json.dumps(fields | {field: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"resume": True},
        {"folder": Path("elsewhere")},
        {"deadline_s": 5.0},
        {"wait_s": 5.0},
        {"deliver_s": 5.0},
        {"nodes": {"0101": 7}},
        {"heads": Path("heads.sqlite")},
    ],
)
def test_how_long_to_wait_and_for_whom_is_no_other_federation(change: dict[str, object]) -> None:
    assert config().model_copy(update=change).sha256 == config().sha256


@pytest.mark.parametrize(
    "change", [{"quorum": 0.3}, {"seed": 9}, {"weighting": "declared"}, {"strategy": StrategyChoice(name="median")}]
)
def test_what_is_learned_and_when_it_counts_is_another_federation(change: dict[str, object]) -> None:
    assert config().model_copy(update=change).sha256 != config().sha256


@pytest.mark.parametrize("text", [None, "", "{", "[]", 5, b"{}"])
def test_a_text_that_is_no_configuration_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="federation config: "):
        FederationConfig.parse(text)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().seed = 2
