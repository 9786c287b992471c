"""Make the simulated municipalities: from a synthetic twin, a use case's adapter, or a file with a site column."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from catalogue.shelf import UseCase
from client.contract import check_contract
from faelles.card import CategoryFeature, UseCaseCard
from faelles.errors import ConfigError, DataError
from faelles.features import as_text, column_of, encode_label
from faelles.municipalities import MUNICIPALITIES
from faelles.privacy.plan import declared_band

NAMES = {str(one.code): one.name for one in MUNICIPALITIES}


@dataclass(frozen=True, kw_only=True)
class Site:
    """Hold one simulated municipality and its rows."""

    label: str
    name: str
    table: pa.Table
    citizens: int  # that have a usable row
    declared_size: int  # of the training part; 0 where there is nobody to learn from


@dataclass(frozen=True, kw_only=True)
class ColumnPartition:
    """Hold out the rows that a published protocol marks, instead of choosing citizens by the municipality's key."""

    column: str
    value: str

    def held_out(self, table: pa.Table, unit_N: NDArray[np.str_], share: float) -> NDArray[np.bool_]:
        """Return which rows carry the mark."""
        return np.asarray(pc.equal(table.column(self.column), self.value).to_numpy(), dtype=bool)


def load_sites(usecase: UseCase, card: UseCaseCard, path: Path | None, site_column: str, seed: int) -> list[Site]:
    """Load every site of a simulation and check the whole against the contract.

    Args:
        usecase: Where the rows come from: its adapter or twin, or the file itself.
        card: The contract they must fit.
        path: A Parquet or CSV file; None takes the twin.
        site_column: The column that names the municipality of a row.
        seed: For twins and adapters that draw.

    Raises:
        ConfigError: There is neither a file nor a twin.
        DataError: The file or its rows do not fit.
    """
    if path is None:
        if usecase.twin is None:
            raise ConfigError(
                f"usecase {card.id}: expected data.path=FILE, for it has no synthetic twin; name the file"
            )
        tables = usecase.twin(seed)
    else:
        table = read_table(path, _texts(card, site_column))
        tables = usecase.adapter(table, seed) if usecase.adapter else dict(split_rows(table, site_column))
    whole = pa.concat_tables(tables.values(), promote_options="permissive")
    check_contract(card, whole)
    _check_worth_learning(card, whole)
    return [_site(card, label, tables[label]) for label in sorted(tables)]


def _texts(card: UseCaseCard, site_column: str) -> tuple[str, ...]:
    """Name the columns whose values are text, also where they look like numbers: 0101 is a municipality, not 101."""
    categories = [feature.name for feature in card.features if isinstance(feature, CategoryFeature)]
    return (site_column, card.label.column, *categories, *([card.unit] if card.unit else []))


def read_table(path: Path, texts: Sequence[str] = ()) -> pa.Table:
    """Read a Parquet or CSV file.

    Args:
        path: The file; its name says which.
        texts: Columns of a CSV file to read as text.

    Raises:
        DataError: There is no such file or it cannot be read as what its name says.
    """
    if not path.is_file():
        raise DataError(f"data.path={path}: expected a Parquet or CSV file, found none there; correct the path")
    try:
        # An empty cell of a text column is a missing value, as it is of a number.
        options = pyarrow.csv.ConvertOptions(strings_can_be_null=True, column_types=dict.fromkeys(texts, pa.string()))
        csv = path.suffix == ".csv"
        table = pyarrow.csv.read_csv(path, convert_options=options) if csv else pyarrow.parquet.read_table(path)
    except (pa.ArrowInvalid, OSError):
        kind = "CSV with a header line" if path.suffix == ".csv" else "Parquet"
        raise DataError(f"data.path={path}: expected {kind}, it cannot be read as that; convert it") from None
    twice = sorted(name for name, count in Counter(table.column_names).items() if count > 1)
    if twice:
        raise DataError(f"data.path={path}: expected every column once, {', '.join(twice)} came again; rename them")
    return table


def split_rows(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """Deal a table's rows out by a column that names the municipality; rows keep their order, some belong to none.

    Raises:
        DataError: There is no such column, or it names nobody.
    """
    if column not in table.column_names:
        have = ", ".join(table.column_names)
        raise DataError(f"data.site={column}: expected a column that names the municipality; have {have}")
    labels = as_text(column_of(table, column), column)
    labels = pc.if_else(pc.equal(labels, ""), None, labels)  # as a CSV file writes what is missing
    if labels.null_count == len(labels):
        raise DataError(f"data.site={column}: expected the municipality of each row, every row is missing; fill it")
    # Sorted once: a filter for each label would read the whole table as often as there are municipalities.
    coded = labels.dictionary_encode()
    code_N = np.asarray(pc.fill_null(coded.indices, -1))
    order_N = np.argsort(code_N, kind="stable")
    edges = np.searchsorted(code_N[order_N], np.arange(len(coded.dictionary) + 1))
    # Taken and not sliced: a slice would hold, and send to a worker process, the rows of everybody.
    rest = table.drop_columns([column]).combine_chunks()
    for label, start, stop in zip(coded.dictionary.to_pylist(), edges[:-1], edges[1:], strict=True):
        yield label, rest.take(pa.array(order_N[start:stop]))


def _check_worth_learning(card: UseCaseCard, whole: pa.Table) -> None:
    """Refuse data from which nothing can be learned."""
    classes = np.unique(encode_label(card.label, whole))
    if (classes >= 0).sum() < 2:
        raise DataError(f"column {card.label.column}: expected two classes or more, all labels are equal or missing")
    for feature in card.features:
        column = whole.column(feature.name)
        if pc.all(pc.is_null(column, nan_is_null=True)).as_py():
            raise DataError(
                f"column {feature.name}: expected values, every row is missing; fill it or drop the feature"
            )


def _site(card: UseCaseCard, label: str, table: pa.Table) -> Site:
    usable = table.filter(pa.array(encode_label(card.label, table) >= 0))
    citizens = usable.num_rows if card.unit is None else _count_citizens(usable, card.unit)
    training = round(citizens * (1 - card.evaluation.held_out))
    size = declared_band(training) if training else 0
    return Site(label=label, name=NAMES.get(label.zfill(4), label), table=table, citizens=citizens, declared_size=size)


def _count_citizens(table: pa.Table, unit: str) -> int:
    names = as_text(column_of(table, unit), unit)
    return len(pc.unique(names.filter(pc.not_equal(names, ""))))
