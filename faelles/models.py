"""Build the models that a card can ask for, and say which of their parameters are shared and which stay local.

Hidden layers use tanh: bounded activations keep gradients small, so that clipping takes less away (Papernot et al.
2021, Tempered Sigmoid Activations for Deep Learning with Differential Privacy).
"""

import functools
import itertools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faelles.card import UseCaseCard
from faelles.errors import WireError
from faelles.features import input_width

MAX_MAGNITUDE = 1e6  # public bound on every number of a model that arrives; crafted weights end here
CITIZENS_AT_ONCE = 512  # whose products of features and weights are held in memory together
Arrays = dict[str, NDArray[np.float32]]


class Network(nn.Module):
    """Compute class scores from encoded features; without hidden layers it is logistic regression."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.output = nn.Linear(widths[-1], outputs)

    def forward(self, x_BRF: Tensor) -> Tensor:
        """Return logits_BRK; K is 1 for a binary label."""
        for layer in self.hidden:
            x_BRF = torch.tanh(layer(x_BRF))
        logits_BRK: Tensor = self.output(x_BRF)
        return logits_BRK


def build_model(card: UseCaseCard) -> Network:
    """Build the card's model; its parameters are whatever memory held until they are loaded."""
    return Network(input_width(card), card.model.hidden, _outputs(card))


def parameter_shapes(card: UseCaseCard) -> dict[str, tuple[int, ...]]:
    """Map every parameter name to its shape, in the card's order."""
    return dict(_shapes(input_width(card), card.model.hidden, _outputs(card)))


def _outputs(card: UseCaseCard) -> int:
    return 1 if card.label.kind == "binary" else len(card.label.values)


