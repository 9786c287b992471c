"""Run the local steps of one municipality in compiled loops, whose numbers stay in the processor's cache.

Products are those of the machine's BLAS, which is quickest with such small matrices; all that is done between two of
them goes over long rows of numbers, since only such loops become vector instructions.

Legend: T steps, L layers, P a chunk's rows, N citizens, R rows a citizen, F features, I inputs and O outputs of a
layer, D parameters.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.compiled import compiled

CHUNK = 128  # rows that go through all layers together
Array = NDArray[Any]  # float32, or float64 where float32 loses digits that count


@compiled
def tanh(x_N: Array) -> None:
    """Replace numbers by their hyperbolic tangent, to a rounding: the slope 1 - tanh² of large ones is all rounding.

    Source: the polynomials are those of the Cephes library, of tanh up to 5/8 and of the exponential beyond it.
    """
    if x_N.itemsize > 4:
        for place in range(len(x_N)):
            x_N[place] = np.tanh(x_N[place])
        return
    for place in range(len(x_N)):
        x = x_N[place]
        square = x * x
        small = np.float32(-5.70498872745e-3)
        small = small * square + np.float32(2.06390887954e-2)
        small = small * square + np.float32(-5.37397155531e-2)
        small = small * square + np.float32(1.33314422036e-1)
        small = small * square + np.float32(-3.33332819422e-1)
        small = small * square * x + x
        size = abs(x)
        twice = np.float32(2) * (size if size < np.float32(10) else np.float32(10))  # from there on the answer is 1
        power = np.int32(twice * np.float32(1.44269504088896341) + np.float32(0.5))
        rest = twice - np.float32(power) * np.float32(0.693147180559945)
        growth = np.float32(1.9875691500e-4)
        growth = growth * rest + np.float32(1.3981999507e-3)
        growth = growth * rest + np.float32(8.3334519073e-3)
        growth = growth * rest + np.float32(4.1665795894e-2)
        growth = growth * rest + np.float32(1.6666665459e-1)
        growth = growth * rest + np.float32(5.0000001201e-1)
        growth = growth * rest * rest + rest + np.float32(1)
        growth = growth * np.int32((power + 127) << 23).view(np.float32)
        large = np.float32(1) - np.float32(2) / (growth + np.float32(1))
        large = -large if x < np.float32(0) else large
        x_N[place] = large if size > np.float32(0.625) else small  # NaN is not, and stays what it is


@compiled
def dot(left_I: Array, right_I: Array) -> Any:
    """Multiply two vectors."""
    total = left_I.dtype.type(0)
    for at in range(len(left_I)):
        total += left_I[at] * right_I[at]
    return total


@compiled
def matrix(numbers: Array, start: int, rows: int, columns: int) -> Array:
    """View some of many numbers as a matrix."""
    return numbers[start : start + rows * columns].reshape((rows, columns))


@compiled
def signal_of(score_K: Array, y: int, weight: Any, signal_K: Array) -> None:
    """Compute the gradient of a row's weighted cross-entropy by its scores; padding has weight 0, and none."""
    if len(score_K) == 1:
        signal_K[0] = (1 / (1 + np.exp(-score_K[0])) - y) * weight
    else:
        most, total = score_K[0], score_K.dtype.type(0)
        for k in range(len(score_K)):
            most = max(most, score_K[k])
        for k in range(len(score_K)):
            signal_K[k] = np.exp(score_K[k] - most)
            total += signal_K[k]
        for k in range(len(score_K)):
            signal_K[k] *= weight / total
        signal_K[y] -= weight
    for k in range(len(score_K) if weight == 0 else 0):
        signal_K[k] = 0


