"""Know the agent's folder: what lies in it, and how to open each thing.

agent.yaml      who the municipality is and where its data are
policy.yaml     what it allows
signing.key     the agent's Ed25519 key, readable by its owner only
store.sqlite    account, outbox, local state, journal
receipts/       signed receipts of what was withdrawn
run/            what the processes of a running agent hand each other; see `client.runtime`

What it knows of its coordinator lies there too; see `client.connection`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from client import consent, keys
from client.keys import Signer
from client.language import Language, danish_mistakes, reason
from client.ledger import utc_now
from client.policy import Policy, load_policy, policy_or_nothing
from client.population import PopulationSettings, read
from client.source import identity
from client.store import Store
from faelles.card import UseCaseCard, describe_mistakes
from faelles.errors import ConfigError, LedgerError, PolicyError
from faelles.municipalities import by_code

AGENT, POLICY, KEY, STORE, RECEIPTS = "agent.yaml", "policy.yaml", "signing.key", "store.sqlite", "receipts"
ENVIRONMENT = "FAELLES_AGENT_DIR"


class AgentSettings(BaseModel):
    """Hold agent.yaml as it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: Literal[1]
    municipality: Annotated[str, Field(pattern=r"^0[1-9][0-9]{2}$"), AfterValidator(lambda code: by_code(code).code)]
    populations: Annotated[Mapping[str, PopulationSettings], BeforeValidator(lambda value: value or {})]


@dataclass(frozen=True, kw_only=True)
class Home:
    """Hold the agent's folder and its settings."""

    folder: Path
    settings: AgentSettings

    @classmethod
    def open(cls, folder: Path) -> "Home":
        """Read the settings of a folder.

        Raises:
            ConfigError: There are none, or they hold a mistake.
        """
        return cls(folder=folder, settings=_parse(_fields(folder / AGENT), folder / AGENT))

    def policy(self) -> Policy:
        """Read the policy.

        Raises:
            PolicyError: It cannot be read; everything is refused meanwhile.
        """
        return load_policy(self.folder / POLICY)

    def policy_or_nothing(self) -> Policy:
        """Read the policy, or refuse everything where it cannot be read."""
        return policy_or_nothing(self.folder / POLICY)

    def signer(self) -> Signer:
        """Read the agent's key."""
        return keys.load(self.folder / KEY)

    def store(self, serving: bool = False) -> Store:
        """Open the store; `serving` is for the one process that answers messages.

        Raises:
            LedgerError: There is none, or it cannot be used; no new and empty account takes the place of a lost one.
        """
        path = self.folder / STORE
        if not path.exists() or not path.stat().st_size:
            raise LedgerError(
                f"{path}: expected the agent's store, found none; restore the newest backup and run "
                "`faelles-agent ledger recover`",
                da=f"{path}: her skulle agentens lager ligge; genskab den nyeste sikkerhedskopi, og kør "
                "`faelles-agent ledger recover`",
            )
        if not os.access(path, os.R_OK | os.W_OK) or not os.access(self.folder, os.W_OK | os.X_OK):
            raise LedgerError(
                f"{path}: expected a store and a folder that can be written, they cannot; correct their permissions",
                da=f"{path}: lageret og dets mappe skal kunne skrives i, men kan ikke; ret rettighederne",
            )
        return Store(path, serving=serving)

    def population(self, name: str) -> PopulationSettings:
        """Find the settings of a population.

        Raises:
            ConfigError: agent.yaml has none of this name.
        """
        if name not in self.settings.populations:
            known = ", ".join(self.settings.populations) or "-"
            raise ConfigError(
                f"population {name}: expected one of agent.yaml ({known}); add it with `faelles-agent population add`",
                da=f"population {name}: findes ikke i agent.yaml ({known}); tilføj den med "
                "`faelles-agent population add`",
            )
        return self.settings.populations[name]

    def check_population(self, store: Store, name: str) -> PopulationSettings:
        """Find a population's settings and see that they are still those it was registered with; bind its source.

        Raises:
            PolicyError: They are others, it was never registered, or the source is another population's.
        """
        settings = self.population(name)
        known = consent.find_population(store.database, name)
        same = known is not None and (known.citizen, known.special_categories, known.held_out) == (
            settings.citizen, settings.special_categories, settings.held_out,
        )  # fmt: skip
        if not same:
            raise PolicyError(
                f"population {name}: expected citizen, special_categories and held_out in agent.yaml as they were "
                "registered, they differ; set them back, or add a new population",
                da=f"population {name}: citizen, special_categories og held_out i agent.yaml skal være, som da "
                "populationen blev registreret; ret dem tilbage, eller tilføj en ny population",
            )
        with store.transaction() as database:
            consent.attach_source(database, name, identity(settings.source, self.folder), utc_now())
        return settings

    def rows(self, store: Store, name: str, card: UseCaseCard) -> pa.Table:
        """Read a population's rows for a card, under the contract's names."""
        return read(self.check_population(store, name), card, self.folder)


