"""Nothing of a citizen is in anything that leaves, is logged, journalled, shown or raised: searched for, everywhere."""

import logging
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from flwr.app import Message

from client import cli
from client.home import Home
from faelles.records import PLAN, TERMS, Kind, Request
from faelles.terms import RunTerms
from tests.builders import FEDERATION, build_card, content_bytes, message_of
from tests.municipality import Municipality, Served, cpr_table, say

CARD = build_card()
SECRETS = ("Hemmelig Jensen", "hemmelig@borger.dk", "+45 20 30 40 50", "kodeord-til-basen", "Skovvej 7, 9000")
LANGUAGES = ("da", "en")


class Witness:
    """Collect every text and byte that an outsider, a log reader or a screen could see."""

    def __init__(self, cprs: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
        self._capsys, self._caplog = capsys, caplog
        self._needles = [*SECRETS, *cprs, *(one.replace("-", "") for one in cprs), *(one.lstrip("0") for one in cprs)]
        self.seen: list[bytes] = []

    def look(self, *more: bytes | str | Path) -> None:
        """Take in what was printed and logged since, and more."""
        printed = self._capsys.readouterr()
        texts = (printed.out, printed.err, self._caplog.text)
        self.seen += [text.encode() for text in texts]
        for one in more:
            self.seen.append(
                one.read_bytes() if isinstance(one, Path) else one.encode() if isinstance(one, str) else one
            )

    def found(self) -> list[str]:
        """List the needles that were seen."""
        whole = b"\0".join(self.seen)
        return [needle for needle in self._needles if needle.encode() in whole]


@pytest.fixture
def table() -> pa.Table:
    return cpr_table(60, seed=5)


@pytest.fixture
def witness(table: pa.Table, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[Witness]:
    with caplog.at_level(logging.DEBUG):
        yield Witness(table.column("cpr").to_pylist(), capsys, caplog)


@pytest.fixture
def one(tmp_path: Path, table: pa.Table) -> Municipality:
    made = Municipality(tmp_path, "0851", table)
    assert made.register() == 0
    return made


def poison(table: pa.Table, column: str, values: list[str]) -> pa.Table:
    """Put secrets into a column, over and over."""
    place = table.column_names.index(column)
    filled = [values[number % len(values)] for number in range(table.num_rows)]
    return table.set_column(place, column, pa.array(filled))


def rewrite(one: Municipality, table: pa.Table) -> None:
    pyarrow.csv.write_csv(table, one.data, pyarrow.csv.WriteOptions(delimiter=";"))


def request(kind: Kind, served: Served, server_round: int = 0, arrays: bool = True) -> Message:
    terms = RunTerms.of(CARD)
    extra = {
        Kind.READY: {TERMS: terms.model_dump_json()},
        Kind.TRAIN: {PLAN: terms.plan(CARD, 50).to_json()},
    }
    from faelles.models import initial_parameters

    return message_of(Request(
        kind=kind, federation=FEDERATION, server_round=server_round, card_sha256=CARD.sha256,
        extra=extra.get(kind, {}), arrays=initial_parameters(CARD) if arrays and kind is not Kind.READY else {},
    ))  # fmt: skip


def whole_run(served: Served, witness: Witness) -> list[int | None]:
    """Ask for everything once; return the codes."""
    codes: list[int | None] = []
    for kind, number in ((Kind.READY, 0), (Kind.TRAIN, 1), (Kind.TRAIN, 1), (Kind.EVALUATE, 3), (Kind.FINAL, 3),
                         (Kind.CLOSE, 3)):  # fmt: skip
        (reply,) = served(request(kind, served, number, arrays=kind is not Kind.CLOSE))
        codes.append(reply.error.code if reply.has_error() else None)
        witness.look(repr(reply), content_bytes(reply) if reply.has_content() else b"")
    return codes


def everything_on_disk(one: Municipality) -> list[Path]:
    return [path for path in one.folder.rglob("*") if path.is_file()]


def test_a_whole_life_of_an_agent_shows_no_citizen(one: Municipality, witness: Witness, tmp_path: Path) -> None:
    for language in LANGUAGES:
        at = ("--lang", language, "--dir", one.folder)
        assert say("check-data", one.card_folder, "--population", "cyklister", *at) == 0
        assert one.approve(2.0, "--lang", language) == 0
    served = one.serve()
    assert whole_run(served, witness) == [None] * 6
    for language in LANGUAGES:
        at = ("--lang", language, "--dir", one.folder)
        for command in (("policy",), ("ledger",), ("ledger", "--what-if", "3 more rounds"), ("journal", "--verify"),
                        ("journal", "--export", tmp_path / "j"), ("model", "list"),
                        ("model", "export", FEDERATION, "--out", tmp_path / "m.npz")):  # fmt: skip
            assert say(*command, *at) == 0
        assert say("journal", *at) == 0
    assert say("withdraw", CARD.id, "--dir", one.folder) == 0
    served.close()
    witness.look(tmp_path / "j", tmp_path / "m.npz", *everything_on_disk(one))
    assert witness.found() == []


@pytest.mark.parametrize("column", ["alder", "brand", "repaired"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_personal_data_in_the_wrong_column_are_found_and_not_shown(
    one: Municipality, witness: Witness, table: pa.Table, column: str, language: str
) -> None:
    rewrite(one, poison(table, column, [*table.column("cpr").to_pylist()[:20], *SECRETS]))
    assert say("check-data", one.card_folder, "--population", "cyklister", "--lang", language, "--dir", one.folder) == 2
    assert one.approve(2.0, "--lang", language) == 2
    witness.look(*everything_on_disk(one))
    assert witness.found() == []
    assert b"CPR" in b"".join(witness.seen)


@pytest.mark.parametrize("column", ["alder", "brand", "repaired", "cpr"])
def test_personal_data_that_come_after_the_approval_leave_with_nothing(
    one: Municipality, witness: Witness, table: pa.Table, column: str
) -> None:
    assert one.approve() == 0
    rewrite(one, poison(table, column, [*table.column("cpr").to_pylist()[:20], *SECRETS]))
    served = one.serve()
    assert whole_run(served, witness) == [None] * 6
    served.close()
    witness.look(*everything_on_disk(one))
    assert witness.found() == []


def lose_the_file(one: Municipality) -> None:
    one.data.unlink()


def lose_a_column(one: Municipality) -> None:
    one.data.write_text(one.data.read_text().replace("alder", "Hemmelig Jensen"))


def break_the_file(one: Municipality) -> None:
    text = one.data.read_text()
    one.data.write_bytes(text.encode() + b'\xff\xfe"Hemmelig Jensen;kodeord-til-basen\n' + text.encode()[-200:] + b'"')


def break_the_settings(one: Municipality) -> None:
    one.change_settings("citizen: cpr", "citizen: alder")


def break_the_policy(one: Municipality) -> None:
    one.change_policy("version: 1", "version: Hemmelig Jensen")


def break_the_store(one: Municipality) -> None:
    database = sqlite3.connect(one.folder / "store.sqlite")
    database.execute("UPDATE ledger SET detail = 'kodeord-til-basen'")
    database.commit()
    database.close()


BREAKS: tuple[Callable[[Municipality], None], ...] = (
    lose_the_file, lose_a_column, break_the_file, break_the_settings, break_the_policy, break_the_store,
)  # fmt: skip


@pytest.mark.parametrize("spoil", BREAKS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_command_on_a_broken_agent_ends_in_one_quiet_line(
    one: Municipality, witness: Witness, spoil: Callable[[Municipality], None], language: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert one.approve() == 0
    spoil(one)
    witness.look()
    at = ("--lang", language, "--dir", one.folder)
    for command in (
        ("check-data", one.card_folder, "--population", "cyklister"),
        ("approve", one.card_folder, "--population", "cyklister", "--declared-size", 50, "--epsilon", 2),
        ("population", "add", "nye", "--citizen", "cpr", "--source", one.data),
        ("policy",), ("ledger",), ("ledger", "--what-if", "3 more rounds"), ("ledger", "recover"), ("journal",),
        ("model", "list"), ("model", "export", "x", "--out", "y"), ("countersign", CARD.id, "--key", "nowhere"),
        ("withdraw", CARD.id),
    ):  # fmt: skip
        status = say(*command, *at)
        shown = capsys.readouterr()
        witness.look(shown.out, shown.err)
        assert status in (0, 2)
        assert shown.err.count("\n") == (1 if status else 0)
        assert "Traceback" not in shown.err
    witness.look()
    needles = [needle for needle in witness.found() if needle != "Hemmelig Jensen" or spoil is not lose_a_column]
    # A column's name is public; that somebody called one by a person's name is not for us to know.
    assert needles == []


@pytest.mark.parametrize("spoil", [lose_the_file, lose_a_column, break_the_file, break_the_settings, break_the_policy])
def test_every_message_to_a_broken_agent_gets_a_constant(
    one: Municipality, witness: Witness, spoil: Callable[[Municipality], None]
) -> None:
    assert one.approve() == 0
    served = one.serve()
    spoil(one)
    whole_run(served, witness)
    served.close()
    assert witness.found() == []


def test_what_was_typed_in_the_wrong_place_is_not_repeated(
    one: Municipality, witness: Witness, table: pa.Table
) -> None:
    cpr = str(table.column("cpr").to_pylist()[0])
    plain = cpr.replace("-", "")
    for words in (
        ("init", "--municipality", plain),
        ("approve", one.card_folder, "--population", "cyklister", "--declared-size", cpr, "--epsilon", 2),
        ("approve", one.card_folder, "--population", "cyklister", "--declared-size", 50, "--epsilon", cpr),
        ("journal", "--since", cpr),
    ):
        for language in LANGUAGES:
            assert say(*words, "--lang", language, "--dir", one.folder) == 2
    assert say("population", "add", "base", "--citizen", "cpr", "--dir", one.folder,
               "--source", "postgresql://agent:kodeord-til-basen@127.0.0.1/omsorg?table=borgere") == 2  # fmt: skip
    witness.look(*everything_on_disk(one))
    assert witness.found() == []


def test_a_foreign_file_is_not_repeated_by_verify(one: Municipality, witness: Witness, tmp_path: Path) -> None:
    for text in ("Hemmelig Jensen", "Hemmelig Jensen\nkodeord-til-basen\n", '{"what": "Hemmelig Jensen"}', ""):
        path = tmp_path / "foreign"
        path.write_text(text)
        assert say("verify", path) == 2
    witness.look()
    assert witness.found() == []


def test_exceptions_hold_nothing_of_what_they_were_about(one: Municipality, witness: Witness, table: pa.Table) -> None:
    assert one.approve() == 0
    for spoil in (lose_a_column, break_the_file):
        rewrite(one, table)
        spoil(one)
        home = Home.open(one.folder)
        store = home.store()
        try:
            home.rows(store, "cyklister", CARD)
        except Exception as error:
            witness.look("".join(traceback.format_exception(error)).replace("Hemmelig Jensen", ""))
        store.close()
    assert witness.found() == []


def test_an_unforeseen_error_shows_its_type_only(
    one: Municipality, witness: Witness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("Hemmelig Jensen")

    monkeypatch.setattr(cli, "COMMANDS", {"policy": fail})
    assert say("policy", "--dir", one.folder) == 1
    assert "KeyError" in (shown := capsys.readouterr().err)
    assert "Hemmelig" not in shown
