"""The 98 municipalities agree with what Statistics Denmark printed."""

from collections import Counter

import pytest

from faelles.errors import DataError
from faelles.municipalities import MUNICIPALITIES, by_code


def test_there_are_98_sorted_by_code() -> None:
    codes = [municipality.code for municipality in MUNICIPALITIES]
    assert len(set(codes)) == 98
    assert codes == sorted(codes)


def test_the_regions_have_their_members() -> None:
    assert Counter(municipality.region for municipality in MUNICIPALITIES) == {
        "Hovedstaden": 29,
        "Sjælland": 17,
        "Syddanmark": 22,
        "Midtjylland": 19,
        "Nordjylland": 11,
    }


def test_the_population_is_all_denmark_without_christiansø() -> None:
    assert sum(municipality.population for municipality in MUNICIPALITIES) == 5_822_763 - 84
    assert all(0 < municipality.population_65 < municipality.population for municipality in MUNICIPALITIES)


@pytest.mark.parametrize(
    ("code", "official_name"),
    [
        ("0101", "Københavns Kommune"),
        ("400", "Bornholms Regionskommune"),
        ("0480", "Nordfyns Kommune"),
        ("851", "Aalborg Kommune"),
    ],
)
def test_a_code_finds_its_municipality(code: str, official_name: str) -> None:
    assert by_code(code).official_name == official_name


def test_the_smallest_and_the_largest_are_læsø_and_københavn() -> None:
    by_size = sorted(MUNICIPALITIES, key=lambda municipality: municipality.population)
    assert (by_size[0].name, by_size[-1].name) == ("Læsø", "København")


@pytest.mark.parametrize("code", ["0411", "999", "110"])
def test_a_code_of_no_municipality_is_refused_in_one_line(code: str) -> None:
    with pytest.raises(DataError, match="expected one of the 98") as caught:
        by_code(code)
    assert "\n" not in str(caught.value)
