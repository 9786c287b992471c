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


@dataclass(frozen=True, kw_only=True)
class SeededMechanisms:
    """Give each release the stream that seed, municipality, round and kind determine."""

    seed: int
    municipality: str

    def open_release(self, federation: str, server_round: int, kind: str) -> Randomness:
        """Return the release's stream."""
        return SeededRandomness(seeded_bytes("release", self.seed, self.municipality, server_round, kind))


class SeededRandomness:
    """Draw from one reproducible stream."""

    def __init__(self, seed: bytes) -> None:
        self._generator = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        """Choose each citizen independently with probability `rate`."""
        return self._generator.random(units) < rate

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        """Draw `size` normal numbers with standard deviation `std`."""
        return self._generator.standard_normal(size) * std if std else np.zeros(size)


def seeded_bytes(*parts: str | int) -> bytes:
    """Derive 32 bytes from a seed and what they are for."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
