"""Run the local steps of one municipality in compiled loops, whose numbers stay in the processor's cache.

Inner loops go over whole rows of arrays, since only those become vector instructions; four products are added
at a time to two sums, so that sums and factors are read and written less often than they are used.

Legend: T steps, L layers, P a chunk's rows, W more than the widest layer, N citizens, R rows a citizen, F features,
I inputs and O outputs of a layer, D parameters.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.compiled import compiled

CHUNK = 128  # rows that go through all layers together
Array = NDArray[Any]  # float32, or float64 where float32 loses digits that count


@compiled
def tanh(row_O: Array) -> None:
    """Replace numbers by their hyperbolic tangent.

    Source: the rational approximation of the Eigen library, within three roundings of single precision.
    """
    if row_O.itemsize > 4:
        for place in range(len(row_O)):
            row_O[place] = np.tanh(row_O[place])
        return
    most = np.float32(7.90531110763549805)  # beyond it the answer is 1
    for place in range(len(row_O)):
        x = row_O[place]
        x = most if x > most else x  # NaN stays what it is
        x = -most if x < -most else x
        square = x * x
        above = np.float32(-2.76076847742355e-16)
        above = above * square + np.float32(2.00018790482477e-13)
        above = above * square + np.float32(-8.60467152213735e-11)
        above = above * square + np.float32(5.12229709037114e-08)
        above = above * square + np.float32(1.48572235717979e-05)
        above = above * square + np.float32(6.37261928875436e-04)
        above = above * square + np.float32(4.89352455891786e-03)
        below = np.float32(1.19825839466702e-06)
        below = below * square + np.float32(1.18534705686654e-04)
        below = below * square + np.float32(2.26843463243900e-03)
        below = below * square + np.float32(4.89352518554385e-03)
        row_O[place] = x * above / below


@compiled
def add_product(sum_PO: Array, factor_PI: Array, row_IO: Array, count: int, inner: int, width: int) -> None:
    """Add the product of two matrices, of which the first numbers count: (count, inner) times (inner, width)."""
    for pair in range(count // 2):
        s0, s1 = sum_PO[2 * pair], sum_PO[2 * pair + 1]
        f0, f1 = factor_PI[2 * pair], factor_PI[2 * pair + 1]
        for fourth in range(inner // 4):
            at = 4 * fourth
            r0, r1, r2, r3 = row_IO[at], row_IO[at + 1], row_IO[at + 2], row_IO[at + 3]
            a0, a1, a2, a3 = f0[at], f0[at + 1], f0[at + 2], f0[at + 3]
            b0, b1, b2, b3 = f1[at], f1[at + 1], f1[at + 2], f1[at + 3]
            for o in range(width):
                s0[o] += a0 * r0[o] + a1 * r1[o] + a2 * r2[o] + a3 * r3[o]
                s1[o] += b0 * r0[o] + b1 * r1[o] + b2 * r2[o] + b3 * r3[o]
        for at in range(inner // 4 * 4, inner):
            row_O, a, b = row_IO[at], f0[at], f1[at]
            for o in range(width):
                s0[o] += a * row_O[o]
                s1[o] += b * row_O[o]
    for last in range(count // 2 * 2, count):
        sum_O, factor_I = sum_PO[last], factor_PI[last]
        for at in range(inner):
            row_O, factor = row_IO[at], factor_I[at]
            for o in range(width):
                sum_O[o] += factor * row_O[o]


@compiled
def dot(left_W: Array, right_W: Array, size: int) -> Any:
    """Multiply the first numbers of two vectors."""
    total = left_W.dtype.type(0)
    for at in range(size):
        total += left_W[at] * right_W[at]
    return total


@compiled
def signal_of(score_K: Array, y: int, weight: Any, signal_K: Array) -> None:
    """Compute the gradient of a row's weighted cross-entropy by its scores; padding has weight 0, and none."""
    if len(score_K) == 1:
        signal_K[0] = (1 / (1 + np.exp(-score_K[0])) - y) * weight
    else:
        most = score_K.max()
        signal_K[:] = np.exp(score_K - most)
        signal_K *= weight / signal_K.sum()
        signal_K[y] -= weight
    if weight == 0:
        signal_K[:] = 0


