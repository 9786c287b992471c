"""Declare what the configuration of a simulation and of a live run may hold; a null takes the card's value."""

from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_store import ConfigStore

ENGINES = ("cohort", "reference", "flower", "ray")  # how simulated municipalities answer


@dataclass(kw_only=True)
class StrategyConfig:
    """Choose how updates become one model; `strategy=NAME` picks a file of configs/strategy."""

    name: str
    terms: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class PrivacyConfig:
    """Override the card's privacy; `epsilon=inf` trains without, in simulations only."""

    epsilon: float | None = None
    delta: float | None = None
    clipping_norm: float | None = None


@dataclass(kw_only=True)
class TrainingConfig:
    """Override the card's training."""

    local_steps: int | None = None
    local_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None


@dataclass(kw_only=True)
class ModelConfig:
    """Override which parameters stay local."""

    local: list[str] | None = None


@dataclass(kw_only=True)
class DataConfig:
    """Say where the rows are; without a path the use case's synthetic twin is taken."""

    path: str | None = None
    site: str = "site"


@dataclass(kw_only=True)
class SimulationConfig:
    """Hold all of a simulation."""

    usecase: str
    strategy: StrategyConfig
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rounds: int | None = None
    evaluate: bool = True
    seed: int = 1
    compare: bool = False
    weighting: str = "declared"
    quorum: float = 0.8
    deadline_s: float = 600.0
    engine: str = "cohort"
    device: str = "auto"
    parity: bool = False
    workers: int | None = None
    resume: bool = False


@dataclass(kw_only=True)
class EpsilonConfig:
    """Ask for a smaller epsilon than the card's."""

    epsilon: float | None = None


@dataclass(kw_only=True)
class RunConfig:
    """Hold all of a live run; times are a number and s, m or h."""

    usecase: str
    strategy: StrategyConfig
    privacy: EpsilonConfig = field(default_factory=EpsilonConfig)
    rounds: int | None = None
    evaluate: bool = True
    seed: int = 1
    weighting: str = "declared"
    quorum: float = 0.8
    deadline: str = "10m"
    wait: str = "1h"
    deliver: str = "24h"


def strategies() -> tuple[str, ...]:
    """List the names that `strategy=NAME` takes, without importing what they stand for."""
    return tuple(sorted(path.stem for path in (Path(__file__).parent / "strategy").glob("*.yaml")))


def register() -> None:
    """Make the schemas known to Hydra, so that an unknown override or a wrong type is refused."""
    ConfigStore.instance().store(name="simulation_schema", node=SimulationConfig)
    ConfigStore.instance().store(name="federation_schema", node=RunConfig)
