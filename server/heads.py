"""Keep the last ledger head that each municipality signed, and present it: so an account that was set back is noticed.

Heads are written as they arrive and not with a checkpoint, for what was released in a round that failed counts too.
"""

import json
from pathlib import Path

from faelles.errors import RunError
from server.result import write_atomically

FILE = "ledger-heads.json"


class LedgerHeads:
    """Own the file of a federation's folder.

    Args:
        folder: Where it lies; what it holds already is kept.

    Raises:
        RunError: It cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._heads: dict[str, str] = {}
        self._saved = True
        if self._path.is_file():
            try:
                self._heads = {str(name): str(head) for name, head in json.loads(self._path.read_bytes()).items()}
            except (OSError, ValueError, AttributeError):
                raise RunError(
                    f"{self._path}: expected the heads that municipalities signed, it cannot be read; restore it"
                ) from None

    def last(self, municipality: str) -> str | None:
        """Return the last head of a municipality; None where it has sent none."""
        return self._heads.get(municipality)

    def keep(self, municipality: str, head: str) -> None:
        """Take note of a head, unless a later one is known: an answer that is sent again carries the one it had."""
        if _number(head) >= _number(self._heads.get(municipality, "")):
            self._heads[municipality] = head
            self._saved = False

    def save(self) -> None:
        """Put on disk what was noted since."""
        if not self._saved:
            write_atomically(self._path, json.dumps(self._heads, sort_keys=True).encode())
            self._saved = True


def _number(head: str) -> int:
    """Read which row of the ledger a head names; 0 where it does not say."""
    try:
        number = json.loads(head)["number"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return number if type(number) is int else 0
