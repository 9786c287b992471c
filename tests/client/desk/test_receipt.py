"""A receipt says what had left, is genuine as it was signed, and any change of it is noticed."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import consent, head
from client.desk import receipt
from client.home import Home
from client.keys import Signer
from faelles.errors import LedgerError
from tests import desk
from tests.builders import build_card
from tests.desk import NOW, live

CARD = build_card()
SIGNER = Signer.from_seed(bytes(32))


@pytest.fixture
def path(home: Home, tmp_path: Path) -> Path:
    """Withdraw a card in the middle of a run."""
    desk.approve(home, CARD)
    live(home, CARD, rounds=2)
    with closing(home.store()) as store, store.transaction() as database:
        fields = receipt.withdraw(database, CARD, "0851", home.signer(), NOW)
    return receipt.write(tmp_path / "receipts", fields)


def test_it_says_what_was_withdrawn_and_what_had_left(home: Home, path: Path) -> None:
    fields = receipt.check(path.read_text(encoding="utf-8"))
    assert (fields["what"], fields["municipality"], fields["card_id"]) == ("withdraw", "0851", CARD.id)
    assert (fields["card"], fields["releases_before"]) == (CARD.sha256, 2)
    assert fields["last_release"] == fields["time"] == "2026-05-04T12:00:00Z"
    with closing(home.store()) as store:
        assert consent.find_approval(store.database, CARD.sha256) is not None
        last = head.read(fields["ledger_head"], home.signer())
        assert store.database.execute("SELECT MAX(number) FROM ledger").fetchone()[0] == last.number
    assert fields["ledger_row"] <= last.number


def test_before_anything_left_it_says_so(home: Home) -> None:
    desk.approve(home, CARD)
    with closing(home.store()) as store, store.transaction() as database:
        fields = receipt.withdraw(database, CARD, "0851", SIGNER, NOW)
    assert (fields["releases_before"], fields["last_release"]) == (0, "")


def test_it_is_for_its_owner_only_and_named_by_card_and_row(path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    fields = receipt.check(path.read_text(encoding="utf-8"))
    assert path.name == f"withdraw-{CARD.id}-{fields['ledger_row']}.json"


def test_every_field_is_signed(path: Path) -> None:
    fields = json.loads(path.read_text(encoding="utf-8"))
    for name, value in fields.items():
        for other in (fields | {name: 0 if value != 0 else 1}, {key: fields[key] for key in fields if key != name}):
            with pytest.raises(LedgerError):
                receipt.check(json.dumps(other))
    with pytest.raises(LedgerError):
        receipt.check(json.dumps(fields | {"more": 1}))


def test_another_key_cannot_sign_for_it(path: Path) -> None:
    fields = json.loads(path.read_text(encoding="utf-8"))
    with pytest.raises(LedgerError):
        receipt.check(json.dumps(fields | {"key": SIGNER.public}))


@given(
    text=st.one_of(
        st.text(),
        st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["receipt", "key", "signature", "x"]), inner)).map(json.dumps),
    )
)  # fmt: skip
def test_nonsense_is_no_receipt_and_is_not_repeated(text: str) -> None:
    with pytest.raises(LedgerError) as caught:
        receipt.check(text)
    assert "receipt: expected one as it was signed" in str(caught.value)


def test_a_deeply_nested_text_is_no_receipt() -> None:
    with pytest.raises(LedgerError):
        receipt.check("[" * 100_000)
