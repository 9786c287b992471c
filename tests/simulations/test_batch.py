"""Both trainers train municipalities as each of them does alone, with the production code, to float32 rounding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from faelles.features import Citizens
from faelles.models import Arrays, Network
from faelles.privacy.dpsgd import LocalTerms, train_locally
from faelles.privacy.plan import PrivacyPlan
from faelles.records import Kind
from simulations import batch, loops
from simulations.batch import Batch, Layer, layers_of
from simulations.mechanisms import SeededMechanisms, SeededRandomness
from simulations.solo import Solo, blas
from simulations.work import Rows, Terms, Work
from tests.builders import FEDERATION
from tests.gradients import Scripted, plan_of, some

EPSILON = float(np.finfo(np.float32).eps)
ROUNDINGS = 4  # of what one rounding of its start does to the reference
CPU = torch.device("cpu")
Trainer = type[Batch] | type[Solo]
TRAINERS: tuple[Trainer, ...] = (Solo, Batch)
FEATURES = 4
MODERATE = 10.0  # up to which a kernel may compute in float32


@dataclass(frozen=True, kw_only=True)
class Case:
    """Hold one round of some municipalities."""

    hidden: tuple[int, ...]
    outputs: int
    sites: tuple[Citizens, ...]
    start: tuple[Arrays, ...]
    plans: tuple[PrivacyPlan, ...]
    learning_rate: float
    mu: float
    pulled: tuple[str, ...]

    @property
    def model(self) -> Network:
        return Network(self.sites[0].x_BRF.shape[2], self.hidden, self.outputs)


def streams_of(case: Case) -> list[SeededRandomness]:
    """Open each municipality's stream anew."""
    streams = [SeededMechanisms(seed=7, municipality=str(place)) for place in range(len(case.sites))]
    return [stream.open_release(FEDERATION, 1, Kind.TRAIN) for stream in streams]


def flat(arrays: Arrays) -> NDArray[np.float32]:
    return np.concatenate([array.ravel() for array in arrays.values()])


def rows_of(sites: Sequence[Citizens]) -> Rows:
    """Put municipalities behind each other, and nobody at the end."""
    _, rows, features = sites[0].x_BRF.shape
    nobody = Citizens(
        x_BRF=np.zeros((1, rows, features), np.float32), y_BR=np.zeros((1, rows), np.int64),
        mask_BR=np.zeros((1, rows), bool),
    )  # fmt: skip
    every = [*sites, nobody]
    whole = Citizens(
        x_BRF=np.concatenate([one.x_BRF for one in every]), y_BR=np.concatenate([one.y_BR for one in every]),
        mask_BR=np.concatenate([one.mask_BR for one in every]),
    )  # fmt: skip
    return Rows(whole, np.cumsum([0, *map(len, sites)]).astype(np.int64), CPU)


def together(case: Case, trainer: Trainer) -> NDArray[np.float32]:
    """Train all municipalities with a simulator's trainer."""
    pulled = [np.full(array.size, name in case.pulled) for name, array in case.start[0].items()]
    terms = Terms(learning_rate=case.learning_rate, proximal_mu=case.mu, pulled_D=np.concatenate(pulled))
    start_SD = np.stack([flat(start) for start in case.start])
    one = trainer(layers_of(case.model), rows_of(case.sites), range(len(case.sites)))
    works = [Work(plan=plan, randomness=draws) for plan, draws in zip(case.plans, streams_of(case), strict=True)]
    return one.train(start_SD, works, terms)


def alone(case: Case) -> NDArray[np.float32]:
    """Train one municipality after the other with the production code."""
    terms = LocalTerms(learning_rate=case.learning_rate, proximal_mu=case.mu)
    after = [
        train_locally(case.model, start, citizens, plan, terms, randomness, case.pulled)
        for start, citizens, plan, randomness in zip(case.start, case.sites, case.plans, streams_of(case), strict=True)
    ]
    return np.stack([flat(one) for one in after])


def starts_of(case: Case) -> NDArray[np.float32]:
    return np.stack([flat(start) for start in case.start])


