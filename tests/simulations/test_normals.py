"""Normal numbers that compiled loops make are those of the formula, to rounding, for any bits; the bits are numpy's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulations.normals import BLOCK, LANES, Normals, draw, radius, turn

WORDS = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 255, 256, 2**31, 2**32 - 256, 2**32 - 1]))
ROUNDINGS = 2  # of the radius, whose cosine and sine are rounded too


def state() -> NDArray[np.uint64]:
    return np.random.default_rng(4).integers(0, 2**64, (4, LANES), np.uint64)


def formula(word_N: NDArray[np.uint32]) -> NDArray[np.float64]:
    first_P, second_P = np.split((word_N >> np.uint32(8)) * 2.0**-24, 2)
    radius_P, angle_P = np.sqrt(-2 * np.log(1 - first_P)), 2 * np.pi * second_P
    return np.concatenate([radius_P, radius_P * np.cos(angle_P), radius_P * np.sin(angle_P)])


def check_close(word_N: NDArray[np.uint32]) -> None:
    word_P, other_P = np.split(word_N, 2)
    radius_P, normal_N = np.empty(len(word_P), np.float32), np.empty(len(word_N), np.float32)
    radius(word_P, radius_P)
    turn(other_P, radius_P, normal_N[: len(word_P)], normal_N[len(word_P) :])
    expected_N = formula(word_N)
    bound_N = ROUNDINGS * np.finfo(np.float32).eps * np.maximum(1, np.tile(expected_N[: len(word_P)], 3))
    assert (np.abs(np.concatenate([radius_P, normal_N]) - expected_N) <= bound_N).all()


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=40))
def test_any_bits_give_the_formulas_numbers(pairs: list[tuple[int, int]]) -> None:
    check_close(np.array(pairs, np.uint32).T.ravel())


def test_so_do_very_many() -> None:
    check_close(np.random.default_rng(3).integers(0, 2**32, 400_000, np.uint32))


def test_every_lane_draws_what_numpys_generator_draws() -> None:
    bits_N, start_4L, drawn_4L = np.empty(LANES * 50, np.uint64), state(), state()
    for _ in range(2):  # the second time from where the first ended
        draw(drawn_4L, bits_N)
    for lane in range(LANES):
        numpys = np.random.SFC64()
        fields = numpys.state
        fields["state"]["state"] = start_4L[:, lane]
        numpys.state = fields
        np.testing.assert_array_equal(numpys.random_raw(100)[50:], bits_N[lane::LANES])


def test_blocks_are_made_of_the_bits_in_their_order() -> None:
    bits_N = np.empty(BLOCK, np.uint64)
    draw(state(), bits_N)
    expected = [formula(word_N)[BLOCK // 2 :] for word_N in np.split(bits_N.view(np.uint32), 2)]
    np.testing.assert_allclose(Normals(state()).take(2 * BLOCK), np.concatenate(expected), atol=1e-5)