@compiled
def clip(values: Array, signals: Array, widths: Array, room: int, rows: int, count: int, clipping_norm: Any) -> None:
    """Scale the signals so that no citizen adds more than the clipping norm; who has no finite one adds nothing.

    Source: over R rows, the squared norm of a layer's gradient is the sum over pairs of rows of (signal · signal)
        (input · input + 1); Goodfellow 2015, Li et al. 2022.
    """
    squares = np.zeros(count // rows, values.dtype)
    value_at, signal_at = 0, 0
    for layer in range(len(widths) - 1):
        value_PI = matrix(values, value_at, count, widths[layer])
        signal_PO = matrix(signals, signal_at, count, widths[layer + 1])
        for one in range(count):
            square = (dot(value_PI[one], value_PI[one]) + 1) * dot(signal_PO[one], signal_PO[one])
            for other in range(one // rows * rows, one):
                alike = dot(value_PI[one], value_PI[other]) + 1
                square += 2 * alike * dot(signal_PO[one], signal_PO[other])
            squares[one // rows] += square
        value_at += room * widths[layer]
        signal_at += room * widths[layer + 1]
    for citizen in range(len(squares)):
        square = squares[citizen]
        if not (square <= clipping_norm * clipping_norm and np.isfinite(square)):
            scale(values, signals, widths, room, citizen * rows, rows, clipping_norm / np.sqrt(square))


@compiled
def scale(values: Array, signals: Array, widths: Array, room: int, first: int, rows: int, factor: Any) -> None:
    """Scale the signals of a citizen's rows; a factor that is no number, or comes of infinity, takes them out."""
    value_at, signal_at = 0, 0
    for layer in range(len(widths) - 1):
        inputs, outputs = widths[layer], widths[layer + 1]
        start = signal_at + first * outputs
        if factor > 0:
            for at in range(start, start + rows * outputs):
                signals[at] *= factor
        else:  # zero times infinity is no number
            signals[start : start + rows * outputs] = 0
            start = value_at + first * inputs
            values[start : start + rows * inputs] = 0
        value_at += room * inputs
        signal_at += room * outputs


@compiled
def run(
    x_NRF: NDArray[np.float32],
    besides_NR3: NDArray[np.float32],
    index_B: NDArray[np.int64],
    edges: NDArray[np.int64],
    normal_TD: NDArray[np.float32],
    theta_D: Array,
    anchor_D: Array,
    pull_D: Array,
    widths: NDArray[np.int64],
    std: Any,
    rate: Any,
    clipping_norm: Any,
) -> None:
    """Run some steps of one municipality, on its own parameters.

    Args:
        x_NRF: Everybody's rows.
        besides_NR3: Their class and weight, and a number that is not used here.
        index_B: Who takes part, step after step.
        edges: Where in it each step begins, and the last one ends; (T + 1).
        normal_TD: Standard normal numbers for each step; of no steps where there is no noise.
        theta_D: The parameters, layer after layer: weights (O, I), and then biases. They are changed.
        anchor_D: From where the round started.
        pull_D: How much of the way back to there each step goes; of no parameters where there is no pull.
        widths: Of the features, of each hidden layer, and of the scores.
        std: Of the noise.
        rate: The learning rate, over the number by which a sum becomes a mean.
        clipping_norm: Of each citizen's gradient.
    """
    rows = x_NRF.shape[1]
    together = max(1, CHUNK // rows)
    room = together * rows
    # What layers are given, one after the other, and the scores at the end; and the gradients of what they give.
    values = np.empty(room * widths.sum(), theta_D.dtype)
    signals = np.empty(room * widths[1:].sum(), theta_D.dtype)
    sum_D, more_D = np.empty_like(theta_D), np.empty_like(theta_D)
    for step in range(len(edges) - 1):
        sum_D[:] = 0
        for first in range(edges[step], edges[step + 1], together):
            chosen_B = index_B[first : min(first + together, edges[step + 1])]
            count = len(chosen_B) * rows
            gather(x_NRF, chosen_B, matrix(values, 0, count, widths[0]))
            forward(theta_D, widths, values, room, count)
            grade(besides_NR3, chosen_B, widths, values, signals, room)
            backward(theta_D, widths, values, signals, room, count)
            clip(values, signals, widths, room, rows, count, clipping_norm)
            add_up(more_D, widths, values, signals, room, count)
            for at in range(len(sum_D)):
                sum_D[at] += more_D[at]
        if len(normal_TD):
            normal_D = normal_TD[step]
            for at in range(len(sum_D)):
                sum_D[at] += std * normal_D[at]
        if len(pull_D):
            for at in range(len(theta_D)):
                theta_D[at] -= pull_D[at] * (theta_D[at] - anchor_D[at])
        for at in range(len(theta_D)):
            theta_D[at] -= rate * sum_D[at]


@compiled
def gather(x_NRF: NDArray[np.float32], chosen_B: NDArray[np.int64], x_PF: Array) -> None:
    """Take the rows of some citizens."""
    rows = x_NRF.shape[1]
    for row in range(len(x_PF)):
        x_F, out_F = x_NRF[chosen_B[row // rows], row % rows], x_PF[row]
        for place in range(len(x_F)):
            out_F[place] = x_F[place]


@compiled
def forward(theta_D: Array, widths: Array, values: Array, room: int, count: int) -> None:
    """Compute every layer's inputs, and the scores."""
    start, at, layers = 0, 0, len(widths) - 1
    for layer in range(layers):
        inputs, outputs = widths[layer], widths[layer + 1]
        value_PI = matrix(values, at, count, inputs)
        at += room * inputs
        out_PO = matrix(values, at, count, outputs)
        np.dot(value_PI, matrix(theta_D, start, outputs, inputs).T, out_PO)
        start += outputs * (inputs + 1)
        bias_O = theta_D[start - outputs : start]
        for row in range(count):
            out_O = out_PO[row]
            for o in range(outputs):
                out_O[o] += bias_O[o]
        if layer < layers - 1:
            tanh(values[at : at + count * outputs])


@compiled
def grade(
    besides_NR3: NDArray[np.float32],
    chosen_B: NDArray[np.int64],
    widths: Array,
    values: Array,
    signals: Array,
    room: int,
) -> None:
    """Compute the signals of the scores."""
    rows, classes = besides_NR3.shape[1], widths[-1]
    count = len(chosen_B) * rows
    score_PK = matrix(values, len(values) - room * classes, count, classes)
    signal_PK = matrix(signals, len(signals) - room * classes, count, classes)
    for row in range(count):
        y, weight, _ = besides_NR3[chosen_B[row // rows], row % rows]
        signal_of(score_PK[row], int(y), weight, signal_PK[row])


@compiled
def backward(theta_D: Array, widths: Array, values: Array, signals: Array, room: int, count: int) -> None:
    """Propagate the scores' signals back to every layer's outputs."""
    stop, signal_at, value_at = len(theta_D), len(signals), len(values) - room * widths[-1]
    for layer in range(len(widths) - 2, 0, -1):
        inputs, outputs = widths[layer], widths[layer + 1]
        stop -= outputs * (inputs + 1)
        signal_at -= room * outputs
        value_at -= room * inputs
        below_at = signal_at - room * inputs
        signal_PO, below_PI = matrix(signals, signal_at, count, outputs), matrix(signals, below_at, count, inputs)
        np.dot(signal_PO, matrix(theta_D, stop, outputs, inputs), below_PI)
        below_N = signals[below_at : below_at + count * inputs]
        value_N = values[value_at : value_at + count * inputs]
        for place in range(count * inputs):
            below_N[place] -= below_N[place] * value_N[place] * value_N[place]  # the slope of tanh is 1 - tanh²


@compiled
def add_up(sum_D: Array, widths: Array, values: Array, signals: Array, room: int, count: int) -> None:
    """Add up every row's gradient."""
    start, value_at, signal_at = 0, 0, 0
    ones_P = np.ones(count, sum_D.dtype)
    for layer in range(len(widths) - 1):
        inputs, outputs = widths[layer], widths[layer + 1]
        value_PI, signal_PO = matrix(values, value_at, count, inputs), matrix(signals, signal_at, count, outputs)
        np.dot(signal_PO.T, value_PI, matrix(sum_D, start, outputs, inputs))
        start += outputs * (inputs + 1)
        np.dot(ones_P, signal_PO, sum_D[start - outputs : start])
        value_at += room * inputs
        signal_at += room * outputs