def largest(case: Case, after_SD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Find each municipality's largest parameter, before or after; at least 1."""
    return np.asarray(np.abs(np.stack([starts_of(case), after_SD])).max(axis=(0, 2), initial=1.0))


def roundings(case: Case, ours_SD: NDArray[np.float32], theirs_SD: NDArray[np.float32]) -> float:
    """Say how far apart results are, in roundings of each municipality's largest parameter."""
    apart_S = np.abs(ours_SD.astype(float) - theirs_SD).max(axis=1)
    return float((apart_S / largest(case, theirs_SD)).max() / EPSILON)


def response(case: Case, theirs_SD: NDArray[np.float32]) -> float:
    """Say how far the reference itself goes elsewhere when its start is one such rounding off."""
    rng = np.random.default_rng(0)
    apart = 1.0
    for _ in range(4):
        moved = tuple(
            {
                name: (array + size * EPSILON * rng.choice([-1, 1], array.shape)).astype(np.float32)
                for name, array in start.items()
            }
            for start, size in zip(case.start, largest(case, theirs_SD), strict=True)
        )
        apart = max(apart, roundings(case, alone(replace(case, start=moved)), theirs_SD))
    return apart


def check_same(case: Case) -> None:
    theirs_SD = alone(case)
    for trainer in TRAINERS:
        apart = roundings(case, together(case, trainer), theirs_SD)
        # Huge steps magnify a rounding: what the reference makes of one is computed where it may matter.
        assert apart <= ROUNDINGS or apart <= ROUNDINGS * response(case, theirs_SD), trainer


# The same as each alone


def draw_citizens(rng: np.random.Generator, count: int, shape: tuple[int, int], classes: int) -> Citizens:
    """Draw citizens with one row or more, and absurd padding, which nobody may read."""
    rows, features = shape
    mask_BR = np.arange(rows) < rng.integers(1, rows + 1, (count, 1))
    x_BRF = rng.uniform(-1, 1, (count, rows, features)).astype(np.float32)
    x_BRF[~mask_BR] = 1e3
    return Citizens(x_BRF=x_BRF, y_BR=rng.integers(0, classes, (count, rows)), mask_BR=mask_BR)


def draw_start(rng: np.random.Generator, model: Network, scale: float) -> Arrays:
    return {
        name: (scale * rng.uniform(-1, 1, tuple(p.shape))).astype(np.float32) for name, p in model.named_parameters()
    }


@st.composite
def cases(draw: st.DrawFn, scales: Sequence[float] = (0.0, 1e-30, 0.3, 4.0, MODERATE)) -> Case:
    """Draw a round: what hypothesis may shrink is its form; the numbers come from a seed."""
    hidden = draw(st.lists(st.integers(1, 7), max_size=3))
    outputs = draw(st.sampled_from([1, 3, 5]))
    shape = (draw(st.integers(1, 4)), draw(st.sampled_from([1, 4, 12])))
    counts = draw(st.lists(st.sampled_from([0, 1, 3, 12]), min_size=1, max_size=4))
    steps = sorted(draw(st.lists(st.integers(1, 6), min_size=len(counts), max_size=len(counts))), reverse=True)
    noise, clipping = draw(st.sampled_from([0.0, 0.5, 5.0])), draw(st.sampled_from([1e-3, 0.1, 1.0, 100.0]))
    sizes = st.sampled_from([(5, 50), (10, 10), (50, 10), (1000, 1)])  # everybody, half of them, next to nobody
    plans = []
    for count in steps:
        declared, batch_size = draw(sizes)
        plans.append(plan_of(declared_size=declared, batch_size=batch_size, local_steps=count, clipping_norm=clipping,
                             noise_multiplier=noise))  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    model = Network(shape[1], tuple(hidden), outputs)
    scale = draw(st.sampled_from(scales))
    names = [name for name, _ in model.named_parameters()]
    return Case(
        hidden=tuple(hidden), outputs=outputs, plans=tuple(plans),
        sites=tuple(draw_citizens(rng, count, shape, max(outputs, 2)) for count in counts),
        start=tuple(draw_start(rng, model, scale) for _ in counts),
        learning_rate=draw(st.sampled_from([0.05, 0.5])), mu=draw(st.sampled_from([0.0, 0.01, 1.0])),
        pulled=tuple(draw(st.sets(st.sampled_from(names)))),
    )  # fmt: skip


@settings(max_examples=120)
@given(cases())
def test_a_batch_trains_each_municipality_as_the_production_code_does(case: Case) -> None:
    check_same(case)


@settings(max_examples=40)
@given(cases(scales=(MODERATE * 1.2, 1e3, 1e6)))
def test_so_it_does_from_weights_that_somebody_crafted(case: Case) -> None:
    check_same(case)


@pytest.mark.parametrize("hidden", [(), (3,)])
@pytest.mark.parametrize("value", [100.0, 1e4, 1e6])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_large_terms_leave_of_a_score_is_not_lost_in_rounding(
    trainer: Trainer, hidden: tuple[int, ...], value: float
) -> None:
    case = plain_case(hidden, clipping_norm=100.0, steps=1)
    sites, starts = [], []
    for one, start in zip(case.sites, case.start, strict=True):
        x_BRF = one.x_BRF.copy()
        x_BRF[..., 1] = x_BRF[..., 0] * np.float32(1 + 1 / value)
        sites.append(replace(one, x_BRF=x_BRF))
        first = next(iter(start))
        weight_OI = start[first].copy()
        weight_OI[:, 0], weight_OI[:, 1] = value, -value
        starts.append({**start, first: weight_OI})
    crafted = replace(case, sites=tuple(sites), start=tuple(starts))
    ours_SD, theirs_SD = together(crafted, trainer), alone(crafted)
    # Of each parameter and not of the largest: a bias tells what became of the score.
    assert (np.abs(ours_SD - theirs_SD) <= 4 * EPSILON * np.maximum(1, np.abs(theirs_SD))).all()


@pytest.mark.parametrize("hidden", [(1, 6, 7), (3, 4), (7, 5)])
def test_what_large_weights_leave_of_a_slope_is_not_lost_in_rounding(hidden: tuple[int, ...]) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = Network(1, hidden, 5)
        case = replace(plain_case(hidden, noise_multiplier=0.0, steps=1), outputs=5)
        sites = tuple(draw_citizens(rng, 12, (1, 1), 5) for _ in case.sites)
        check_same(replace(case, sites=sites, start=tuple(draw_start(rng, model, MODERATE) for _ in sites)))


@pytest.mark.parametrize("value", [1e6, -1e6, 60.0, MODERATE, -8.0])
@pytest.mark.parametrize("hidden", [(), (5,), (6, 5, 4)])
def test_saturated_weights_are_no_exception(hidden: tuple[int, ...], value: float) -> None:
    case = plain_case(hidden, clipping_norm=0.3)
    start = tuple({name: np.full_like(array, value) for name, array in one.items()} for one in case.start)
    check_same(replace(case, start=start))


def plain_case(hidden: tuple[int, ...] = (5,), count: int = 12, rows: int = 2, steps: int = 3, **plan: float) -> Case:
    """Give two municipalities that everybody of takes part in, under little noise."""
    rng = np.random.default_rng(5)
    model = Network(FEATURES, hidden, 1)
    terms = {"declared_size": count, "batch_size": count, "local_steps": steps, "noise_multiplier": 1e-3} | plan
    return Case(
        hidden=hidden, outputs=1, plans=(plan_of(**terms),) * 2, learning_rate=0.5, mu=0.0, pulled=(),
        sites=tuple(draw_citizens(rng, count, (rows, FEATURES), 2) for _ in range(2)),
        start=tuple(draw_start(rng, model, 0.3) for _ in range(2)),
    )  # fmt: skip


@pytest.mark.parametrize("clipping_norm", [1e-6, 1e-4, 0.009, 0.01, 0.3, 1e4])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e-3, 0.3])
def test_rows_of_a_citizen_may_cancel(scale: float, clipping_norm: float) -> None:
    case = plain_case((), clipping_norm=clipping_norm)
    sites = [
        Citizens(
            x_BRF=np.repeat(one.x_BRF[:, :1], 2, axis=1), y_BR=np.tile(np.arange(2), (len(one), 1)),
            mask_BR=np.ones((len(one), 2), bool),
        )
        for one in case.sites
    ]  # fmt: skip
    rng = np.random.default_rng(1)
    start = tuple(draw_start(rng, case.model, scale) for _ in sites)
    check_same(replace(case, sites=tuple(sites), start=start))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_who_has_fewer_steps_drops_out_and_stays_as_it_is(trainer: Trainer) -> None:
    case = plain_case()
    plans = tuple(replace(plan, local_steps=steps) for plan, steps in zip(case.plans, (5, 2), strict=True))
    longer, shorter = replace(case, plans=plans), replace(case, plans=(plans[1],) * 2)
    check_same(longer)
    np.testing.assert_allclose(together(longer, trainer)[1], together(shorter, trainer)[1], atol=1e-6)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_nobody_trains_on_by_noise_alone(trainer: Trainer) -> None:
    case = plain_case(noise_multiplier=3.0)
    empty = replace(case, sites=(some(case.sites[0], slice(0, 0)),) * 2)
    check_same(empty)
    assert (together(empty, trainer) != starts_of(empty)).all()
    silent = replace(empty, plans=tuple(replace(plan, noise_multiplier=0.0) for plan in case.plans))
    np.testing.assert_array_equal(together(silent, trainer), starts_of(silent))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_without_noise_nothing_is_clipped(trainer: Trainer) -> None:
    case = plain_case(noise_multiplier=0.0, clipping_norm=1e-6)
    check_same(case)
    assert np.abs(together(case, trainer) - starts_of(case)).max() > 0.01


