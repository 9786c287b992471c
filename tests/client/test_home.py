"""The agent's folder is laid out whole or not at all, and what people wrote in it stays as they wrote it."""

import os
import re
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from client import consent, keys
from client import home as home_module
from client.consent import Population
from client.home import AGENT, KEY, POLICY, STORE, Home, add_population, create, write_out
from client.language import LANGUAGES, Language
from client.ledger import utc_now
from client.policy import Policy, load_policy
from client.population import PopulationSettings
from client.source import SourceSettings
from faelles.errors import ConfigError, DataError, FaellesError, KeyFileError, LedgerError, PolicyError
from tests.builders import build_card

FILES = (AGENT, POLICY, KEY, STORE)
SETTINGS = PopulationSettings(citizen="cpr", source=SourceSettings(location="borgere.csv"))
HEADER = 'version: 1\nmunicipality: "0851"\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create(tmp_path / "agent", "851", "da")


# Laying out


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_agent_has_all_it_needs_for_its_owner_only_and_allows_nothing(tmp_path: Path, language: Language) -> None:
    home = create(tmp_path / "deep" / "agent", "851", language)
    assert sorted(path.name for path in home.folder.iterdir()) == sorted(FILES)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home.folder, *home.folder.iterdir()))
    assert home.settings.municipality == "0851"
    assert home.settings.populations == {}
    assert not home.policy().allows_card(build_card())
    assert home.signer().public.startswith("ed25519:")
    with closing(home.store(serving=True)) as store:
        assert len(store.key) == 32


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_ever_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="nothing was changed"):
        create(tmp_path, "0851", "en")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    create(tmp_path, "0851", "da")
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("code", ["999", "85", "Aalborg", "", "0851 "])
def test_a_code_of_no_municipality_makes_no_folder(tmp_path: Path, code: str) -> None:
    with pytest.raises(DataError):
        create(tmp_path / "agent", code, "da")
    assert not (tmp_path / "agent").exists()


