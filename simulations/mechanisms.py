"""Draw seeded randomness, so that a simulation can be repeated bit for bit; never for data that anyone must protect.

Each release of each municipality has a stream of its own, so results depend neither on the order in which
municipalities run nor on the number of processes. The federation does not enter: two arms of one study meet the same
batches and noise.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.normals import LANES, Normals

RARE = 0.125  # up to this rate it is quicker to draw how many units are passed over than to draw for each
GAPS = 64  # drawn beyond those that are expected


@dataclass(frozen=True, kw_only=True)
class SeededMechanisms:
    """Give each release the stream that seed, municipality, round and kind determine."""

    seed: int
    municipality: str

    def open_release(self, federation: str, server_round: int, kind: str) -> "SeededRandomness":
        """Return the release's stream."""
        return SeededRandomness(seeded_bytes("release", self.seed, self.municipality, server_round, kind))


class SeededRandomness:
    """Draw from reproducible streams: one for who takes part, and one for the noise.

    Guarantees: two draws are the two parts of one draw of both sizes, so that a simulator may draw several steps at
        once and still meet the batches and the noise of one that draws them one by one.
    """

    def __init__(self, seed: bytes) -> None:
        bits = np.random.SFC64(int.from_bytes(seed, "little"))  # the quickest of numpy's
        self._noise = Normals(bits.random_raw(4 * LANES).reshape(4, LANES))
        self._chance = Chance(bits)

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        """Choose each citizen independently with probability `rate`."""
        chosen = np.zeros(units, dtype=bool)
        chosen[self.places(units, rate)] = True
        return chosen

    def places(self, units: int, rate: float) -> NDArray[np.int64]:
        """Choose as `include` does, and say only who was chosen."""
        return self._chance.take(units, rate)

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        """Draw `size` normal numbers with standard deviation `std`."""
        return np.multiply(self.normals(size), std, dtype=np.float64) if std else np.zeros(size)

    def normals(self, size: int) -> NDArray[np.float32]:
        """Draw the standard normal numbers that `gaussian` scales."""
        return self._noise.take(size)


class Chance:
    """Draw who takes part, each unit independently: for small rates by how many units are passed over.

    Guarantees: at one rate the choices do not depend on how many are drawn at once.
    Source: the gaps of a Bernoulli process are geometric, and those are exponential numbers rounded up; Devroye 1986,
        Non-Uniform Random Variate Generation, chapter X.
    """

    def __init__(self, bits: np.random.SFC64) -> None:
        self._generator = np.random.Generator(bits)
        self._ahead = np.array([-1])  # places of the units chosen last and next, the last one drawn at the end

    def take(self, units: int, rate: float) -> NDArray[np.int64]:
        """Choose among the next `units`; where the chosen ones stand among them."""
        if not 0 < rate <= RARE:
            return np.flatnonzero(self._generator.random(units) < rate)
        while self._ahead[-1] < units:
            waits = self._generator.standard_exponential(GAPS + int(rate * (units - self._ahead[-1])))
            gaps = (waits / -math.log1p(-rate)).astype(np.int64) + 1
            self._ahead = np.concatenate([self._ahead, self._ahead[-1] + np.cumsum(gaps)])
        first, last = np.searchsorted(self._ahead, [0, units])
        chosen = self._ahead[first:last]
        self._ahead = self._ahead[last:] - units
        return chosen


def seeded_bytes(*parts: str | int) -> bytes:
    """Derive 32 bytes from a seed and what they are for."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
