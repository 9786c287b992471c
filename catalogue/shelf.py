"""Find a use case: by its name in the catalogue, or by a folder anywhere that holds a card.yaml.

A folder of the catalogue may also hold `twin.py` (synthetic rows under the same contract) and `adapter.py` (what turns
a published file into rows per site). A folder from elsewhere is read as data: only its card.yaml, never its Python, so
that trying somebody's use case runs none of their code.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

import pyarrow as pa

from faelles.card import UseCaseCard, load_card
from faelles.errors import ConfigError

CATALOGUE: Final = Path(__file__).resolve().parent
USECASES: Final = {path.parent.name.replace("_", "-"): path.parent for path in sorted(CATALOGUE.glob("*/card.yaml"))}

Tables = dict[str, pa.Table]  # the label of a site -> its rows


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """Hold a use case: its card, and where its rows can come from besides a file with a site column.

    Args:
        card: What is learned.
        folder: Where it was found.
        twin: Makes synthetic rows for each site from a seed; None where there are only real data.
        adapter: Turns the published file and a seed into the rows of each site; None where the file fits as it is.
        held_out: The column and value that mark held-out rows where a published protocol fixes them.
    """

    card: UseCaseCard
    folder: Path
    twin: Callable[[int], Tables] | None = None
    adapter: Callable[[pa.Table, int], Tables] | None = None
    held_out: tuple[str, str] | None = None


def names() -> tuple[str, ...]:
    """List the use cases of the catalogue by name."""
    return tuple(USECASES)


def find(usecase: str) -> UseCase:
    """Find a use case by name or path.

    Args:
        usecase: A name of `names()`, or the path of a folder or of its card.yaml.

    Raises:
        ConfigError: Neither a name of the catalogue nor a folder with a card.
        CardError: The card has mistakes.
    """
    path = Path(usecase)
    folder = USECASES.get(usecase) or (path.parent if path.name == "card.yaml" else path)
    if not (folder / "card.yaml").is_file():
        raise ConfigError(f"usecase={usecase}: {_advice(usecase)}")
    card = load_card(folder / "card.yaml")
    if folder.resolve() not in USECASES.values():
        return UseCase(card=card, folder=folder)
    twin, adapter = _module(folder, "twin"), _module(folder, "adapter")
    return UseCase(
        card=card,
        folder=folder,
        twin=twin.make if twin else None,
        adapter=adapter.load if adapter else None,
        held_out=getattr(adapter, "HELD_OUT", None),
    )


def _module(folder: Path, name: str) -> ModuleType | None:
    exists = (folder / f"{name}.py").is_file()
    return import_module(f"catalogue.{folder.name}.{name}") if exists else None


def _advice(usecase: str) -> str:
    known = ", ".join(names())
    if Path(usecase).exists():
        return "expected a folder that holds a card.yaml, found none in it; copy one of the catalogue's and change it"
    close = difflib.get_close_matches(usecase.replace("_", "-"), names(), n=2, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(close)}?" if close else "choose one, or give the path of a folder with a card.yaml"
    )
    return f"expected a use case of the catalogue ({known}), found none of that name; {hint}"
