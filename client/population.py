"""Read a population as a contract names it: whose citizens, from which source, and what its columns and values mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from client.dataset import keyed_hashes
from client.source import SourceSettings, open_source
from faelles.card import NumberFeature, UseCaseCard
from faelles.errors import DataError, PolicyError
from faelles.features import as_text, column_of, numbers

# A whole part, in which points or spaces may separate thousands; decimals after a comma.
_DANISH = r"^[+-]?(?:(?:[1-9][0-9]{0,2}(?:[. ][0-9]{3})+|[0-9]+)(?:,[0-9]+)?|,[0-9]+)(?:[eE][+-]?[0-9]{1,3})?$"
# What is left: decimals after a point.
_POINT = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?$"
# As systems that speak English write: commas or spaces between thousands, decimals after a point.
_ENGLISH = r"^[+-]?(?:(?:[1-9][0-9]{0,2}(?:[, ][0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?$"

_AFTER_DAY = r"(?:0[1-9]|1[0-2])[0-9]{2})[\s\-\x{2010}-\x{2015}\x{2212}]{0,3}([0-9]{4})(?:[.,]0+)?$"
_CPR = r"^((?:0[1-9]|[12][0-9]|3[01]|6[1-9]|[78][0-9]|9[01])" + _AFTER_DAY
_CPR_WITHOUT_ZERO = r"^([1-9]" + _AFTER_DAY

# YAML reads 1 as a number; a mapping means the text.
_Text = Annotated[
    str, BeforeValidator(lambda value: str(value) if isinstance(value, int) and not isinstance(value, bool) else value)
]


class PopulationSettings(BaseModel):
    """State what a population is, as it stands under populations in agent.yaml.

    Args:
        citizen: The local name of the column that tells citizens apart.
        source: Where the rows are.
        special_categories: Whether they hold special categories of data, such as health.
        held_out: The share of citizens that are never trained on.
        columns: The contract's names to local ones; a name that is left out is the same.
        values: For some of the contract's columns, local values to the contract's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    citizen: str = Field(min_length=1)
    source: SourceSettings
    special_categories: bool = True
    held_out: float = Field(default=0.2, gt=0, lt=1)
    columns: Mapping[str, str] = Field(default_factory=dict)
    values: Mapping[str, Mapping[_Text, _Text]] = Field(default_factory=dict)


def read(settings: PopulationSettings, card: UseCaseCard, folder: Path) -> pa.Table:
    """Read a population's rows for a card, ready to be encoded.

    Args:
        settings: The population.
        card: The use case.
        folder: What relative paths are relative to.

    Raises:
        PolicyError: The card would do without the population's citizens, or learn who they are.
        DataError: The source cannot be read, or a column is missing or of a wrong type.
    """
    return conform(card, read_raw(settings, card, folder))


def read_raw(settings: PopulationSettings, card: UseCaseCard, folder: Path) -> pa.Table:
    """Read the contract's columns under its names, values as the source has them, mapped ones as the contract has them.

    Args:
        settings: The population.
        card: The use case; its unit is always read from the population's citizen column.
        folder: What relative paths are relative to.

    Raises:
        PolicyError: The card would do without the population's citizens, or learn who they are.
        DataError: The source cannot be read, or columns are missing, all of which are named.
    """
    local = {name: settings.columns.get(name, name) for name in card.columns if name != card.unit}
    _keep_citizens(settings, card, local)
    local = {name: settings.citizen if name == card.unit else local[name] for name in card.columns}
    table = open_source(settings.source, folder).read(list(dict.fromkeys(local.values())))
    columns = {name: column_of(table, source) for name, source in local.items()}
    for name in columns.keys() - {card.unit}:
        if name in settings.values:
            columns[name] = _mapped(columns[name], settings.values[name])
    if settings.source.decimal == ".":
        for feature in card.features:
            if isinstance(feature, NumberFeature) and _is_text(columns[feature.name].type):
                columns[feature.name] = _danish(columns[feature.name])
    return pa.table(columns)


def conform(card: UseCaseCard, raw: pa.Table) -> pa.Table:
    """Convert the columns to what a contract's kinds are read from; what cannot be read is null.

    Numbers may be written as text: 1234,5 and 1.234,5 and 1 234,5 and 1234.5 are the same. Where a text has two
    meanings the Danish one wins: a single point before exactly three digits separates thousands, so 1.234 is 1234,
    unless what stands before it is 0 or longer than three digits. (A source whose settings say `decimal: "."` has been
    rewritten by `read_raw`.)

    A citizen has one name in every extract: a CPR number loses hyphen and blanks, and gets back the zero that it loses
    where it is kept as a number.

    Guarantees: whether it raises depends on names and types alone, never on a value.

    Args:
        card: The use case.
        raw: Its columns, under the contract's names; others are left out.

    Returns:
        The contract's columns in its order: float64 for numbers, text for the rest.

    Raises:
        DataError: A column is missing or has a type that its kind cannot be read from.
    """
    columns = {} if card.unit is None else {card.unit: _citizens(column_of(raw, card.unit), card.unit)}
    for feature in card.features:
        column = column_of(raw, feature.name)
        if isinstance(feature, NumberFeature):
            columns[feature.name] = _numbers(column, feature.name)
        else:
            columns[feature.name] = _categories(column, feature.values, feature.name)
    label = card.label
    columns[label.column] = _categories(column_of(raw, label.column), label.values, label.column)
    return pa.table(columns)


