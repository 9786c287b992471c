"""Make synthetic citizens for all 98 municipalities under the contract of elder-admission.

Nothing here is derived from real citizens: names and sizes of municipalities are public, and every relation between
columns is written down below. The twin has what makes federations hard in practice: sizes with a heavy tail, two
municipalities that have hardly begun, labels and covariates that differ by place, columns that a care system lacks,
gaps, citizens with several rows, and repeated rows.

Legend: S municipalities, B citizens, N rows.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from faelles.municipalities import MUNICIPALITIES

CITIZENS_PER_65: Final = 0.035  # citizens with a care record, of those aged 65 or more
LEAST_CITIZENS: Final = 24
JUST_BEGUN: Final = {"0563": 6}  # Fanø has hardly any citizens yet
ROWS_PER_CITIZEN: Final = (0.55, 0.25, 0.12, 0.08)  # shares with 1, 2, 3 and 4 quarterly assessments
MISSING: Final = 0.03  # of the values of every column but the citizen and the label
REPEATED: Final = 0.01  # of the rows, once more
LACKING: Final = 10  # municipalities whose care system lacks one column
LACKED: Final = ("weight_change", "function_level", "falls", "medications")

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[np.generic]]


def make(seed: int) -> dict[str, pa.Table]:
    """Make the rows of every municipality.

    Args:
        seed: Equal seeds make equal tables.

    Returns:
        Kommunekode -> rows; every table has all columns, some of them without a value.
    """
    rng = np.random.default_rng([seed, 65])
    site_B = np.repeat(np.arange(len(MUNICIPALITIES)), _citizens())
    rows_B = rng.choice(np.arange(1, 5), size=len(site_B), p=ROWS_PER_CITIZEN)
    citizen_N = np.repeat(np.arange(len(site_B)), rows_B)
    columns = _draw(rng, site_B, citizen_N)
    site_N = site_B[citizen_N]
    table = pa.table({name: pa.array(values, mask=mask) for name, (values, mask) in
                      _with_gaps(rng, columns, site_N).items()})  # fmt: skip
    order_N = np.sort(np.r_[np.arange(len(site_N)), np.flatnonzero(rng.random(len(site_N)) < REPEATED)])
    start_S = np.searchsorted(site_N[order_N], np.arange(len(MUNICIPALITIES) + 1))
    table = table.take(order_N)
    return {
        str(one.code): table.slice(start_S[place], start_S[place + 1] - start_S[place])
        for place, one in enumerate(MUNICIPALITIES)
    }


def _citizens() -> list[int]:
    return [
        JUST_BEGUN.get(str(one.code), max(LEAST_CITIZENS, round(CITIZENS_PER_65 * one.population_65)))
        for one in MUNICIPALITIES
    ]


def _draw(rng: np.random.Generator, site_B: NDArray[np.int64], citizen_N: NDArray[np.int64]) -> Columns:
    """Draw every column: first what a citizen keeps, then what changes from one assessment to the next."""
    size_B, size_N = len(site_B), len(citizen_N)
    older_S, care_S, pills_S, labels_S = rng.normal(size=(4, len(MUNICIPALITIES)))
    frailty_B = rng.normal(size=size_B)
    age_B = np.clip(66 + rng.gamma(4.0, 3.6, size_B) + 1.5 * older_S[site_B] + frailty_B, 65, 104)
    woman_B = rng.random(size_B) < 0.5 + 0.006 * (age_B - 75)
    alone_B = rng.random(size_B) < _logistic(-0.4 + 0.07 * (age_B - 80) + 0.5 * woman_B)
    dementia_B = np.digitize(frailty_B + 0.06 * (age_B - 80) + rng.normal(size=size_B), (1.8, 2.5))
    housing_B = np.digitize(frailty_B + 0.5 * dementia_B + 0.04 * (age_B - 80) + rng.normal(size=size_B), (1.7, 2.6))
    site_N = site_B[citizen_N]
    frailty_N = frailty_B[citizen_N] + 0.5 * rng.normal(size=size_N)
    function_N = np.clip(np.round(1.4 + 0.9 * frailty_N + 0.5 * rng.normal(size=size_N)), 0, 4)
    hours_N = np.clip(
        np.exp(0.9 + 0.45 * function_N + 0.3 * care_S[site_N] + 0.5 * rng.normal(size=size_N)) - 1.5, 0, 40
    )
    earlier_N = rng.poisson(np.exp(-1.1 + 0.55 * frailty_N))
    columns: Columns = {
        "citizen": np.char.add("b-", np.char.zfill(citizen_N.astype(str), 6)),
        "age": np.floor(age_B[citizen_N]),
        "sex": np.where(woman_B[citizen_N], "f", "m"),
        "lives_alone": np.where(alone_B[citizen_N], "yes", "no"),
        "dementia": np.array(["none", "suspected", "diagnosed"])[dementia_B[citizen_N]],
        "housing": np.array(["home", "sheltered", "nursing-home"])[housing_B[citizen_N]],
        "function_level": function_N,
        "home_care_hours": np.round(hours_N, 1),
        "medications": rng.poisson(np.exp(1.7 + 0.2 * frailty_N + 0.12 * pills_S[site_N])).astype(float),
        "weight_change": np.round(rng.normal(-0.3 * frailty_N, 3.0), 1),
        "falls": rng.poisson(np.exp(-1.3 + 0.4 * frailty_N)).astype(float),
        "earlier_admissions": earlier_N.astype(float),
    }
    logit_N = 1.7 * _risk(columns) - 4.3 + 0.4 * labels_S[site_N]
    columns["admitted"] = (rng.random(size_N) < _logistic(logit_N)).astype(np.int64)
    return columns


def _risk(columns: Mapping[str, NDArray[np.generic]]) -> Floats:
    """State the truth that a model is to find: mostly additive, with a threshold, a valley and two interactions."""
    number = {name: values.astype(float) for name, values in columns.items() if values.dtype.kind == "f"}
    alone_N = columns["lives_alone"] == "yes"
    at_home_N = columns["housing"] == "home"
    risk_N = (
        0.035 * (number["age"] - 80)
        + 0.2 * (columns["sex"] == "m")
        + 0.75 * np.minimum(number["earlier_admissions"], 4)
        + 0.9 * (number["medications"] >= 9)
        + 0.054 * np.minimum(number["weight_change"] ** 2, 36)
        + 0.35 * np.minimum(number["falls"], 3)
        + 0.55 * number["function_level"] * alone_N * at_home_N
        - 0.6 * (columns["housing"] == "nursing-home")
        + 0.5 * (columns["dementia"] == "suspected") * alone_N
        - 0.05 * np.minimum(number["home_care_hours"], 20)
    )
    return np.asarray(risk_N, dtype=float)


def _with_gaps(
    rng: np.random.Generator, columns: Columns, site_N: NDArray[np.int64]
) -> dict[str, tuple[NDArray[np.generic], NDArray[np.bool_]]]:
    """Leave out single values everywhere, and one whole column where the care system lacks it."""
    lacking = rng.choice(len(MUNICIPALITIES), size=LACKING, replace=False)
    gaps = {}
    for name, values in columns.items():
        share = 0.0 if name in ("citizen", "admitted") else MISSING
        missing_N = rng.random(len(site_N)) < share
        for place, site in enumerate(lacking):
            if LACKED[place % len(LACKED)] == name:
                missing_N |= site_N == site
        gaps[name] = (values, missing_N)
    return gaps


def _logistic(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)), dtype=float)
