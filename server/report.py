"""Write report.html: one file for people, that needs no network and no JavaScript.

Everything shown is worked out here and in the modules beside it; the template only lays it out. Equal results give
equal bytes.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from faelles.card import Bilingual
from faelles.municipalities import MUNICIPALITIES
from server import tables
from server.benefit import benefit
from server.figures import Figure, Sizes, curves, sizes
from server.formats import delta, epsilon, fixed, percent
from server.participation import MUNICIPALITY, SITE, Noun, about_release, absences, status
from server.result import Result, write_atomically
from server.tables import ARMS, ArmName, Table, both
from server.timeline import timeline

LONGEST_LEAD = 30  # letters
SMALLEST_GAP = 0.001  # in AUC: below it, the way from alone to the ceiling is no way to measure along


@dataclass(frozen=True, kw_only=True)
class Card:
    """Hold one key figure."""

    label: Bilingual
    value: str
    notes: tuple[str, ...]
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Say how far the federation comes from learning alone to the ceiling; `share` in [0, 1] where it can be drawn."""

    sentence: str
    share: float | None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Hold a paragraph of a statement: its first words where they are a title, the rest, and the list under it."""

    lead: str
    text: str
    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Live:
    """Hold what only the report of a live federation shows."""

    about_release: Bilingual
    figures: tuple[Figure, ...]
    expected: Table
    rounds: Table
    resumable: bool


@dataclass(frozen=True, kw_only=True)
class View:
    """Hold everything the template lays out."""

    result: Result
    noun: Noun
    status: Bilingual
    guarantee: Bilingual
    cards: tuple[Card, ...]
    way: Way | None
    arms: Table
    curves: tuple[Figure, ...]
    sizes: Sizes | None
    statement: dict[str, tuple[Block, ...]]
    privacy: Table
    plans: Table
    released: Table | None
    live: Live | None
    absences: Table
    identity: Table
    timing: Table
    versions: Table
    config: str


def write_report(result: Result, path: Path) -> None:
    """Write the report of a result, atomically."""
    write_atomically(path, render(result).encode())


def render(result: Result) -> str:
    """Render the report of a result as one HTML page; text from the result is escaped."""
    return _template().render(view=view(result))


def view(result: Result) -> View:
    """Work out everything a report shows."""
    noun = _noun(result)
    found = benefit(result)
    missing = absences(result.run, lambda key: result.sites[key].name if key in result.sites else key)
    return View(
        result=result,
        noun=noun,
        status=status(result.run, noun),
        guarantee=_guarantee(result),
        cards=tuple(_cards(result, noun)),
        way=_way(result),
        arms=tables.arms_table(result),
        curves=tuple(curves(result)),
        sizes=sizes(found, noun) if found else None,
        statement={language: _blocks(text) for language, text in result.privacy.statement.model_dump().items()},
        privacy=tables.privacy_table(result.privacy),
        plans=tables.plans_table(result.privacy, noun),
        released=_released(result),
        live=_live(result, noun) if result.live else None,
        absences=tables.absences_table(missing, noun),
        identity=tables.identity_table(result),
        timing=tables.timing_table(result),
        versions=tables.versions_table(result),
        config=json.dumps(result.config, indent=2, ensure_ascii=False),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("server"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2")


def _noun(result: Result) -> Noun:
    """Call those who take part municipalities only where they are: benchmarks have states, hospitals and schools."""
    if result.live:
        return MUNICIPALITY
    codes = {str(one.code) for one in MUNICIPALITIES}
    keys = {*result.run.expected, *result.sites}
    return MUNICIPALITY if keys and keys <= codes else SITE


def _guarantee(result: Result) -> Bilingual:
    """Say the guarantee in a line."""
    privacy = result.privacy
    if not privacy.private:
        return Bilingual(
            en="No differential privacy: no noise was added, and ε is infinite.",
            da="Ingen differentiel privatlivsbeskyttelse: der er ikke lagt støj på, og ε er uendelig.",
        )
    bound, chance = epsilon(privacy.epsilon), delta(privacy.delta)
    danish = _in_danish(chance.replace("1 in", "1 ud af"))
    return Bilingual(
        en=f"Differential privacy over the whole training: ε at most {bound}, δ {chance}, for each {privacy.unit.en}.",
        da=f"Differentiel privatlivsbeskyttelse gennem hele træningen: ε højst {_in_danish(bound)},"
        f" δ {danish}, for hver {privacy.unit.da}.",
    )


def _in_danish(figure: str) -> str:
    """Write a figure as Danish does."""
    return figure.translate(str.maketrans(",.", ".,"))


def _released(result: Result) -> Table | None:
    """Show what was released about the model's quality: beside the exact figures, where they are known."""
    released = result.run.evaluation
    if released is None:
        return None
    if result.main_arm is None:
        return tables.noisy_table(released) if released.contributing else None
    return tables.released_table(released, result.arms.get(result.main_arm))