def citizen_hashes(settings: PopulationSettings, folder: Path, key: bytes) -> NDArray[np.uint64]:
    """Hash the identity of each citizen once, so that two populations can be compared without keeping who they are.

    Args:
        settings: The population.
        folder: What relative paths are relative to.
        key: The municipality's secret key, 32 bytes.

    Returns:
        The hashes, distinct and sorted.

    Raises:
        DataError: The source cannot be read, or its citizen column is missing or of a wrong type.
    """
    table = open_source(settings.source, folder).read([settings.citizen])
    citizens = _citizens(column_of(table, settings.citizen), settings.citizen).drop_null().unique()
    return np.unique(keyed_hashes(key, b"overlap", (citizen.as_py().encode() for citizen in citizens)))


def overlap(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Tell which share of the smaller of two populations is in both; 0 where one is empty.

    Args:
        a: What `citizen_hashes` gave.
        b: The same of the other population, under the same key.
    """
    smaller = min(len(a), len(b))
    return len(np.intersect1d(a, b, assume_unique=True)) / smaller if smaller else 0.0


def _keep_citizens(settings: PopulationSettings, card: UseCaseCard, local: Mapping[str, str]) -> None:
    """Refuse a card that does without the unit of privacy, or that learns from it."""
    if card.unit is None:
        raise PolicyError(
            f"card {card.id}: expected one that names its citizens, its unit is null; that is for public data only",
            da=f"kort {card.id}: skal nævne borgerne, men unit er null; det er kun til offentlige data",
        )
    # Some databases do not tell capital letters apart.
    learned = [name for name, source in local.items() if source.casefold() == settings.citizen.casefold()]
    if learned:
        raise PolicyError(
            f"card {card.id}: expected columns other than the citizen's, {', '.join(learned)} is read from it; map "
            "another under columns in agent.yaml, or decline the card",
            da=f"kort {card.id}: {', '.join(learned)} læses fra borgerens kolonne; angiv en anden under columns i "
            "agent.yaml, eller sig nej til kortet",
        )


def _mapped(column: pa.Array, values: Mapping[str, str]) -> pa.Array:
    """Write the contract's values for local ones, compared as text; others stay."""
    try:
        text = column.cast(pa.string()) if pa.types.is_boolean(column.type) else as_text(column, "")
    except DataError:
        return column  # its type is told with the column's name later, or by the contract report
    known = pc.index_in(pc.utf8_trim_whitespace(text), value_set=pa.array(list(values), pa.string()))
    mapped = pa.array(list(values.values()), pa.string()).take(known)
    return pc.coalesce(mapped, text, column.cast(pa.string()))


def _danish(column: pa.Array) -> pa.Array:
    """Write numbers that have a decimal point as Danish ones; other texts stay."""
    text = _tidy(column)
    swapped = pc.replace_substring(pc.replace_substring(text, ",", ""), ".", ",")
    return pc.if_else(pc.match_substring_regex(text, _ENGLISH), swapped, text)


def _numbers(column: pa.Array, name: str) -> pa.Array:
    if _is_text(column.type):
        text = _tidy(column)
        plain = pc.replace_substring(pc.replace_substring_regex(text, "[. ]", ""), ",", ".")
        point = pc.if_else(pc.match_substring_regex(text, _POINT), text, None)
        column = pc.if_else(pc.match_substring_regex(text, _DANISH), plain, point).cast(pa.float64())
    values = numbers(column, name)
    return pa.array(values, mask=~np.isfinite(values))


def _tidy(column: pa.Array) -> pa.Array:
    """Write the blanks and minus signs that typographers and Excel use as ordinary ones."""
    text = pc.replace_substring_regex(column.cast(pa.string()), r"[\x{00a0}\x{2009}\x{202f}]", " ")
    return pc.utf8_trim_whitespace(pc.replace_substring(text, "\u2212", "-"))


def _categories(column: pa.Array, values: tuple[str, ...], name: str) -> pa.Array:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.string() if {"true", "false"} & set(values) else pa.int8())
    return pc.utf8_trim_whitespace(as_text(column, name))


def _citizens(column: pa.Array, name: str) -> pa.Array:
    text = pc.utf8_normalize(as_text(column, name), form="NFKC")
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"\p{Cf}", ""))  # zero-width characters
    text = pc.replace_substring_regex(text, _CPR, r"\1\2")
    text = pc.replace_substring_regex(text, _CPR_WITHOUT_ZERO, r"0\1\2")
    return pc.if_else(pc.equal(text, ""), None, text)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
