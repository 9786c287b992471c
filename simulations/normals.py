"""Make normal numbers of a seed, many at once: they are much of what a simulation computes.

Each is float32, of uniforms with 24 bits, so none is larger than 5.8: good for simulations, and for nothing that must
be private. Loops are written so that they become vector instructions; libraries' generators, logarithms and sines do
not.

Legend: L lanes, P pairs of numbers.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from simulations.compiled import compiled

LANES = 16  # generators that run side by side, as wide as vector instructions are
BLOCK = 2048  # numbers that are made together; their temporary numbers stay in the processor's cache
TWO_PI = 2 * np.pi


class Normals:
    """Draw normal numbers from a stream.

    Args:
        state_4L: What the generators start from: any numbers that were drawn independently.

    Guarantees: the numbers do not depend on how many are taken at once.
    """

    def __init__(self, state_4L: NDArray[np.uint64]) -> None:
        self._state_4L = state_4L
        self._ready = np.empty(0, np.float32)

    def take(self, size: int) -> NDArray[np.float32]:
        """Draw the next `size` numbers."""
        begun = len(self._ready)
        blocks = max(0, -(-(size - begun) // BLOCK))
        normal_N = np.empty(begun + blocks * BLOCK, np.float32)
        normal_N[:begun] = self._ready
        fill(self._state_4L, normal_N[begun:])
        self._ready = normal_N[size:].copy()
        return normal_N[:size]


@functools.cache
def compile_normals() -> None:
    """Compile the loops, or load what was compiled before, so that processes forked later find them ready."""
    fill(np.zeros((4, LANES), np.uint64), np.empty(0, np.float32))


@compiled
def fill(state_4L: NDArray[np.uint64], normal_N: NDArray[np.float32]) -> None:
    """Fill whole blocks with normal numbers.

    Source: Box and Muller 1958, A Note on the Generation of Random Normal Deviates.
    """
    half = BLOCK // 2
    bits_N = np.empty(BLOCK // 2, np.uint64)
    word_N = bits_N.view(np.uint32)
    radius_P = np.empty(half, np.float32)
    for first in range(0, len(normal_N), BLOCK):
        draw(state_4L, bits_N)
        radius(word_N[:half], radius_P)
        turn(word_N[half:], radius_P, normal_N[first : first + half], normal_N[first + half : first + BLOCK])


@compiled
def draw(state_4L: NDArray[np.uint64], bits_N: NDArray[np.uint64]) -> None:
    """Draw random bits from every lane in turn.

    Source: SFC64, the Small Fast Counting generator of PractRand (Doty-Humphrey), as numpy has it.
    """
    # Copies, since loops over what might overlap become no vector instructions.
    a_L, b_L, c_L, count_L = state_4L[0].copy(), state_4L[1].copy(), state_4L[2].copy(), state_4L[3].copy()
    for first in range(0, len(bits_N), LANES):
        out_L = bits_N[first : first + LANES]
        for lane in range(LANES):
            drawn = a_L[lane] + b_L[lane] + count_L[lane]
            count_L[lane] += np.uint64(1)
            a_L[lane] = b_L[lane] ^ (b_L[lane] >> np.uint64(11))
            b_L[lane] = c_L[lane] + (c_L[lane] << np.uint64(3))
            c_L[lane] = ((c_L[lane] << np.uint64(24)) | (c_L[lane] >> np.uint64(40))) + drawn
            out_L[lane] = drawn
    for lane in range(LANES):
        state_4L[0, lane], state_4L[1, lane], state_4L[2, lane] = a_L[lane], b_L[lane], c_L[lane]
        state_4L[3, lane] = count_L[lane]


@compiled
def radius(word_P: NDArray[np.uint32], radius_P: NDArray[np.float32]) -> None:
    """Compute sqrt(-2 log(1 - u)) of uniforms u that the upper 24 bits of words are.

    Source: the logarithm's polynomial is that of the Cephes library, within a rounding or two.
    """
    for place in range(len(radius_P)):
        # 1 - u lies in (0, 1], where the logarithm is finite; as a whole number first, whose exponent can be read.
        whole = np.int32(np.uint32(1 << 24) - (word_P[place] >> np.uint32(8)))
        float_bits = np.float32(whole).view(np.int32)
        exponent = np.float32((float_bits >> 23) - 127 - 24)
        mantissa = np.int32((float_bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
        large = mantissa > np.float32(1.41421356)
        mantissa = mantissa * np.float32(0.5) if large else mantissa
        exponent = exponent + np.float32(1) if large else exponent
        x = mantissa - np.float32(1)
        square = x * x
        y = np.float32(7.0376836292e-2)
        y = y * x + np.float32(-1.1514610310e-1)
        y = y * x + np.float32(1.1676998740e-1)
        y = y * x + np.float32(-1.2420140846e-1)
        y = y * x + np.float32(1.4249322787e-1)
        y = y * x + np.float32(-1.6668057665e-1)
        y = y * x + np.float32(2.0000714765e-1)
        y = y * x + np.float32(-2.4999993993e-1)
        y = y * x + np.float32(3.3333331174e-1)
        log = x + (y * x * square - np.float32(0.5) * square) + exponent * np.float32(0.693147180559945)
        radius_P[place] = np.sqrt(max(np.float32(-2) * log, np.float32(0)))


@compiled
def turn(
    bits_P: NDArray[np.uint32],
    radius_P: NDArray[np.float32],
    cosine_P: NDArray[np.float32],
    sine_P: NDArray[np.float32],
) -> None:
    """Multiply a radius with cosine and sine of an angle that random bits choose.

    Source: within an eighth of a turn the polynomials are those of the Cephes library.
    """
    for place in range(len(radius_P)):
        share = np.float32(np.int32(bits_P[place] >> 8)) * np.float32(2.0**-24)  # of a whole turn
        quarter = np.int32(np.float32(4) * share + np.float32(0.5))
        angle = (share - np.float32(quarter) * np.float32(0.25)) * np.float32(TWO_PI)
        square = angle * angle
        sine = np.float32(-1.9515295891e-4)
        sine = sine * square + np.float32(8.3321608736e-3)
        sine = sine * square + np.float32(-1.6666654611e-1)
        sine = angle + angle * square * sine
        cosine = np.float32(2.443315711809948e-5)
        cosine = cosine * square + np.float32(-1.388731625493765e-3)
        cosine = cosine * square + np.float32(4.166664568298827e-2)
        cosine = np.float32(1) - np.float32(0.5) * square + square * square * cosine
        odd = (quarter & 1) != 0
        c, s = (sine if odd else cosine), (cosine if odd else sine)
        c = -c if ((quarter + 1) & 2) != 0 else c
        s = -s if (quarter & 2) != 0 else s
        cosine_P[place] = radius_P[place] * c
        sine_P[place] = radius_P[place] * s