@functools.cache  # a coordinator asks for every reply
def _shapes(inputs: int, hidden: tuple[int, ...], outputs: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    with torch.device("meta"):
        model = Network(inputs, hidden, outputs)
    return tuple((name, tuple(p.shape)) for name, p in model.named_parameters())


def shared_shapes(card: UseCaseCard) -> dict[str, tuple[int, ...]]:
    """Map the parameters that travel to their shapes."""
    return {name: shape for name, shape in parameter_shapes(card).items() if name not in card.model.local}


def initial_parameters(card: UseCaseCard, seed: int = 0) -> Arrays:
    """Draw the public starting point.

    Biases and the output layer start at zero, so that nobody is told apart by chance; an mlp's hidden weights start as
    Glorot and Bengio (2010) draw them.

    Args:
        card: The use case.
        seed: Public; the same seed gives the same start on every machine.

    Returns:
        Every parameter by name, float32.
    """
    rng = np.random.default_rng(seed)
    start: Arrays = {}
    for name, shape in parameter_shapes(card).items():
        limit = (6 / sum(shape)) ** 0.5 if name.startswith("hidden") and name.endswith("weight") else 0.0
        start[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return start


def check_arrays(shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Refuse arrays that are not a model of these shapes.

    Guarantees: what passes has the expected names in order, shapes, float32, and finite values up to MAX_MAGNITUDE.

    Raises:
        WireError: Something differs; the text names what, never a value.
    """
    if list(arrays) != list(shapes):
        raise WireError(f"arrays: expected {', '.join(shapes)} in this order, other names or another order came")
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            # The name and not the type itself: a structured one holds the sender's words.
            raise WireError(f"array {name}: expected float32 {shape}, came {array.dtype.name} {array.shape}")
    # All of them at once: a coordinator looks at thousands of arrays in a round, and hardly ever finds anything.
    if not _moderate(np.concatenate([np.zeros(0, np.float32), *(array.ravel() for array in arrays.values())])):
        name = next(name for name, array in arrays.items() if not _moderate(array))
        raise WireError(f"array {name}: expected finite numbers up to {MAX_MAGNITUDE:g}, others came")


def _moderate(array: NDArray[np.float32]) -> bool:
    # A comparison with NaN is false, so this one test finds NaN, infinity and absurd magnitudes.
    return bool(np.abs(array).max(initial=0.0) <= MAX_MAGNITUDE)


def load_parameters(model: Network, parameters: Mapping[str, NDArray[np.float32]]) -> None:
    """Copy parameters into a model; every one must be there."""
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in parameters.items()})


def dump_parameters(model: Network) -> Arrays:
    """Copy a model's parameters out of it."""
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def citizen_losses(logits_BRK: Tensor, y_BR: Tensor, weight_BR: Tensor) -> Tensor:
    """Compute each citizen's loss: the mean over its used rows of the cross-entropy.

    Args:
        logits_BRK: Scores; K is 1 for a binary label.
        y_BR: Class indices.
        weight_BR: One over a citizen's number of rows, 0 for padding.

    Returns:
        loss_B
    """
    used_BR = weight_BR > 0
    # The scores are masked and not the loss: neither an infinite score of a padded row nor its gradient passes on.
    logits_BRK = torch.where(used_BR[..., None], logits_BRK, 0)
    if logits_BRK.shape[-1] == 1:
        y_BR = y_BR.to(logits_BRK.dtype)
        loss_BR = nn.functional.binary_cross_entropy_with_logits(logits_BRK[..., 0], y_BR, reduction="none")
    else:
        loss_BR = nn.functional.cross_entropy(logits_BRK.movedim(-1, 1), y_BR, reduction="none")
    return (loss_BR * weight_BR).sum(dim=1)


def probabilities(model: Network, x_BRF: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute class probabilities p_BRK; a binary label has K = 2."""
    with torch.no_grad():
        logits_BRK = model(torch.from_numpy(x_BRF))
    if logits_BRK.shape[-1] == 1:
        positive_BR1 = torch.sigmoid(logits_BRK)
        p_BRK = torch.cat([1 - positive_BR1, positive_BR1], dim=-1)
    else:
        p_BRK = torch.softmax(logits_BRK, dim=-1)
    array_BRK: NDArray[np.float32] = p_BRK.numpy()
    return array_BRK


def independent_probabilities(model: Network, x_BRF: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute class probabilities p_BRK in float64, each row as if no other were there.

    Guarantees: other rows do not change one bit of a row's probabilities, whatever the parameters. A matrix product
        does not keep that, and neither do torch's functions: how they round a row depends on where it stands and on
        how many there are, and a bin of a histogram has edges.
    """
    p_BRK = np.zeros((*x_BRF.shape[:2], max(2, model.output.out_features)))
    with np.errstate(all="ignore"):  # crafted parameters may overflow; what comes of it is no number and stays one
        for start in range(0, len(x_BRF), CITIZENS_AT_ONCE):
            part = slice(start, start + CITIZENS_AT_ONCE)
            hidden_BRI = x_BRF[part].astype(np.float64)
            for layer in model.hidden:
                hidden_BRI = np.tanh(_each_row(layer, hidden_BRI))
            p_BRK[part] = _class_probabilities(_each_row(model.output, hidden_BRI))
    return p_BRK


def _each_row(layer: nn.Module, x_BRI: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply a linear layer by products and sums within each row; I inputs, O outputs."""
    weight_OI, bias_O = (p.detach().numpy().astype(np.float64) for p in layer.parameters())
    return np.asarray((x_BRI[..., None, :] * weight_OI).sum(axis=-1) + bias_O)


def _class_probabilities(logits_BRK: NDArray[np.float64]) -> NDArray[np.float64]:
    if logits_BRK.shape[-1] == 1:
        logits_BRK = np.concatenate([np.zeros_like(logits_BRK), logits_BRK], axis=-1)
    share_BRK = np.exp(logits_BRK - logits_BRK.max(axis=-1, keepdims=True))
    return np.asarray(share_BRK / share_BRK.sum(axis=-1, keepdims=True))