@compiled
def clip(values_LPW: Array, signals_LPW: Array, widths: Array, rows: int, count: int, clipping_norm: Any) -> None:
    """Scale the signals so that no citizen adds more than the clipping norm; who has no finite one adds nothing.

    Source: over R rows, the squared norm of a layer's gradient is the sum over pairs of rows of (signal · signal)
        (input · input); Goodfellow 2015, Li et al. 2022.
    """
    layers = len(widths) - 1
    for first in range(0, count, rows):
        square = values_LPW.dtype.type(0)
        for layer in range(layers):
            value_PW, signal_PW = values_LPW[layer], signals_LPW[layer]
            inputs, outputs = widths[layer] + 1, widths[layer + 1]
            for one in range(first, first + rows):
                square += dot(value_PW[one], value_PW[one], inputs) * dot(signal_PW[one], signal_PW[one], outputs)
                for other in range(first, one):
                    alike = dot(value_PW[one], value_PW[other], inputs)
                    square += 2 * alike * dot(signal_PW[one], signal_PW[other], outputs)
        if square <= clipping_norm * clipping_norm and np.isfinite(square):
            continue
        scale = clipping_norm / np.sqrt(square)
        for layer in range(layers):
            for one in range(first, first + rows):
                value_W, signal_W = values_LPW[layer, one], signals_LPW[layer, one]
                if np.isfinite(square):
                    for o in range(widths[layer + 1]):
                        signal_W[o] *= scale
                else:  # zero times infinity is no number
                    value_W[: widths[layer]] = 0
                    signal_W[:] = 0