# Bits


@settings(max_examples=30)
@given(cases(), st.sampled_from(TRAINERS))
def test_the_same_arguments_give_the_same_bits(case: Case, trainer: Trainer) -> None:
    np.testing.assert_array_equal(together(case, trainer), together(case, trainer))


@settings(max_examples=30)
@given(cases(scales=(0.0, 0.3)), st.sampled_from([1, 100, 1000]))
def test_a_step_that_is_done_in_parts_is_one_step(case: Case, numbers: int) -> None:
    whole_SD = together(case, Batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "NUMBERS_AT_ONCE", numbers)
        parts_SD = together(case, Batch)
    apart = roundings(case, parts_SD, whole_SD)
    assert apart <= ROUNDINGS or apart <= ROUNDINGS * response(case, whole_SD)


def test_parts_are_as_small_as_memory_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = plain_case(count=300, steps=1)
    whole_SD = together(case, Batch)
    monkeypatch.setattr(batch, "NUMBERS_AT_ONCE", 1)
    assert (together(case, Batch) != whole_SD).any()  # sums in another order: so there were parts
    check_same(case)


def blas_threads() -> set[int]:
    return {one["num_threads"] for one in blas().info() if one["user_api"] == "blas"}


def test_products_take_one_thread_and_leave_it_to_others_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    step = loops.run

    def watched(*arguments: Any) -> None:
        seen.append(blas_threads())
        step(*arguments)

    monkeypatch.setattr(loops, "run", watched)
    with blas().limit(limits=2, user_api="blas"):
        together(plain_case(), Solo)
        assert blas_threads() == {2}
    assert seen
    assert set().union(*seen) == {1}


