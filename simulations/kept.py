"""Keep what never leaves the municipalities of a cohort: their local parameters, by the round that made them.

Legend: S municipalities, L local parameters.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faelles.errors import RunError
from server.result import write_atomically

VERSIONS = 3  # of the round under way, and of the two whose checkpoints a coordinator keeps
Numbers = NDArray[np.float32]


class Kept:
    """Hold the local parameters of all municipalities; in one small file a round, so that a run can be taken up.

    Args:
        folder: Where the files go.
        initial_L: What every municipality begins with.
        sites: How many there are.

    Raises:
        RunError: A file of an earlier run cannot be read.
    """

    def __init__(self, folder: Path, initial_L: Numbers, sites: int) -> None:
        self._folder, self._size = folder, len(initial_L)
        self._rounds = {0: np.tile(initial_L, (sites, 1))}
        for path in sorted(folder.glob("local-*.npy")) if self._size else []:
            self._rounds[int(path.stem.removeprefix("local-"))] = self._read(path)
        if min(self._rounds.keys() - {0}, default=1) > 1:  # the first rounds are gone, and so is what they began with
            del self._rounds[0]

    def before(self, server_round: int) -> Numbers:
        """Return them as the newest round before this one left them; (S, L).

        Raises:
            RunError: That is so long ago that it is not kept any more.
        """
        newest = max((number for number in self._rounds if number < max(server_round, 1)), default=-1)
        if newest < 0:
            raise RunError(
                f"round {server_round}: expected local parameters of the round before, they are not kept any more; "
                "start the run anew"
            )
        return self._rounds[newest]

    def keep(self, server_round: int, places: Sequence[int], local_PL: Numbers) -> None:
        """Keep what a round made of some municipalities; the others keep what they had."""
        if not self._size:
            return
        after_SL = self._rounds.get(server_round, self.before(server_round)).copy()
        after_SL[list(places)] = local_PL
        self._rounds[server_round] = after_SL
        buffer = io.BytesIO()
        np.save(buffer, after_SL, allow_pickle=False)
        write_atomically(self._path(server_round), buffer.getvalue())
        for number in sorted(self._rounds)[:-VERSIONS]:
            del self._rounds[number]
            self._path(number).unlink(missing_ok=True)

    def _path(self, server_round: int) -> Path:
        return self._folder / f"local-{server_round:05d}.npy"

    def _read(self, path: Path) -> Numbers:
        try:
            found: Numbers = np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            found = np.zeros((0, 0), np.float32)
        if found.dtype != np.float32 or found.shape != self._rounds[0].shape:
            raise RunError(f"{path}: expected this run's local parameters, something else is there; start it anew")
        return found
