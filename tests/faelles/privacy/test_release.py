"""What leaves is the output of one mechanism whose event is booked: an update of shared names, or a noisy histogram."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from faelles.card import UseCaseCard, parse_card
from faelles.features import Citizens, input_width
from faelles.metrics import HISTOGRAM, exact_metrics, histogram_metrics
from faelles.models import MAX_MAGNITUDE, Arrays, build_model, load_parameters, parameter_shapes, probabilities
from faelles.privacy.accountant import Event
from faelles.privacy.dpsgd import LocalTerms, train_locally
from faelles.privacy.mechanisms import Randomness, SecureRandomness
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.release import release_histogram, score_histogram
from faelles.privacy.update import TrainingRelease, release_update

ALPHA = 1e-6  # of each test on production randomness, which cannot be seeded
ROWS = 3
LOCAL = ("hidden.0.weight", "output.bias")


def card(hidden: tuple[int, ...] = (), classes: int = 2, local: tuple[str, ...] = (), bins: int = 20) -> UseCaseCard:
    kind = "binary" if classes == 2 else "multiclass"
    return parse_card(
        {
            "id": "release",
            "version": 1,
            "title": {"da": "Udgivelse", "en": "Release"},
            "category": "forecasting",
            "model_type": "general",
            "unit": "citizen",
            "max_rows_per_unit": ROWS,
            "label": {"column": "y", "kind": kind, "values": [str(value) for value in range(classes)]},
            "features": [{"name": name, "kind": "number", "min": 0, "max": 1} for name in "ab"],
            "model": {"kind": "mlp" if hidden else "logistic", "hidden": list(hidden), "local": list(local)},
            "training": {"rounds": 1, "local_steps": 1, "batch_size": 1, "learning_rate": 1},
            "privacy": {"epsilon": 1, "delta": 1e-5, "clipping_norm": 1},
            "evaluation": {"bins": bins},
            "law": {"special_categories": False, "ai_act": "none", "basis": {}},
        }
    )


PERSONAL = card((4,), local=LOCAL)
CARDS = [card(), card(bins=7), card(classes=4), PERSONAL]
PLAN = PrivacyPlan(
    declared_size=20,
    batch_size=10,
    rounds=5,
    local_steps=3,
    clipping_norm=0.5,
    noise_multiplier=1.5,
    delta=1e-5,
)
TERMS = LocalTerms(learning_rate=0.25, proximal_mu=0.1)


@dataclass
class Noted:
    """Draw seeded randomness and note every call."""

    rng: Any = field(default_factory=lambda: np.random.default_rng(0))
    asked: list[tuple[int, float]] = field(default_factory=list)
    steps: int = 0

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        self.steps += 1
        return np.asarray(self.rng.random(units) < rate)

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        self.asked.append((size, std))
        return np.asarray(self.rng.normal(size=size) * std)


def draw_citizens(use_case: UseCaseCard, count: int, seed: int = 0) -> Citizens:
    rng = np.random.default_rng(seed)
    shape = (count, ROWS)
    return Citizens(
        x_BRF=rng.uniform(-1, 1, (*shape, input_width(use_case))).astype(np.float32),
        y_BR=rng.integers(0, len(use_case.label.values), shape),
        mask_BR=np.arange(ROWS) < rng.integers(1, ROWS + 1, (count, 1)),
    )


def some(citizens: Citizens, index: Any) -> Citizens:
    return Citizens(x_BRF=citizens.x_BRF[index], y_BR=citizens.y_BR[index], mask_BR=citizens.mask_BR[index])


def draw_parameters(use_case: UseCaseCard, seed: int = 1, scale: float = 1.0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {n: (scale * rng.normal(size=s)).astype(np.float32) for n, s in parameter_shapes(use_case).items()}


def update_of(use_case: UseCaseCard, start: Arrays, plan: PrivacyPlan, randomness: Randomness) -> TrainingRelease:
    return release_update(use_case, build_model(use_case), start, draw_citizens(use_case, 30), plan, TERMS, randomness)


# The update


def test_an_update_has_the_shared_names_only_and_local_state_the_others() -> None:
    released = update_of(PERSONAL, draw_parameters(PERSONAL), PLAN, Noted())
    assert list(released.update.arrays) == ["hidden.0.bias", "output.weight"]
    assert tuple(released.local) == LOCAL
    shapes = parameter_shapes(PERSONAL)
    for name, array in {**released.update.arrays, **released.local}.items():
        assert array.shape == shapes[name]
        assert array.dtype == np.float32


def test_a_card_without_local_parameters_leaves_no_local_state() -> None:
    released = update_of(card(), draw_parameters(card()), PLAN, Noted())
    assert list(released.update.arrays) == list(parameter_shapes(card()))
    assert released.local == {}


def test_update_and_local_state_are_two_parts_of_what_one_mechanism_made() -> None:
    start = draw_parameters(PERSONAL)
    together = Noted()
    released = update_of(PERSONAL, start, PLAN, together)
    citizens, shared = draw_citizens(PERSONAL, 30), ("hidden.0.bias", "output.weight")
    after = train_locally(build_model(PERSONAL), start, citizens, PLAN, TERMS, Noted(), proximal=shared)
    for name in shared:
        np.testing.assert_array_equal(released.update.arrays[name], after[name] - start[name])
    for name in LOCAL:
        np.testing.assert_array_equal(released.local[name], after[name])
    dimension = sum(array.size for array in start.values())
    assert together.asked == [(dimension, 1.5 * 0.5)] * 3, "one vector of noise a step, over shared and local alike"
    assert together.steps == 3


def test_the_event_is_the_round_of_the_plan_and_the_noise_that_was_drawn() -> None:
    randomness = Noted()
    released = update_of(PERSONAL, draw_parameters(PERSONAL), PLAN, randomness)
    assert released.update.event == PLAN.round_event == Event(sampling_rate=0.5, noise_multiplier=1.5, steps=3)
    assert len(randomness.asked) == released.update.event.steps
    assert {std / PLAN.clipping_norm for _, std in randomness.asked} == {released.update.event.noise_multiplier}


def test_training_without_noise_has_no_event() -> None:
    released = update_of(PERSONAL, draw_parameters(PERSONAL), replace(PLAN, noise_multiplier=0.0), Noted())
    assert released.update.event is None


def test_local_parameters_are_not_pulled() -> None:
    start = draw_parameters(PERSONAL)
    free, pulled = (
        release_update(PERSONAL, build_model(PERSONAL), start, draw_citizens(PERSONAL, 0), PLAN, terms, Noted())
        for terms in (LocalTerms(learning_rate=0.25), LocalTerms(learning_rate=0.25, proximal_mu=1.0))
    )
    for name in LOCAL:
        np.testing.assert_array_equal(free.local[name], pulled.local[name])
    for name, array in free.update.arrays.items():
        assert (array != pulled.update.arrays[name]).all()


@pytest.mark.parametrize("value", [MAX_MAGNITUDE, 1e30, 3e38])
@pytest.mark.parametrize("learning_rate", [0.5, 1e38])
def test_a_round_that_diverges_leaves_as_finite_numbers(value: float, learning_rate: float) -> None:
    for use_case in CARDS:
        start = {name: np.full(shape, value, np.float32) for name, shape in parameter_shapes(use_case).items()}
        released = release_update(
            use_case,
            build_model(use_case),
            start,
            draw_citizens(use_case, 5),
            PLAN,
            LocalTerms(learning_rate=learning_rate),
            Noted(),
        )
        for array in (*released.update.arrays.values(), *released.local.values()):
            assert np.isfinite(array).all()
            assert (np.abs(array) <= MAX_MAGNITUDE).all()
            assert array.dtype == np.float32


# The score histogram


@pytest.mark.parametrize("use_case", CARDS)
def test_a_citizen_adds_a_mass_of_1_however_many_rows_it_has(use_case: UseCaseCard) -> None:
    parameters, citizens = draw_parameters(use_case), draw_citizens(use_case, 12)
    assert {1, 2, 3} == set(citizens.mask_BR.sum(axis=1).tolist())
    model = build_model(use_case)
    for i in range(12):
        counts_KH = score_histogram(use_case, model, parameters, some(citizens, [i]))
        assert counts_KH.sum() == pytest.approx(1, abs=1e-6)
        assert (counts_KH >= 0).all()
    whole_KH = score_histogram(use_case, model, parameters, citizens)
    assert whole_KH.sum() == pytest.approx(12, abs=1e-5)
    assert whole_KH.shape == (len(use_case.label.values), 4 if len(use_case.label.values) > 2 else len(whole_KH[0]))


def test_mass_lies_at_the_class_and_score_of_each_row() -> None:
    use_case = card(bins=4)
    parameters = {"output.weight": np.array([[1, 0, 0, 0]], np.float32), "output.bias": np.zeros(1, np.float32)}
    x_BRF = np.zeros((2, ROWS, 4), np.float32)
    x_BRF[0, :, 0] = [-5, 0.5, 5]  # probabilities .007, .62 and .993
    citizens = Citizens(
        x_BRF=x_BRF,
        y_BR=np.array([[0, 1, 1], [0, 1, 1]]),
        mask_BR=np.array([[True, True, True], [True, False, False]]),
    )
    counts_KH = score_histogram(use_case, build_model(use_case), parameters, citizens)
    np.testing.assert_allclose(counts_KH, [[1 / 3, 0, 1, 0], [0, 0, 1 / 3, 1 / 3]], atol=1e-6)


def test_the_histogram_measures_what_the_exact_figures_do() -> None:
    use_case = card(bins=200)
    parameters, citizens = draw_parameters(use_case, scale=2.0), draw_citizens(use_case, 500)
    model = build_model(use_case)
    binned = histogram_metrics(score_histogram(use_case, model, parameters, citizens))
    load_parameters(model, parameters)
    mask_BR = citizens.mask_BR
    p_NK = probabilities(model, citizens.x_BRF)[mask_BR]
    exact = exact_metrics(p_NK, citizens.y_BR[mask_BR], citizens.weight_BR[mask_BR])
    assert binned.auc == pytest.approx(exact.auc, abs=2e-3)
    assert binned.log_loss == pytest.approx(exact.log_loss, abs=1e-2)
    assert binned.accuracy == pytest.approx(exact.accuracy, abs=1e-6)


def test_nobody_held_out_is_a_histogram_of_zeros() -> None:
    for use_case in CARDS:
        nobody = some(draw_citizens(use_case, 1), slice(0, 0))
        counts_KH = score_histogram(use_case, build_model(use_case), draw_parameters(use_case), nobody)
        assert counts_KH.size
        assert not counts_KH.any()


crafted = st.sampled_from([1.0, MAX_MAGNITUDE, 1e30, 3e38, np.inf, -np.inf, np.nan])


@settings(max_examples=60)
@given(st.sampled_from(CARDS), st.integers(0, 2**32), st.integers(1, 6), crafted, st.booleans())
def test_one_citizen_moves_the_histogram_by_1_at_most_whatever_the_parameters(
    use_case: UseCaseCard, seed: int, count: int, value: float, everywhere: bool
) -> None:
    citizens, parameters = draw_citizens(use_case, count, seed), draw_parameters(use_case, seed)
    for array in parameters.values():
        array.flat[0 if not everywhere else slice(None)] = value
    model = build_model(use_case)
    whole_KH = score_histogram(use_case, model, parameters, citizens)
    assert np.isfinite(whole_KH).all()
    for i in range(count):
        fewer_KH = score_histogram(use_case, model, parameters, some(citizens, np.arange(count) != i))
        assert np.linalg.norm(whole_KH - fewer_KH) <= 1 + 1e-5
        assert np.abs(whole_KH - fewer_KH).sum() <= 1 + 1e-5


@pytest.mark.parametrize("hidden", [(), (8,)], ids=["logistic", "mlp"])
def test_who_comes_along_moves_the_score_of_no_other(hidden: tuple[int, ...]) -> None:
    # Crafted weights: large terms cancel, everybody's score is what rounding leaves, and lies at the edge of two bins.
    fields = card(hidden).model_dump(mode="json")
    fields["features"] = [{"name": f"x{i}", "kind": "number", "min": 0, "max": 1} for i in range(20)]
    use_case = parse_card(fields)
    x_F = np.linspace(0.3, 0.9, input_width(use_case), dtype=np.float32)
    crowd = draw_citizens(use_case, 24)
    crowd = replace(crowd, x_BRF=np.broadcast_to(x_F, crowd.x_BRF.shape).copy())
    parameters = draw_parameters(use_case)
    first = parameters["hidden.0.weight" if hidden else "output.weight"]
    first *= MAX_MAGNITUDE / 5
    first[:, 0] = -(first[:, 1:].astype(np.float64) @ x_F[1:].astype(np.float64)) / x_F[0]
    model = build_model(use_case)
    for array in (name for name in parameters if name.endswith("bias")):
        parameters[array][:] = 0
    for rounding in range(-3, 4):
        parameters["output.bias"][:] = rounding * 1e-9
        whole_KH = score_histogram(use_case, model, parameters, crowd)
        apart_KH = sum(score_histogram(use_case, model, parameters, some(crowd, [i])) for i in range(24))
        np.testing.assert_allclose(whole_KH, apart_KH, atol=1e-5)


def histogram_of(use_case: UseCaseCard, noise_multiplier: float, randomness: Randomness) -> Any:
    return release_histogram(
        use_case,
        build_model(use_case),
        draw_parameters(use_case),
        draw_citizens(use_case, 40),
        noise_multiplier,
        randomness,
    )


@pytest.mark.parametrize("use_case", CARDS)
def test_every_cell_gets_noise_and_the_event_says_how_much(use_case: UseCaseCard) -> None:
    exact_KH = score_histogram(use_case, build_model(use_case), draw_parameters(use_case), draw_citizens(use_case, 40))
    randomness = Noted()
    released = histogram_of(use_case, 7.5, randomness)
    assert list(released.arrays) == [HISTOGRAM]
    assert randomness.asked == [(exact_KH.size, 7.5)]
    assert released.event == Event(sampling_rate=1.0, noise_multiplier=7.5, steps=1)
    assert released.arrays[HISTOGRAM].dtype == np.float32
    assert released.arrays[HISTOGRAM].shape == exact_KH.shape
    assert (released.arrays[HISTOGRAM] != exact_KH.astype(np.float32)).all()


def test_the_noise_of_the_histogram_has_the_stated_standard_deviation_in_every_cell() -> None:
    use_case = card(bins=3)
    exact_KH = score_histogram(use_case, build_model(use_case), draw_parameters(use_case), draw_citizens(use_case, 40))
    drawn = [histogram_of(use_case, 2.5, SecureRandomness()).arrays[HISTOGRAM] - exact_KH for _ in range(200)]
    for cell_N in np.array(drawn).reshape(200, -1).T:
        assert stats.kstest(cell_N, stats.norm(0, 2.5).cdf).pvalue > ALPHA
    spread = stats.chi2(200 * exact_KH.size).cdf(((np.array(drawn) / 2.5) ** 2).sum())
    assert ALPHA < spread < 1 - ALPHA


def test_a_histogram_is_kept_within_what_may_leave_and_otherwise_as_it_was_drawn() -> None:
    use_case = card()
    wild = histogram_of(use_case, 1e9, Noted()).arrays[HISTOGRAM]
    assert np.abs(wild).max() == MAX_MAGNITUDE
    assert {-MAX_MAGNITUDE, MAX_MAGNITUDE} <= set(wild.ravel().tolist())
    tame = histogram_of(use_case, 1e4, Noted()).arrays[HISTOGRAM]
    assert np.sign(tame).tolist() == np.sign(wild).tolist()
    assert np.abs(tame).max() < MAX_MAGNITUDE


def test_a_histogram_without_noise_has_no_event() -> None:
    use_case = card()
    released = histogram_of(use_case, 0.0, Noted())
    assert released.event is None
    assert released.arrays[HISTOGRAM].sum() == pytest.approx(40, abs=1e-3)
