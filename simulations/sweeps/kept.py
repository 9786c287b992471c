"""Find what a job of an interrupted sweep has left: a result that can be kept, or one of something else."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from catalogue import shelf
from configs.schema import SimulationConfig
from faelles.errors import ConfigError
from server.result import Result, read_result
from server.summary import plain
from simulations.study import resolve

INDIFFERENT = ("resume", "workers")  # settings that change no figure


def finished(folder: Path, config: SimulationConfig) -> Result | None:
    """Find the completed result of the very same job; None where it has yet to run, or to end.

    Raises:
        ConfigError: The folder holds the result of another job.
        CardError: The card has mistakes.
    """
    path = folder / "result.json"
    if not path.is_file():
        return None
    try:
        result = read_result(path)
    except ValueError:
        raise ConfigError(f"{path}: expected a result, it cannot be read as one; remove it to run the job") from None
    other = _differences(result.config, plain(asdict(config)))
    if not other and resolve(shelf.find(config.usecase), config).card.sha256 != result.usecase.card_sha256:
        other = ["another card"]
    if other:
        raise ConfigError(
            f"{folder}: holds the result of other settings ({', '.join(other)}); "
            "go on with the command that the sweep began with, or choose another hydra.sweep.dir"
        )
    return result if result.run.status == "completed" else None


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say which settings were others, and what they were."""
    before, after = _flat(then), _flat(now)
    return [
        f"{name} was {before.get(name)}, now {after.get(name)}"
        for name in dict.fromkeys([*after, *before])
        if name not in INDIFFERENT and before.get(name) != after.get(name)
    ]


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