def _live(result: Result, noun: Noun) -> Live:
    return Live(
        about_release=about_release(result, noun),
        figures=timeline(result.run, noun),
        expected=tables.expected_table(result, noun),
        rounds=tables.rounds_table(result.run),
        resumable=result.run.status in ("incomplete", "stopped"),
    )


def _cards(result: Result, noun: Noun) -> list[Card]:
    names: tuple[tuple[ArmName | None, Bilingual, str], ...] = (
        (result.main_arm, Bilingual(da="AUC, i fællesskab", en="AUC, federated"), "main"),
        ("local", Bilingual(da="AUC, hver for sig", en="AUC, each alone"), "local"),
        ("pooled", Bilingual(da="AUC, loftet", en="AUC, the ceiling"), "pooled"),
    )
    cards = [
        Card(label=label, value=fixed(result.arms[arm].auc.pooled), notes=(ARMS[arm][1],), style=style)
        for arm, label, style in names
        if arm is not None and arm in result.arms
    ]
    released = result.run.evaluation
    if not cards and released is not None and (released.contributing or not result.live):
        label = Bilingual(da="AUC, frigivet", en="AUC, released")
        cards.append(Card(label=label, value=fixed(released.auc), notes=_release_notes(result), style="main"))
    privacy, expected = result.privacy, len(result.run.expected)
    notes = (f"δ = {delta(privacy.delta).partition(' (')[0]}", f"per {both(privacy.unit)}")
    cards.append(
        Card(
            label=Bilingual(da="ε, hele træningen", en="ε, whole training"),
            value=epsilon(privacy.epsilon),
            notes=notes if privacy.private else ("no noise: no protection",),
            style="privacy" if privacy.private else "bad",
        )
    )
    taking = expected - len(result.run.sits_out)
    label = Bilingual(da="Deltager", en="Take part")
    cards.append(Card(label=label, value=f"{taking}", notes=(f"of {expected} {noun.en[expected != 1]} expected",)))
    return [*cards, _rounds_card(result)] if result.live else cards


def _release_notes(result: Result) -> tuple[str, ...]:
    own = result.privacy.evaluation_epsilon
    noise = "from noisy histograms"
    return (noise, f"ε of its own: {epsilon(own)}") if result.live and own is not None else (noise,)


def _rounds_card(result: Result) -> Card:
    asked = result.config.get("terms", {}).get("rounds")
    done = sum(len(one.contributing) >= result.run.needed for one in result.run.rounds)
    notes = ("with a quorum",) if asked is None else (f"of {asked} asked for, with a quorum",)
    return Card(label=Bilingual(da="Runder", en="Rounds"), value=f"{done}", notes=notes)


def _way(result: Result) -> Way | None:
    """Place the main arm between learning alone and the ceiling, by pooled AUC."""
    main, alone, ceiling = (
        result.arms[arm].auc.pooled if arm is not None and arm in result.arms else None
        for arm in (result.main_arm, "local", "pooled")
    )
    if main is None or alone is None:
        return None
    if main < alone:
        return Way(
            sentence=f"Over all held-out citizens, learning alone is better here, by {alone - main:.4f} AUC.",
            share=None,
        )
    if ceiling is None or ceiling - alone < SMALLEST_GAP:
        return Way(sentence=f"The federation is {main - alone:.4f} AUC above learning alone.", share=None)
    share = (main - alone) / (ceiling - alone)
    if share >= 1:
        return Way(sentence="The federation reaches the ceiling.", share=1.0)
    return Way(
        sentence=f"The federation goes {percent(share, 0)} of the way from learning alone to the ceiling.", share=share
    )


def _blocks(text: str) -> tuple[Block, ...]:
    """Split a statement into its paragraphs, with their first words and their lists."""
    blocks = []
    for paragraph in filter(None, (part.strip() for part in text.split("\n\n"))):
        lines = paragraph.splitlines()
        items = tuple(line[2:] for line in lines if line.startswith("- "))
        words = " ".join(line for line in lines if not line.startswith("- "))
        lead, stop, rest = words.partition(". ")
        short = bool(stop) and len(lead) <= LONGEST_LEAD
        blocks.append(Block(lead=f"{lead}." if short else "", text=rest if short else words, items=items))
    return tuple(blocks)
