"""Describe one use case: what is learned, from which columns, with which privacy, under which law.

A card is identified by the SHA-256 of its canonical JSON; a municipality's approval pins that hash, so nothing in a
card can change behind it. Ranges and categories in a card are public facts and never computed from data: that is why
preprocessing costs no privacy.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from faelles.errors import CardError

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,47}$")]
Column = Annotated[str, Field(min_length=1, max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]


def _as_text(value: object) -> object:
    """Read a number in YAML as text, so that the categories 1 and a are both names; true needs quotes, as no does."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Category = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=64)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bilingual(_Part):
    """Hold one text in Danish and English."""

    da: str = Field(min_length=1)
    en: str = Field(min_length=1)


class NumberFeature(_Part):
    """Declare a numeric column by its public range; with `bins`, as that many equal-width one-hot bins."""

    name: Column
    kind: Literal["number"]
    min: Finite
    max: Finite
    unit: str | None = None
    bins: Annotated[int, Field(ge=2, le=1000)] | None = None

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.min < self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}; write the public range of the column")
        if not math.isfinite(self.max - self.min):
            raise ValueError("the range from min to max is wider than a number can be; write the public range")
        return self


class CategoryFeature(_Part):
    """Declare a categorical column by the public list of its values, compared as text."""

    name: Column
    kind: Literal["category"]
    values: Annotated[tuple[Category, ...], Field(min_length=2, max_length=1000)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.values)) != len(self.values):
            raise ValueError("values holds a category twice; list each once")
        return self


Feature = Annotated[NumberFeature | CategoryFeature, Field(discriminator="kind")]


class Label(_Part):
    """Declare the column to learn. Classes are listed in order; a binary label's second class is the positive one."""

    column: Column
    kind: Literal["binary", "multiclass"]
    values: tuple[Category, ...] = ("0", "1")

    @model_validator(mode="after")
    def _classes(self) -> Self:
        distinct = len(set(self.values)) == len(self.values)
        if not distinct or (len(self.values) != 2 if self.kind == "binary" else len(self.values) < 3):
            wanted = "exactly 2" if self.kind == "binary" else "3 or more"
            raise ValueError(f"a {self.kind} label takes {wanted} different values; list them under label.values")
        return self


class ModelSpec(_Part):
    """Choose the model, and by name the parameters that stay in the municipality."""

    kind: Literal["logistic", "mlp"]
    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = ()
    local: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _parameters(self) -> Self:
        if (self.kind == "mlp") != bool(self.hidden):
            raise ValueError("hidden lists the widths of an mlp, e.g. [32, 16]; a logistic model has none")
        unknown = sorted(set(self.local) - set(self.parameter_names))
        if unknown:
            raise ValueError(f"local names {', '.join(unknown)}; known are {', '.join(self.parameter_names)}")
        if not set(self.parameter_names) - set(self.local):
            raise ValueError("local names every parameter, so nothing would be learned together; leave some shared")
        return self

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """List every parameter in the order in which the vector of clipped gradients holds them."""
        layers = [f"hidden.{i}" for i in range(len(self.hidden))] + ["output"]
        return tuple(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))


class Training(_Part):
    """Fix the work: rounds, local steps (or epochs of the declared size), expected batch, learning rate."""

    rounds: Annotated[int, Field(ge=1, le=10_000)]
    local_steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    local_epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    batch_size: Count
    learning_rate: Positive

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if (self.local_steps is None) == (self.local_epochs is None):
            raise ValueError("give either local_steps or local_epochs, not both and not neither")
        return self


class PrivacyRequest(_Part):
    """Ask for a privacy guarantee; a municipality's policy may refuse it."""

    epsilon: Positive
    delta: Annotated[float, Field(gt=0, lt=0.01)]
    clipping_norm: Annotated[float, Field(ge=1e-6, le=1e6)]  # where float32 gradients can hold it
    noise: Literal["local"] = "local"


class Evaluation(_Part):
    """Fix the score histogram that is released once, from citizens held out for life."""

    epsilon: Positive = 0.5
    bins: Annotated[int, Field(ge=2, le=200)] = 20
    held_out: Share = 0.2


class Basis(_Part):
    """Name the legal basis of each phase; null where there is none yet."""

    develop: str | None = None
    retrain: str | None = None
    operate: str | None = None


class Law(_Part):
    """State what the law says of the use case."""

    special_categories: bool
    ai_act: str
    basis: Basis


