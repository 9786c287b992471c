"""Read what was typed, in Danish and English; nothing heavy is imported, so that help comes at once."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from client.language import LANGUAGES, Language, read_decimal, read_whole, say

LARGEST_PORT = 65535
MISTAKE = 2  # argparse's own status for a command line that it cannot read
# Nothing that was typed is repeated but the names of options: somebody may have put a CPR number in the wrong place.
COMPLAINTS = (
    (r"the following arguments are required: (.*)", r"der mangler \1", r"expected \1, found none"),
    (r"argument (.*?): invalid choice: .*\(choose from (.*)\)", r"\1: kan være \2", r"\1: expected one of \2"),
    (r"argument (.*?): invalid number value: .*", r"\1: skal være et tal, fx 2,5", r"\1: expected a number, e.g. 2.5"),
    (r"argument (.*?): invalid size value: .*", r"\1: skal være et helt tal, fx 5000",
     r"\1: expected a whole number, e.g. 5000"),
    (r"argument (.*?): invalid share value: .*", r"\1: skal være mellem 0 og 1, fx 0,2",
     r"\1: expected a number between 0 and 1, e.g. 0.2"),
    (r"argument (.*?): invalid day value: .*", r"\1: skal være en dag, fx 2027-06-30",
     r"\1: expected a day, e.g. 2027-06-30"),
    (r"argument (.*?): invalid port value: .*", r"\1: skal være et portnummer, fx 8446",
     r"\1: expected the number of a port, e.g. 8446"),
    (r"argument (.*?): expected one argument", r"\1: der mangler en værdi", r"\1: expected a value, found none"),
    (r"argument (.*?): ignored explicit argument .*", r"\1: tager ingen værdi", r"\1: expected no value"),
)  # fmt: skip
UNKNOWN = r"unrecognized arguments: (.*)"


def language_of(typed: Sequence[str]) -> Language:
    """Find the language before anything is said in one."""
    for place, word in enumerate(typed):
        value = word.removeprefix("--lang=") if word.startswith("--lang=") else None
        if word == "--lang" and place + 1 < len(typed):
            value = typed[place + 1]
        for known in LANGUAGES:
            if value == known:
                return known
    return LANGUAGES[0]


class _Parser(argparse.ArgumentParser):
    """Speak one language, and complain in one line."""

    language: Language = "en"

    def __init__(self, *, prog: str, description: str) -> None:
        # No abbreviations: --no would be --no-special-categories, and --lan is not seen by language_of.
        super().__init__(prog=prog, description=description, add_help=False, allow_abbrev=False,
                         formatter_class=_FORMATTERS[self.language])  # fmt: skip
        language = self.language
        self._positionals.title = say(language, "argumenter", "arguments")
        self._optionals.title = say(language, "tilvalg", "options")
        self.add_argument("-h", "--help", action="help", help=say(language, "vis denne hjælp", "show this help"))
        # Not set where they are not typed, so that one before the command is not lost to the command's own default.
        for name, metavar, da, en in (
            ("--lang", "da|en", "sprog: da eller en", "language: da or en"),
            ("--dir", say(language, "MAPPE", "DIR"), "agentens mappe; ellers FAELLES_AGENT_DIR eller denne mappe",
             "the agent's folder; else FAELLES_AGENT_DIR or this one"),
        ):  # fmt: skip
            kind = Path if name == "--dir" else str
            choices = LANGUAGES if name == "--lang" else None
            self.add_argument(name, type=kind, metavar=metavar, choices=choices, default=argparse.SUPPRESS,
                              help=say(language, da, en))  # fmt: skip

    def error(self, message: str) -> NoReturn:
        """Stop with status 2."""
        da, en = _complaint(message)
        print(say(self.language, f"fejl: {da}; se {self.prog} --help", f"error: {en}; see {self.prog} --help"),
              file=sys.stderr)  # fmt: skip
        sys.exit(MISTAKE)


class _DanishParser(_Parser):
    language: Language = "da"


class _DanishFormatter(argparse.HelpFormatter):
    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: Iterable[Any], prefix: str | None = None
    ) -> None:
        super().add_usage(usage, actions, groups, "brug: " if prefix is None else prefix)


_PARSERS: Mapping[Language, type[_Parser]] = {"da": _DanishParser, "en": _Parser}
_FORMATTERS: Mapping[Language, type[argparse.HelpFormatter]] = {"da": _DanishFormatter, "en": argparse.HelpFormatter}


def _complaint(message: str) -> tuple[str, str]:
    """Word what argparse says, in Danish and English."""
    for pattern, da, en in COMPLAINTS:
        if found := re.fullmatch(pattern, message, re.DOTALL):
            return found.expand(da).replace("'", ""), found.expand(en).replace("'", "")
    unknown = re.fullmatch(UNKNOWN, message, re.DOTALL)
    options = ", ".join(re.findall(r"(?<!\S)--[a-z][a-z-]*", unknown[1])) if unknown else ""
    if options:
        return f"{options} kendes ikke her", f"{options}: expected an option of this command, it has none such"
    return "der står mere, end kommandoen tager", "expected nothing more, something was typed after the command"


def parser(language: Language) -> argparse.ArgumentParser:
    """Build the parser of a language."""
    description = say(
        language,
        "Kommunens agent: den træner på jeres data, og kun det, politikken tillader, forlader kommunen.",
        "The municipality's agent: it trains on your own data, and only what the policy allows leaves.",
    )
    whole = _PARSERS[language](prog="faelles-agent", description=description)
    whole.set_defaults(lang=language, dir=None)
    commands = whole.add_subparsers(
        required=True, dest="command", metavar=say(language, "KOMMANDO", "COMMAND"), parser_class=_PARSERS[language]
    )
    for name, (da, en, options) in GRAMMAR.items():
        text = say(language, da, en)
        one = commands.add_parser(name, help=text, description=text)
        for option in options:
            option.add_to(one, language)
        words = [option.usage(language) for option in sorted(options, key=lambda option: option.name.startswith("--"))]
        one.usage = " ".join(filter(None, [one.prog, *words, say(language, "[tilvalg]", "[options]")]))
    return whole


@dataclass(frozen=True, kw_only=True)
class Option:
    """Hold one argument of a command, with its help in both languages.

    Args:
        name: Begins with -- unless it goes by its place.
        da: Its help in Danish.
        en: The same in English.
        value: What is typed for it, in Danish and English; empty for a flag.
        type: Reads it.
        required: Whether the command needs it; what goes by its place is needed unless this is False.
        choices: The only texts that it may be.
    """

    name: str
    da: str
    en: str
    value: tuple[str, str] = ("", "")
    type: Callable[[str], object] = str
    required: bool = False
    choices: tuple[str, ...] | None = None

    def add_to(self, one: argparse.ArgumentParser, language: Language) -> None:
        """Add it to a command's parser."""
        text, value = say(language, self.da, self.en), self._value(language)
        if not self.name.startswith("--"):
            one.add_argument(self.name, type=self.type, choices=self.choices, help=text, metavar=value,
                             nargs=None if self.required else "?")  # fmt: skip
        elif value:
            one.add_argument(self.name, type=self.type, required=self.required, help=text, metavar=value)
        else:
            one.add_argument(self.name, action="store_true", help=text)

    def usage(self, language: Language) -> str:
        """Write it for the line of usage; empty where it may be left out and has a name."""
        if self.name.startswith("--"):
            return f"{self.name} {self._value(language)}" if self.required else ""
        return self._value(language) if self.required else f"[{self._value(language)}]"

    def _value(self, language: Language) -> str:
        return "|".join(self.choices) if self.choices else say(language, *self.value)


