"""Turn a contract's columns into tensors, from public ranges and categories only; never from the data.

Numbers are scaled to [-1, 1] by their declared range, or fall into equal-width bins; categories become one-hot. Each
feature ends with a flag that is 1 where its value is missing, not a number, or not declared. Since nothing here is
fitted, it costs no privacy, and a citizen's row encodes the same whoever else is in the table.

Legend: N rows, F encoded features, B citizens, R rows a citizen.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from faelles.card import CategoryFeature, Label, NumberFeature, UseCaseCard
from faelles.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Citizens:
    """Hold citizens with their used rows, padded to one length."""

    x_BRF: NDArray[np.float32]
    y_BR: NDArray[np.int64]
    mask_BR: NDArray[np.bool_]  # False where a row is padding

    def __len__(self) -> int:
        return len(self.x_BRF)

    @functools.cached_property
    def weight_BR(self) -> NDArray[np.float32]:
        """Weigh the rows so that each citizen's add up to 1."""
        weight_BR = self.mask_BR / np.maximum(self.mask_BR.sum(axis=1, keepdims=True), 1)
        return np.asarray(weight_BR, dtype=np.float32)


def feature_width(feature: NumberFeature | CategoryFeature) -> int:
    """Count the encoded columns of a feature, its missing flag included."""
    if isinstance(feature, CategoryFeature):
        return len(feature.values) + 1
    return (feature.bins or 1) + 1


def input_width(card: UseCaseCard) -> int:
    """Count the encoded features F of a card."""
    return sum(feature_width(feature) for feature in card.features)


def encode_rows(card: UseCaseCard, table: pa.Table) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Encode a table by its contract.

    Args:
        card: The use case.
        table: Holds the contract's columns; others are ignored.

    Returns:
        x_NF in [-1, 1], finite; y_N as class index, -1 where the label is missing or not declared.

    Raises:
        DataError: A column is missing or has a type that its kind cannot be read from.
    """
    x_NF = np.zeros((table.num_rows, input_width(card)), dtype=np.float32)
    start = 0
    for feature in card.features:
        stop = start + feature_width(feature)
        _encode_feature(feature, column_of(table, feature.name), x_NF[:, start:stop])
        start = stop
    return x_NF, encode_label(card.label, table)


def encode_label(label: Label, table: pa.Table) -> NDArray[np.int64]:
    """Read the label as a class index, -1 where it is missing or not declared."""
    return category_index(column_of(table, label.column), label.values, label.column)


def column_of(table: pa.Table, name: str) -> pa.Array:
    """Take one column as a single array.

    Raises:
        DataError: The table has no such column, or several.
    """
    found = table.column_names.count(name)
    if not found:
        raise DataError(f"column {name}: expected by the contract, not found; have {', '.join(table.column_names)}")
    if found > 1:
        raise DataError(f"column {name}: expected once, found {found} times; rename or drop the others")
    column = table.column(name).combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def numbers(column: pa.Array, name: str) -> NDArray[np.float64]:
    """Read a column as numbers, NaN where missing.

    Raises:
        DataError: The column holds something else than numbers.
    """
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind) or pa.types.is_null(kind)):  # fmt: skip
        raise DataError(f"column {name}: expected numbers, its type is {kind}; convert it or declare it a category")
    values = column.cast(pa.int8()) if pa.types.is_boolean(kind) else column
    # Not the safe cast: whether a value fits float64 exactly depends on data, and so must not raise.
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def category_index(column: pa.Array, values: tuple[str, ...], name: str) -> NDArray[np.int64]:
    """Read a column as positions in the declared values, -1 where missing or not declared.

    Truth values are 0 and 1, or true and false where the contract says so.

    Raises:
        DataError: The column cannot be compared as text.
    """
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.string() if {"true", "false"} & set(values) else pa.int8())
    found = pc.index_in(as_text(column, name), value_set=pa.array(values, pa.string()))
    return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def as_text(column: pa.Array, name: str) -> pa.Array:
    """Read a column as text, null where missing; a whole number reads the same whatever type holds it.

    Raises:
        DataError: The column holds neither text nor numbers.
    """
    kind = column.type
    if pa.types.is_floating(kind):
        # 1.0 in a column that had a gap is 1; NaN, fractions and what float64 cannot count exactly are missing.
        column = column.cast(pa.float64())
        whole = pc.and_(pc.equal(column, pc.round(column)), pc.less(pc.abs(column), 2.0**53))
        column = pc.if_else(pc.fill_null(whole, False), column, None).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
              or pa.types.is_null(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)):  # fmt: skip
        raise DataError(f"column {name}: expected text or whole numbers, its type is {kind}; convert it")
    return column.cast(pa.string())


def _encode_feature(feature: NumberFeature | CategoryFeature, column: pa.Array, out_NW: NDArray[np.float32]) -> None:
    if isinstance(feature, CategoryFeature):
        position_N = category_index(column, feature.values, feature.name)
    else:
        value_N = numbers(column, feature.name)
        present_N = np.isfinite(value_N)
        # Clipped first, so that no value is large enough to overflow the difference.
        inside_N = np.clip(np.where(present_N, value_N, feature.min), feature.min, feature.max)
        share_N = (inside_N - feature.min) / (feature.max - feature.min)
        if feature.bins is None:
            out_NW[:, 0] = np.where(present_N, 2 * share_N - 1, 0)
            out_NW[:, 1] = ~present_N
            return
        bin_N = np.minimum((share_N * feature.bins).astype(np.int64), feature.bins - 1)
        position_N = np.where(present_N, bin_N, -1)
    # Position -1 addresses the last column, which is the missing flag.
    out_NW[np.arange(len(position_N)), position_N] = 1
