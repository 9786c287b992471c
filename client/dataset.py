"""Turn a population's rows into citizens: who belongs to which part, and which of their rows are used.

Every choice is made by a keyed hash of the citizen's own identity and rows, so it is the same in every run and
independent of everybody else: adding or removing one citizen changes nothing about the others. The key never leaves the
municipality.

Legend: N rows, B citizens, R rows a citizen, F features.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from faelles.card import UseCaseCard
from faelles.features import Citizens, as_text, column_of, encode_rows

LONGEST_NAME = 64  # letters of a citizen's identity that are kept as they are


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Hold a population's two parts; a citizen belongs to one of them for life."""

    training: Citizens
    held_out: Citizens


class Partition(Protocol):
    """Decide which citizens are held out."""

    def held_out(self, table: pa.Table, unit_N: NDArray[np.str_], share: float) -> NDArray[np.bool_]:
        """Return for each row whether its citizen is held out; equal for all rows of a citizen."""
        ...


@dataclass(frozen=True, kw_only=True)
class KeyedPartition:
    """Hold out each citizen independently, by a keyed hash of its identity."""

    key: bytes

    def held_out(self, table: pa.Table, unit_N: NDArray[np.str_], share: float) -> NDArray[np.bool_]:
        """Hold out a citizen where its hash, read as a number in [0, 1), is below `share`."""
        return keyed_hashes(self.key, b"part", (unit.encode() for unit in unit_N)) < share * 2.0**64


def build_dataset(card: UseCaseCard, table: pa.Table, key: bytes, partition: Partition | None = None) -> Dataset:
    """Group a table's rows by citizen, drop what cannot be used, and split it into the two parts.

    Args:
        card: The use case.
        table: The population's rows.
        key: The municipality's secret key, 32 bytes.
        partition: How citizens are held out; by the key unless a published protocol says otherwise.

    Guarantees: a citizen has at most `card.max_rows_per_unit` rows, no two of them equal; rows without a declared label
        are dropped; the order of the source's rows changes nothing where a column tells citizens apart.

    Raises:
        DataError: A column is missing or of a wrong type.
    """
    x_NF, y_N = encode_rows(card, table)
    unit_N = _units(card, table)
    held_N = (partition or KeyedPartition(key=key)).held_out(table, unit_N, card.evaluation.held_out)
    usable_N = (y_N >= 0) & (unit_N != "")
    if card.unit is not None:
        usable_N &= _chosen_rows(card, x_NF, y_N, unit_N, usable_N, key)
    return Dataset(
        training=_citizens(card, x_NF, y_N, unit_N, usable_N & ~held_N),
        held_out=_citizens(card, x_NF, y_N, unit_N, usable_N & held_N),
    )


def _units(card: UseCaseCard, table: pa.Table) -> NDArray[np.str_]:
    """Name each row's citizen; "" where it has none. Where a row is a citizen, its position names it.

    The name is the same whatever type an extract gives the column, so that a citizen's part is for life.
    """
    if card.unit is None:
        return np.arange(table.num_rows).astype(np.str_)
    text = pc.fill_null(as_text(column_of(table, card.unit), card.unit), "")
    return np.asarray([_short(name) for name in text.to_pylist()], dtype=np.str_)


def _short(name: str) -> str:
    """Name a citizen as numpy can hold it: it gives every name the room of the longest, and drops zeros at the end.

    One endless name would take memory for everybody, and a reply that fails for want of it tells that it is there.
    """
    whole = len(name) <= LONGEST_NAME and not name.endswith("\0")
    return name if whole else hashlib.sha256(name.encode()).hexdigest()


def keyed_hashes(key: bytes, purpose: bytes, items: Iterable[bytes]) -> NDArray[np.uint64]:
    """Hash each item to a uniform 64-bit number under the key.

    Args:
        key: The municipality's secret key, 32 bytes.
        purpose: At most 16 bytes; hashes for different purposes tell nothing about each other.
        items: What to hash.
    """
    keyed = hashlib.blake2b(key=key, person=purpose, digest_size=8)
    digests = bytearray()
    for item in items:
        one = keyed.copy()
        one.update(item)
        digests += one.digest()
    return np.frombuffer(bytes(digests), dtype=np.uint64)


def _chosen_rows(
    card: UseCaseCard,
    x_NF: NDArray[np.float32],
    y_N: NDArray[np.int64],
    unit_N: NDArray[np.str_],
    usable_N: NDArray[np.bool_],
    key: bytes,
) -> NDArray[np.bool_]:
    """Choose for each citizen its distinct rows with the smallest keyed hashes."""
    contents = (unit.encode() + b"\0" + x.tobytes() + y.tobytes() for unit, x, y in zip(unit_N, x_NF, y_N, strict=True))
    hash_N = keyed_hashes(key, b"row", contents)
    order_N = np.lexsort((hash_N, unit_N))
    order_N = order_N[usable_N[order_N]]
    unit_M, hash_M = unit_N[order_N], hash_N[order_N]
    same_unit_M = _repeats(unit_M)
    # Rows of one citizen with one hash are exact duplicates: they encode to the same numbers.
    distinct_M = ~(same_unit_M & _repeats(hash_M))
    order_M, unit_M = order_N[distinct_M], unit_M[distinct_M]
    first_M = ~_repeats(unit_M)
    rank_M = np.arange(len(unit_M)) - np.maximum.accumulate(np.where(first_M, np.arange(len(unit_M)), 0))
    chosen_N = np.zeros(len(unit_N), dtype=bool)
    chosen_N[order_M[rank_M < card.max_rows_per_unit]] = True
    return chosen_N


def _repeats(sorted_M: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark what equals the item before it."""
    repeats_M = np.zeros(len(sorted_M), dtype=bool)
    repeats_M[1:] = sorted_M[1:] == sorted_M[:-1]
    return repeats_M


def _citizens(
    card: UseCaseCard,
    x_NF: NDArray[np.float32],
    y_N: NDArray[np.int64],
    unit_N: NDArray[np.str_],
    used_N: NDArray[np.bool_],
) -> Citizens:
    """Pad the used rows to (B, R, F); every population is padded to the same R, which the card states."""
    if card.unit is None:
        x_BRF, y_BR = x_NF[used_N][:, None], y_N[used_N][:, None]
        return Citizens(x_BRF=x_BRF, y_BR=y_BR, mask_BR=np.ones(y_BR.shape, dtype=bool))
    index_N = np.flatnonzero(used_N)
    # Within a citizen rows are ordered by content, so that the source's order changes not even rounding.
    index_N = index_N[np.lexsort((*x_NF[index_N].T, y_N[index_N], unit_N[index_N]))]
    names, citizen_N = np.unique(unit_N[index_N], return_inverse=True)
    start_B = np.searchsorted(citizen_N, np.arange(len(names)))
    slot_N = np.arange(len(index_N)) - start_B[citizen_N]
    shape = (len(names), card.max_rows_per_unit)
    x_BRF, y_BR = np.zeros((*shape, x_NF.shape[1]), dtype=np.float32), np.zeros(shape, dtype=np.int64)
    mask_BR = np.zeros(shape, dtype=bool)
    x_BRF[citizen_N, slot_N], y_BR[citizen_N, slot_N], mask_BR[citizen_N, slot_N] = x_NF[index_N], y_N[index_N], True
    return Citizens(x_BRF=x_BRF, y_BR=y_BR, mask_BR=mask_BR)
