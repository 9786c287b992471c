"""Record what people decide: which population is registered, which card is approved, and by whose keys.

A decision is a row of the ledger. Where the policy asks for two people, it counts once two different people of the
policy have signed the same words with their own keys.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from client import ledger
from client.keys import Signer
from client.policy import Policy
from faelles.card import UseCaseCard, parse_card
from faelles.errors import PolicyError
from faelles.keys import verify
from faelles.privacy.plan import DECLARED_SIZES

SIGNED = b"faelles consent\n"


class Standing(StrEnum):
    """Say whether a decision counts."""

    VALID = "valid"
    NONE = "none"
    WAITING = "waiting"  # for the second person
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, kw_only=True)
class Person:
    """Hold somebody's name and key."""

    name: str
    signer: Signer


@dataclass(frozen=True, kw_only=True)
class Population:
    """Hold what the account of a population rests on; it is registered once and never changes.

    `held_out` is the share of citizens that no card may train on: one share for all cards, or a citizen could be in
    the training part of one and the held-out part of another, and the accounts would no longer be of different people.
    """

    name: str
    citizen: str
    special_categories: bool = True
    held_out: float = 0.2
    number: int = 0  # of the ledger row


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Hold consent to one card, pinned by its hash, for one population.

    `declared_size` is the public band that the municipality states; 0 says that it has nobody to learn from. `epsilon`
    bounds what all runs of the card may spend together. `until` is the last day; None where it never ends.
    """

    card: UseCaseCard
    population: str
    declared_size: int
    epsilon: float
    until: date | None = None
    number: int = 0  # of the ledger row


def register(
    database: sqlite3.Connection, population: Population, now: datetime, by: Person | None = None
) -> Population:
    """Register a population.

    Raises:
        PolicyError: Another one has this name.
    """
    known = find_population(database, population.name)
    if known is not None:
        raise PolicyError(
            f"population {population.name}: expected a new name, it is registered; a new extract needs no other",
            da=f"population {population.name}: findes allerede; et nyt udtræk kræver ikke en ny population",
        )
    words = {
        "citizen": population.citizen,
        "special_categories": population.special_categories,
        "held_out": population.held_out,
    }
    number = _decide(database, "population", now, words, by, population=population.name)
    return _numbered_population(population.name, words, number)


def find_population(database: sqlite3.Connection, name: str) -> Population | None:
    """Find a registered population, whether or not a second person still has to sign."""
    row = database.execute(
        "SELECT number, detail FROM ledger WHERE kind = 'population' AND population = ? ORDER BY number LIMIT 1",
        (name,),
    ).fetchone()
    return None if row is None else _numbered_population(name, json.loads(row[1])["words"], row[0])


def populations(database: sqlite3.Connection) -> list[Population]:
    """List every registered population."""
    rows = database.execute("SELECT population FROM ledger WHERE kind = 'population' ORDER BY number").fetchall()
    return [found for row in rows if (found := find_population(database, row[0])) is not None]


def attach_source(database: sqlite3.Connection, population: str, identity: str, now: datetime) -> None:
    """Bind a source to a population, for good.

    Raises:
        PolicyError: The source belongs to another population; one account would be charged for another's citizens.
    """
    row = database.execute(
        "SELECT population FROM ledger WHERE kind = 'source' AND json_extract(detail, '$.source') = ?", (identity,)
    ).fetchone()
    if row is None:
        ledger.record(database, now, "source", population=population, detail={"source": identity})
    elif row[0] != population:
        raise PolicyError(
            f"population {population}: expected a source of its own, this one belongs to {row[0]}; use that population",
            da=f"population {population}: kilden hører allerede til {row[0]}; brug den population",
        )


def approve(database: sqlite3.Connection, approval: Approval, now: datetime, by: Person | None = None) -> Approval:
    """Record an approval; it takes the place of an earlier one of the same card.

    Raises:
        PolicyError: The declared size is no public band.
    """
    if approval.declared_size not in (0, *DECLARED_SIZES):
        bands = ", ".join(map(str, DECLARED_SIZES))
        raise PolicyError(
            f"declared size {approval.declared_size}: expected one of the public bands {bands}; choose the nearest",
            da=f"erklæret størrelse {approval.declared_size}: skal være et af de offentlige trin {bands}; "
            "vælg det nærmeste",
        )
    words = {
        "card": approval.card.model_dump(mode="json"),
        "declared_size": approval.declared_size,
        "epsilon": approval.epsilon,
        "until": approval.until.isoformat() if approval.until else None,
    }
    number = _decide(database, "approve", now, words, by, population=approval.population, card=approval.card.sha256)
    return _numbered_approval(approval.population, words, number)


def withdraw(database: sqlite3.Connection, card_sha256: str, now: datetime) -> int:
    """Withdraw a card's approval and free what its runs reserved; at once, also from a run under way.

    Returns:
        The number of the ledger row.
    """
    for one in ledger.open_reservations(database):
        if one.card_sha256 == card_sha256:
            ledger.free(database, one.federation, "withdrawn", now)
    return ledger.record(database, now, "withdraw", card=card_sha256)


def find_approval(database: sqlite3.Connection, card_sha256: str) -> Approval | None:
    """Find the newest approval of a card, whatever its standing; one whose card has another hash is none."""
    row = database.execute(
        "SELECT number, population, detail FROM ledger WHERE kind = 'approve' AND card = ?"
        " ORDER BY number DESC LIMIT 1",
        (card_sha256,),
    ).fetchone()
    found = None if row is None else _numbered_approval(row[1], json.loads(row[2])["words"], row[0])
    return found if found is not None and found.card.sha256 == card_sha256 else None


def approvals(database: sqlite3.Connection) -> list[Approval]:
    """List the newest approval of every card."""
    rows = database.execute("SELECT DISTINCT card FROM ledger WHERE kind = 'approve'").fetchall()
    found = (find_approval(database, row[0]) for row in rows)
    return sorted((one for one in found if one), key=lambda one: one.number)


def standing(database: sqlite3.Connection, approval: Approval | None, policy: Policy, now: datetime) -> Standing:
    """Say whether an approval counts now, and its population with it."""
    if approval is None or not policy.allows_card(approval.card):
        return Standing.NONE
    withdrawn = database.execute(
        "SELECT EXISTS (SELECT 1 FROM ledger WHERE kind = 'withdraw' AND card = ? AND number > ?)",
        (approval.card.sha256, approval.number),
    ).fetchone()[0]
    if withdrawn:
        return Standing.WITHDRAWN
    if approval.until is not None and now.astimezone().date() > approval.until:
        return Standing.EXPIRED
    population = find_population(database, approval.population)
    if population is None:
        return Standing.NONE
    signed = _signed(database, approval.number, policy, policy.two_people_approve)
    signed = signed and _signed(database, population.number, policy, policy.two_people_register)
    return Standing.VALID if signed else Standing.WAITING


def countersign(database: sqlite3.Connection, number: int, by: Person, now: datetime) -> None:
    """Sign a decision as the second person.

    Args:
        database: In a transaction.
        number: The row of the decision.
        by: Who signs.
        now: When.

    Raises:
        PolicyError: The same person signed it before.
    """
    if any(one["person"] == by.name or one["key"] == by.signer.public for one in _signatures(database, number)):
        raise PolicyError(
            f"countersign: expected a second person, {by.name} signed already; ask somebody else",
            da=f"countersign: her skal en anden person skrive under; {by.name} har allerede gjort det",
        )
    row = database.execute("SELECT kind, population, card, detail FROM ledger WHERE number = ?", (number,)).fetchone()
    words = json.loads(row[3])["words"]
    signature = _sign(words, row[0], row[1], by)
    ledger.record(
        database, now, "countersign", population=row[1], card=row[2], detail={"of": number, "signed": signature}
    )


def _decide(
    database: sqlite3.Connection, kind: str, now: datetime, words: Mapping[str, Any], by: Person | None,
    *, population: str, card: str = "",
) -> int:  # fmt: skip
    signed = [_sign(words, kind, population, by)] if by else []
    return ledger.record(
        database, now, kind, population=population, card=card, detail={"words": words, "signed": signed}
    )


def _sign(words: Mapping[str, Any], kind: str, population: str, by: Person) -> dict[str, str]:
    return {
        "person": by.name,
        "key": by.signer.public,
        "signature": by.signer.sign(_statement(words, kind, population)),
    }


def _statement(words: Mapping[str, Any], kind: str, population: str) -> bytes:
    return SIGNED + json.dumps([kind, population, words], sort_keys=True, ensure_ascii=False).encode()


def _signed(database: sqlite3.Connection, number: int, policy: Policy, two: bool) -> bool:
    """Say whether enough different people of the policy have signed a decision."""
    if not two:
        return True
    row = database.execute("SELECT kind, population, detail FROM ledger WHERE number = ?", (number,)).fetchone()
    statement = _statement(json.loads(row[2])["words"], row[0], row[1])
    signers = {
        one["key"]
        for one in _signatures(database, number)
        if policy.people.get(one["person"]) == one["key"] and verify(one["key"], statement, one["signature"])
    }
    return len(signers) >= 2


def _signatures(database: sqlite3.Connection, number: int) -> list[dict[str, str]]:
    row = database.execute("SELECT detail FROM ledger WHERE number = ?", (number,)).fetchone()
    later = database.execute(
        "SELECT detail FROM ledger WHERE kind = 'countersign' AND json_extract(detail, '$.of') = ? ORDER BY number",
        (number,),
    ).fetchall()
    return [*json.loads(row[0])["signed"], *(json.loads(one[0])["signed"] for one in later)]


def _numbered_population(name: str, words: Mapping[str, Any], number: int) -> Population:
    return Population(
        name=name, citizen=words["citizen"], special_categories=words["special_categories"],
        held_out=words["held_out"], number=number,
    )  # fmt: skip


def _numbered_approval(population: str, words: Mapping[str, Any], number: int) -> Approval:
    until = words["until"]
    return Approval(
        card=parse_card(words["card"]), population=population, declared_size=words["declared_size"],
        epsilon=words["epsilon"], until=date.fromisoformat(until) if until else None, number=number,
    )  # fmt: skip
