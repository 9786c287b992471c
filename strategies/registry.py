"""The strategies a federation can choose: Flower's own, under one name each, with public terms and their ranges.

To add one, write a line in `STRATEGIES` and a file `configs/strategy/<name>.yaml` with the same terms.

What a user must know about them in Flower 1.41 (the formulas are held by tests/strategies/test_formulas.py):

    fedavg        Mean by public weight.
    fedprox       fedavg on the server; `proximal-mu` travels to the municipalities, which pull towards the model they
                  received. The pull is theirs to apply.
    fedadam       Flower adds a bias correction that the paper lacks, with exponent round + 1 (Adam has round), and
                  starts v at 0 (paper: at least tau squared).
    fedyogi       No bias correction, as in the paper; v starts at 0.
    fedadagrad    No momentum; v starts at 0 and only grows, so that steps shrink for as long as noise comes in.
    fedavgm       Momentum without dampening and without Nesterov's step: a steady update is multiplied by
                  server_learning_rate / (1 - server_momentum), which is 1 for the defaults.
    median        Coordinate-wise and unweighted: public weights are ignored.
    trimmed-mean  Coordinate-wise and unweighted; drops floor(beta x municipalities) at each end, so that below
                  1 / beta municipalities nobody is dropped.
    krum          Takes one municipality's model as it is, unweighted: its privacy noise is not averaged away. Distances
                  are float32 and blur when updates are small beside the weights.
    multi-krum    Mean by public weight of the `num_nodes_to_select` models with the best Krum scores.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import inf
from types import MappingProxyType
from typing import cast

from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)

from faelles.errors import StrategyError
from faelles.records import LARGEST_PULL


@dataclass(frozen=True, kw_only=True)
class Term:
    """Describe one public hyperparameter of a strategy.

    Args:
        default: The value where none is given; the one in the strategy's YAML file.
        low: The least allowed value; with `above` the value must be greater than it.
        high: The value must be less than this.
        above: Whether `low` itself is refused.
        whole: Whether the value counts something and must be a whole number.
        argument: Flower's name of the term, where it is another.
    """

    default: float
    low: float = 0.0
    high: float = inf
    above: bool = False
    whole: bool = False
    argument: str | None = None

    def allows(self, value: object) -> bool:
        """Tell whether a value lies in the term's range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.whole and not float(value).is_integer():
            return False
        return self.low <= value < self.high and not (self.above and value == self.low)

    @property
    def range(self) -> str:
        """Say the range in words."""
        kind = "a whole number" if self.whole else "a number"
        least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return f"{kind} {least}" + ("" if self.high == inf else f" and below {self.high:g}")


def _krum_least(strategy: FedAvg) -> int:
    krum = cast(MultiKrum, strategy)
    return max(2 * krum.num_malicious_nodes + 3, krum.num_nodes_to_select)


@dataclass(frozen=True, kw_only=True)
class StrategyEntry:
    """Describe one strategy: Flower's class, its public terms and what it remembers between rounds.

    Args:
        flower: Flower's class.
        terms: Public hyperparameters, by name.
        state: Attributes that carry over from round to round, with the container Flower keeps the arrays in.
        least_updates: How many municipalities must contribute for the method's guarantee to mean anything.
    """

    flower: type[FedAvg]
    terms: Mapping[str, Term] = field(default_factory=dict)
    state: Mapping[str, type[dict] | type[list]] = field(default_factory=dict)  # type: ignore[type-arg]
    least_updates: Callable[[FedAvg], int] = lambda _: 1


_TAU = Term(default=1e-3, above=True)  # adaptivity: the smallest step denominator, in units of an update's coordinate
_BETAS = {"beta_1": Term(default=0.9, high=1.0), "beta_2": Term(default=0.99, high=1.0)}
_MALICIOUS = Term(default=1, whole=True, high=49)  # municipalities; 98 cannot stand more


def _eta(default: float) -> Term:
    return Term(default=default, above=True, argument="eta")


