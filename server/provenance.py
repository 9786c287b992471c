"""Say what a model came from: packages, card, configuration, source, and the bundle that Flower carried."""

import hashlib
import subprocess
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from faelles.errors import RunError
from server.federation import PLACE, FederationConfig
from server.result import write_json
from server.summary import versions

FILE = "provenance.json"
PACKAGES = ("faelles", "catalogue", "strategies", "server", "configs")
UNKNOWN = "unknown"


class Provenance(BaseModel):
    """Hold what a run was made with.

    Args:
        packages: The SHA-256 over the files of each package that the coordinator runs.
        card_sha256: Of the card's canonical JSON, which municipalities approved.
        config_sha256: Of what is run.
        bundle_sha256: Of the bundle.
        commit: The git commit that the coordinator runs from; unknown where it runs an installed wheel.
        earlier: What its first rounds were made with, where a coordinator of another version took the run up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    federation: str
    packages: dict[str, str]
    card_sha256: str
    config_sha256: str
    config: str
    bundle_sha256: str
    commit: str
    versions: dict[str, str]
    earlier: tuple["Provenance", ...] = ()


def write_provenance(folder: Path, config: FederationConfig, bundle: bytes) -> None:
    """Write it beside the model; what a run that is taken up was made with until now stays in it."""
    made = Provenance(
        federation=str(config.federation),
        packages={name: package_sha256(name) for name in PACKAGES},
        card_sha256=config.card.sha256,
        config_sha256=config.sha256,
        config=config.model_dump_json(exclude=set(PLACE)),
        bundle_sha256=hashlib.sha256(bundle).hexdigest(),
        commit=_commit(),
        versions=versions(),
    )
    write_json(folder / FILE, made.model_copy(update={"earlier": _earlier(folder / FILE, made)}))


def _earlier(path: Path, made: Provenance) -> tuple[Provenance, ...]:
    try:
        known = Provenance.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except ValueError:
        raise RunError(
            f"{path}: expected what the run was made with, it cannot be read; restore or remove it"
        ) from None
    last = known.model_copy(update={"earlier": ()})
    return known.earlier if last == made else (*known.earlier, last)


def package_sha256(name: str) -> str:
    """Digest a package's files, by path and content; the same files give the same digest wherever they lie."""
    module = __import__(name)
    root = Path(str(module.__file__)).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            for part in (path.relative_to(root).as_posix().encode(), path.read_bytes()):
                digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _commit() -> str:
    """Ask git, where the coordinator runs from a working copy."""
    source = Path(__file__).resolve().parents[1]
    if not (source / ".git").exists():
        return UNKNOWN
    try:
        found = subprocess.run(  # noqa: S603
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return found.stdout.strip()
