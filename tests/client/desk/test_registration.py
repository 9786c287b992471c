"""A group of citizens is registered once, as a whole or not at all."""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest

from client.desk import registration
from client.home import POLICY, Home
from faelles.errors import ConfigError, DataError, PolicyError
from tests.desk import written
from tests.municipality import Municipality, cpr_table

pytestmark = pytest.mark.usefixtures("clock")


def change(home: Home, old: str, new: str, name: str = POLICY) -> None:
    path = home.folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def settings_of(home: Home, name: str = "nye", *, citizen: str | None = "cpr", file: Path | None = None,
                **terms: object) -> Any:  # fmt: skip
    source = registration.source_settings(str(file), None) if file else None
    return registration.population_settings(home, name, source, citizen, terms)


@pytest.mark.parametrize("name", ["", "n", "Nye", "nye borgere", "ældre", "-nye", "n" * 49, "nye\n"])
def test_a_population_has_a_plain_name(home: Home, town: Municipality, name: str) -> None:
    before = written(home)
    with pytest.raises(ConfigError):
        registration.register(home, name, settings_of(home, name, file=town.data), None, False)
    assert written(home) == before


def test_a_source_that_cannot_be_read_registers_nothing(home: Home, tmp_path: Path) -> None:
    before = written(home)
    with pytest.raises(DataError):
        registration.register(home, "nye", settings_of(home, file=tmp_path / "nowhere.csv"), None, False)
    assert written(home) == before


def test_a_source_that_was_typed_is_corrected_where_it_was_typed(home: Home, tmp_path: Path) -> None:
    for name, words in (("nowhere.csv", "; correct --source"), ("borgere.xlsx", "--source: expected a file")):
        with pytest.raises(DataError) as caught:
            registration.register(home, "nye", settings_of(home, file=tmp_path / name), None, False)
        assert words in str(caught.value)
        assert "location" not in str(caught.value) + caught.value.text("da")
        assert "--source" in caught.value.text("da")


def test_a_source_that_agent_yaml_describes_is_corrected_there(home: Home, tmp_path: Path) -> None:
    path = home.folder / "agent.yaml"
    block = f"  nye: {{citizen: cpr, source: {{location: {tmp_path / 'nowhere.csv'}}}}}\n"
    path.write_text(path.read_text(encoding="utf-8") + block, encoding="utf-8")
    home = Home.open(home.folder)
    with pytest.raises(DataError) as caught:
        registration.register(home, "nye", settings_of(home, citizen=None), None, False)
    assert str(caught.value).endswith("; correct source.location")
    assert caught.value.text("da").endswith("; ret source.location")


@pytest.mark.parametrize("text", ["/a/source.location: it is not there", "/a/location: none", "db/location:x: none"])
def test_a_name_that_reads_like_a_setting_stays(text: str) -> None:
    assert registration._as_typed(text) == text


def test_the_same_citizens_are_the_same_population_unless_somebody_says_otherwise(
    home: Home, town: Municipality, tmp_path: Path
) -> None:
    copy = tmp_path / "extract.csv"
    copy.write_bytes(town.data.read_bytes())
    before = written(home)
    with pytest.raises(PolicyError, match="say --accept-overlap"):
        registration.register(home, "nye", settings_of(home, file=copy), None, False)
    assert written(home) == before
    registration.register(home, "nye", settings_of(home, file=copy), None, True)
    assert list(Home.open(home.folder).settings.populations) == ["cyklister", "nye"]


def test_other_citizens_are_another_population(home: Home, tmp_path: Path) -> None:
    pyarrow.csv.write_csv(cpr_table(60, seed=7), tmp_path / "others.csv", pyarrow.csv.WriteOptions(delimiter=";"))
    settings = settings_of(home, file=tmp_path / "others.csv", held_out=0.3, special_categories=False)
    registered = registration.register(home, "nye", settings, None, False)
    assert (registered.held_out, registered.special_categories) == (0.3, False)
    assert Home.open(home.folder).population("nye") == settings


def test_a_population_that_agent_yaml_describes_is_registered_as_it_stands_there(
    home: Home, town: Municipality, tmp_path: Path
) -> None:
    data = tmp_path / "latin.csv"
    pyarrow.csv.write_csv(cpr_table(60, seed=7), data, pyarrow.csv.WriteOptions(delimiter=","))
    block = f'  nye:\n    citizen: cpr  # mine\n    source: {{location: {data}, delimiter: ","}}\n'
    path = home.folder / "agent.yaml"
    text = path.read_text(encoding="utf-8") + block
    path.write_text(text, encoding="utf-8")
    home = Home.open(home.folder)
    with pytest.raises(ConfigError, match="leave out --citizen"):
        settings_of(home, file=town.data)
    registration.register(home, "nye", settings_of(home, citizen=None), None, False)
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("citizen", [None, ""])
def test_a_population_that_nobody_describes_needs_a_column_and_a_source(
    home: Home, town: Municipality, citizen: str | None
) -> None:
    for file, column in ((town.data, citizen), (None, "cpr")):
        with pytest.raises(ConfigError, match="--citizen and --source"):
            settings_of(home, citizen=column, file=file)


def test_where_two_people_register_one_key_is_needed_first(home: Home, town: Municipality) -> None:
    change(home, "population: false", "population: true")
    before = written(home)
    with pytest.raises(PolicyError, match="two people"):
        registration.register(home, "nye", settings_of(home, file=town.data), None, True)
    assert written(home) == before


def test_a_file_is_meant_from_where_the_person_stands_and_an_address_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = registration.source_settings("borgere.csv", Path("secret"))
    assert (settings.location, settings.password_file) == (str(tmp_path / "borgere.csv"), tmp_path / "secret")
    address = "postgresql://agent@db.example.dk/omsorg?table=borgere"
    assert registration.source_settings(address, None).location == address


def test_a_population_that_shares_few_citizens_is_another(home: Home, town: Municipality) -> None:
    with closing(home.store()) as store:
        few = np.arange(10, dtype=np.uint64)
        registration._refuse_same_citizens(home, store, "nye", few)
