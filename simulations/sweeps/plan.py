"""Read from Hydra what a sweep was asked for."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
RESUME = "resume"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold what Hydra was asked for: the sweep's folder, the command, which settings vary, and how many jobs."""

    folder: Path
    command: str
    swept: frozenset[str]
    total: int | None  # None: a sweeper that decides as it goes

    @classmethod
    def of(cls, run: HydraConf) -> "Plan":
        """Read it from the file that Hydra writes before the first job."""
        folder = Path(str(run.sweep.dir))
        typed = [str(one) for one in OmegaConf.load(folder / "multirun.yaml").hydra.overrides.task]
        params = [f"{name}={values}" for name, values in (run.sweeper.get("params") or {}).items()]
        counts = _counts([*params, *typed])
        return cls(
            folder=folder,
            command=shlex.join(["faelles-sim", "--multirun", *(one for one in typed if not _resumes(one))]),
            swept=frozenset(counts),
            total=math.prod(counts.values()) if run.sweeper["_target_"] == BASIC else None,
        )


def settings_of(overrides: Sequence[str]) -> dict[str, str]:
    """Read a job's overrides: name -> value, as typed; to be taken up again is no setting of a job."""
    pairs = (one.partition("=") for one in overrides)
    return {name: value for name, _, value in pairs if name != RESUME}


def _counts(overrides: Sequence[str]) -> dict[str, int]:
    """Count the values of each setting that was given several."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    # Keyed by name: of a setting that was typed twice the last counts, as in Hydra's own sweeper.
    swept = (one for one in parser.parse_overrides(list(overrides)) if one.is_discrete_sweep())
    return {one.get_key_element(): sum(1 for _ in one.sweep_string_iterator()) for one in swept}


def _resumes(override: str) -> bool:
    return override.partition("=")[0] == RESUME