class UseCaseCard(_Part):
    """Hold the one description of a use case that both sides agree on."""

    id: Identifier
    version: Count
    title: Bilingual
    category: Literal[
        "perception", "automation", "autonomous", "conversation", "knowledge", "decision",
        "segmentation", "anomaly", "forecasting", "recommendation", "generation", "optimisation",
    ]  # fmt: skip
    model_type: Literal["general", "specific", "specific-hyperlocal", "hyperlocal"]
    unit: Column | None
    unit_name: Bilingual = Bilingual(da="borger", en="citizen")
    max_rows_per_unit: Annotated[int, Field(ge=1, le=1000)] = 1
    label: Label
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    model: ModelSpec
    training: Training
    privacy: PrivacyRequest
    evaluation: Evaluation = Evaluation()
    law: Law
    note: Bilingual | None = None

    @model_validator(mode="after")
    def _columns(self) -> Self:
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"features names {', '.join(twice)} twice; declare each column once")
        if self.label.column in names:
            raise ValueError(f"the label {self.label.column} is also a feature; a model must not see its answer")
        if self.unit in names or self.unit == self.label.column:
            raise ValueError(f"the unit {self.unit} is also a feature or the label; it only tells citizens apart")
        if self.unit is None and self.max_rows_per_unit != 1:
            raise ValueError("max_rows_per_unit must be 1 where unit is null, for then a row is a unit")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """List every column that the contract reads."""
        unit = () if self.unit is None else (self.unit,)
        return (*unit, *(feature.name for feature in self.features), self.label.column)

    @property
    def canonical_json(self) -> str:
        """Render the card as the one JSON text its hash is taken of."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def sha256(self) -> str:
        """Identify the card: 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()


def parse_card(fields: object, name: str = "card") -> UseCaseCard:
    """Check the fields of a card and report every mistake at once.

    Args:
        fields: What a YAML or JSON text of a card held.
        name: How to call the card in an error.

    Raises:
        CardError: One mistake a line: its path, what was expected, what came.
    """
    if not isinstance(fields, Mapping):
        raise CardError(f"{name}: expected a card (a mapping of fields such as id, label, features)")
    try:
        return UseCaseCard.model_validate(fields)
    except ValidationError as error:
        raise CardError(f"{name}: {error.error_count()} mistake(s): {describe_mistakes(error)}") from None


def load_card(path: Path) -> UseCaseCard:
    """Read a card from a YAML file.

    Raises:
        CardError: The file is missing, is no YAML, or holds mistakes.
    """
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise CardError(f"{path}: expected a card.yaml that can be read; write one as docs/cards.md shows") from None
    except (yaml.YAMLError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        # Beside its own errors PyYAML lets through what Python says of a date, a number or a nesting that cannot be.
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" at line {line + 1}"
        raise CardError(f"{path}: expected YAML in UTF-8, it breaks off{where}; check indentation and quotes") from None
    return parse_card(fields, str(path))


def describe_mistakes(error: ValidationError, *, values: bool = True) -> str:
    """Write every mistake that pydantic found on one line: its path, what was expected and, with `values`, what came.

    A card is public, and what came helps to mend it; a municipality's own files may hold what nobody should repeat.
    """
    return "; ".join(_describe(detail, values) for detail in error.errors(include_url=False))


def _describe(detail: Any, values: bool) -> str:
    place = list(detail["loc"])
    if place[:1] == ["features"] and len(place) > 2:
        del place[2]  # pydantic's tag for the kind of feature; it stands in no card
    path = ".".join(str(part) for part in place) or "card"
    path = path if path.isprintable() else repr(path)
    # Pydantic repeats tags that nobody declared, with whatever cannot be seen in them.
    message = "".join(letter if letter.isprintable() else "?" for letter in detail["msg"].removeprefix("Value error, "))
    kind = detail["type"]
    if kind == "missing":
        return f"{path}: is missing; write it"
    if kind == "extra_forbidden":
        return f"{path}: is no known field; remove it or correct its name"
    came = detail["input"]
    # Python refuses to write out an integer of thousands of digits.
    short = isinstance(came, (str, float, type(None))) or (isinstance(came, int) and came.bit_length() < 200)
    shown = f" (came: {came!r:.60})" if values and short else ""
    word = message.split(" ")[0]
    whole = len(word) > 1 and word.isupper()  # an abbreviation such as CVR
    return f"{path}: {message if whole else message[0].lower() + message[1:]}{shown}"
