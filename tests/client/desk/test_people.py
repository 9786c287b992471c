"""People are known by their keys, under names that a policy takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.desk import people
from client.home import POLICY
from client.policy import load_policy
from faelles.errors import ConfigError
from tests.municipality import Municipality


@given(name=st.one_of(st.text(max_size=70), st.from_regex(people.PERSON, fullmatch=True)))
def test_a_person_gets_a_key_under_names_that_the_policy_takes(
    town: Municipality, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = tmp_path_factory.mktemp("person")
    if not people.PERSON.fullmatch(name):
        with pytest.raises(ConfigError):
            people.make_person(name, folder / "their.key")
        assert not list(folder.iterdir())
        return
    public = people.make_person(name, folder / "their.key").public
    text = (town.folder / POLICY).read_text(encoding="utf-8").replace("people: {}", f'people: {{"{name}": "{public}"}}')
    (folder / POLICY).write_text(text, encoding="utf-8")
    assert load_policy(folder / POLICY).people == {name: public}
