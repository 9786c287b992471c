"""No reply may touch the model that an honest municipality could not have sent."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from faelles.errors import WireError
from faelles.features import Citizens
from faelles.models import Arrays, build_model, initial_parameters, shared_shapes
from faelles.privacy.dpsgd import LocalTerms
from faelles.privacy.plan import plan_for
from faelles.privacy.update import release_update
from faelles.records import Answer, Kind, Request, parse_answer
from server.validation import SLACK, check_echo, check_histogram, check_update, update_limit
from tests.builders import DECLARED_SIZE, FEDERATION, OTHER_FEDERATION, Agent, build_card, personal_card

CARD = build_card()
PLAN = plan_for(CARD, DECLARED_SIZE)
LIMIT = update_limit(CARD, PLAN)
SHAPES = shared_shapes(CARD)
REQUEST = Request(kind=Kind.TRAIN, federation=FEDERATION, server_round=2, card_sha256=CARD.sha256)


def answer(arrays: Arrays | None = None) -> Answer:
    return Answer(federation=FEDERATION, server_round=2, card_sha256=CARD.sha256, arrays=arrays or {})


def update(value: float = 0.0) -> Arrays:
    return {
        "output.weight": np.full((1, 5), value, dtype=np.float32),
        "output.bias": np.full((1,), value, dtype=np.float32),
    }


def of_norm(norm: float) -> Arrays:
    return update(norm / 6**0.5)


def test_an_answer_to_what_was_asked_passes() -> None:
    check_echo(REQUEST, answer())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(answer(), federation=OTHER_FEDERATION), "federation"),
        (replace(answer(), server_round=1), "server-round"),
        (replace(answer(), card_sha256=personal_card().sha256), "card-sha256"),
    ],
)
def test_a_replay_or_an_answer_to_something_else_is_rejected(other: Answer, named: str) -> None:
    with pytest.raises(WireError, match=f"{named}: expected the one that was asked about, another came"):
        check_echo(REQUEST, other)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"output.weight": update()["output.weight"]},
        dict(reversed(update().items())),
        update() | {"hidden.0.weight": np.zeros(1, np.float32)},
        {"weight": update()["output.weight"], "bias": update()["output.bias"]},
        update() | {"output.bias": np.zeros((), np.float32)},
        update() | {"output.bias": np.zeros(2, np.float32)},
        update() | {"output.bias": np.zeros(1, np.float64)},
        update() | {"output.bias": np.zeros(1, ">f4")},
        update() | {"output.bias": np.zeros(1, np.complex64)},
        update() | {"output.bias": np.zeros(1, "M8[s]")},
        update() | {"output.bias": np.array(["1.0"])},
        update() | {"output.bias": np.array([np.nan], np.float32)},
        update() | {"output.bias": np.array([np.inf], np.float32)},
        update() | {"output.bias": np.array([-np.inf], np.float32)},
        update() | {"output.bias": np.array([1e30], np.float32)},
        of_norm(2 * LIMIT),
    ],
)
def test_an_update_that_is_none_is_rejected(arrays: Arrays) -> None:
    with pytest.raises(WireError):
        check_update(SHAPES, LIMIT, answer(arrays))


def test_a_type_that_carries_the_senders_words_is_not_repeated() -> None:
    crafted = np.zeros(1, dtype=[("words of the sender", np.float32)])
    with pytest.raises(WireError) as caught:
        check_update(SHAPES, LIMIT, answer(update() | {"output.bias": crafted}))
    assert "words" not in str(caught.value)


@given(st.floats(0, 3))
def test_the_norm_is_bounded_over_all_arrays_together(share: float) -> None:
    arrays = of_norm(share * LIMIT)
    if share > 1.0001:
        with pytest.raises(WireError, match="update: expected a norm of at most"):
            check_update(SHAPES, LIMIT, answer(arrays))
    elif share < 0.9999:
        check_update(SHAPES, LIMIT, answer(arrays))


class EverybodyComes:
    """Take each citizen's turn as often as it comes on average, and add the noise that is expected."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        return np.arange(units) < rate * units

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        return np.full(size, self.sign * std)


@pytest.mark.parametrize("sign", [-1.0, 0.0, 1.0])
def test_an_honest_update_at_the_limit_passes(sign: float) -> None:
    # As many citizens as the slack allows, all alike, and every gradient is clipped.
    card = build_card(privacy={"clipping_norm": 1e-3})
    plan = plan_for(card, DECLARED_SIZE)
    people = int(SLACK) * DECLARED_SIZE
    citizens = Citizens(
        x_BRF=np.ones((people, 2, 5), np.float32),
        y_BR=np.ones((people, 2), np.int64),
        mask_BR=np.ones((people, 2), np.bool_),
    )
    terms = LocalTerms(learning_rate=card.training.learning_rate)
    start = initial_parameters(card)
    released = release_update(card, build_model(card), start, citizens, plan, terms, EverybodyComes(sign))
    honest = dict(released.update.arrays)
    norm = float(np.sqrt(sum(np.square(array).sum() for array in honest.values())))
    signal = card.training.learning_rate * plan.local_steps * SLACK * plan.clipping_norm
    assert norm == pytest.approx(signal, rel=0.25)
    check_update(shared_shapes(card), update_limit(card, plan), answer(honest))


def test_a_real_agents_update_passes(tmp_path: Path) -> None:
    agent = Agent(tmp_path, CARD)
    agent.ready()
    check_update(SHAPES, LIMIT, parse_answer(agent.train(1)))


def test_without_privacy_only_magnitudes_are_bounded() -> None:
    plan = plan_for(CARD, DECLARED_SIZE, epsilon=float("inf"))
    check_update(SHAPES, update_limit(CARD, plan), answer(update(1e6)))
    with pytest.raises(WireError, match="finite numbers up to"):
        check_update(SHAPES, update_limit(CARD, plan), answer(update(1.1e6)))


def test_a_local_parameter_is_no_part_of_an_update() -> None:
    card = personal_card()
    shared = {"output.weight": update()["output.weight"]}
    check_update(shared_shapes(card), LIMIT, answer(shared))
    with pytest.raises(WireError):
        check_update(shared_shapes(card), LIMIT, answer(update()))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"histogram": np.zeros((2, 19), np.float32)},
        {"histogram": np.zeros((20, 2), np.float32)},
        {"histogram": np.full((2, 20), np.nan, np.float32)},
        {"histogram": np.full((2, 20), 1e7, np.float32)},
        {"histogram": np.zeros((2, 20))},
        {"other": np.zeros((2, 20), np.float32)},
    ],
)
def test_arrays_that_are_not_one_histogram_are_rejected(arrays: Arrays) -> None:
    check_histogram(CARD, {"histogram": np.full((2, 20), -3.5, np.float32)})  # noise makes counts negative
    with pytest.raises(WireError):
        check_histogram(CARD, arrays)
