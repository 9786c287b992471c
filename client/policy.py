"""Hold what the municipality allows; it has the last word, and what it does not name is refused.

`policy.yaml` belongs to people: the agent reads it and never writes it. One that is empty, unknown or cannot be read
refuses everything.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from client.language import danish_mistakes
from client.ledger import Budget
from faelles.card import UseCaseCard, describe_mistakes
from faelles.errors import PolicyError
from faelles.keys import PREFIX
from faelles.terms import RunTerms

VERSION = 1
LARGEST_EPSILON = 10.0  # above it nothing is worth the name; no policy may say more
NO_BUDGET = Budget(epsilon=0.0, delta=1e-5)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
PERIOD_START = 2000  # periods are counted from this year's first of January, alike on every machine

Hour = Annotated[time, BeforeValidator(lambda value: value if not isinstance(value, (int, float)) else str(value))]


@dataclass(frozen=True, kw_only=True)
class Hours:
    """Hold when the agent may work, in the machine's local time."""

    days: tuple[int, ...] = tuple(range(7))
    start: time = time.min
    end: time = time.max

    def open(self, now: datetime) -> bool:
        """Say whether work may be done now."""
        local = now.astimezone()
        at = local.time()
        # Hours may go over midnight; a night belongs to the day on which it is asked.
        within = self.start <= at <= self.end if self.start <= self.end else at >= self.start or at <= self.end
        return local.weekday() in self.days and within


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Hold the municipality's rules; an empty policy refuses everything.

    Args:
        special: What an account of a population with special categories of data may ever spend, or in each period.
        otherwise: The same for other populations.
        period_months: How long a period is; None where a budget is for life.
        largest_run_share: Which share of the budget's epsilon one run may ask for.
        reservation_days: How long a run may draw on what it reserved; None where it never expires.
        cards: Ids or hashes of cards that may be approved; None for all.
        two_people_approve: Whether an approval takes two people's keys.
        two_people_register: Whether a new population does.
        people: Their names and public keys.
        updates: Whether updates of shared parameters may leave at all.
        histograms: Whether score histograms may.
        hours: When the agent may work.
        threads: Of the processor.
        memory_mb: Of memory; None where the machine's is the limit.
    """

    special: Budget = NO_BUDGET
    otherwise: Budget = NO_BUDGET
    period_months: int | None = None
    largest_run_share: float = 1.0
    reservation_days: int | None = None
    cards: tuple[str, ...] | None = ()
    two_people_approve: bool = False
    two_people_register: bool = False
    people: Mapping[str, str] = field(default_factory=dict)
    updates: bool = False
    histograms: bool = False
    hours: Hours = Hours()
    threads: int = 1
    memory_mb: int | None = None

    def budget(self, special_categories: bool) -> Budget:
        """Choose the budget of a population."""
        return self.special if special_categories else self.otherwise

    def allows_card(self, card: UseCaseCard) -> bool:
        """Say whether a card may be approved."""
        return self.cards is None or card.id in self.cards or card.sha256 in self.cards

    def allows_terms(self, card: UseCaseCard, terms: RunTerms, budget: Budget) -> bool:
        """Say whether a run's terms stay within the card; an infinite epsilon needs an infinite budget."""
        return budget.epsilon == math.inf if terms.epsilon == math.inf else terms.within(card)

    def run_cap(self, budget: Budget) -> float:
        """Give the most that one run may cost in either part of a population, at the budget's delta."""
        return self.largest_run_share * budget.epsilon

    def period(self, now: datetime) -> str:
        """Name the period that a time falls in; empty where a budget is for life."""
        if self.period_months is None:
            return ""
        utc = now.astimezone(UTC)
        months = (utc.year - PERIOD_START) * 12 + utc.month - 1
        return f"{self.period_months} months, number {months // self.period_months}"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _BudgetPart(_Part):
    epsilon: Annotated[float, Field(gt=0, le=LARGEST_EPSILON)]
    delta: Annotated[float, Field(gt=0, lt=0.01)]


class _BudgetsPart(_Part):
    special_categories: _BudgetPart
    otherwise: _BudgetPart
    period_months: Annotated[int, Field(ge=1, le=120)] | None
    largest_run_share: Annotated[float, Field(gt=0, le=1)]
    reservation_days: Annotated[int, Field(ge=1, le=366)]


class _PeoplePart(_Part):
    approval: bool
    population: bool


