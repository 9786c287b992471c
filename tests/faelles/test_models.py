"""A model has the parameters that its card names, takes nothing else from the wire, and mixes no citizens."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from faelles.card import UseCaseCard, parse_card
from faelles.errors import WireError
from faelles.features import input_width
from faelles.models import (
    MAX_MAGNITUDE,
    Arrays,
    build_model,
    check_arrays,
    citizen_losses,
    dump_parameters,
    independent_probabilities,
    initial_parameters,
    load_parameters,
    parameter_shapes,
    probabilities,
    shared_shapes,
)


def card(hidden: tuple[int, ...] = (), classes: int = 2, local: tuple[str, ...] = ()) -> UseCaseCard:
    kind = "binary" if classes == 2 else "multiclass"
    return parse_card(
        {
            "id": "models",
            "version": 1,
            "title": {"da": "Modeller", "en": "Models"},
            "category": "forecasting",
            "model_type": "general",
            "unit": "citizen",
            "max_rows_per_unit": 3,
            "label": {"column": "y", "kind": kind, "values": [str(value) for value in range(classes)]},
            "features": [{"name": "a", "kind": "number", "min": 0, "max": 1, "bins": 3}],
            "model": {"kind": "mlp" if hidden else "logistic", "hidden": list(hidden), "local": list(local)},
            "training": {"rounds": 1, "local_steps": 1, "batch_size": 1, "learning_rate": 1},
            "privacy": {"epsilon": 1, "delta": 1e-5, "clipping_norm": 1},
            "law": {"special_categories": False, "ai_act": "none", "basis": {}},
        }
    )


CARDS = [card(), card(classes=4), card((5,)), card((5, 2), classes=3)]


@pytest.mark.parametrize("use_case", CARDS)
def test_the_parameters_are_those_that_the_card_names_in_its_order(use_case: UseCaseCard) -> None:
    assert tuple(parameter_shapes(use_case)) == use_case.model.parameter_names
    built = {name: tuple(p.shape) for name, p in build_model(use_case).named_parameters()}
    assert list(built.items()) == list(parameter_shapes(use_case).items())


def test_the_shapes_follow_from_inputs_widths_and_classes() -> None:
    assert parameter_shapes(card()) == {"output.weight": (1, 4), "output.bias": (1,)}
    assert parameter_shapes(card((5, 2), classes=3)) == {
        "hidden.0.weight": (5, 4),
        "hidden.0.bias": (5,),
        "hidden.1.weight": (2, 5),
        "hidden.1.bias": (2,),
        "output.weight": (3, 2),
        "output.bias": (3,),
    }


def test_local_parameters_are_not_among_the_shared() -> None:
    use_case = card((5,), local=("output.bias", "hidden.0.weight"))
    assert list(shared_shapes(use_case)) == ["hidden.0.bias", "output.weight"]
    assert list(shared_shapes(card((5,)))) == list(parameter_shapes(card((5,))))


def test_a_model_keeps_nothing_but_parameters_and_has_no_layer_that_mixes_citizens() -> None:
    for use_case in CARDS:
        model = build_model(use_case)
        assert not list(model.buffers())
        layers = [module for module in model.modules() if not list(module.children())]
        assert {type(layer) for layer in layers} <= {nn.Linear, nn.ModuleList}


@pytest.mark.parametrize("use_case", CARDS)
def test_no_citizen_changes_the_scores_of_another(use_case: UseCaseCard) -> None:
    rng = np.random.default_rng(0)
    model = build_model(use_case)
    load_parameters(model, initial_parameters(use_case, seed=3))
    x_BRF = rng.uniform(-1, 1, (6, 3, input_width(use_case))).astype(np.float32)
    other_BRF = x_BRF.copy()
    other_BRF[3] = 1
    kept_B = np.arange(6) != 3
    np.testing.assert_array_equal(probabilities(model, x_BRF)[kept_B], probabilities(model, other_BRF)[kept_B])


def test_a_logistic_model_and_every_output_start_at_zero() -> None:
    for use_case in CARDS:
        start = initial_parameters(use_case)
        assert not start["output.weight"].any()
        assert not start["output.bias"].any()
        assert {name: a.shape for name, a in start.items()} == parameter_shapes(use_case)
        assert {a.dtype for a in start.values()} == {np.dtype(np.float32)}


def test_hidden_weights_start_within_the_bound_of_glorot_and_depend_on_the_seed_only() -> None:
    use_case = card((50,))
    weight = initial_parameters(use_case)["hidden.0.weight"]
    bound = (6 / (50 + 4)) ** 0.5
    assert 0.9 * bound < np.abs(weight).max() <= bound
    np.testing.assert_array_equal(weight, initial_parameters(use_case)["hidden.0.weight"])
    assert (weight != initial_parameters(use_case, seed=1)["hidden.0.weight"]).any()


def test_parameters_come_back_as_they_were_loaded() -> None:
    use_case = card((5, 2))
    start = initial_parameters(use_case, seed=7)
    for array in start.values():
        array.flags.writeable = False
    model = build_model(use_case)
    load_parameters(model, start)
    after = dump_parameters(model)
    assert list(after) == list(start)
    assert all((after[name] == start[name]).all() for name in start)
    after["output.bias"] += 1
    assert not dump_parameters(model)["output.bias"].any(), "what was dumped is a copy"


def test_arrays_of_the_model_pass() -> None:
    for use_case in CARDS:
        arrays = initial_parameters(use_case)
        arrays["output.bias"][:] = -MAX_MAGNITUDE
        check_arrays(parameter_shapes(use_case), arrays)


def spoiled(name: str, array: Any) -> Arrays:
    return initial_parameters(card((5,))) | {name: array}


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({}, "other names or another order came"),
        (dict(reversed(initial_parameters(card((5,))).items())), "other names or another order came"),
        (spoiled("extra", np.zeros(1, np.float32)), "other names or another order came"),
        (initial_parameters(card()), "other names or another order came"),
        (spoiled("output.bias", np.zeros(2, np.float32)), r"output.bias: expected float32 \(1,\), came float32 \(2,\)"),
        (spoiled("output.bias", np.zeros((1, 1), np.float32)), r"came float32 \(1, 1\)"),
        (spoiled("output.bias", np.zeros((), np.float32)), r"came float32 \(\)"),
        (spoiled("output.bias", np.zeros(1)), "came float64"),
        (spoiled("output.bias", np.zeros(1, np.float16)), "came float16"),
        (spoiled("output.bias", np.zeros(1, np.int32)), "came int32"),
        (spoiled("output.bias", np.zeros(1, ">f4")), r"expected float32 \(1,\), came float32 \(1,\)"),
        (spoiled("output.bias", np.array(["x"], object)), "came object"),
        (spoiled("output.bias", np.array([np.nan], np.float32)), "expected finite numbers up to 1e"),
        (spoiled("output.bias", np.array([np.inf], np.float32)), "expected finite numbers up to 1e"),
        (spoiled("output.bias", np.array([-np.inf], np.float32)), "expected finite numbers up to 1e"),
        (spoiled("output.bias", np.array([1e30], np.float32)), "expected finite numbers up to 1e"),
        (spoiled("output.bias", np.array([-1.001e6], np.float32)), "expected finite numbers up to 1e"),
    ],
)
def test_what_is_no_model_of_these_shapes_is_refused(arrays: Arrays, expected: str) -> None:
    with pytest.raises(WireError, match=expected) as caught:
        check_arrays(parameter_shapes(card((5,))), arrays)
    assert str(caught.value).isprintable()


@given(hnp.arrays(np.float32, (1, 4), elements=st.floats(width=32)))
def test_what_passes_is_finite_and_bounded(weight: Any) -> None:
    arrays = {"output.weight": weight, "output.bias": np.zeros(1, np.float32)}
    harmless = bool(np.isfinite(weight).all() and np.abs(weight).max() <= MAX_MAGNITUDE)
    try:
        check_arrays(parameter_shapes(card()), arrays)
        passed = True
    except WireError:
        passed = False
    assert passed == harmless


LOGITS = torch.tensor([[[0.5], [-1.0], [2.0]], [[3.0], [0.0], [0.0]], [[0.0], [0.0], [0.0]]])
Y = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 0, 0]])
WEIGHT = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_a_citizens_loss_is_the_mean_over_its_rows_for_a_binary_label() -> None:
    by_hand = np.mean([np.log1p(np.exp(-0.5)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(-2.0))])
    expected = [by_hand, np.log1p(np.exp(3.0)), 0.0]
    np.testing.assert_allclose(citizen_losses(LOGITS, Y, WEIGHT), expected, rtol=1e-6)


def test_a_citizens_loss_is_the_mean_over_its_rows_for_several_classes() -> None:
    logits_BRK = torch.tensor([[[1.0, 2.0, 0.0], [0.0, 0.0, 5.0]], [[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    y_BR = torch.tensor([[1, 2], [0, 0]])
    weight_BR = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    first = np.log(np.exp([1.0, 2.0, 0.0]).sum()) - 2
    second = np.log(np.exp([0.0, 0.0, 5.0]).sum()) - 5
    expected = [(first + second) / 2, np.log(3)]
    np.testing.assert_allclose(citizen_losses(logits_BRK, y_BR, weight_BR), expected, rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("absurd", [torch.inf, -torch.inf, torch.nan])
def test_padding_passes_on_neither_a_loss_nor_a_gradient(classes: int, absurd: float) -> None:
    logits_BRK = torch.zeros(2, 2, classes)
    logits_BRK[0, 1] = absurd
    logits_BRK[1] = absurd
    logits_BRK.requires_grad_()
    weight_BR = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    loss_B = citizen_losses(logits_BRK, torch.zeros(2, 2, dtype=torch.int64), weight_BR)
    loss_B.sum().backward()  # type: ignore[no-untyped-call]
    gradient_BRK = logits_BRK.grad
    assert gradient_BRK is not None
    np.testing.assert_allclose(loss_B.detach(), [np.log(max(2, classes)), 0], rtol=1e-6)
    assert gradient_BRK.isfinite().all()
    assert gradient_BRK[0, 0].any()
    assert not gradient_BRK[0, 1].any()
    assert not gradient_BRK[1].any()


@pytest.mark.parametrize("use_case", CARDS)
def test_probabilities_are_those_of_all_classes(use_case: UseCaseCard) -> None:
    rng = np.random.default_rng(1)
    model = build_model(use_case)
    shapes = parameter_shapes(use_case)
    load_parameters(model, {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})
    x_BRF = rng.uniform(-1, 1, (5, 3, input_width(use_case))).astype(np.float32)
    p_BRK = probabilities(model, x_BRF)
    assert p_BRK.shape == (5, 3, len(use_case.label.values))
    np.testing.assert_allclose(p_BRK.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("use_case", CARDS)
@pytest.mark.parametrize("scale", [1.0, MAX_MAGNITUDE])
def test_independent_probabilities_are_the_same_to_rounding(use_case: UseCaseCard, scale: float) -> None:
    rng = np.random.default_rng(1)
    model = build_model(use_case)
    shapes = parameter_shapes(use_case)
    load_parameters(model, {n: (rng.normal(size=s) * scale).astype(np.float32) for n, s in shapes.items()})
    x_BRF = rng.uniform(-1, 1, (1100, 3, input_width(use_case))).astype(np.float32)
    alone_BRK = independent_probabilities(model, x_BRF)
    np.testing.assert_allclose(alone_BRK, probabilities(model, x_BRF), atol=1e-5 if scale == 1 else 0.2)
    for size in (1, 2, 3, 7, 511, 512, 513):
        np.testing.assert_array_equal(independent_probabilities(model, x_BRF[-size:]), alone_BRK[-size:])


def test_the_second_class_of_a_binary_label_is_the_positive_one() -> None:
    model = build_model(card())
    load_parameters(model, {"output.weight": np.zeros((1, 4), np.float32), "output.bias": np.full(1, 2, np.float32)})
    p_BRK = probabilities(model, np.zeros((1, 1, 4), np.float32))
    np.testing.assert_allclose(p_BRK[0, 0], [1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))], rtol=1e-6)
