"""Word the coordinator's log: one line for each thing, key=value, on the screen and in a run's own file."""

import logging
import sys
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _OneLine(logging.Formatter):
    """Write one line for each record; Flower quotes keys that have several."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.exc_info else " ".join(text.split("\n"))


def configure(file: Path | None = None) -> None:
    """Log to standard error, and to a file beside it.

    Args:
        file: A run's own log; lines are added to what is there.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_OneLine(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    # Flower says every step at INFO, through a handler of its own; httpx every request.
    for name in ("flwr", "httpx", "httpcore", "alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.propagate = True