@compiled
def run(
    x_NRF: NDArray[np.float32],
    besides_NR3: NDArray[np.float32],
    index_B: NDArray[np.int64],
    edges: NDArray[np.int64],
    noise_TD: NDArray[np.float64],
    theta_D: Array,
    anchor_D: Array,
    pull_D: Array,
    widths: NDArray[np.int64],
    rate: Any,
    clipping_norm: Any,
) -> None:
    """Run some steps of one municipality, on its own parameters.

    A layer's parameters lie as (I + 1, O): weights, and then biases as what an input of 1 is multiplied with.

    Args:
        x_NRF: Everybody's rows.
        besides_NR3: Their class and weight, and a number that is not used here.
        index_B: Who takes part, step after step.
        edges: Where in it each step begins, and the last one ends; (T + 1).
        noise_TD: To be added to each step's sum; of no steps where there is none. Here weights lie as (O, I).
        theta_D: The parameters, layer after layer. They are changed.
        anchor_D: From where the round started.
        pull_D: How much of the way back to there each step goes; of no parameters where there is no pull.
        widths: Of the features, of each hidden layer, and of the scores.
        rate: The learning rate, over the number by which a sum becomes a mean.
        clipping_norm: Of each citizen's gradient.
    """
    rows, layers = x_NRF.shape[1], len(widths) - 1
    widest = (widths.max() // 16 + 1) * 16  # rows begin where cache lines do
    together = max(1, CHUNK // rows)
    values_LPW = np.ones((layers + 1, together * rows, widest), theta_D.dtype)  # inputs of each layer, and scores
    signals_LPW = np.zeros((layers, together * rows, widest), theta_D.dtype)
    turned_D, sum_D = np.empty_like(theta_D), np.empty_like(theta_D)
    for step in range(len(edges) - 1):
        begin_sum(sum_D, noise_TD[step : step + 1], widths)
        turn(theta_D, turned_D, widths)
        for first in range(edges[step], edges[step + 1], together):
            chosen_B = index_B[first : min(first + together, edges[step + 1])]
            count = len(chosen_B) * rows
            for row in range(count):
                values_LPW[0, row, : widths[0]] = x_NRF[chosen_B[row // rows], row % rows]
            forward(theta_D, widths, values_LPW, count)
            for row in range(count):
                y, weight, _ = besides_NR3[chosen_B[row // rows], row % rows]
                score_K, signal_K = values_LPW[layers, row], signals_LPW[layers - 1, row]
                signal_of(score_K[: widths[layers]], int(y), weight, signal_K[: widths[layers]])
            backward(turned_D, widths, values_LPW, signals_LPW, count)
            clip(values_LPW, signals_LPW, widths, rows, count, clipping_norm)
            add_up(sum_D, widths, values_LPW, signals_LPW, count)
        if len(pull_D):
            for at in range(len(theta_D)):
                theta_D[at] -= pull_D[at] * (theta_D[at] - anchor_D[at])
        for at in range(len(theta_D)):
            theta_D[at] -= rate * sum_D[at]


@compiled
def begin_sum(sum_D: Array, noise_1D: Array, widths: Array) -> None:
    """Begin a step's sum with noise, or with nothing."""
    start = 0
    sum_D[:] = 0
    for layer in range(len(widths) - 1 if len(noise_1D) else 0):
        inputs, outputs = widths[layer], widths[layer + 1]
        stop = start + inputs * outputs
        sum_IO = sum_D[start:stop].reshape((inputs, outputs))
        noise_OI = noise_1D[0, start:stop].reshape((outputs, inputs))
        for i in range(inputs):
            sum_O = sum_IO[i]
            for o in range(outputs):
                sum_O[o] = noise_OI[o, i]
        start = stop + outputs
        sum_D[stop:start] = noise_1D[0, stop:start]


@compiled
def turn(theta_D: Array, turned_D: Array, widths: Array) -> None:
    """Copy the weights (I, O) of every layer but the first one as (O, I)."""
    start = (widths[0] + 1) * widths[1]
    for layer in range(1, len(widths) - 1):
        inputs, outputs = widths[layer], widths[layer + 1]
        stop = start + inputs * outputs
        weight_IO = theta_D[start:stop].reshape((inputs, outputs))
        weight_OI = turned_D[start:stop].reshape((outputs, inputs))
        for o in range(outputs):
            row_I = weight_OI[o]
            for i in range(inputs):
                row_I[i] = weight_IO[i, o]
        start = stop + outputs


@compiled
def forward(theta_D: Array, widths: Array, values_LPW: Array, count: int) -> None:
    """Compute every layer's inputs, and the scores."""
    start, layers = 0, len(widths) - 1
    for layer in range(layers):
        inputs, outputs = widths[layer] + 1, widths[layer + 1]
        stop = start + inputs * outputs
        value_PW, out_PW = values_LPW[layer], values_LPW[layer + 1]
        if outputs == 1:
            for row in range(count):
                out_PW[row, 0] = dot(value_PW[row], theta_D[start:stop], inputs)
        else:
            out_PW[:count, :outputs] = 0
            add_product(out_PW, value_PW, theta_D[start:stop].reshape((inputs, outputs)), count, inputs, outputs)
        for row in range(count if layer < layers - 1 else 0):
            tanh(out_PW[row, :outputs])
            out_PW[row, outputs] = 1
        start = stop


@compiled
def backward(turned_D: Array, widths: Array, values_LPW: Array, signals_LPW: Array, count: int) -> None:
    """Propagate the scores' signals back to every layer's outputs."""
    layers, stop = len(widths) - 1, len(turned_D)
    for layer in range(layers - 1, 0, -1):
        inputs, outputs = widths[layer], widths[layer + 1]
        start = stop - (inputs + 1) * outputs
        weight_OI = turned_D[start : stop - outputs].reshape((outputs, inputs))
        signal_PW, value_PW = signals_LPW[layer - 1], values_LPW[layer]
        signal_PW[:count, :inputs] = 0
        add_product(signal_PW, signals_LPW[layer], weight_OI, count, outputs, inputs)
        for row in range(count):
            signal_I, value_I = signal_PW[row], value_PW[row]
            for i in range(inputs):
                signal_I[i] -= signal_I[i] * value_I[i] * value_I[i]  # the slope of tanh is 1 - tanh²
        stop = start


@compiled
def add_up(sum_D: Array, widths: Array, values_LPW: Array, signals_LPW: Array, count: int) -> None:
    """Add every row's gradient to the sum."""
    start = 0
    for layer in range(len(widths) - 1):
        inputs, outputs = widths[layer] + 1, widths[layer + 1]
        stop = start + inputs * outputs
        value_PW, signal_PW = values_LPW[layer], signals_LPW[layer]
        if outputs == 1:  # what lies as one column lies as one row too, and rows are quicker
            add_product(sum_D[start:stop].reshape((1, inputs)), signal_PW.T, value_PW, 1, count, inputs)
        else:
            sum_IO = sum_D[start:stop].reshape((inputs, outputs))
            add_product(sum_IO, value_PW.T, signal_PW, inputs, count, outputs)
        start = stop
