"""Draw the randomness that privacy rests on: who takes part in a step, and the noise.

Every release draws from a generator of its own that is keyed afresh from the operating system and thrown away with the
release. It is injected, so that simulations can pass a seeded one; that one lives with the simulations and an agent
cannot build it.
"""

import os
import secrets
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from randomgen import ChaCha

from faelles.errors import PlanError

SUMMANDS = 4  # 2n Gaussians with n = 2, as Holohan and Braghin propose and Opacus' secure mode does


class Randomness(Protocol):
    """Serve one release."""

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        """Choose each of `units` citizens independently with probability `rate`."""
        ...

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        """Draw `size` independent normal numbers with standard deviation `std`."""
        ...


class Mechanisms(Protocol):
    """Open a source of randomness for each release."""

    def open_release(self, federation: str, server_round: int, kind: str) -> Randomness:
        """Return a source that no other release has used or will use."""
        ...


class SecureMechanisms:
    """Give each release a ChaCha20 generator with a fresh 256-bit key from the operating system.

    Guarantees: no state is kept between releases, so neither a fork nor a restart can repeat noise.
    Assumes: the operating system's generator is seeded; ChaCha20 is indistinguishable from random.
    """

    def open_release(self, federation: str, server_round: int, kind: str) -> Randomness:
        """Return a source with a fresh key; what it is for does not influence it."""
        return SecureRandomness()


class SecureRandomness:
    """Draw from one cryptographic generator, hardened against floating-point attacks.

    Guarantees: `include` is Poisson sampling; `gaussian` has the stated standard deviation and resists the attack of
    Mironov (2012) on the low bits, since each number is a sum of several; a fork of the process cannot draw from it.
    Assumes: the caller draws for one release only.
    Source: Holohan and Braghin 2021, Secure Random Sampling in Differential Privacy, section 5.
    """

    def __init__(self) -> None:
        key = secrets.token_bytes(32)
        self._generator = np.random.Generator(ChaCha(key=int.from_bytes(key, "little"), rounds=20))
        self._process = os.getpid()

    def include(self, units: int, rate: float) -> NDArray[np.bool_]:
        """Choose each citizen independently with probability `rate` in [0, 1]."""
        self._check_process()
        return self._generator.random(units) < rate

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        """Draw `size` normal numbers with standard deviation `std`, each a scaled sum of SUMMANDS."""
        self._check_process()
        normal = self._generator.standard_normal((SUMMANDS, size))
        return np.asarray(normal.sum(axis=0) * (std / SUMMANDS**0.5), dtype=np.float64)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise PlanError("randomness: expected the process that opened the release, a fork of it came; open anew")
