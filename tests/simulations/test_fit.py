"""A municipality alone learns as well as its rows allow: as the independent reference does."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from client.dataset import build_dataset
from faelles.features import Citizens
from faelles.models import build_model, dump_parameters, initial_parameters, probabilities
from simulations.fit import fit_alone
from tests.builders import build_card, build_table

CARD = build_card(evaluation={"held_out": 1e-9})
CITIZENS = build_dataset(CARD, build_table(300), key=bytes(32)).training


# OpenBLAS now and then raises the flag for a product of finite numbers; what comes out is compared below.
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")
def test_the_logistic_model_is_scikit_learns() -> None:
    model = build_model(CARD)
    fit_alone(CARD, model, CITIZENS)
    used = CITIZENS.mask_BR
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000)
    reference.fit(CITIZENS.x_BRF[used], CITIZENS.y_BR[used], sample_weight=CITIZENS.weight_BR[used])
    # Probabilities and not parameters: the ridge is so weak that bias and brands can trade places in float32.
    p_NK = probabilities(model, CITIZENS.x_BRF)[used]
    np.testing.assert_allclose(p_NK, reference.predict_proba(CITIZENS.x_BRF[used]), atol=1e-3)


def test_the_start_is_the_cards_and_not_what_the_model_held() -> None:
    models = [build_model(CARD), build_model(CARD)]
    fit_alone(CARD, models[0], CITIZENS)
    fit_alone(CARD, models[1], CITIZENS)
    fit_alone(CARD, models[1], CITIZENS)
    first, again = (dump_parameters(model) for model in models)
    assert [array.tobytes() for array in first.values()] == [array.tobytes() for array in again.values()]


def test_the_order_of_citizens_does_not_matter() -> None:
    order = np.arange(len(CITIZENS))[::-1]
    turned = Citizens(x_BRF=CITIZENS.x_BRF[order], y_BR=CITIZENS.y_BR[order], mask_BR=CITIZENS.mask_BR[order])
    models = [build_model(CARD), build_model(CARD)]
    fit_alone(CARD, models[0], CITIZENS)
    fit_alone(CARD, models[1], turned)
    p = [probabilities(model, CITIZENS.x_BRF) for model in models]
    np.testing.assert_allclose(p[0], p[1], atol=1e-3)


@pytest.mark.parametrize("rows", [0, 1])
def test_nobody_and_a_single_class_end_in_finite_numbers(rows: int) -> None:
    few = Citizens(x_BRF=CITIZENS.x_BRF[:rows], y_BR=CITIZENS.y_BR[:rows], mask_BR=CITIZENS.mask_BR[:rows])
    model = build_model(CARD)
    fit_alone(CARD, model, few)
    fitted = dump_parameters(model)
    assert all(np.isfinite(array).all() for array in fitted.values())
    if not rows:
        start = initial_parameters(CARD)
        assert all((array == start[name]).all() for name, array in fitted.items())


def test_a_network_fits_too() -> None:
    card = build_card(model={"kind": "mlp", "hidden": [4]}, evaluation={"held_out": 1e-9})
    model = build_model(card)
    fit_alone(card, model, CITIZENS)
    used = CITIZENS.mask_BR
    p = probabilities(model, CITIZENS.x_BRF)[used][:, 1]
    y = CITIZENS.y_BR[used]
    assert p[y == 1].mean() > p[y == 0].mean() + 0.1
