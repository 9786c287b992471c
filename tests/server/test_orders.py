from pathlib import Path

import pytest

from configs.schema import strategies
from faelles.errors import ConfigError, FaellesError
from server.orders import order, seconds
from strategies.registry import STRATEGIES

TYPED = ("usecase=elder-admission",)


def test_what_is_typed_becomes_a_federation_within_the_card(tmp_path: Path) -> None:
    made = order(
        [*TYPED, "strategy=fedadam", "rounds=20", "privacy.epsilon=1.5", "quorum=0.6", "deadline=90s", "wait=2h"],
        tmp_path,
    )
    assert (made.strategy.name, made.terms.rounds, made.terms.epsilon) == ("fedadam", 20, 1.5)
    assert (made.quorum, made.deadline_s, made.wait_s, made.deliver_s) == (0.6, 90.0, 7200.0, 86400.0)
    assert made.terms.within(made.card)


def test_without_terms_it_is_what_the_card_says(tmp_path: Path) -> None:
    made = order(TYPED, tmp_path)
    assert (made.terms.epsilon, made.terms.rounds) == (made.card.privacy.epsilon, made.card.training.rounds)
    assert order(TYPED, tmp_path).federation != made.federation


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("privacy.epsilon=9", "another card"),
        ("rounds=10000", "another card"),
        ("privacy.epsilon=inf", "another card"),
        ("rounds=0", "rounds"),
        ("quorum=0", "quorum"),
        ("quorum=many", "quorum"),
        ("deadline=soon", "10m"),
        ("deadline=0s", "deadline_s"),
        ("weighting=by-heart", "weighting"),
        ("strategy=guess", "strategy"),
        ("training.learning_rate=9", "training"),
        ("privacy.clipping_norm=9", "clipping_norm"),
        ("nonsense", "nonsense"),
        ("folder=/tmp", "folder"),
        ("usecase=nobody", "nobody"),
    ],
)
def test_what_is_wrong_or_goes_beyond_the_card_gets_one_line(tmp_path: Path, typed: str, words: str) -> None:
    with pytest.raises(FaellesError) as caught:
        order([*TYPED, typed], tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_use_case_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="usecase"):
        order(["rounds=3"], tmp_path)


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("0s", 0)])
def test_times_are_a_number_and_a_unit(text: str, expected: float) -> None:
    assert seconds(text, "deadline") == expected


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "1e9s", "10 m", "1d", "\u0661m"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="deadline="):
        seconds(text, "deadline")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["round=3"], ["round: expected one of usecase, strategy, rounds,", "did you mean rounds?"]),
        (["epsilon=1"], ["did you mean privacy.epsilon?"]),
        (["strategy=fedadam", "tau=1"], ["did you mean strategy.terms.tau?"]),
        (["rounds=abc"], ["rounds=abc: expected a whole number, something else came; see `faelles-server run --help`"]),
        (["rounds=1,2"], ["rounds=1,2: expected a whole number"]),
        (["rounds=1=2"], ["rounds=1=2: expected a whole number"]),
        (["quorum=many"], ["quorum=many: expected a number above 0 and at most 1"]),
        (["strategy=fedadam", "strategy.terms.tau=x"], ["strategy.terms.tau=x: expected a number above 0"]),
        (["strategy=fedadm"], ["expected one of fedadagrad, fedadam, fedavg,", "did you mean fedadam?"]),
        (["elder-admission"], ["expected KEY=VALUE, there is no = in it; did you mean usecase=elder-admission?"]),
        (["hydra=3"], ["hydra: expected one of usecase"]),
        (["rounds=3\nx"], [r"'rounds=3\nx': expected a whole number"]),
        ([""], ["'': expected KEY=VALUE"]),
    ],
)
def test_a_mistake_is_said_without_hydras_words(tmp_path: Path, typed: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        order([*TYPED, *typed], tmp_path)
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith("run: ")
    for word in words:
        assert word in line


def test_without_a_use_case_the_catalogue_is_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected usecase=NAME, none came; the catalogue has elder-admission"):
        order(["seed=2"], tmp_path)


def test_the_strategies_that_help_lists_are_those_that_can_be_built() -> None:
    assert set(strategies()) == set(STRATEGIES)
