"""Plan what a municipality's training does to its citizens' data, before any of it is done.

A PrivacyPlan couples sampling, clipping, noise and accounting, so that what is accounted cannot drift from what is
done. It depends on the declared size only, a public band, never on the true count; both sides compute the same plan.

    >>> plan = PrivacyPlan.solve(epsilon=2.0, delta=1e-5, declared_size=1000, batch_size=256, rounds=30, local_steps=10,
    ...                          clipping_norm=1.0)
    >>> plan.noise_multiplier, round(plan.epsilon, 3)
    (9.6352, 2.0)
    >>> round(plan.epsilon_after(15), 3)
    1.372

What happens when a budget is used up is the ledger's matter; who may ask for which plan is the policy's.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from typing import Self, get_type_hints

from faelles.card import UseCaseCard
from faelles.errors import PlanError, WireError
from faelles.privacy import _validate, accountant, calibration
from faelles.privacy._validate import MAX_COUNT
from faelles.privacy.accountant import Curve, Event

DECLARED_SIZES: tuple[int, ...] = (
    *(10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000),
)
"""The public bands a municipality may state as the size of a population."""

MAX_ROUNDS = 10_000
"""The most rounds that `PrivacyPlan.solve` proposes, as in a card."""


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """Couple sampling, clipping, noise and accounting of one municipality's training.

    Guarantees:
        - Every property is a function of the fields alone; equal plans have equal curves on both sides.
        - `from_json(to_json())` gives an equal plan.

    Assumes:
        - Each local step takes each unit independently with `sampling_rate`, clips what a unit adds to
          `clipping_norm`, adds noise of standard deviation noise_multiplier * clipping_norm to the sum in every
          coordinate, and divides by `divisor`. Empty steps add noise too.

    Args:
        declared_size: Units in the population by public statement, 1 to MAX_COUNT.
        batch_size: Units that a step takes on average, 1 to MAX_COUNT.
        rounds: Exchanges with the coordinator, 1 to MAX_COUNT.
        local_steps: Noisy steps in each round, 1 to MAX_COUNT.
        clipping_norm: L2 norm to which a unit's gradient is clipped, above 0.
        noise_multiplier: Noise over clipping norm; 0 is no privacy, for simulations only.
        delta: Probability in (0, 1) outside the guarantee.
        unit: What is protected, in English, e.g. citizen.
        noise: Where noise is added: local, in each municipality.

    Raises:
        PlanError: A term is outside its range.
    """

    declared_size: int
    batch_size: int
    rounds: int
    local_steps: int
    clipping_norm: float
    noise_multiplier: float
    delta: float
    unit: str = "citizen"
    noise: str = "local"

    def __post_init__(self) -> None:
        for name in ("declared_size", "batch_size", "rounds", "local_steps"):
            _validate.count(name, getattr(self, name))
        # As floats, so that 1 and 1.0 are one plan with one JSON text.
        object.__setattr__(self, "delta", _validate.delta(self.delta))
        object.__setattr__(self, "clipping_norm", _validate.number("clipping_norm", self.clipping_norm, above=0))
        object.__setattr__(self, "noise_multiplier", _validate.number("noise_multiplier", self.noise_multiplier))
        if self.noise_multiplier < 0:
            raise PlanError(f"noise_multiplier={self.noise_multiplier}: expected >= 0; leave it out to have it solved")
        if type(self.unit) is not str or not 1 <= len(self.unit) <= 64 or not self.unit.isprintable():
            raise PlanError(
                "unit: expected a name of 1 to 64 letters for what is protected; a common choice is citizen"
            )
        if self.noise != "local":
            raise PlanError(f"noise={self.noise!r:.40}: expected 'local', the only one supported so far; write that")

    @property
    def sampling_rate(self) -> float:
        """Give the probability with which a step takes a unit: min(1, batch_size / declared_size)."""
        return min(1.0, self.batch_size / self.declared_size)

    @property
    def divisor(self) -> float:
        """Give what a step's noisy sum is divided by, in units: sampling_rate * declared_size."""
        return float(min(self.batch_size, self.declared_size))

    @property
    def steps(self) -> int:
        """Count the noisy steps of the whole plan."""
        return self.rounds * self.local_steps

    @property
    def private(self) -> bool:
        """Tell whether there is any noise at all."""
        return self.noise_multiplier > 0

    @property
    def round_event(self) -> Event:
        """Give what one round does, as the account books it."""
        return self._event(self.local_steps)

    @property
    def curve(self) -> Curve:
        """Compute the Rényi curve of the whole plan."""
        return accountant.rdp_curve(self._event(self.steps))

    @property
    def epsilon(self) -> float:
        """Compute what the whole plan spends, an upper bound at `delta`; inf where it is not private."""
        return accountant.epsilon(self.curve, self.delta)

    @property
    def prv_epsilon(self) -> float:
        """Compute a tighter epsilon of this frozen plan, to be shown beside `epsilon` and never to be booked."""
        return accountant.prv_epsilon([self._event(self.steps)], self.delta)

    def epsilon_after(self, rounds: int) -> float:
        """Compute what the first rounds spend together.

        Guarantees:
            - Never falls with `rounds`; 0 after no round, `epsilon` after all of them.

        Args:
            rounds: 0 to the plan's rounds.

        Raises:
            PlanError: The plan does not have that many rounds.
        """
        _validate.count("rounds", rounds, 0, self.rounds)
        return accountant.epsilon(accountant.rdp_curve(self._event(rounds * self.local_steps)), self.delta)

    def to_json(self) -> str:
        """Render the plan as canonical JSON: sorted keys, no spaces, equal text for equal plans."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a plan from JSON that another party may have written.

        Guarantees:
            - Nothing but a valid plan comes back: no unknown, missing or repeated key, no wrong type, no NaN.

        Args:
            text: A JSON object with exactly the fields of a plan.

        Raises:
            WireError: The text is no JSON object with exactly the plan's keys and types.
            PlanError: A term is outside its range.
        """
        terms = _validate.json_object("plan", text)
        types = get_type_hints(cls)
        if set(terms) != set(types):
            raise WireError(f"plan: expected exactly the keys {', '.join(sorted(types))}; write it with to_json")
        for name, kind in types.items():
            if type(terms[name]) not in ((int, float) if kind is float else (kind,)):
                came = type(terms[name]).__name__
                raise WireError(f"plan.{name}: expected {kind.__name__}, came {came}; write it with to_json")
        return cls(**terms)  # type: ignore[arg-type]  # just checked, one by one

    @classmethod
    def solve(
        cls,
        *,
        local_steps: int,
        clipping_norm: float,
        epsilon: float | None = None,
        delta: float | None = None,
        noise_multiplier: float | None = None,
        rounds: int | None = None,
        batch_size: int | None = None,
        declared_size: int | None = None,
        unit: str = "citizen",
        noise: str = "local",
    ) -> "PrivacyPlan":
        """Solve the one term that is None: epsilon, delta, noise_multiplier, rounds, batch_size or declared_size.

        Guarantees:
            - The plan never spends more than the epsilon asked for; epsilon inf gives noise_multiplier 0.
            - A solved noise_multiplier is the smallest of five significant digits (at least 0.01); at epsilon 2 the
              plan spends 1.98 to 2.
            - Solved rounds (at most MAX_ROUNDS) and batch_size are the largest, declared_size (not below batch_size)
              and delta the smallest that keep epsilon.
            - Equal terms give equal plans; each (sampling rate, steps, epsilon, delta) is solved once in a process.

        Args:
            epsilon: What the whole plan may spend, above 0. The other terms are the fields of the plan.

        Raises:
            PlanError: Not exactly one term is missing, terms contradict each other, or no value keeps epsilon.

            >>> PrivacyPlan.solve(epsilon=1.0, delta=1e-5, noise_multiplier=4.0, declared_size=5000, batch_size=64,
            ...                   local_steps=5, clipping_norm=1.0).rounds
            1141
        """
        missing = _the_missing(
            {"epsilon": epsilon, "delta": delta, "noise_multiplier": noise_multiplier}
            | {"rounds": rounds, "batch_size": batch_size, "declared_size": declared_size}
        )
        # The draft holds a harmless value for the missing term, so that every other term is checked before solving.
        draft = cls(
            declared_size=MAX_COUNT if declared_size is None else declared_size,
            batch_size=1 if batch_size is None else batch_size,
            rounds=1 if rounds is None else rounds,
            local_steps=local_steps,
            clipping_norm=clipping_norm,
            noise_multiplier=0.0 if noise_multiplier is None else noise_multiplier,
            delta=0.5 if delta is None else delta,
            unit=unit,
            noise=noise,
        )
        return draft if epsilon is None else _complete(draft, missing, _validate.epsilon(epsilon))

    def _event(self, steps: int) -> Event:
        return Event(sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier, steps=steps)


