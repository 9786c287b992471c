"""Give people signed receipts: what was withdrawn, when, and what had left until then."""

import json
import sqlite3
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from client import consent, head, journal, ledger
from client.keys import Signer
from faelles.card import UseCaseCard
from faelles.errors import LedgerError
from faelles.keys import verify

SIGNED = b"faelles receipt\n"


def withdraw(
    database: sqlite3.Connection, card: UseCaseCard, municipality: str, signer: Signer, now: datetime
) -> dict[str, Any]:
    """Withdraw a card's approval, at once, and write the receipt; within a transaction.

    Returns:
        What was withdrawn, how many releases had left, the ledger's head after it, and the signature.
    """
    number = consent.withdraw(database, card.sha256, now)
    left = database.execute(
        "SELECT COUNT(*), COALESCE(MAX(time), '') FROM journal WHERE card = ? AND outcome = ? AND epsilon IS NOT NULL",
        (card.sha256, journal.CLEARED),
    ).fetchone()
    fields = {
        "receipt": 1,
        "what": "withdraw",
        "municipality": municipality,
        "card": card.sha256,
        "card_id": card.id,
        "time": ledger.moment(now),
        "ledger_row": number,
        "releases_before": int(left[0]),
        "last_release": str(left[1]),
        "ledger_head": head.sign(database, signer, now),
        "key": signer.public,
    }
    return {**fields, "signature": signer.sign(SIGNED + _json(fields).encode())}


def write(folder: Path, fields: Mapping[str, Any]) -> Path:
    """Write a receipt for its owner only, and say where."""
    path = folder / f"{fields['what']}-{fields['card_id']}-{fields['ledger_row']}.json"
    folder.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(_json(fields) + "\n", encoding="utf-8")
    return path


def check(text: str) -> dict[str, Any]:
    """Read a receipt and see that it is as it was signed; the key that signed it stands in it.

    Raises:
        LedgerError: It was changed, or is no receipt.
    """
    try:
        fields = json.loads(text)
        signature = fields.pop("signature")
        genuine = fields["receipt"] == 1 and verify(fields["key"], SIGNED + _json(fields).encode(), signature)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        genuine = False
    if not genuine:
        raise LedgerError(
            "receipt: expected one as it was signed, this one was changed; ask for it again",
            da="kvittering: er ændret, siden den blev underskrevet; bed om den igen",
        )
    return dict(fields)


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
