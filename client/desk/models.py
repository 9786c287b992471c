"""List and export the finished models that came home: the shared model joined with the local parameters."""

import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from client import consent, outbox
from client.home import write_out
from client.language import Language, say
from faelles.errors import ConfigError


def lines(database: sqlite3.Connection, language: Language) -> Iterator[str]:
    """Write each model on a line."""
    for federation, card, time in outbox.models(database):
        approval = consent.find_approval(database, card)
        yield f"{federation}  {approval.card.id if approval else card[:12]}  {time}"
    if not outbox.models(database):
        yield say(language, "ingen model er kommet hjem endnu", "no model has come home yet")


def export(database: sqlite3.Connection, federation: str | None, to: Path | None) -> Path:
    """Write a model as an npz file that numpy reads, one array for each parameter; no pickle.

    Args:
        database: Of the store.
        federation: Its UUID, or as much of the beginning as no other begins with.
        to: The file.

    Raises:
        ConfigError: One of them was not given; or there is no such model, or several.
    """
    if not federation or to is None:
        raise ConfigError(
            "model export: expected a federation and --out FILE; `faelles-agent model list` shows the federations",
            da="model export: angiv en føderation og --out FIL; `faelles-agent model list` viser føderationerne",
        )
    found = [name for name, _, _ in outbox.models(database) if name.startswith(federation)]
    if len(found) != 1:
        raise ConfigError(
            f"model {federation}: expected one finished model of that federation, found {len(found)}; "
            "`faelles-agent model list` shows them",
            da=f"model {federation}: der er {len(found)} færdige modeller af den føderation; "
            "`faelles-agent model list` viser dem",
        )
    import numpy as np  # with Flower and torch behind it, which a list of models does not take

    from faelles.records import unpack

    data = outbox.model(database, found[0])
    assert data is not None  # it is in the list
    written = io.BytesIO()
    np.savez(written, **unpack(data)[1])  # type: ignore[arg-type]
    write_out(to, written.getvalue())
    return to
