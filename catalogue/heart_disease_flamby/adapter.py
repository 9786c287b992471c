"""Prepare Fed-Heart-Disease as FLamby does: its rows, its columns, its fixed split, its standardisation.

The protocol stands in FLamby's `flamby/datasets/fed_heart_disease/dataset.py` (release with `normalize=True`) and is
followed here in steps: complete cases after slope, ca and thal are left out; two thirds of each centre for training,
stratified where both classes have more than two patients; chest pain and resting ECG as indicators without the first;
every column standardised by the mean and standard deviation of its centre's training rows. These read the data without
protection, so the result is for comparisons without privacy only.

Source: Ogier du Terrail et al. (2022), FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning, NeurIPS.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from faelles.errors import ConfigError, DataError

HELD_OUT: Final = ("set", "test")
NUMBERS: Final = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak")
INDICATORS: Final = {"cp": (2, 3, 4), "restecg": (1, 2)}  # the values that get a column; the first of each has none
ROWS: Final = {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}
TRAIN_SHARE: Final = 0.66
SPLIT_SEED: Final = 43


def load(table: pa.Table, seed: int) -> dict[str, pa.Table]:
    """Prepare the rows of every centre.

    Args:
        table: The four centres' files, one under the other in their own order, with the columns site and y.
        seed: Without effect: the protocol's split is fixed.

    Returns:
        Centre -> its standardised columns, y, and set ("train" or "test").

    Raises:
        DataError: A column is missing, or the complete cases are not those of the protocol.
        ConfigError: scikit-learn, which draws the protocol's split, is not installed.
    """
    columns = ("site", "y", *NUMBERS, *INDICATORS)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(
            f"heart-disease-flamby: expected the columns {', '.join(columns)}, found no {', '.join(missing)}; "
            "give data.path the file that catalogue/heart_disease_flamby/README.md describes"
        )
    complete = table.select(columns).filter(_complete(table.select(columns)))
    centres = {name: complete.filter(pc.equal(complete.column("site"), name)) for name in ROWS}
    counts = {name: centre.num_rows for name, centre in centres.items()}
    if counts != ROWS:
        expected = ", ".join(f"{rows} of {name}" for name, rows in ROWS.items())
        raise DataError(f"heart-disease-flamby: expected the protocol's complete cases ({expected}), found others")
    return {name: _prepare(centre) for name, centre in centres.items()}


def _complete(table: pa.Table) -> NDArray[np.bool_]:
    present = [~np.asarray(pc.is_null(column, nan_is_null=True)) for column in table.columns]
    return np.asarray(np.logical_and.reduce(present), dtype=bool)


def _prepare(centre: pa.Table) -> pa.Table:
    """Split and standardise one centre; legend: N rows, F columns."""
    y_N = centre.column("y").to_numpy()
    test_N = _test_rows(y_N)
    named = {name: centre.column(name).to_numpy().astype(np.float64) for name in NUMBERS}
    for name, values in INDICATORS.items():
        named |= {f"{name}_{value}": (centre.column(name).to_numpy() == value).astype(np.float64) for value in values}
    x_NF = np.stack(list(named.values()), axis=1)
    mean_F, deviation_F = x_NF[~test_N].mean(axis=0), x_NF[~test_N].std(axis=0, ddof=1)
    z_NF = (x_NF - mean_F) / np.where(deviation_F > 0, deviation_F, 1)
    arrays = {name: pa.array(z_NF[:, place]) for place, name in enumerate(named)}
    return pa.table({**arrays, "y": pa.array(y_N), "set": pa.array(np.where(test_N, "test", "train"))})


def _test_rows(y_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    try:
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise ConfigError(
            "heart-disease-flamby: expected scikit-learn to draw the protocol's split; pip install 'faelles[bench]'"
        ) from None
    stratify = y_N if (np.bincount(y_N, minlength=2) > 2).all() else None
    _, test = train_test_split(
        np.arange(len(y_N)),
        train_size=TRAIN_SHARE,
        test_size=1 - TRAIN_SHARE,
        random_state=SPLIT_SEED,
        shuffle=True,
        stratify=stratify,
    )
    return np.isin(np.arange(len(y_N)), test)
