"""Write one line for each thing that left or was refused (udgangsbog): when, to whom, what kind, at what cost.

A line is written in the transaction that spends, before anything leaves; a resend and a refusal get lines of their own.
Lines hold public terms only, never a row, an identity, a path or a label. They are hash-chained, and an export carries
all that is needed to check it on another machine.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from client import chain
from client.keys import Signer
from client.ledger import moment
from faelles.errors import LedgerError
from faelles.keys import verify

CLEARED = "cleared"  # to leave: written with the spend
RESENT = "resent"  # the very same bytes again
REFUSED = "refused:"  # with the code
BLOCKED = "blocked"  # by the gate
SIGNED = b"faelles journal\n"


@dataclass(frozen=True, kw_only=True)
class Line:
    """Hold what one line says.

    Args:
        outcome: CLEARED, RESENT, BLOCKED, or REFUSED with the code.
        recipient: To whom.
        kind: The message type; `unknown` where it is none of the contract's.
        bytes: How many left.
        sha256: Of the bytes that left; empty for a refusal, whose text is a constant.
        epsilon: What it cost, at `delta`; None where nothing was spent.
        delta: The account's.
        epsilon_after: What the account has spent after it.
        card: The card's hash.
        federation: The federation's UUID.
        server_round: The round.
        approval: The number of the ledger row that approved the card; 0 where none did.
    """

    outcome: str
    recipient: str
    kind: str
    bytes: int = 0
    sha256: str = ""
    epsilon: float | None = None
    delta: float | None = None
    epsilon_after: float | None = None
    card: str = ""
    federation: str = ""
    server_round: int = 0
    approval: int = 0

    def costing(self, epsilon: float, epsilon_after: float, delta: float) -> "Line":
        """Add what the release cost."""
        return replace(self, epsilon=epsilon, epsilon_after=epsilon_after, delta=delta)


def write(database: sqlite3.Connection, line: Line, now: datetime) -> None:
    """Append a line; within the transaction of what it tells of."""
    chain.append(database, "journal", {"time": moment(now), **asdict(line)})


def cleared_before(database: sqlite3.Connection, federation: str, server_round: int, kind: str) -> bool:
    """Say whether anything was cleared to leave for a question before."""
    row = database.execute(
        "SELECT EXISTS (SELECT 1 FROM journal WHERE federation = ? AND server_round = ? AND kind = ? AND outcome = ?)",
        (federation, server_round, kind, CLEARED),
    ).fetchone()
    return bool(row[0])


def left_before(database: sqlite3.Connection, line: Line) -> bool:
    """Say whether these very bytes were cleared to leave for this request before."""
    row = database.execute(
        "SELECT sha256 FROM journal WHERE federation = ? AND server_round = ? AND kind = ? AND outcome = ?",
        (line.federation, line.server_round, line.kind, CLEARED),
    ).fetchone()
    return row is not None and row[0] == line.sha256


def lines(database: sqlite3.Connection, since: str = "") -> Iterator[dict[str, chain.Column]]:
    """Read the lines from a time on, oldest first."""
    # By number from the first on, so that no line is left out where a clock was set back.
    cursor = database.execute(
        "SELECT * FROM journal WHERE number >= (SELECT MIN(number) FROM journal WHERE time >= ?) ORDER BY number",
        (since,),
    )
    names = [column[0] for column in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def export(database: sqlite3.Connection, signer: Signer, since: str = "") -> Iterator[str]:
    """Write the lines from a time on as JSON Lines: a start, the lines, and an end that signs start and end."""
    chosen = list(lines(database, since))  # read at once: the agent may write more meanwhile
    after, before = chain.head(database, "journal")
    number, last = after, before
    if chosen:
        after, number, last = int(str(chosen[0]["number"])) - 1, int(str(chosen[-1]["number"])), str(chosen[-1]["hash"])
        row = database.execute("SELECT hash FROM journal WHERE number = ?", (after,)).fetchone()
        before = row[0] if row else chain.GENESIS
    start = {"journal": 1, "after": after, "hash": before}
    yield _json(start)
    yield from (_json(line) for line in chosen)
    end = {"rows": number, "hash": last, "key": signer.public}
    yield _json({**end, "signature": signer.sign(_signed(start, end))})


def verify_export(texts: Iterable[str]) -> tuple[int, str]:
    """Check an export without the store: the chain, and the signature of its end.

    Returns:
        How many lines it holds, and the public key that signed it.

    Raises:
        LedgerError: It was changed, cut, or is no export.
    """
    try:
        written = [text.rstrip("\r\n") for text in texts]
        start, *rows, end = map(json.loads, written)
        # A text that says a thing twice reads differently to different readers.
        whole = written == [_json(fields) for fields in (start, *rows, end)]
        whole = whole and chain.check(rows, start["after"], start["hash"]) == (end["rows"], end["hash"])
        signature = end.pop("signature")
        genuine = verify(end["key"], _signed(start, end), signature)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError):
        whole = genuine = False
    if not (whole and genuine):
        raise LedgerError(
            "journal: expected an export as it was written, this one was changed or cut; ask for it again",
            da="udgangsbog: eksporten er ændret eller afkortet, siden den blev skrevet; bed om den igen",
        )
    return len(rows), str(end["key"])


def _signed(start: object, end: object) -> bytes:
    return SIGNED + f"{_json(start)}\n{_json(end)}".encode()


def _json(fields: object) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
