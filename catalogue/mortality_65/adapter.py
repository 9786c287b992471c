"""Draw person-years from the published counts of deaths and exposure, for each municipality.

The file holds one line for each municipality, year, sex and year of age. For each line the rows of a person-year are
drawn: how many of the exposed take part (binomial, a tenth of them), and how many of these died (binomial, at the
line's death rate). All ten million person-years would teach no more and cost ten times the memory.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faelles.errors import DataError

COLUMNS: Final = ("kommune_kode", "year", "sex", "age", "exposure", "deaths")
LEAST_AGE: Final = 65
THINNING: Final = 0.1  # of the person-years; about 1.04 million rows remain, 600 to 60,000 a municipality


def load(table: pa.Table, seed: int) -> dict[str, pa.Table]:
    """Draw the rows of every municipality.

    Args:
        table: The published counts; `exposure` in person-years, halves allowed.
        seed: Equal seeds draw equal rows.

    Returns:
        Kommunekode -> rows with age, sex, year and died (0 or 1).

    Raises:
        DataError: The table lacks a column or has no line at the least age or above.
    """
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(
            f"mortality-65: expected the columns {', '.join(COLUMNS)}, found no {', '.join(missing)}; "
            "give data.path the file that catalogue/mortality_65/README.md describes"
        )
    cells = table.filter(pc.greater_equal(table.column("age"), LEAST_AGE)).combine_chunks()
    if not cells.num_rows:
        raise DataError(f"mortality-65: expected lines of age {LEAST_AGE} or more, found none; give the whole file")
    rows = _draw(cells, np.random.default_rng([seed, LEAST_AGE]))
    codes = rows.column("kommune_kode").cast(pa.string())
    return {
        code: rows.filter(pc.equal(codes, code)).drop_columns(["kommune_kode"])
        for code in sorted(pc.unique(codes).to_pylist())
    }


def _draw(cells: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Turn cells into rows; legend: L lines of the file, N rows."""
    exposure_L = cells.column("exposure").to_numpy()
    # Deaths exceed the exposure in a few hundred tiny cells: people died who were not counted at either turn of year.
    deaths_L = np.minimum(cells.column("deaths").to_numpy(), exposure_L)
    whole_L = np.floor(exposure_L + rng.random(len(exposure_L))).astype(np.int64)
    rows_L = rng.binomial(whole_L, THINNING)
    died_L = rng.binomial(rows_L, np.divide(deaths_L, exposure_L, out=np.zeros(len(exposure_L)), where=exposure_L > 0))
    line_N = np.repeat(np.arange(len(rows_L)), rows_L)
    place_N = np.arange(len(line_N)) - np.repeat(np.cumsum(rows_L) - rows_L, rows_L)
    died_N = (place_N < died_L[line_N]).astype(np.int8)
    kept = cells.select(["kommune_kode", "age", "sex", "year"]).take(pa.array(line_N))
    return kept.append_column("died", pa.array(died_N))
