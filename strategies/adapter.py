"""The one way the server talks to a Flower strategy: fixed nodes, public weights, kommunekode order, lasting state.

    adapter = StrategyAdapter(build("fedadam", {}), weights={"0101": 1.0, "0751": 1.0})
    wanted = adapter.configure(1, arrays, {})       # what every train message must carry besides
    arrays = adapter.aggregate(1, arrays, updates)  # kommunekode -> update
    adapter.state()                                 # goes into the checkpoint beside the arrays

Nothing is sent, read or written here. Flower builds its messages around process-wide values (the task's identity and
Python's random generator); both are as before after each call.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Never

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.exception import AppExitException
from flwr.serverapp.strategy import FedAvg, FedAvgM
from numpy.typing import NDArray

from faelles.errors import RunError, StrategyError
from faelles.npy import QuickArray, QuickRecords, array_record
from faelles.records import Scalar
from strategies.nodes import FixedNodes, fixed_globals
from strategies.registry import entry_of

Arrays = Mapping[str, NDArray[np.float32]]

_FLOWERS_ROUND = "server-round"  # Flower always adds it; the server spells the round in its own messages


class StrategyAdapter:
    """Drive one Flower strategy through the rounds of a federation.

    Args:
        strategy: A strategy from `strategies.registry.build`.
        weights: Kommunekode -> public weight, above 0: equal, or the declared size in citizens.

    Raises:
        StrategyError: The strategy is not registered, would leave municipalities out or wait for more, or a weight is
            not a finite number above 0.

    Guarantees:
        The result depends on round, arrays, updates, weights and state only: not on the order of a mapping, nor on what
        else a municipality sends. `load_state(state())` in a new process goes on bit for bit.
    """

    def __init__(self, strategy: FedAvg, weights: Mapping[str, float]) -> None:
        self._name, self._entry = entry_of(strategy)
        wrong = sorted(code for code, weight in weights.items() if not (isfinite(weight) and weight > 0))
        if wrong or not weights:
            raise StrategyError(
                f"strategy {self._name}: public weights must be finite and above 0 for one municipality or more, "
                f"got {'none' if not weights else 'others for ' + ', '.join(wrong)}"
            )
        nodes = max(strategy.min_train_nodes, strategy.min_available_nodes)
        if strategy.fraction_train != 1.0 or nodes > len(weights):
            raise StrategyError(
                f"strategy {self._name}: must take every municipality and wait for none; "
                "build it with strategies.registry.build"
            )
        self._strategy = strategy
        self._weights = {code: float(weights[code]) for code in sorted(weights)}
        self._metrics = {
            code: {"metrics": MetricRecord({strategy.weighted_by_key: weight})}
            for code, weight in self._weights.items()
        }
        self._grid = FixedNodes(len(weights))
        self._round: int | None = None
        self._replies: dict[str, Message] = {}  # made once, and filled anew each round

    def configure(self, round: int, arrays: Arrays, config: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Let the strategy note the round's arrays and say what it wants in each train message.

        Args:
            round: The federation's round, from 1, counted on after a restart.
            arrays: Name -> shared parameters as every municipality receives them.
            config: What the server puts in each train message anyway.

        Returns:
            The terms the strategy adds or changes, e.g. `{"proximal-mu": 0.01}`; the same for all municipalities.
        """
        if isinstance(self._strategy, FedAvgM):
            # FedAvgM would keep the arrays of its first round; those that the server sends must decide.
            self._strategy.current_arrays = None
        record = ConfigRecord(dict(config))
        with fixed_globals():
            messages = self._strategy.configure_train(round, _array_record(arrays), record, self._grid)
            if not self._replies:
                by_node = {message.metadata.dst_node_id: message for message in messages}
                self._replies = {
                    code: Message(RecordDict(), reply_to=by_node[node])
                    for node, code in enumerate(self._weights, start=1)
                }
        self._round = round
        return {
            key: value
            for key, value in record.items()
            if key != _FLOWERS_ROUND and isinstance(value, Scalar) and (key not in config or config[key] != value)
        }

    def aggregate(self, round: int, arrays: Arrays, updates: Mapping[str, Arrays]) -> dict[str, NDArray[np.float32]]:
        """Make the next model from the updates of one round.

        Args:
            round: The round last given to `configure`.
            arrays: Name -> the round's shared parameters, the same as given to `configure`.
            updates: Kommunekode -> update (local minus received weights), with the names and shapes of `arrays`.

        Returns:
            The next shared parameters, float32, in the order and shapes of `arrays`.

        Raises:
            RunError: No or too few updates, one from outside the federation or of another shape, a round that was not
                configured or is done, or a strategy that gave no finite model. What the strategy remembers stays as it
                was, so that the round can be tried again with other updates.
        """
        self._check(round, arrays, updates)
        before = self.state()
        try:
            # Overflow shows as a model that is not finite: an error that names the array, not a warning.
            with np.errstate(all="ignore"):
                replies = [self._reply(code, arrays, updates[code]) for code in sorted(updates)]
                model = self._step(round, arrays, replies)
        except RunError:
            self.load_state(before)
            raise
        self._round = None  # a round counts once
        return model

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return a copy of all the strategy remembers between rounds, beside the arrays: `attribute/name` -> array."""
        state: dict[str, NDArray[np.generic]] = {}
        for attribute in self._entry.state:
            kept = getattr(self._strategy, attribute) or {}
            named = kept.items() if isinstance(kept, dict) else enumerate(kept)
            state |= {f"{attribute}/{name}": np.array(array) for name, array in named}
        return state

    def load_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Make the strategy remember what `state` returned, replacing all it remembers now.

        Raises:
            StrategyError: The state is another strategy's, or parts of it are missing.
        """
        loaded: dict[str, dict[str, NDArray[np.generic]]] = {attribute: {} for attribute in self._entry.state}
        for key, array in state.items():
            attribute, _, name = key.partition("/")
            if attribute not in loaded:
                raise StrategyError(
                    f"strategy {self._name}: keeps {', '.join(loaded) or 'no state'}, but the checkpoint holds "
                    f"{attribute!r}; resume with the strategy that wrote it"
                )
            loaded[attribute][name] = np.array(array)
        for attribute, arrays in loaded.items():
            is_list = self._entry.state[attribute] is list
            names = [str(place) for place in range(len(arrays))] if is_list else next(iter(loaded.values())).keys()
            if arrays.keys() != set(names):
                raise StrategyError(f"strategy {self._name}: the checkpoint's state lacks arrays; use an older one")
        for attribute, arrays in loaded.items():
            kept = (
                [arrays[str(place)] for place in range(len(arrays))] if self._entry.state[attribute] is list else arrays
            )
            setattr(self._strategy, attribute, kept or None)

    def _check(self, round: int, arrays: Arrays, updates: Mapping[str, Arrays]) -> None:
        if round != self._round:
            self._fail(round, f"is configured for round {self._round}; call configure for this round first")
        least = self._entry.least_updates(self._strategy)
        if len(updates) < least:
            self._fail(round, f"needs updates from {least} municipalities or more, got {len(updates)}")
        shapes = {name: np.shape(array) for name, array in arrays.items()}
        for code in sorted(updates):
            if code not in self._weights:
                self._fail(round, f"got an update from {code}, which has no public weight in this federation")
            if {name: np.shape(array) for name, array in updates[code].items()} != shapes:
                self._fail(
                    round, f"got an update from {code} whose names or shapes are not those of the round's arrays"
                )

    def _reply(self, code: str, arrays: Arrays, update: Arrays) -> Message:
        local = {
            name: np.asarray(array, np.float32) + np.asarray(update[name], np.float32) for name, array in arrays.items()
        }
        reply = self._replies[code]
        reply.content = QuickRecords({self._strategy.arrayrecord_key: _array_record(local)}, self._metrics[code])
        return reply

    def _step(self, round: int, arrays: Arrays, replies: list[Message]) -> dict[str, NDArray[np.float32]]:
        try:
            record, _ = self._strategy.aggregate_train(round, replies)
        except AppExitException as error:
            self._fail(round, f"could not aggregate: {error}")
        if record is None:
            self._fail(round, "gave no model")
        return self._model(round, arrays, record)

    def _model(self, round: int, arrays: Arrays, record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
        if record.keys() != arrays.keys():
            self._fail(round, "gave a model with other names than the round's arrays")
        model: dict[str, NDArray[np.float32]] = {}
        for name, array in arrays.items():
            model[name] = np.asarray(record[name].numpy(), np.float32)  # FedAdam gives float64
            if model[name].shape != np.shape(array):
                self._fail(round, f"gave {name} another shape than the round's arrays")
            if not np.isfinite(model[name]).all():
                self._fail(
                    round, f"gave a model that is not finite in {name}; look for a municipality with huge updates"
                )
        return model

    def _fail(self, round: int, what: str) -> Never:
        raise RunError(f"round {round}: strategy {self._name} {what}")


def _array_record(arrays: Arrays) -> ArrayRecord:
    return array_record({name: np.asarray(array, np.float32) for name, array in arrays.items()}, QuickArray)