def create(folder: Path, municipality: str, language: Language) -> Home:
    """Lay out a new agent's folder, whole or not at all.

    Raises:
        ConfigError: There is an agent already, or the folder cannot be written; nothing is overwritten.
    """
    code = by_code(municipality).code
    if any((folder / name).exists() for name in (AGENT, POLICY, KEY, STORE)):
        raise ConfigError(
            f"{folder}: expected a folder without an agent, one is there; choose another, nothing was changed",
            da=f"{folder}: der er allerede en agent i mappen; vælg en anden, intet er ændret",
        )
    try:
        _lay_out(folder, code, language)
    except BaseException as error:
        for name in (AGENT, POLICY, KEY, STORE):  # none was there before
            if folder.is_dir():
                (folder / name).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise ConfigError(
            f"{folder}: expected a folder that can be written, {reason(error, 'en')}; choose another",
            da=f"{folder}: der kan ikke skrives i mappen ({reason(error, 'da')}); vælg en anden",
        ) from None
    return Home.open(folder)


def _lay_out(folder: Path, code: str, language: Language) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (AGENT, POLICY):
        text = files("client").joinpath(f"templates/{Path(name).stem}.{language}.yaml").read_text(encoding="utf-8")
        _write(folder / name, text.replace("@MUNICIPALITY@", code))
    keys.create(folder / KEY)
    Store(folder / STORE, serving=False).close()


def add_population(home: Home, name: str, settings: PopulationSettings) -> Home:
    """Write a population at the end of agent.yaml, and leave every other line as people wrote it.

    Raises:
        ConfigError: The file does not end with its populations, so nothing can be added there.
    """
    path = home.folder / AGENT
    fields = settings.model_dump(mode="json", exclude_defaults=True)
    fields = {"citizen": settings.citizen, "special_categories": settings.special_categories,
              "held_out": settings.held_out} | fields  # fmt: skip
    text = _with_population(path.read_bytes().decode("utf-8"), name, fields)
    wanted = {**home.settings.populations, name: settings}
    try:
        written = AgentSettings.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError):
        written = home.settings
    if written.populations != wanted:
        line = yaml.safe_dump({name: fields}, allow_unicode=True, sort_keys=False, default_flow_style=True, width=10**6)
        raise ConfigError(
            f"{path}: expected populations to be its last part, one line each; move it to the end, or write this under "
            f"it, and add the population again without its terms: {line.strip()[1:-1]}",
            da=f"{path}: populations skal stå sidst, med en linje til hver; flyt den nederst, eller skriv selv dette "
            f"under den, og tilføj populationen igen uden tilvalg: {line.strip()[1:-1]}",
        )
    _write(path, text)
    return Home.open(home.folder)


def _with_population(text: str, name: str, fields: Mapping[str, Any]) -> str:
    """Put a population at the end, indented as the others are, with the line ends of the file."""
    text = re.sub(r"(?m)^populations:[ ]*(\{[ ]*\}|null|~)", "populations:", text)
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)  # its settings were read
    others = next(value for key, value in root.value if key.value == "populations")
    indent = " " * (others.value[0][0].start_mark.column if others.value else 2)
    end = "\r\n" if "\r\n" in text else "\n"
    block = yaml.safe_dump({name: fields}, allow_unicode=True, sort_keys=False)
    text = text if text.endswith("\n") else text + end
    return text + "".join(f"{indent}{line}{end}" for line in block.splitlines())


def write_out(path: Path, data: bytes) -> None:
    """Write a file that people asked for, for its owner only, over nothing but an earlier one of its kind.

    Raises:
        ConfigError: Something else is there; an export never takes the place of a store, a key or anybody's data.
    """
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(4)
        if start not in (b"", data[:4]):
            raise ConfigError(
                f"{path}: expected a new file or an earlier one of its kind, another is there; choose another name",
                da=f"{path}: der ligger allerede en anden slags fil, og den overskrives ikke; vælg et andet navn",
            )
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
        out.write(data)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, for its owner only."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.chmod(0o600)
    os.replace(beside, path)


def _fields(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{path}: expected an agent's settings, found none; name its folder with --dir or {ENVIRONMENT}, or make "
            "one with `faelles-agent init`",
            da=f"{path}: her skulle agentens indstillinger ligge; angiv mappen med --dir eller {ENVIRONMENT}, eller "
            "opret en med `faelles-agent init`",
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except (yaml.YAMLError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError):
        raise ConfigError(
            f"{path}: expected YAML in UTF-8, it cannot be read as that; check indentation and quotes",
            da=f"{path}: skal være YAML i UTF-8, men kan ikke læses; se efter indrykning og anførselstegn",
        ) from None


def _unreadable(path: Path, error: OSError) -> ConfigError:
    """Word why settings that are there cannot be read; a new agent is no way out, for it would lose the account."""
    do = ("ret det, og prøv igen", "mend it and try again")
    if isinstance(error, PermissionError):
        do = ("skriv kommandoen som agentens bruger", "type the command as the agent's user")
    return ConfigError(
        f"{path}: expected an agent's settings that can be read, {reason(error, 'en')}; {do[1]}",
        da=f"{path}: agentens indstillinger kan ikke læses ({reason(error, 'da')}); {do[0]}",
    )


def _parse(fields: Any, path: Path) -> AgentSettings:
    if not isinstance(fields, Mapping):
        fields = {}
    try:
        return AgentSettings.model_validate(fields)
    except ValidationError as error:
        # Without what came: an address may hold a password that somebody wrote into it.
        raise ConfigError(
            f"{path}: {error.error_count()} mistake(s): {describe_mistakes(error, values=False)}",
            da=f"{path}: {error.error_count()} fejl: {danish_mistakes(error)}",
        ) from None