def plan_for(
    card: UseCaseCard,
    declared_size: int,
    *,
    epsilon: float | None = None,
    rounds: int | None = None,
    local_steps: int | None = None,
    batch_size: int | None = None,
    delta: float | None = None,
    clipping_norm: float | None = None,
) -> PrivacyPlan:
    """Make the plan of one municipality for a card, with its noise solved from the declared size.

    Guarantees:
        - The plan spends no more than epsilon at delta, whatever the true count is.
        - Equal cards, sizes and terms give equal plans on both sides.

    Args:
        card: The use case.
        declared_size: The band the municipality stated, in units.
        epsilon: Instead of the card's; inf for no noise at all (simulations).
        rounds: Instead of the card's.
        local_steps: Instead of the card's; where the card counts epochs, ceil(declared_size / batch_size) each.
        batch_size: Instead of the card's.
        delta: Instead of the card's.
        clipping_norm: Instead of the card's.

    Raises:
        PlanError: A term is outside its range, or no noise keeps epsilon.
    """
    size = _validate.count("declared_size", declared_size)
    batch = _validate.count("batch_size", card.training.batch_size if batch_size is None else batch_size)
    steps = card.training.local_steps if local_steps is None else local_steps
    if steps is None:
        steps = -(-size // batch) * (card.training.local_epochs or 1)
    return PrivacyPlan.solve(
        epsilon=card.privacy.epsilon if epsilon is None else epsilon,
        delta=card.privacy.delta if delta is None else delta,
        declared_size=size,
        batch_size=batch,
        rounds=card.training.rounds if rounds is None else rounds,
        local_steps=steps,
        clipping_norm=card.privacy.clipping_norm if clipping_norm is None else clipping_norm,
        unit=card.unit_name.en,
        noise=card.privacy.noise,
    )


def declared_band(count: int) -> int:
    """Choose the band that a municipality states for a population, nearest in ratio, the lower one on a tie.

    The band is public; the count it comes from is not. So it is stated once, when a card is approved.

    Guarantees:
        - The band is one of DECLARED_SIZES, at least 10, and never falls when the count rises.

    Args:
        count: Units in the population, at least 0.

    Raises:
        PlanError: The count is negative or not whole.

        >>> [declared_band(count) for count in (0, 13, 70, 95, 1200, 3_000_000)]
        [10, 10, 50, 100, 1000, 1000000]
    """
    _validate.count("count", count, 0, sys.maxsize)
    # Ratios as products of whole numbers: exact, where logarithms would break ties at random.
    best = DECLARED_SIZES[0]
    for size in DECLARED_SIZES[1:]:
        best = size if count * count > best * size else best
    return best


def gaussian_noise_multiplier(epsilon: float, delta: float) -> float:
    """Solve the noise of one release that every unit enters and changes by at most 1 in L2 norm.

    Guarantees:
        - The release is (epsilon, delta)-differentially private, by the same accounting as training.
        - 0 where epsilon is inf; otherwise the smallest of five significant digits (at least 0.01).

    Args:
        epsilon: What the release may spend, above 0.
        delta: Probability in (0, 1) outside the guarantee.

    Raises:
        PlanError: A term is outside its range, or no noise keeps epsilon.

        >>> gaussian_noise_multiplier(0.5, 1e-5)
        7.6674
    """
    _validate.delta(delta)
    if _validate.epsilon(epsilon) == math.inf:
        return 0.0
    return calibration.smallest_noise_multiplier(1.0, 1, float(epsilon), delta)


def gaussian_event(epsilon: float, delta: float) -> Event:
    """Give the event of the release that `gaussian_noise_multiplier` solves, e.g. the evaluation of a card.

    Guarantees:
        - Its curve spends no more than epsilon at delta.

    Args:
        epsilon: As `gaussian_noise_multiplier`.
        delta: As `gaussian_noise_multiplier`.

    Raises:
        PlanError: As `gaussian_noise_multiplier`.
    """
    return Event(sampling_rate=1.0, noise_multiplier=gaussian_noise_multiplier(epsilon, delta), steps=1)


def _complete(draft: PrivacyPlan, missing: str, epsilon: float) -> PrivacyPlan:
    """Fill the missing term of a checked draft."""
    if math.isinf(epsilon) and missing == "noise_multiplier":
        return draft
    if math.isinf(epsilon):
        raise PlanError(
            f"epsilon=inf leaves {missing} open: expected a finite epsilon; leave out noise_multiplier only"
        )
    if missing == "noise_multiplier":
        solved = calibration.smallest_noise_multiplier(draft.sampling_rate, draft.steps, epsilon, draft.delta)
        return replace(draft, noise_multiplier=solved)
    if not draft.private:
        raise PlanError("noise_multiplier=0 with a finite epsilon: expected noise; leave it out to have it solved")
    if missing == "delta":
        return replace(draft, delta=calibration.smallest_delta(draft.curve, epsilon))
    return _complete_count(draft, missing, epsilon)


def _complete_count(draft: PrivacyPlan, missing: str, epsilon: float) -> PrivacyPlan:
    """Fill rounds, batch_size or declared_size: the last count that still keeps epsilon, or the first that does."""
    if missing == "declared_size":
        too_small = calibration.last(
            lambda count: replace(draft, declared_size=count).epsilon > epsilon, draft.batch_size, MAX_COUNT
        )
        if too_small is None or too_small < MAX_COUNT:
            return replace(draft, declared_size=draft.batch_size if too_small is None else too_small + 1)
    elif missing == "batch_size":
        batch_size = calibration.last(
            lambda count: replace(draft, batch_size=count).epsilon <= epsilon, 1, draft.declared_size
        )
        if batch_size is not None:
            return replace(draft, batch_size=batch_size)
    else:
        rounds = calibration.last(lambda count: replace(draft, rounds=count).epsilon <= epsilon, 1, MAX_ROUNDS)
        if rounds is not None:
            return replace(draft, rounds=rounds)
    raise PlanError(f"epsilon={epsilon:g}: expected a {missing} that keeps it, none does; raise noise_multiplier")


def _the_missing(terms: dict[str, float | None]) -> str:
    missing = [name for name, value in terms.items() if value is None]
    if len(missing) != 1:
        came = ", ".join(missing) or "none"
        raise PlanError(f"expected exactly one of {', '.join(terms)} to be left out, came {came}; leave out one")
    return missing[0]
