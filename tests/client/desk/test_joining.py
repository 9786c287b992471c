"""Enrolling and checking are told in the golden words, and a check names everything that has to be mended."""

import os
import re
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from client import consent
from client.connection import CA, LOGIN, REQUEST, Address, Connection
from client.consent import Approval
from client.desk.joining import findings
from client.enrolment import Enrolling, enrol
from client.home import Home
from client.language import Language
from client.ledger import utc_now
from client.readiness import Mark
from tests import desk
from tests.builders import build_card
from tests.desk import LANGUAGES, NOW, check_golden, masked, written
from tests.municipality import say
from tests.tls import Authority, serve, unused_port

CARD = build_card()
AUTHORITY = Authority.make()
CVR = "29189420"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def ready(home: Home) -> Home:
    """Approve the card, and allow it."""
    policy = home.folder / "policy.yaml"
    policy.write_text(policy.read_text(encoding="utf-8").replace("cards: []", "cards: all"), encoding="utf-8")
    desk.approve(home, CARD)
    return home


def told(capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    shown = capsys.readouterr()
    text = masked(shown.out + shown.err, folder)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    text = re.sub(r"login\.key\.\d{8}T\d{6}Z", "login.key.TIME", text)
    return re.sub(r"\b20\d\d-\d\d-\d\d\b", "DAY", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_joining_is_told_in_the_golden_words(
    language: Language, ready: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAELLES_AGENT_DIR", str(ready.folder))
    ca = AUTHORITY.pem(tmp_path / "ca.pem")
    texts = []
    with serve(AUTHORITY.server(tmp_path / "server.pem")) as port:
        for words in (
            ("check",),
            ("enrol", "--coordinator", f"127.0.0.1:{port}", "--ca", str(ca)),
            ("enrol", "--coordinator", f"127.0.0.1:{port}", "--ca", str(ca), "--cvr", CVR),
            ("check",),
            ("enrol", "--rotate"),
            ("check",),
        ):
            capsys.readouterr()
            status = say("--lang", language, *words)
            texts.append(f"$ faelles-agent {words[0]}\n{told(capsys, tmp_path)}[{status}]")
    check_golden(f"joining.{language}.txt", "\n\n".join(texts) + "\n")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "words",
    [
        ("--cvr", CVR),
        ("--coordinator", "federation.example.dk:8443"),
        ("--coordinator", "federation.example.dk", "--cvr", CVR),
        ("--coordinator", "https://federation.example.dk", "--cvr", CVR),
        ("--coordinator", "federation.example.dk:8443", "--cvr", "12345678"),
        ("--coordinator", "federation.example.dk:8443", "--cvr", CVR, "--ca", "nowhere.pem"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line_and_changes_nothing(
    language: Language, words: tuple[str, ...], home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    before, there = written(home), sorted(home.folder.iterdir())
    capsys.readouterr()
    assert say("--lang", language, "enrol", *words, "--dir", home.folder) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert (written(home), sorted(home.folder.iterdir())) == (before, there)


# What a check sees, nearest first; nothing answers at the coordinator's address


def marks(home: Home) -> dict[str, Mark]:
    return {one.subject[1]: one.mark for one in findings(home)}


def line(home: Home, subject: str) -> str:
    return next(one.en for one in findings(home) if one.subject[1] == subject)


@pytest.fixture
def joined(ready: Home) -> Home:
    """Enrol where nothing listens."""
    enrol(ready, Enrolling(coordinator=Address(f"127.0.0.1:{unused_port()}"), cvr=CVR), 2, utc_now())
    return ready


def test_all_that_is_on_this_machine_is_ok(joined: Home) -> None:
    seen = marks(joined)
    near = {name: mark for name, mark in seen.items() if name not in {"connection", "TLS", "coordinator", "clock"}}
    assert set(near.values()) == {Mark.OK}
    assert list(near) == [
        "folder and key", "policy", "store", f"card {CARD.id}", f"data for {CARD.id}", "enrolment", "proxy",
    ]  # fmt: skip
    assert seen["connection"] is Mark.MEND


@pytest.mark.parametrize("rotate", [False, True])
def test_a_request_is_not_said_to_be_admitted(joined: Home, rotate: bool) -> None:
    if rotate:
        enrol(joined, Enrolling(rotate=True), 2, utc_now())
    seen = next(one for one in findings(joined) if one.subject[1] == "enrolment")
    assert seen.mark is Mark.OK
    assert "whether KOMBIT has admitted the key shows only in the log of faelles-agent up" in seen.en
    assert "om KOMBIT har tilmeldt nøglen, ses først i loggen fra faelles-agent up" in seen.da


def test_a_folder_that_others_write_in_and_a_key_that_others_read_are_seen(joined: Home) -> None:
    joined.folder.chmod(0o777)
    assert "run chmod go-w" in line(joined, "folder and key")
    joined.folder.chmod(0o700)
    (joined.folder / "signing.key").chmod(0o644)
    assert "run chmod 600" in line(joined, "folder and key")
    (joined.folder / "signing.key").chmod(0o600)
    (joined.folder / LOGIN).chmod(0o644)
    assert "run chmod 600" in line(joined, "enrolment")


def test_a_policy_that_cannot_be_read_or_allows_no_card_is_seen(joined: Home) -> None:
    policy = joined.folder / "policy.yaml"
    policy.write_text(policy.read_text(encoding="utf-8").replace("cards: all", "cards: []"), encoding="utf-8")
    assert "none is there and everything is refused" in line(joined, "policy")
    assert "write it under cards" in line(joined, f"card {CARD.id}")
    policy.write_text("", encoding="utf-8")
    assert "until it is mended everything is refused" in line(joined, "policy")


def test_a_store_that_is_lost_or_frozen_is_seen(joined: Home) -> None:
    with closing(joined.store()) as store, store.transaction() as database:
        database.execute("INSERT INTO freeze VALUES ('a head')")
    assert "`faelles-agent ledger recover`" in line(joined, "store")
    (joined.folder / "store.sqlite").unlink()
    assert "expected the agent's store, found none" in line(joined, "store")
    assert marks(joined)["enrolment"] is Mark.OK


def test_a_card_that_expired_or_waits_is_seen_and_one_that_was_withdrawn_is_not(joined: Home) -> None:
    old = Approval(card=CARD, population="cyklister", declared_size=50, epsilon=2.0, until=date(2026, 5, 3))
    with closing(joined.store()) as store, store.transaction() as database:
        consent.approve(database, old, NOW)
    assert line(joined, f"card {CARD.id}") == "expired; approve it again, or withdraw it"
    desk.approve(joined, CARD)
    policy = joined.folder / "policy.yaml"
    policy.write_text(policy.read_text(encoding="utf-8").replace("approval: false", "approval: true"), encoding="utf-8")
    assert "faelles-agent countersign" in line(joined, f"card {CARD.id}")
    with closing(joined.store()) as store, store.transaction() as database:
        consent.withdraw(database, CARD.sha256, NOW)
    assert "approve one with faelles-agent approve" in line(joined, "cards")


def test_rows_that_do_not_fit_or_cannot_be_read_are_seen(joined: Home, tmp_path: Path) -> None:
    data = Path(str(joined.settings.populations["cyklister"].source.location))
    lines = data.read_text(encoding="utf-8").splitlines()
    settings = joined.folder / "agent.yaml"
    (tmp_path / "few.csv").write_text("\n".join(lines[:1]), encoding="utf-8")
    settings.write_text(settings.read_text(encoding="utf-8").replace(str(data), str(tmp_path / "few.csv")),
                        encoding="utf-8")  # fmt: skip
    few = Home.open(joined.folder)
    assert f"see them with faelles-agent check-data {CARD.id} --population cyklister" in line(
        few, f"data for {CARD.id}"
    )
    (tmp_path / "few.csv").unlink()
    assert marks(few)[f"data for {CARD.id}"] is Mark.MEND


def test_nobody_to_learn_from_needs_no_rows(joined: Home) -> None:
    desk.approve(joined, CARD, declared_size=0)
    assert line(joined, f"data for {CARD.id}") == "the municipality has nobody to learn from"


def test_a_request_for_another_key_is_seen(joined: Home) -> None:
    text = (joined.folder / REQUEST).read_text(encoding="utf-8")
    enrol(joined, Enrolling(rotate=True), 2, utc_now())
    (joined.folder / REQUEST).write_text(text, encoding="utf-8")
    assert "run `faelles-agent enrol --rotate`" in line(joined, "enrolment")
    (joined.folder / REQUEST).unlink()
    assert "it is missing or changed; run `faelles-agent enrol`" in line(joined, "enrolment")


def test_a_ca_that_is_gone_is_seen(joined: Home, tmp_path: Path) -> None:
    enrol(joined, Enrolling(ca=AUTHORITY.pem(tmp_path / "ca.pem")), 2, utc_now())
    assert Connection.open(joined).ca
    (joined.folder / CA).unlink()
    assert "ask KOMBIT for the file" in line(joined, "enrolment")


def test_people_check_while_the_agent_serves(joined: Home) -> None:
    with closing(joined.store(serving=True)):
        assert marks(joined)["store"] is Mark.OK