# By hand


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 3, 4)])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_step_adds_up_the_clipped_gradients_of_citizens(
    trainer: Trainer, hidden: tuple[int, ...], outputs: int, clipped: bool
) -> None:
    rng = np.random.default_rng(2)
    model = Network(FEATURES, hidden, outputs).double()
    citizens, start = draw_citizens(rng, 9, (3, FEATURES), max(2, outputs)), draw_start(rng, model, 1.0)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in start.items()})
    by_hand_BD = np.stack([gradient_of(model, citizens, place) for place in range(len(citizens))])
    norm_B1 = np.linalg.norm(by_hand_BD, axis=1, keepdims=True)
    norm = float(np.median(norm_B1) if clipped else 2 * norm_B1.max())
    work = Work(plan=plan_of(clipping_norm=norm), randomness=Scripted())
    terms = Terms(learning_rate=1.0, proximal_mu=0.0, pulled_D=np.zeros(len(flat(start)), bool))
    after_SD = trainer(layers_of(model), rows_of([citizens]), [0]).train(flat(start)[None], [work], terms)
    sum_D = (by_hand_BD * np.minimum(1, norm / norm_B1)).sum(axis=0)
    np.testing.assert_allclose(flat(start) - after_SD[0], sum_D / work.plan.divisor, atol=2e-6)


def gradient_of(model: Network, citizens: Citizens, place: int) -> NDArray[np.float64]:
    """Compute the gradient of one citizen's mean loss over its used rows."""
    used_R = citizens.mask_BR[place]
    logits_RK = model(torch.from_numpy(citizens.x_BRF[place][used_R]).double())
    answer_R = torch.from_numpy(citizens.y_BR[place][used_R])
    if logits_RK.shape[1] == 1:
        loss = nn.functional.binary_cross_entropy_with_logits(logits_RK[:, 0], answer_R.double())
    else:
        loss = nn.functional.cross_entropy(logits_RK, answer_R)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return np.asarray(torch.cat([one.flatten() for one in gradients]).numpy())


def test_layers_lie_in_the_order_of_the_parameters() -> None:
    model = Network(3, (5, 2), 4)
    layers = layers_of(model)
    assert layers[0] == Layer(inputs=3, outputs=5, start=0)
    vector_SD = torch.arange(float(layers[-1].stop))[None]
    parts = [part for layer in layers for part in layer.of(vector_SD)]
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert [tuple(part.shape[1:]) for part in parts] == shapes
    assert torch.equal(torch.cat([part.flatten() for part in parts]), vector_SD[0])
