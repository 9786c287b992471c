"""Sign the ledger's head, notice an older copy of the store when a later head is presented, and recover from it.

A head leaves with every answer that spends or reserves, and the coordinator presents the last it saw. It names the last
row's number and hash and carries, sealed so that only this agent can read them, the totals of all accounts and a trail
of earlier hashes. If a head comes that this store does not know, the store is an older copy of itself: it freezes, for
what was spent since is missing and noise for the same question could be drawn twice. Recovery charges what is missing
as fully spent; the trail tells what this copy began by itself meanwhile, which comes on top.
"""

import json
import math
import os
import sqlite3
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from client import chain, ledger
from client.keys import Signer
from faelles.errors import LedgerError, WireError
from faelles.keys import decode, encode, verify
from faelles.privacy.accountant import ORDERS

SIGNED = b"faelles ledger head\n"
SEALED = b"faelles sealed accounts"
NONCE_BYTES = 12
TRAIL = (*range(1, 65), *(2**power for power in range(7, 31)))  # how far back the rows of a trail lie
LETTERS = 6  # of each hash in it
Totals = list[tuple[str, str, str, int, float]]  # population, part, period, order, value there


@dataclass(frozen=True, kw_only=True)
class Head:
    """Hold one signed head."""

    number: int
    hash: str
    accounts: str

    @property
    def signed(self) -> bytes:
        """Return the bytes that the signature covers."""
        return SIGNED + json.dumps([self.number, self.hash, self.accounts]).encode()

    def text(self, signature: str) -> str:
        """Write the head as the one text that it has."""
        fields = {"number": self.number, "hash": self.hash, "accounts": self.accounts, "signature": signature}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Branch:
    """Hold what is known of a chain that this store does not hold: its head, and the trail that leads to it."""

    number: int
    hash: str
    trail: str

    def at(self, number: int) -> str:
        """Return the beginning of the hash that the branch had at a number; empty where the trail does not say."""
        back = self.number - number
        place = TRAIL.index(back) * LETTERS if back in TRAIL else len(self.trail)
        return self.trail[place : place + LETTERS]

    def holds(self, head: Head) -> bool:
        """Say whether a head is this branch's, or lies on its trail."""
        return head.hash == self.hash or self.at(head.number) == head.hash[:LETTERS]


def sign(database: sqlite3.Connection, signer: Signer, now: datetime) -> str:
    """Write the present head as the text that leaves."""
    number, last = chain.head(database, "ledger")
    head = Head(number=number, hash=last, accounts=_seal(_totals(database, now), _trail(database, number), signer))
    return head.text(signer.sign(head.signed))