# Their names stand in what argparse complains of; see COMPLAINTS.
def number(text: str) -> float:
    """Read a number."""
    return read_decimal(text)


def size(text: str) -> int:
    """Read a whole number."""
    return read_whole(text)


def share(text: str) -> float:
    """Read a number between 0 and 1."""
    value = read_decimal(text)
    if not 0 < value < 1:
        raise ValueError("share: expected a number between 0 and 1")
    return value


def port(text: str) -> int:
    """Read the number of a port; 0 stands for any."""
    value = int(text)
    if not 0 <= value <= LARGEST_PORT:
        raise ValueError("port: expected a number of at most 65535")
    return value


def day(text: str) -> date:
    """Read a day."""
    return date.fromisoformat(text)


NAME, FILE, DAY, NUMBER = ("NAVN", "NAME"), ("FIL", "FILE"), ("DATO", "DATE"), ("TAL", "NUMBER")
CARD = Option(name="card", value=("KORT", "CARD"), required=True,
              da="kortets navn i kataloget, eller en mappe med en card.yaml",
              en="the card's name in the catalogue, or a folder that holds a card.yaml")  # fmt: skip
POPULATION = Option(name="--population", da="populationens navn", en="the population's name", value=NAME, required=True)
KEY = Option(name="--key", da="den nøgle, der skrives under med", en="the key to sign with", value=FILE, type=Path)
GRAMMAR: Mapping[str, tuple[str, str, tuple[Option, ...]]] = {
    "init": ("opret en agent", "lay out a new agent", (
        Option(name="--municipality", value=("KODE", "CODE"), required=True,
               da="kommunekoden, fx 851", en="the kommunekode, e.g. 851"),
    )),
    "person": ("lav en persons nøgle", "make a person's key", (
        Option(name="name", value=NAME, da="personens navn", en="the person's name", required=True),
        replace(KEY, required=True, da="hvor nøglen skal ligge", en="where the key shall lie"),
    )),
    "population": ("registrér en gruppe borgere", "register a group of citizens", (
        Option(name="action", choices=("add",), da="registrér den", en="register it", required=True),
        Option(name="name", value=NAME, da="populationens navn", en="the population's name", required=True),
        Option(name="--citizen", value=("KOLONNE", "COLUMN"), da="den lokale kolonne, der skelner borgerne",
               en="the local column that tells citizens apart"),
        Option(name="--source", value=("KILDE", "SOURCE"),
               da="en fil (.csv, .txt, .parquet) eller en adresse (postgresql://…?table=…); den og kolonnen udelades, "
               "når agent.yaml allerede beskriver populationen",
               en="a file (.csv, .txt, .parquet) or an address (postgresql://…?table=…); leave it and the column out "
               "where agent.yaml describes the population already"),
        Option(name="--password-file", value=FILE, type=Path, da="en fil med adgangskoden, som kun ejeren kan læse",
               en="a file with the password that only its owner can read"),
        Option(name="--no-special-categories", da="data er ikke følsomme (artikel 9)",
               en="the data are not sensitive (article 9)"),
        Option(name="--held-out", value=NUMBER, type=share,
               da="andelen af borgere, som ingen model må træne på; 0,2, hvis intet skrives",
               en="the share of citizens that no model may train on; 0.2 unless given"),
        Option(name="--accept-overlap", da="borgerne er andre, selv om nogle også findes i en anden population",
               en="the citizens are others although some are in another population too"),
        KEY,
    )),
    "check-data": ("se, om data passer til et kort; kun på denne skærm",
                   "see whether data fit a card; on this screen only", (CARD, POPULATION)),
    "approve": ("godkend et kort", "approve a card", (
        CARD, POPULATION,
        Option(name="--declared-size", value=NUMBER, type=size, required=True,
               da="et offentligt størrelsestrin, fx 5000; 0, hvis der ingen borgere er",
               en="a public band of size, e.g. 5000; 0 where there are no citizens"),
        Option(name="--epsilon", value=NUMBER, type=number, required=True,
               da="det mest, kortets kørsler må bruge tilsammen",
               en="the most that the card's runs may spend together"),
        Option(name="--until", value=DAY, type=day, da="den sidste dag, fx 2027-06-30",
               en="the last day, e.g. 2027-06-30"),
        KEY,
    )),
    "countersign": ("skriv under som den anden person, på et kort eller en population",
                    "sign as the second person, a card or a population", (
        replace(CARD, required=False, da="kortets navn", en="the card's name"),
        replace(POPULATION, required=False),
        replace(KEY, required=True),
    )),
    "withdraw": ("træk et kort tilbage med det samme", "withdraw a card at once", (
        replace(CARD, da="kortets navn eller hash", en="the card's name or hash"),
    )),
    "policy": ("vis regler og godkendelser", "show rules and approvals", ()),
    "ledger": ("vis kontoen", "show the account", (
        Option(name="action", choices=("recover",), da="bogfør det, der mangler, som brugt",
               en="charge what is missing as spent"),
        Option(name="--what-if", value=("SPØRGSMÅL", "QUESTION"),
               da="hvad kontoen så ville være, fx \"30 runder mere\"",
               en="what the account would be then, e.g. \"30 more rounds\""),
    )),
    "journal": ("vis udgangsbogen", "show the journal of what left", (
        Option(name="--since", value=DAY, type=day, da="fra og med denne dag", en="from this day on"),
        Option(name="--verify", da="følg udgangsbogens og kontoens kæder",
               en="follow the journal's and the ledger's chains"),
        Option(name="--export", value=FILE, type=Path, da="skriv den som JSON Lines", en="write it as JSON Lines"),
    )),
    "verify": ("efterprøv en eksport eller en kvittering", "check an export or a receipt", (
        Option(name="file", value=FILE, type=Path, da="filen", en="the file", required=True),
    )),
    "model": ("vis eller eksportér færdige modeller", "list or export finished models", (
        Option(name="action", choices=("list", "export"), da="vis dem alle, eller eksportér én",
               en="list them all, or export one", required=True),
        Option(name="federation", value=("FØDERATION", "FEDERATION"), da="føderationen, eller begyndelsen af den",
               en="the federation, or its beginning"),
        Option(name="--out", value=FILE, type=Path, da="filen, fx model.npz", en="the file, e.g. model.npz"),
    )),
    "enrol": ("bed en koordinator om at blive tilmeldt", "ask a coordinator to be let in", (
        Option(name="--coordinator", value=("VÆRT:PORT", "HOST:PORT"),
               da="koordinatorens adresse; den kendte, hvis intet skrives",
               en="the coordinator's address; the known one unless given"),
        Option(name="--ca", value=FILE, type=Path,
               da="den CA, der har udstedt koordinatorens certifikat; ellers maskinens egne",
               en="the CA that signs the coordinator's certificate; else this machine's own"),
        Option(name="--cvr", value=("NUMMER", "NUMBER"), da="kommunens CVR-nummer, første gang",
               en="the municipality's CVR number, the first time"),
        Option(name="--rotate", da="lav en ny nøgle til login i stedet for den gamle",
               en="make a new login key in place of the old"),
    )),
    "check": ("se, om alt, der kan ses herfra, er klar til at deltage",
              "see whether all that can be seen from here is ready to take part", ()),
    "up": ("deltag, indtil agenten stoppes", "take part, until the agent is stopped", (
        Option(name="--health", value=("PORT", "PORT"), type=port,
               da="hvor agenten på denne maskine svarer på, om den er rask; 8446, hvis intet skrives, 0 for en ledig",
               en="where it tells this machine whether it is well; 8446 unless given, 0 for a free one"),
    )),
}  # fmt: skip
