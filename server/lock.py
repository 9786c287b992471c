"""Let one coordinator serve a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faelles.errors import ConfigError


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder; the kernel lets go of it with the process, however it ends.

    Raises:
        ConfigError: Another process holds it, or it cannot be written.
    """
    try:
        file = (folder / "lock").open("a")
    except OSError as error:
        why = (error.strerror or "cannot be written").lower()
        raise ConfigError(f"{folder}: expected a folder that can be written, {why}; correct its permissions") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"{folder}: expected no other coordinator to serve it, one does; end that one first"
            ) from None
        yield
