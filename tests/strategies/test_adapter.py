"""The adapter is deterministic, holds weights fixed, fails by name and goes on after a crash bit for bit."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import Bulyan, FedAvg
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from faelles.errors import RunError, StrategyError
from faelles.records import Scalar
from strategies.adapter import StrategyAdapter
from strategies.registry import STRATEGIES, build

Arrays = dict[str, NDArray[np.float32]]

CODES = ("0101", "0147", "0461", "0751", "0851")
WEIGHTS = dict(zip(CODES, (1.0, 2.5, 4.0, 0.5, 10.0), strict=True))
SHAPES: dict[str, tuple[int, ...]] = {"hidden.weight": (2, 3), "hidden.bias": (2,), "scale": ()}


def draw(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in SHAPES.items()}


def updates_of(round: int) -> dict[str, Arrays]:
    return {code: draw(100 * round + place) for place, code in enumerate(CODES)}


def adapter_of(name: str) -> StrategyAdapter:
    return StrategyAdapter(build(name, {}), WEIGHTS)


def step(adapter: StrategyAdapter, round: int, arrays: Arrays) -> Arrays:
    adapter.configure(round, arrays, {})
    return adapter.aggregate(round, arrays, updates_of(round))


def same(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]]) -> bool:
    return list(left) == list(right) and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


def test_fedprox_asks_for_its_pull_and_the_others_for_nothing() -> None:
    given_config: dict[str, Scalar] = {"card": "abc", "noise-multiplier": 1.5}
    for name in STRATEGIES:
        wanted = adapter_of(name).configure(3, draw(0), given_config)
        assert wanted == ({"proximal-mu": 0.01} if name == "fedprox" else {}), name
    assert given_config == {"card": "abc", "noise-multiplier": 1.5}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_model_keeps_names_order_shapes_and_float32(name: str) -> None:
    arrays = draw(0)
    adapter = adapter_of(name)
    for round in (1, 2):
        arrays = step(adapter, round, arrays)
        assert {key: array.shape for key, array in arrays.items()} == SHAPES
        assert list(arrays) == list(SHAPES)
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(CODES), names=st.permutations(list(SHAPES)), weights=st.permutations(CODES))
@pytest.mark.parametrize("name", STRATEGIES)
def test_the_order_of_a_mapping_changes_no_bit(
    name: str, order: list[str], names: list[str], weights: list[str]
) -> None:
    shuffled = StrategyAdapter(build(name, {}), {code: WEIGHTS[code] for code in weights})
    plain, model, other = adapter_of(name), draw(0), draw(0)
    for round in (1, 2):
        model = step(plain, round, model)
        shuffled.configure(round, other, {})
        updates = updates_of(round)
        mixed = {code: {key: updates[code][key] for key in names} for code in order}
        other = shuffled.aggregate(round, other, mixed)
    assert same(model, other)
    assert same(plain.state(), shuffled.state())


@settings(max_examples=12, deadline=None)
@given(cut=st.integers(0, 4), late=st.booleans())
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_crash_after_any_round_changes_no_bit(name: str, cut: int, late: bool) -> None:
    whole, arrays = adapter_of(name), draw(0)
    for round in range(1, 5):
        arrays = step(whole, round, arrays)
    broken, resumed = adapter_of(name), draw(0)
    for round in range(1, cut + 1):
        resumed = step(broken, round, resumed)
    checkpoint = broken.state()
    if late:  # the process dies while it waits for the replies of the next round
        broken.configure(cut + 1, resumed, {})
        checkpoint = broken.state()
    again = adapter_of(name)
    again.load_state(checkpoint)
    assert same(again.state(), checkpoint)
    for round in range(cut + 1, 5):
        resumed = step(again, round, resumed)
    assert same(resumed, arrays)
    assert same(again.state(), whole.state())


@pytest.mark.parametrize("name", [name for name, entry in STRATEGIES.items() if entry.state])
def test_without_its_state_a_strategy_goes_elsewhere(name: str) -> None:
    first = step(adapter_of(name), 1, draw(0))
    kept, forgetful = adapter_of(name), adapter_of(name)
    step(kept, 1, draw(0))
    assert len(kept.state()) == len(STRATEGIES[name].state) * len(SHAPES)
    assert not same(step(kept, 2, first), step(forgetful, 2, first))


def test_fedavgm_follows_the_arrays_it_is_given() -> None:
    """A federation that goes on from other arrays than its last (a fork) must not fall back to its own copy."""
    adapter = adapter_of("fedavgm")
    step(adapter, 1, draw(0))
    state, elsewhere = adapter.state(), draw(7)
    fresh = adapter_of("fedavgm")
    fresh.load_state(state)
    assert same(step(adapter, 2, elsewhere), step(fresh, 2, elsewhere))


def test_state_is_a_copy_both_ways() -> None:
    adapter = adapter_of("fedadam")
    step(adapter, 1, draw(0))
    state = adapter.state()
    before = {key: array.copy() for key, array in state.items()}
    for array in state.values():
        array[...] = 9
    assert same(adapter.state(), before)
    adapter.load_state(before)
    for array in before.values():
        array[...] = 9
    assert not same(adapter.state(), before)


def test_load_state_replaces_what_was_remembered() -> None:
    adapter = adapter_of("fedadam")
    step(adapter, 1, draw(0))
    adapter.load_state({})
    assert adapter.state() == {}


def test_the_state_of_another_strategy_is_refused() -> None:
    adapter = adapter_of("fedadam")
    step(adapter, 1, draw(0))
    state = adapter.state()
    with pytest.raises(StrategyError, match="fedavgm: keeps momentum_vector, but the checkpoint holds 'm_t'"):
        adapter_of("fedavgm").load_state(state)
    with pytest.raises(StrategyError, match="fedavg: keeps no state"):
        adapter_of("fedavg").load_state(state)


@pytest.mark.parametrize(
    ("name", "part"), [("fedadam", "v_t/scale"), ("fedyogi", "m_t/scale"), ("fedavgm", "momentum_vector/1")]
)
def test_a_state_with_parts_missing_is_refused(name: str, part: str) -> None:
    adapter = adapter_of(name)
    step(adapter, 1, draw(0))
    state = adapter.state()
    state.pop(part)
    other = adapter_of(name)
    with pytest.raises(StrategyError, match=f"{name}: the checkpoint's state lacks arrays"):
        other.load_state(state)
    assert other.state() == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("name", ["fedavg", "fedadam", "fedavgm"])
def test_a_model_that_is_not_finite_is_an_error_and_no_step(name: str, value: float) -> None:
    adapter, arrays = adapter_of(name), draw(0)
    arrays = step(adapter, 1, arrays)
    before = adapter.state()
    big = {**arrays, "hidden.bias": np.full(2, 3e38, np.float32)}
    adapter.configure(2, big, {})
    bad = updates_of(2)
    for code in CODES:
        bad[code]["hidden.bias"] = np.full(2, value, np.float32)  # 3e38 + 3e38 is beyond float32
    with pytest.raises(RunError, match=rf"round 2: strategy {name} gave a model that is not finite in hidden.bias"):
        adapter.aggregate(2, big, bad)
    assert same(adapter.state(), before)
    again = adapter_of(name)
    again.load_state(before)
    assert same(step(adapter, 2, arrays), step(again, 2, arrays))


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_updates_is_an_error(name: str) -> None:
    adapter, arrays = adapter_of(name), draw(0)
    adapter.configure(1, arrays, {})
    with pytest.raises(RunError, match=rf"round 1: strategy {name} needs updates from \d"):
        adapter.aggregate(1, arrays, {})


@pytest.mark.parametrize("name", ["krum", "multi-krum"])
def test_krum_refuses_fewer_than_its_guarantee_needs(name: str) -> None:
    adapter, arrays = adapter_of(name), draw(0)
    adapter.configure(1, arrays, {})
    four = {code: update for code, update in updates_of(1).items() if code != "0101"}
    with pytest.raises(RunError, match="needs updates from 5 municipalities or more, got 4"):
        adapter.aggregate(1, arrays, four)


def test_a_round_must_be_configured_first() -> None:
    adapter, arrays = adapter_of("fedavg"), draw(0)
    with pytest.raises(RunError, match="call configure"):
        adapter.aggregate(1, arrays, updates_of(1))
    adapter.configure(1, arrays, {})
    with pytest.raises(RunError, match="round 2: strategy fedavg is configured for round 1"):
        adapter.aggregate(2, arrays, updates_of(2))


def test_a_round_counts_once() -> None:
    adapter, arrays = adapter_of("fedavgm"), draw(0)
    step(adapter, 1, arrays)
    with pytest.raises(RunError, match="call configure"):
        adapter.aggregate(1, arrays, updates_of(1))


def test_a_municipality_without_a_weight_is_refused() -> None:
    adapter, arrays = adapter_of("fedavg"), draw(0)
    adapter.configure(1, arrays, {})
    with pytest.raises(RunError, match="an update from 0999, which has no public weight"):
        adapter.aggregate(1, arrays, {"0999": draw(1)})


@pytest.mark.parametrize("spoil", ["another shape", "missing", "num-examples"])
def test_an_update_of_other_names_or_shapes_is_refused(spoil: str) -> None:
    adapter, arrays = adapter_of("fedavg"), draw(0)
    adapter.configure(1, arrays, {})
    updates = updates_of(1)
    if spoil == "another shape":  # would be broadcast
        updates["0751"]["hidden.bias"] = np.zeros(1, np.float32)
    elif spoil == "missing":
        del updates["0751"]["scale"]
    else:
        updates["0751"]["num-examples"] = np.float32(1e9) * np.ones((), np.float32)
    with pytest.raises(RunError, match="an update from 0751 whose names or shapes are not those of the round's arrays"):
        adapter.aggregate(1, arrays, updates)


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_a_weight_must_be_finite_and_above_0(weight: float) -> None:
    with pytest.raises(StrategyError, match="got others for 0751"):
        StrategyAdapter(build("fedavg", {}), {**WEIGHTS, "0751": weight})


def test_a_federation_needs_a_municipality() -> None:
    with pytest.raises(StrategyError, match="got none"):
        StrategyAdapter(build("fedavg", {}), {})


@pytest.mark.parametrize("strategy", [FedAvg(fraction_train=0.5), FedAvg(min_available_nodes=6)])
def test_a_strategy_that_samples_or_waits_is_refused(strategy: FedAvg) -> None:
    with pytest.raises(StrategyError, match="must take every municipality and wait for none"):
        StrategyAdapter(strategy, WEIGHTS)


def test_a_class_whose_state_is_unknown_is_refused() -> None:
    with pytest.raises(StrategyError, match="Bulyan is not registered"):
        StrategyAdapter(Bulyan(), WEIGHTS)


@pytest.mark.parametrize("answer", [None, ArrayRecord()])
def test_a_strategy_that_gives_no_or_another_model_is_an_error(
    answer: ArrayRecord | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def aggregate_train(self: FedAvg, *_: object) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return answer, None

    monkeypatch.setattr(FedAvg, "aggregate_train", aggregate_train)
    adapter, arrays = adapter_of("fedavg"), draw(0)
    adapter.configure(1, arrays, {})
    with pytest.raises(RunError, match=r"round 1: strategy fedavg gave (no model|a model with other names)"):
        adapter.aggregate(1, arrays, updates_of(1))


@pytest.mark.parametrize("identity", [(None, None, None), (11, 22, 33)])
def test_the_process_is_as_before(identity: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a ServerApp the task has an identity; in tests and tools it has none."""
    for name, value in zip(("_task_id", "_run_id", "_node_id"), identity, strict=True):
        monkeypatch.setattr(TaskIdentity, name, value)
    random.seed(5)
    before = random.getstate()
    step(adapter_of("fedadam"), 1, draw(0))
    assert random.getstate() == before
    assert (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id) == identity


def test_replies_carry_public_weights_in_kommunekode_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    flowers = FedAvg.aggregate_train

    def aggregate_train(
        self: FedAvg, server_round: int, replies: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        for reply in replies:
            (metrics,) = reply.content.metric_records.values()
            assert list(metrics) == ["num-examples"]
            seen.append(float(metrics["num-examples"]))  # type: ignore[arg-type]
        return flowers(self, server_round, replies)

    monkeypatch.setattr(FedAvg, "aggregate_train", aggregate_train)
    adapter, arrays = adapter_of("fedavg"), draw(0)
    adapter.configure(1, arrays, {})
    adapter.aggregate(1, arrays, dict(reversed(updates_of(1).items())))
    assert seen == list(WEIGHTS.values())
