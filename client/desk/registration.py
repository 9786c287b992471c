"""Register a group of citizens, once: in the ledger for good, and in agent.yaml."""

import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client import consent
from client.consent import Population
from client.desk.people import person, required
from client.home import Home, add_population
from client.ledger import utc_now
from client.population import PopulationSettings, citizen_hashes, overlap
from client.source import SourceSettings, identity
from client.store import Store
from faelles.errors import ConfigError, DataError, PolicyError

NAME = re.compile(r"[a-z][a-z0-9-]{1,47}")
SAME_CITIZENS = 0.05  # a larger share of common citizens makes two populations one


def population_settings(
    home: Home, name: str, source: SourceSettings | None, citizen: str | None, terms: Mapping[str, object]
) -> PopulationSettings:
    """Give a population as it was typed, or as agent.yaml describes it already; never some of each.

    Args:
        home: The agent's folder.
        name: The population.
        source: Its source, where one was typed.
        citizen: Its citizen column, where one was typed.
        terms: Other settings that were typed.

    Raises:
        ConfigError: Too little was typed, or too much.
    """
    known = home.settings.populations.get(name)
    if known is not None and (source or citizen or terms):
        raise ConfigError(
            f"population {name}: expected a new name, agent.yaml has it; a new extract needs no other. To register it "
            "as it stands there, leave out --citizen, --source and the like",
            da=f"population {name}: står allerede i agent.yaml; et nyt udtræk kræver ikke en ny population. Skal den "
            "registreres, som den står dér, så udelad --citizen, --source og lignende",
        )
    if known is not None:
        return known
    if source is None or not citizen:
        raise ConfigError(
            f"population {name}: expected --citizen and --source, or a description in agent.yaml; give one or the "
            "other",
            da=f"population {name}: angiv --citizen og --source, eller beskriv den i agent.yaml",
        )
    return PopulationSettings.model_validate({"citizen": citizen, "source": source, **terms})


def source_settings(location: str, password_file: Path | None) -> SourceSettings:
    """Read a source as it was typed; a relative path is meant from where the person stands."""
    place = location if "://" in location else str(Path(location).absolute())
    return SourceSettings(location=place, password_file=password_file.absolute() if password_file else None)


def register(home: Home, name: str, settings: PopulationSettings, key: Path | None, accept_overlap: bool) -> Population:
    """Register a population: in the ledger for good, and in agent.yaml.

    Raises:
        PolicyError: The name or the source is taken, or the citizens are another population's.
    """
    policy = home.policy()
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"population {name}: expected a name of 2 to 48 small letters (a-z), digits and hyphens; choose another",
            da=f"population {name}: navnet skal bestå af 2 til 48 små bogstaver (a-z), tal og bindestreger; vælg et "
            "andet",
        )
    by = required(person(policy, key), policy.two_people_register)
    # Opened once before anything is written, so that a source that cannot be read is told at once.
    with closing(home.store()) as store:
        hashes = _hashes(home, name, settings, store.key)
        if not accept_overlap:
            _refuse_same_citizens(home, store, name, hashes)
        population = Population(
            name=name, citizen=settings.citizen, special_categories=settings.special_categories,
            held_out=settings.held_out,
        )  # fmt: skip
        with store.transaction() as database:
            registered = consent.register(database, population, utc_now(), by)
            consent.attach_source(database, name, identity(settings.source, home.folder), utc_now())
            if name not in home.settings.populations:
                add_population(home, name, settings)
    return registered


def _hashes(home: Home, name: str, settings: PopulationSettings, key: bytes) -> NDArray[np.uint64]:
    """Read the citizens; where the source was typed, an error names the option and not the setting it would become."""
    try:
        return citizen_hashes(settings, home.folder, key)
    except DataError as error:
        if name in home.settings.populations:
            raise
        raise DataError(_as_typed(str(error)), da=_as_typed(error.text("da"))) from None


def _as_typed(text: str) -> str:
    return re.sub(r"^location:", "--source:", re.sub(r"\bsource\.location$", "--source", text))


def _refuse_same_citizens(home: Home, store: Store, name: str, hashes: NDArray[np.uint64]) -> None:
    for other in consent.populations(store.database):
        if other.name == name or other.name not in home.settings.populations:
            continue
        share = overlap(hashes, citizen_hashes(home.settings.populations[other.name], home.folder, store.key))
        if share > SAME_CITIZENS:
            raise PolicyError(
                f"population {name}: expected citizens of its own, many are in {other.name} too; a new extract of the "
                "same citizens is the same population; say --accept-overlap if these are others",
                da=f"population {name}: mange af borgerne er også i {other.name}; et nyt udtræk af de samme borgere er "
                "den samme population; skriv --accept-overlap, hvis det er andre",
            )
