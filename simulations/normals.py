"""Make normal numbers of uniform bits, many at once: they are much of what a simulation computes.

Each is float32, of uniforms with 24 bits, so none is larger than 5.8: good for simulations, and for nothing that must
be private. Loops are written so that they become vector instructions; libraries' logarithms and sines do not.

Legend: P pairs of numbers.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from simulations.compiled import compiled

TWO_PI = 2 * np.pi


def box_muller(bits_N: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Turn pairs of random words, the first half and the second, into as many independent normal numbers.

    Source: Box and Muller 1958, A Note on the Generation of Random Normal Deviates.
    """
    pairs = len(bits_N) // 2
    radius_P = np.empty(pairs, np.float32)
    # 1 - u lies in (0, 1], where the logarithm is finite; as a whole number first, whose exponent can be read.
    whole_P = (np.uint32(1 << 24) - (bits_N[:pairs] >> np.uint32(8))).astype(np.float32)
    radius(whole_P.view(np.int32), radius_P)
    normal_N = np.empty(2 * pairs, np.float32)
    turn(bits_N[pairs:], radius_P, normal_N[:pairs], normal_N[pairs:])
    return normal_N


@functools.cache
def compile_normals() -> None:
    """Compile the loops, or load what was compiled before, so that processes forked later find them ready."""
    box_muller(np.zeros(2, np.uint32))


@compiled
def radius(float_bits_P: NDArray[np.int32], radius_P: NDArray[np.float32]) -> None:
    """Compute sqrt(-2 log(x / 2^24)) of numbers x that are given as their bits.

    Source: the logarithm's polynomial is that of the Cephes library, within a rounding or two.
    """
    mantissa_P = ((float_bits_P & 0x7FFFFF) | 0x3F800000).astype(np.int32).view(np.float32)
    for place in range(len(radius_P)):
        exponent = np.float32((float_bits_P[place] >> 23) - 127 - 24)
        mantissa = mantissa_P[place]
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
