"""What the tests of the agent's command line share: an agent that is set up once, and answers written down."""

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from catalogue import shelf
from client import chain, consent, journal, ledger, outbox
from client.consent import Approval
from client.home import Home
from client.journal import Line
from client.language import LANGUAGES as LANGUAGES
from client.ledger import Run, Spending
from faelles.card import UseCaseCard
from faelles.privacy.accountant import rdp_curve
from faelles.privacy.plan import plan_for
from faelles.records import pack
from tests.builders import FEDERATION

GOLDEN = Path(__file__).parent / "client" / "desk" / "golden"
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SIZE = 50


def check_golden(name: str, text: str) -> None:
    """Compare a text with the one that somebody has read and found good."""
    path = GOLDEN / name
    if os.environ.get("FAELLES_GOLDEN") == "write":  # after a deliberate change; then read the files
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def copy_agent(folder: Path, to: Path) -> Home:
    """Copy an agent's folder; its data stay where they are."""
    shutil.copytree(folder, to)
    return Home.open(to)


def approve(home: Home, card: UseCaseCard, declared_size: int = SIZE, cap: float = 2.0) -> Approval:
    """Approve a card without looking at the data."""
    wish = Approval(card=card, population="cyklister", declared_size=declared_size, epsilon=cap)
    with closing(home.store()) as store, store.transaction() as database:
        return consent.approve(database, wish, NOW)


def live(home: Home, card: UseCaseCard, rounds: int = 2, federation: str = FEDERATION, period: str = "") -> None:
    """Write what a run leaves behind: a reservation, rounds, lines of the journal, and a model that came home."""
    plan = plan_for(card, SIZE)
    budget = home.policy().budget(special_categories=False)
    run = Run(federation=federation, population="cyklister", card_sha256=card.sha256, terms="{}", period=period,
              curves={ledger.TRAINING: plan.curve}, expires="2026-07-03T12:00:00Z")  # fmt: skip
    with closing(home.store()) as store, store.transaction() as database:
        assert ledger.reserve(database, run, budget, NOW)
        for number in range(1, rounds + 1):
            spending = Spending(federation=federation, part=ledger.TRAINING, server_round=number, kind="train",
                                event=plan.round_event, curve=rdp_curve(plan.round_event))  # fmt: skip
            ledger.spend(database, spending, NOW)
            line = Line(outcome=journal.CLEARED, recipient="coordinator", kind="train", bytes=1234, card=card.sha256,
                        federation=federation, server_round=number)  # fmt: skip
            journal.write(database, line.costing(0.5, 0.5 * number, budget.delta), NOW)
        for outcome in (journal.RESENT, journal.BLOCKED, f"{journal.REFUSED}budget-exhausted"):
            journal.write(database, Line(outcome=outcome, recipient="coordinator", kind="train"), NOW)
        model = {"output.bias": np.zeros(1, np.float32)}
        outbox.keep_model(database, federation, card.sha256, pack({}, model), ledger.moment(NOW))


def written(home: Home) -> tuple[object, ...]:
    """Take down all that a command could have written."""
    texts = {path.name: path.read_bytes() for path in home.folder.rglob("*") if path.suffix in (".yaml", ".json")}
    with closing(home.store()) as store:
        return texts, *(chain.head(store.database, table) for table in chain.CHAINED)


def masked(text: str, folder: Path) -> str:
    """Leave out what differs from one run to the next: folders, keys and hashes."""
    text = text.replace(str(folder), "FOLDER")
    text = re.sub(r"ed25519:[\w-]{43}", "ed25519:KEY", text)
    text = re.sub(r"(?:[0-9a-f]{4} ){7}[0-9a-f]{4}", "FINGERPRINT", text)
    text = text.replace(", ".join(shelf.names()), "CATALOGUE")
    return re.sub(r"\b[0-9a-f]{64}\b", "HASH", text)


def typed(words: Iterable[str | Path | int | float], folder: Path) -> str:
    """Write a command as a person types it."""
    shown = (f'"{word}"' if " " in str(word) or not str(word) else str(word) for word in words)
    return masked("$ faelles-agent " + " ".join(shown), folder)
