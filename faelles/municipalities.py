"""The 98 Danish municipalities, with their population on 1 January 2020.

Public facts, read once from `municipalities.csv` beside this file (Statistics Denmark, StatBank FOLK1A). They give
simulations real codes, names and sizes; no guarantee of privacy depends on them.

>>> by_code("0101").name
'København'
>>> sum(municipality.population for municipality in MUNICIPALITIES)
5822679
"""

import csv
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from faelles.errors import DataError
from faelles.identifiers import Kommunekode


@dataclass(frozen=True, kw_only=True)
class Municipality:
    """Describe one municipality.

    Args:
        code: Four digits, such as 0851.
        name: The everyday name, such as Aalborg.
        official_name: The name of the authority, such as Aalborg Kommune.
        region: One of Hovedstaden, Sjælland, Syddanmark, Midtjylland and Nordjylland.
        population: Citizens on 1 January 2020.
        population_65: Of these, aged 65 years or more.
    """

    code: Kommunekode
    name: str
    official_name: str
    region: str
    population: int
    population_65: int


def by_code(code: str) -> Municipality:
    """Find a municipality by its code, written with three digits or four.

    Raises:
        DataError: the code has another form, or none of the 98 has it.
    """
    kommunekode = Kommunekode(code)
    try:
        return _BY_CODE[kommunekode]
    except KeyError:
        raise DataError(
            f"kommunekode {kommunekode}: expected one of the {len(MUNICIPALITIES)} of today, got another. "
            "Look it up in faelles/municipalities.csv",
            da=f"kommunekode {kommunekode}: er ikke en af de {len(MUNICIPALITIES)} kommuners; slå den op i "
            "faelles/municipalities.csv",
        ) from None


def _read() -> tuple[Municipality, ...]:
    text = files("faelles").joinpath("municipalities.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        Municipality(
            code=Kommunekode(row["code"]),
            name=row["name"],
            official_name=row["official_name"],
            region=row["region"],
            population=int(row["population"]),
            population_65=int(row["population_65"]),
        )
        for row in rows
    )


MUNICIPALITIES: Final = _read()
_BY_CODE: Final = {municipality.code: municipality for municipality in MUNICIPALITIES}