@pytest.mark.parametrize("place", ["a-file", "a-file/below"])
def test_a_folder_that_cannot_be_made_is_told_in_both_languages(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(ConfigError) as caught:
        create(tmp_path / place, "851", "da")
    assert "expected a folder that can be written" in caught.value.text("en")
    assert "der kan ikke skrives i mappen" in caught.value.text("da")


@pytest.mark.parametrize("step", ["_write", "keys", "Store"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyFileError("no"), KeyboardInterrupt()])
def test_what_breaks_halfway_leaves_no_half_agent(
    tmp_path: Path, step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    place = (keys, "create") if step == "keys" else (home_module, step)
    with monkeypatch.context() as patch:
        patch.setattr(*place, fail)
        with pytest.raises(ConfigError if isinstance(error, OSError) else type(error)):
            create(tmp_path / "agent", "851", "da")
    assert list((tmp_path / "agent").iterdir()) == []
    create(tmp_path / "agent", "851", "da")


# The templates


def template(stem: str, language: str) -> str:
    return files("client").joinpath(f"templates/{stem}.{language}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("stem", ["agent", "policy"])
def test_the_templates_of_both_languages_hold_equal_values(stem: str) -> None:
    da, en = (template(stem, language) for language in LANGUAGES)
    assert yaml.safe_load(da) == yaml.safe_load(en)
    lines = [[line.split("#")[0].rstrip() for line in text.splitlines()] for text in (da, en)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("stem", ["agent", "policy"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_default_is_explained_on_its_line(stem: str, language: str) -> None:
    for line in template(stem, language).splitlines():
        default = re.fullmatch(r"( *\w+): +(\S.*?)(?: +# (.{8,}))?", line)
        if default and not line.startswith("#"):
            assert default[3] or default[2].startswith("# "), f"not explained: {line}"
        assert len(line) <= 120


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_setting_of_a_population_is_explained(language: str) -> None:
    comments = template("agent", language)
    for name in (*PopulationSettings.model_fields, *SourceSettings.model_fields):
        assert re.search(rf"^# +{name}\b", comments, re.MULTILINE), f"not explained: {name}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_defaults_that_the_template_names_are_the_real_ones(language: str) -> None:
    word = {"da": "Standard", "en": "Default"}[language]
    named = dict(re.findall(rf"^# +(\w+) .*{word}: (\S+)$", template("agent", language), re.MULTILINE))
    real = {**PopulationSettings.model_fields, **SourceSettings.model_fields}
    assert set(named) == {"special_categories", "held_out", "encoding", "delimiter", "decimal"}
    assert {name: yaml.safe_load(value) for name, value in named.items()} == {
        name: real[name].default for name in named
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_policy_of_the_template_refuses_every_card_and_keeps_the_caps(tmp_path: Path, language: str) -> None:
    (tmp_path / POLICY).write_text(template("policy", language), encoding="utf-8")
    policy = load_policy(tmp_path / POLICY)
    assert (policy.cards, policy.special.epsilon, policy.otherwise.epsilon) == ((), 3.0, 8.0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_card_can_be_written_as_the_template_shows_it(tmp_path: Path, language: str) -> None:
    shown = re.findall(r"# .*(cards: \[[^]]+\])", template("policy", language))
    assert shown == ["cards: [elder-admission]"]
    (tmp_path / POLICY).write_text(template("policy", language).replace("cards: []", shown[0], 1), encoding="utf-8")
    assert load_policy(tmp_path / POLICY).cards == ("elder-admission",)


# Adding a population


def agent_yaml(folder: Path, text: str) -> Home:
    folder.mkdir(exist_ok=True)
    (folder / AGENT).write_bytes(text.encode())
    return Home.open(folder)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_population_is_written_at_the_end_of_a_new_agents_file(tmp_path: Path, language: Language) -> None:
    home = create(tmp_path, "851", language)
    before = (tmp_path / AGENT).read_text(encoding="utf-8")
    for name in ("omsorg", "skole"):
        home = add_population(home, name, SETTINGS)
    assert home.settings.populations == {"omsorg": SETTINGS, "skole": SETTINGS}
    assert (tmp_path / AGENT).read_text(encoding="utf-8").startswith(before)
    assert (tmp_path / AGENT).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "start",
    [
        "populations:\n", "populations: {}\n", "populations: { }  # none yet\n", "populations: null\n",
        "populations: ~\n",
        "populations:   # mine\n    gamle:\n        citizen: cpr\n        source: {location: a.csv}\n",
        "populations:\n gamle: {citizen: cpr, source: {location: a.csv}}\n # later: columns\n\n",
        "populations:",
        "\ufeffpopulations:\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_population_is_added_however_the_file_is_written(tmp_path: Path, start: str, end: str) -> None:
    text = (start[:1] if start[0] == "\ufeff" else "") + HEADER + start.lstrip("\ufeff")
    text = text.replace("\n", end)
    before = agent_yaml(tmp_path, text)
    after = add_population(before, "nye", SETTINGS)
    assert after.settings.populations == {**before.settings.populations, "nye": SETTINGS}
    written = (tmp_path / AGENT).read_bytes().decode()
    assert set(re.findall(r"\r?\n", written)) == {end}


COMMENT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=10).map("# {}".format)


# But for `no` and the like, which YAML reads as no text.
NAME = st.from_regex(r"[a-z]{2,6}", fullmatch=True).filter(lambda name: yaml.safe_load(name) == name)


@given(data=st.data(), names=st.lists(NAME, unique=True, max_size=3),
       indent=st.integers(1, 6), held_out=st.floats(0.05, 0.95))  # fmt: skip
def test_every_line_that_people_wrote_stays_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, names: list[str], indent: int, held_out: float
) -> None:
    lines = [*HEADER.splitlines(), "populations:"]
    for name in names:
        lines += [f"{' ' * indent}{name}: {{citizen: cpr, source: {{location: {name}.csv}}}}"]
    for place in data.draw(st.lists(st.integers(0, len(lines)), max_size=4)):
        lines.insert(place, data.draw(COMMENT))
    home = agent_yaml(tmp_path_factory.mktemp("agent"), "\n".join(lines) + "\n")
    new = SETTINGS.model_copy(update={"held_out": held_out, "columns": {"age": "ælder: #1"}})
    added = add_population(home, "the-newest", new)
    assert added.settings.populations == {**home.settings.populations, "the-newest": new}
    written = (home.folder / AGENT).read_text(encoding="utf-8").splitlines()
    assert written[: len(lines)] == lines


@pytest.mark.parametrize(
    "text",
    [
        f"populations:\n  gamle: {{citizen: cpr, source: {{location: a.csv}}}}\n{HEADER}",
        f"{HEADER}populations: {{gamle: {{citizen: cpr, source: {{location: a.csv}}}}}}\n",
        f"{HEADER}populations:\n...\n",
        '{"version": 1, "municipality": "0851", "populations": {}}\n',
    ],
)
def test_where_nothing_can_be_added_the_line_to_write_is_given(tmp_path: Path, text: str) -> None:
    home = agent_yaml(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        add_population(home, "nye", SETTINGS)
    assert (tmp_path / AGENT).read_text(encoding="utf-8") == text
    for language in LANGUAGES:
        told = caught.value.text(language)
        assert "\n" not in told
        given_line = told[told.index("nye: {") :]
        assert PopulationSettings.model_validate(yaml.safe_load(given_line)["nye"]) == SETTINGS


# Broken settings


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"text", b"- a\n- b\n", b"version: 1\n", b"\xff\xfe", b"a: \0", b"a: *x\n", b"a: 2020-13-45\n",
        b"a: !!int ''\n",
        b"populations:\n  p:\n  citizen", b"[" * 5000, b"a: !!python/object/apply:os.system ['true']\n",
        b"version: 2\nmunicipality: '0851'\npopulations:\n", b"version: 1\nmunicipality: '0999'\npopulations:\n",
        b"version: 1\nmunicipality: '0851'\npopulations: [a]\n",
        b"version: 1\nmunicipality: '0851'\npopulations:\nmore: 0101701234\n",
        b"version: 1\nmunicipality: '0851'\npopulations:\n  p: {citizen: '', source: kodeord}\n",
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_broken_settings_are_one_line_in_both_languages_and_repeat_no_value(tmp_path: Path, text: bytes) -> None:
    (tmp_path / AGENT).write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        Home.open(tmp_path)
    for language in LANGUAGES:
        told = caught.value.text(language)
        assert told.startswith(f"{tmp_path / AGENT}: ")
        assert "\n" not in told
        assert "0101701234" not in told
        assert "kodeord" not in told


@pytest.mark.parametrize("place", [".", "nowhere", "a-file"])
def test_where_there_are_no_settings_the_ways_to_them_are_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(ConfigError) as caught:
        Home.open(tmp_path / place)
    for language in LANGUAGES:
        assert all(way in caught.value.text(language) for way in ("--dir", "FAELLES_AGENT_DIR", "faelles-agent init"))


@pytest.mark.parametrize(
    ("error", "da", "en"),
    [
        (PermissionError(13, "Permission denied"), "(adgang nægtet); skriv kommandoen som agentens bruger",
         "permission denied; type the command as the agent's user"),
        (IsADirectoryError(21, "Is a directory"), "(er en mappe); ret det", "is a directory; mend it"),
        (OSError(5, "Input/output error"), "(det går ikke); ret det", "input/output error; mend it"),
    ],
)  # fmt: skip
def test_settings_that_are_there_and_cannot_be_read_never_propose_a_new_agent(
    home: Home, error: OSError, da: str, en: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(Path, "read_text", fail)  # root may read everything, so the system is not tried
    with pytest.raises(ConfigError) as caught:
        Home.open(home.folder)
    for language, words in (("da", da), ("en", en)):
        assert words in caught.value.text(language)
        assert "init" not in caught.value.text(language)
        assert "\n" not in caught.value.text(language)


def test_a_policy_that_cannot_be_read_allows_nothing(home: Home) -> None:
    (home.folder / POLICY).write_text("cards: all\n", encoding="utf-8")
    assert home.policy_or_nothing() == Policy()
    with pytest.raises(PolicyError, match="everything is refused"):
        home.policy()


# The store


@pytest.mark.parametrize("lost", ["missing", "empty"])
def test_a_lost_store_is_never_replaced_by_an_empty_account(home: Home, lost: str) -> None:
    path = home.folder / STORE
    path.unlink()
    if lost == "empty":
        path.touch()
    for serving in (False, True):
        with pytest.raises(LedgerError, match="restore the newest backup") as caught:
            home.store(serving=serving)
        assert "sikkerhedskopi" in caught.value.text("da")
    assert path.exists() == (lost == "empty")
    assert not path.exists() or not path.stat().st_size


def test_a_store_that_cannot_be_written_is_not_called_damaged(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anything but a file system that is mounted to be read, so the system is asked and not tried.
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    with pytest.raises(LedgerError) as caught:
        home.store()
    assert "permissions" in caught.value.text("en")
    assert "backup" not in caught.value.text("en")


def test_one_process_serves_and_commands_look_on(home: Home) -> None:
    with (
        closing(home.store(serving=True)),
        closing(home.store()),
        pytest.raises(LedgerError, match="one is running"),
    ):
        home.store(serving=True)


# Populations


def test_a_population_that_is_not_there_is_told_with_those_that_are(home: Home) -> None:
    home = add_population(home, "omsorg", SETTINGS)
    with pytest.raises(ConfigError, match=r"\(omsorg\)") as caught:
        home.population("skole")
    assert "tilføj den" in caught.value.text("da")


@pytest.mark.parametrize("change", [{"citizen": "other"}, {"special_categories": False}, {"held_out": 0.3}])
def test_what_an_account_rests_on_cannot_be_changed_in_the_file(home: Home, change: dict[str, Any]) -> None:
    with closing(home.store()) as store:
        with store.transaction() as database:
            consent.register(database, Population(name="omsorg", citizen="cpr"), utc_now())
        assert add_population(home, "omsorg", SETTINGS).check_population(store, "omsorg") == SETTINGS
        changed = home.settings.model_copy(update={"populations": {"omsorg": SETTINGS.model_copy(update=change)}})
        with pytest.raises(PolicyError, match="set them back"):
            Home(folder=home.folder, settings=changed).check_population(store, "omsorg")


# Exports


@pytest.mark.parametrize("there", [None, b"", b"PK\x03\x04 an older one"])
def test_an_export_is_written_for_its_owner_over_its_like(tmp_path: Path, there: bytes | None) -> None:
    path = tmp_path / "out"
    if there is not None:
        path.write_bytes(there)
        path.chmod(0o600)
    write_out(path, b"PK\x03\x04 a new one")
    assert path.read_bytes() == b"PK\x03\x04 a new one"
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", FILES)
def test_an_export_takes_the_place_of_nothing_of_the_agents(home: Home, name: str) -> None:
    before = (home.folder / name).read_bytes()
    with pytest.raises(FaellesError, match="choose another name"):
        write_out(home.folder / name, b'{"after":0}')
    assert (home.folder / name).read_bytes() == before
