"""Keep what a federation needs to go on: arrays, strategy state and the record, durable before the next round."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faelles.errors import RunError
from faelles.models import Arrays
from faelles.records import Scalar, pack, unpack
from server.result import RunRecord, write_atomically

KEPT = 2
MODEL = "model/"
STRATEGY = "strategy/"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Hold a federation after a round; round 0 is its start."""

    config_sha256: str
    server_round: int
    arrays: Arrays
    strategy_state: dict[str, NDArray[np.generic]]
    record: RunRecord


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically and drop all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {MODEL + name: array for name, array in checkpoint.arrays.items()}
    arrays |= {STRATEGY + name: array for name, array in checkpoint.strategy_state.items()}  # type: ignore[misc]
    config: dict[str, Scalar] = {
        "config-sha256": checkpoint.config_sha256,
        "server-round": checkpoint.server_round,
        "record": checkpoint.record.model_dump_json(),
    }
    write_atomically(folder / f"round-{checkpoint.server_round:05d}.checkpoint", pack(config, arrays))
    for old in sorted(folder.glob("round-*.checkpoint"))[:-KEPT]:
        old.unlink()


def load_newest(folder: Path, config_sha256: str) -> Checkpoint | None:
    """Read the newest checkpoint of a federation.

    Raises:
        RunError: The folder holds another federation, or a file that is not a checkpoint.
    """
    paths = sorted(folder.glob("round-*.checkpoint"))
    if not paths:
        return None
    try:
        config, arrays = unpack(paths[-1].read_bytes())
        record = RunRecord.model_validate_json(str(config["record"]))
    except Exception:
        raise RunError(
            f"{paths[-1]}: expected a checkpoint, it cannot be read; remove it to resume before it"
        ) from None
    if config["config-sha256"] != config_sha256:
        raise RunError(f"{folder}: holds another federation; resume with the command it was started with")
    return Checkpoint(
        config_sha256=config_sha256,
        server_round=int(config["server-round"]),
        arrays={name.removeprefix(MODEL): array for name, array in arrays.items() if name.startswith(MODEL)},
        strategy_state={
            name.removeprefix(STRATEGY): array for name, array in arrays.items() if name.startswith(STRATEGY)
        },
        record=record,
    )


def write_model(path: Path, arrays: Arrays) -> None:
    """Write a finished model as a plain npz file that numpy reads; no pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())