STRATEGIES: Mapping[str, StrategyEntry] = MappingProxyType(
    {
        "fedavg": StrategyEntry(flower=FedAvg),
        "fedprox": StrategyEntry(
            flower=FedProx, terms={"proximal_mu": Term(default=0.01, above=True, high=LARGEST_PULL)}
        ),
        "fedadam": StrategyEntry(
            flower=FedAdam,
            terms={"server_learning_rate": _eta(0.1), **_BETAS, "tau": _TAU},
            state={"m_t": dict, "v_t": dict},
        ),
        "fedyogi": StrategyEntry(
            flower=FedYogi,
            terms={"server_learning_rate": _eta(0.03), **_BETAS, "tau": _TAU},
            state={"m_t": dict, "v_t": dict},
        ),
        "fedadagrad": StrategyEntry(
            flower=FedAdagrad,
            terms={"server_learning_rate": _eta(0.3), "tau": _TAU},
            state={"m_t": dict, "v_t": dict},
        ),
        "fedavgm": StrategyEntry(
            flower=FedAvgM,
            terms={
                "server_learning_rate": Term(default=0.5, above=True),
                "server_momentum": Term(default=0.5, high=1.0),
            },
            state={"momentum_vector": list},
        ),
        "median": StrategyEntry(flower=FedMedian),
        "trimmed-mean": StrategyEntry(flower=FedTrimmedAvg, terms={"beta": Term(default=0.2, high=0.5)}),
        "krum": StrategyEntry(flower=Krum, terms={"num_malicious_nodes": _MALICIOUS}, least_updates=_krum_least),
        "multi-krum": StrategyEntry(
            flower=MultiKrum,
            terms={
                "num_malicious_nodes": _MALICIOUS,
                "num_nodes_to_select": Term(default=2, low=1, high=99, whole=True),
            },
            least_updates=_krum_least,
        ),
    }
)


def build(name: str, terms: Mapping[str, float]) -> FedAvg:
    """Build a Flower strategy that takes every municipality in every round.

    Args:
        name: A name in `STRATEGIES`.
        terms: Public hyperparameters; those left out take their defaults.

    Returns:
        The strategy, to be driven by `strategies.adapter.StrategyAdapter` alone: Flower's own sampling, waiting and
        evaluation are switched off.

    Raises:
        StrategyError: The name or a term is unknown, or a term is out of its range.
    """
    if name not in STRATEGIES:
        raise StrategyError(_unknown("strategy", name, tuple(STRATEGIES)))
    entry = STRATEGIES[name]
    arguments: dict[str, float] = {}
    for key in terms:
        if key not in entry.terms:
            raise StrategyError(_unknown(f"{name} term", key, tuple(entry.terms)))
    for key, term in entry.terms.items():
        value = terms.get(key, term.default)
        if not term.allows(value):
            raise StrategyError(f"strategy {name}: {key} must be {term.range}, got {value!r}")
        arguments[term.argument or key] = int(value) if term.whole else float(value)
    flower: Callable[..., FedAvg] = entry.flower
    strategy = flower(fraction_train=1.0, min_train_nodes=1, min_available_nodes=1, **arguments)
    # Evaluation is the server's own message. As an argument, 0.0 makes Flower warn that nothing will be evaluated.
    strategy.fraction_evaluate, strategy.min_evaluate_nodes = 0.0, 0
    return strategy


def entry_of(strategy: FedAvg) -> tuple[str, StrategyEntry]:
    """Find the name and entry of a strategy, by its exact class.

    Raises:
        StrategyError: The class is not registered, so what it must remember is unknown.
    """
    for name, entry in STRATEGIES.items():
        if type(strategy) is entry.flower:
            return name, entry
    raise StrategyError(
        f"strategy class {type(strategy).__name__} is not registered, so its state cannot be kept; "
        "add it to strategies/registry.py"
    )


def _unknown(kind: str, name: object, known: tuple[str, ...]) -> str:
    close = get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f", did you mean {close[0]!r}?" if close else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}"
