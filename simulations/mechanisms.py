"""Draw seeded randomness, so that a simulation can be repeated bit for bit; never for data that anyone must protect.

Each release of each municipality has a stream of its own, so results depend neither on the order in which
municipalities run nor on the number of processes. The federation does not enter: two arms of one study meet the same
batches and noise.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faelles.privacy.mechanisms import Randomness
from simulations.normals import box_muller

RARE = 0.125  # up to this rate it is quicker to draw how many units are passed over than to draw for each
GAPS = 256  # drawn together
BLOCK = 8192  # normal numbers that are made together; their temporary numbers stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class SeededMechanisms:
    """Give each release the stream that seed, municipality, round and kind determine."""

    seed: int
    municipality: str

    def open_release(self, federation: str, server_round: int, kind: str) -> Randomness:
        """Return the release's stream."""
        return SeededRandomness(seeded_bytes("release", self.seed, self.municipality, server_round, kind))


class SeededRandomness:
    """Draw from reproducible streams: one for who takes part, and one for the noise.

    Guarantees: two draws are the two parts of one draw of both sizes, so that a simulator may draw several steps at
        once and still meet the batches and the noise of one that draws them one by one.
    """

    def __init__(self, seed: bytes) -> None:
        # SFC64 is the quickest of numpy's.
        chance, noise = (np.random.SFC64(int.from_bytes(half, "little")) for half in (seed[:16], seed[16:]))
        self._chance, self._noise = Chance(chance), Normals(noise)

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        """Choose each citizen independently with probability `rate`."""
        return self._chance.take(units, rate)

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        """Draw `size` normal numbers with standard deviation `std`."""
        return np.multiply(self._noise.take(size), std, dtype=np.float64) if std else np.zeros(size)


class Chance:
    """Draw who takes part, each unit independently: for small rates by how many units are passed over.

    Guarantees: at one rate the choices do not depend on how many are drawn at once.
    Source: the gaps of a Bernoulli process are geometric, e.g. Devroye 1986, Non-Uniform Random Variate Generation, X.
    """

    def __init__(self, bits: np.random.SFC64) -> None:
        self._generator = np.random.Generator(bits)
        self._ahead = np.array([-1])  # places of the units chosen last and next, the last one drawn at the end

    def take(self, units: int, rate: float) -> NDArray[np.bool_]:
        """Choose among the next `units`."""
        if not 0 < rate <= RARE:
            return self._generator.random(units) < rate
        while self._ahead[-1] < units:
            gaps = self._generator.geometric(rate, GAPS)
            self._ahead = np.concatenate([self._ahead, self._ahead[-1] + np.cumsum(gaps)])
        chosen = np.zeros(units, dtype=bool)
        first, last = np.searchsorted(self._ahead, [0, units])
        chosen[self._ahead[first:last]] = True
        self._ahead = self._ahead[last:] - units
        return chosen


class Normals:
    """Draw normal numbers from a stream of bits, blocks of them at a time.

    Guarantees: the numbers do not depend on how many are taken at once.
    """

    def __init__(self, bits: np.random.SFC64) -> None:
        self._bits = bits
        self._ready = np.empty(0, np.float32)

    def take(self, size: int) -> NDArray[np.float32]:
        """Draw the next `size` numbers."""
        parts, missing = [self._ready[:size]], size - len(self._ready)
        self._ready = self._ready[size:]
        while missing > 0:
            block = self._block()
            parts.append(block[:missing])
            self._ready = block[missing:]
            missing -= len(block)
        return np.concatenate(parts)

    def _block(self) -> NDArray[np.float32]:
        return box_muller(self._bits.random_raw(BLOCK // 2).view(np.uint32))


def seeded_bytes(*parts: str | int) -> bytes:
    """Derive 32 bytes from a seed and what they are for."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
