"""What compiled loops approximate is what it stands for, to rounding; `test_batch` has the rest of them."""

import numpy as np
import pytest

from simulations import loops


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_tanh_is_the_hyperbolic_tangent(number: type[np.floating]) -> None:
    x_O = np.concatenate([np.linspace(-12, 12, 400_001), [-np.inf, np.inf, -1e30, 1e-30, 0.0]]).astype(number)
    found_O = x_O.copy()
    loops.tanh(found_O)
    apart_O = np.abs(found_O - np.tanh(x_O.astype(np.float64)))
    assert apart_O.max() <= np.finfo(number).eps
    assert apart_O[np.abs(x_O) > 2].max() <= 0.5 * np.finfo(number).eps  # where hardly anything of the slope is left


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_tanh_of_no_number_is_none(number: type[np.floating]) -> None:
    found_O = np.full(20, np.nan, number)
    loops.tanh(found_O)
    assert np.isnan(found_O).all()