class _ReleasesPart(_Part):
    updates: bool
    histograms: bool


class _HoursPart(_Part):
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...]
    start: Hour
    end: Hour


def _cards(value: object) -> object:
    """Let a list of texts or the word all pass; pydantic would tell each other value as two mistakes of its types."""
    if value == "all" or (isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)):
        return value
    raise PolicyError(
        "should be a list such as [elder-admission], or the word all",
        da="skal være en liste som [elder-admission] eller ordet all",
    )


class _LimitsPart(_Part):
    threads: Annotated[int, Field(ge=1, le=1024)]
    memory_mb: Annotated[int, Field(ge=512)] | None


class PolicyFile(_Part):
    """Hold policy.yaml as it stands; every field is named, so that nothing is allowed by being left out."""

    version: Literal[1]
    budget: _BudgetsPart
    cards: Annotated[tuple[str, ...] | Literal["all"], BeforeValidator(_cards)]
    two_people: _PeoplePart
    people: Mapping[Annotated[str, Field(pattern=r"^[\w. -]{1,64}$")], str]
    releases: _ReleasesPart
    working_hours: _HoursPart | None
    limits: _LimitsPart

    @model_validator(mode="after")
    def _keys(self) -> Self:
        if not all(key.startswith(PREFIX) for key in self.people.values()):
            raise PolicyError(
                f"people lists names with public keys that begin with {PREFIX}",
                da=f"people skal være navne med offentlige nøgler, der begynder med {PREFIX}",
            )
        if len(set(self.people.values())) != len(self.people):
            raise PolicyError(
                "people gives two names the same key; two people need two keys",
                da="people giver to navne den samme nøgle; to mennesker skal have hver sin",
            )
        return self

    def policy(self) -> Policy:
        """Give the rules that the agent follows."""
        budget, hours = self.budget, self.working_hours
        return Policy(
            special=Budget(**budget.special_categories.model_dump()),
            otherwise=Budget(**budget.otherwise.model_dump()),
            period_months=budget.period_months,
            largest_run_share=budget.largest_run_share,
            reservation_days=budget.reservation_days,
            cards=None if self.cards == "all" else tuple(self.cards),
            two_people_approve=self.two_people.approval,
            two_people_register=self.two_people.population,
            people=dict(self.people),
            updates=self.releases.updates,
            histograms=self.releases.histograms,
            hours=Hours()
            if hours is None
            else Hours(days=tuple(DAYS.index(day) for day in hours.days), start=hours.start, end=hours.end),
            threads=self.limits.threads,
            memory_mb=self.limits.memory_mb,
        )


def load_policy(path: Path) -> Policy:
    """Read policy.yaml.

    Raises:
        PolicyError: It is missing, empty, or holds a mistake; until it is mended everything is refused.
    """
    fields = _fields(path)
    try:
        return PolicyFile.model_validate(fields).policy()
    except ValidationError as error:
        mistakes = describe_mistakes(error, values=False)
        danish = danish_mistakes(error)
        raise PolicyError(
            f"{path}: {error.error_count()} mistake(s): {mistakes}; until it is mended everything is refused",
            da=f"{path}: {error.error_count()} fejl: {danish}; indtil den er rettet, afvises alt",
        ) from None


def _fields(path: Path) -> Mapping[str, Any]:
    fields = line = None
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        # Beside its own errors PyYAML lets through what Python says of a date, a number or a nesting that cannot be.
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None  # of its text nothing is told: it quotes what stands there
    if isinstance(fields, Mapping):
        return fields
    if line:
        raise PolicyError(
            f"{path}: expected a policy in YAML, line {line} cannot be read as that; check indentation and quotes "
            "there and just above; until it is mended everything is refused",
            da=f"{path}: skulle være en politik i YAML, men linje {line} kan ikke læses; se efter indrykning og "
            "anførselstegn dér og lige over; indtil den er rettet, afvises alt",
        )
    raise PolicyError(
        f"{path}: expected a policy in YAML, found none that can be read; until it is mended everything is refused",
        da=f"{path}: skulle være en politik i YAML, men kan ikke læses; indtil den er rettet, afvises alt",
    )


def policy_or_nothing(path: Path) -> Policy:
    """Read policy.yaml, or refuse everything where it cannot be read."""
    try:
        return load_policy(path)
    except PolicyError:
        return Policy()