def read(text: str, signer: Signer) -> Head:
    """Read a head that somebody presents.

    Raises:
        WireError: It is not one that this agent signed.
    """
    try:
        fields = json.loads(text)
        head = Head(number=fields["number"], hash=fields["hash"], accounts=fields["accounts"])
        # What was signed here has the right types too. Another text of the same fields could carry more along.
        genuine = verify(signer.public, head.signed, fields["signature"]) and text == head.text(fields["signature"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        genuine = False
    if not genuine:
        raise WireError("ledger head: expected one that this agent signed, another came")
    return head


def present(database: sqlite3.Connection, signer: Signer, text: str) -> None:
    """Compare a presented head with the chain, and freeze the store where the chain does not know it.

    Raises:
        WireError: It is not one that this agent signed; nothing is frozen, for anybody can send nonsense.
    """
    head = read(text, signer)
    own = database.execute("SELECT hash FROM ledger WHERE number = ?", (head.number,)).fetchone()
    if head.number == 0 or (own is not None and own[0] == head.hash):
        return
    recovered = (Branch(*one) for one in _recovered(database))
    if not any(branch.holds(head) for branch in recovered):
        database.execute("INSERT OR IGNORE INTO freeze VALUES (?)", (text,))


def frozen(database: sqlite3.Connection) -> bool:
    """Say whether the store waits for recovery."""
    return bool(database.execute("SELECT EXISTS (SELECT 1 FROM freeze)").fetchone()[0])


def recover(database: sqlite3.Connection, signer: Signer, now: datetime) -> int:
    """Charge what the presented heads say is missing as fully spent, end every open run, and thaw the store.

    Guarantees: afterwards each account holds what this copy spent, and on top what the branch of each presented head
        spent or held reserved since they parted; every run that is open here is charged in full, for it may have gone
        on after this copy was made.

    Returns:
        The number of charges for what was missing.

    Raises:
        LedgerError: Nothing is frozen.
    """
    heads = [read(row[0], signer) for row in database.execute("SELECT head FROM freeze").fetchall()]
    if not heads:
        raise LedgerError(
            "ledger recover: expected a frozen account, none is; there is nothing to do",
            da="ledger recover: ingen konto er spærret; der er ikke noget at gøre",
        )
    since, _ = chain.head(database, "ledger")
    for one in ledger.open_reservations(database):
        left = ledger.rest(one.curve, ledger.spent(database, one.federation, one.part))
        ledger.record(
            database, now, "charge", population=one.population, part=one.part, period=one.period,
            federation=one.federation, card=one.card_sha256, detail={"reason": "open run"}, curve=left,
        )  # fmt: skip
        ledger.free(database, one.federation, "recovered", now)
    charged, branches, counted = 0, list[Branch](), dict[tuple[str, str, str], float]()
    for head in sorted(heads, key=lambda head: head.number, reverse=True):
        if not any(branch.holds(head) for branch in branches):
            totals, trail = _unseal(head.accounts, signer)
            branches.append(Branch(head.number, head.hash, trail))
            charged += _charge(database, totals, (_parted(database, branches[-1]), since), counted, now)
    detail = {"branches": [[branch.number, branch.hash, branch.trail] for branch in branches]}
    ledger.record(database, now, ledger.RECOVER, detail=detail, above=max(head.number for head in heads))
    database.execute("DELETE FROM freeze")
    return charged


def _charge(
    database: sqlite3.Connection, totals: Totals, rows: tuple[int, int], counted: dict[tuple[str, str, str], float],
    now: datetime,
) -> int:  # fmt: skip
    """Charge what one lost branch spent or reserved after the row at which this copy parted from it.

    What the branch had reserved where they parted is no measure of what was charged here: this copy may have closed
    those runs unspent. Only what it had spent is, and what was just charged for runs that are open still.

    Args:
        database: In a transaction.
        totals: Of the branch.
        rows: The last row that this copy and the branch share, and the last before this recovery.
        counted: How much of the charges for open runs earlier branches have taken, by account.
        now: The time.
    """
    parted, since = rows
    charged = 0
    for population, part, period, order, value in totals:
        place = (population, part, period)
        open_runs = float(ledger.ended(database, place, parted, since)[order]) - counted.get(place, 0.0)
        missing = value - float(ledger.spent_at(database, place, parted)[order])
        credit = min(max(missing, 0.0), max(open_runs, 0.0))
        if credit < math.inf:
            counted[place] = counted.get(place, 0.0) + credit
            missing -= credit
        if missing > 0:
            # Only the pinned order is known of what is missing, and only it is ever compared with the budget.
            curve = np.full(len(ORDERS), np.inf)
            curve[order] = missing
            ledger.record(
                database, now, "charge", population=population, part=part, period=period, curve=curve,
                detail={"reason": "missing", "order": order},
            )  # fmt: skip
            charged += 1
    return charged


def _recovered(database: sqlite3.Connection) -> list[tuple[int, str, str]]:
    """List the branches that recoveries have charged."""
    rows = database.execute("SELECT detail FROM ledger WHERE kind = ?", (ledger.RECOVER,)).fetchall()
    return [tuple(branch) for row in rows for branch in json.loads(row[0])["branches"]]


def _trail(database: sqlite3.Connection, number: int) -> str:
    """Write the beginnings of earlier rows' hashes; of a number that a recovery left out, dashes."""
    places = [number - back for back in TRAIL if back < number]
    marks = ", ".join("?" * len(places))
    found = dict(database.execute(f"SELECT number, hash FROM ledger WHERE number IN ({marks})", places))  # noqa: S608  # question marks
    return "".join(found.get(place, "-" * LETTERS)[:LETTERS] for place in places)


def _parted(database: sqlite3.Connection, branch: Branch) -> int:
    """Find the last row of a branch's trail that this chain has too, 0 where it has none."""
    rows = database.execute("SELECT number, hash FROM ledger WHERE number < ? ORDER BY number DESC", (branch.number,))
    return next((number for number, known in rows if branch.at(number) == known[:LETTERS]), 0)


def _totals(database: sqlite3.Connection, now: datetime) -> Totals:
    totals: Totals = []
    for population, part, period in ledger.present_accounts(database):
        have = ledger.account(database, population, part, now, period)
        if have.order is not None:
            totals.append((population, part, period, have.order, float(have.total[have.order])))
    return totals


def _seal(totals: Totals, trail: str, signer: Signer) -> str:
    nonce = os.urandom(NONCE_BYTES)
    sealed = ChaCha20Poly1305(signer.secret(SEALED)).encrypt(nonce, json.dumps([totals, trail]).encode(), None)
    return encode(nonce + sealed)


def _unseal(text: str, signer: Signer) -> tuple[Totals, str]:
    data = decode(text)
    try:
        plain = ChaCha20Poly1305(signer.secret(SEALED)).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None)
    except InvalidTag:
        raise AssertionError("a head that this agent signed holds totals that it sealed") from None
    totals, trail = json.loads(plain)
    return [tuple(one) for one in totals], trail
