"""Every command speaks both languages, and every mistake gets one line, status 2 and changes nothing."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client import cli
from client.home import Home
from tests import desk
from tests.builders import FEDERATION, build_card
from tests.desk import LANGUAGES, SIZE, check_golden, live, masked, typed, written
from tests.municipality import Municipality, say, write_card

CARD = build_card()
TITLES = ("Privatlivsgaranti", "Privacy guarantee")  # a statement has golden files of its own
Words = tuple[str | Path | int | float, ...]


def run(folder: Path, capsys: pytest.CaptureFixture[str], words: Words, lines: int = 99) -> str:
    """Type a command and take down what it says, as somebody at the screen would."""
    capsys.readouterr()
    status = say(*words)
    shown = capsys.readouterr()
    out = shown.out.splitlines()
    titles = [out.index(title) for title in TITLES if title in out]
    told = "\n".join(out[: min([lines, *titles])])
    return "\n".join(filter(None, [typed(words, folder), masked(told + shown.err, folder).rstrip(), f"[{status}]"]))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_whole_life_is_told_in_the_golden_words(
    language: str, town: Municipality, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAELLES_AGENT_DIR", "agent")
    monkeypatch.setenv("TZ", "UTC")
    write_card(tmp_path / CARD.id)
    (tmp_path / "borgere.csv").write_bytes(town.data.read_bytes())
    at: Words = ("--lang", language)
    told = [run(tmp_path, capsys, (*at, *words), lines) for words, lines in FOUNDING]
    capsys.readouterr()
    keys = [_line_for_policy(capsys, name) for name in ("anna", "bo")]
    _edit("agent/policy.yaml", "cards: []", f"cards: [{CARD.id}]")
    _edit("agent/policy.yaml", "approval: false", "approval: true")
    _edit("agent/policy.yaml", "people: {}", "people: {" + ", ".join(keys) + "}")
    _edit("agent/policy.yaml", "largest_run_share: 0.7", "largest_run_share: 0.1")
    _edit("agent/agent.yaml", "held_out: 0.2", "held_out: 0.2\n    columns: {age: alder}")
    told += [run(tmp_path, capsys, (*at, *words), lines) for words, lines in APPROVING]
    live(Home.open(Path("agent")), CARD)
    told += [run(tmp_path, capsys, (*at, *words), lines) for words, lines in LIVING]
    check_golden(f"life.{language}.txt", "\n\n".join(told) + "\n")


FOUNDING: tuple[tuple[Words, int], ...] = (
    (("init", "--municipality", "851", "--dir", "agent"), 9),
    (("policy",), 99),
    (("ledger",), 9),
    (("journal",), 9),
    (("model", "list"), 9),
    (("population", "add", "cyklister", "--citizen", "cpr", "--source", "borgere.csv", "--no-special-categories"), 9),
    (("person", "Carl Å. Holm", "--key", "carl.key"), 9),
)
APPROVING: tuple[tuple[Words, int], ...] = (
    (("check-data", CARD.id, "--population", "cyklister"), 1),
    (
        ("approve", CARD.id, "--population", "cyklister", "--declared-size", SIZE, "--epsilon", "3,5",
         "--until", "2027-06-30", "--key", "anna.key"),
        9,
    ),
    (("policy",), 99),
    (("countersign", CARD.id, "--key", "bo.key"), 9),
    (("policy",), 99),
)  # fmt: skip
LIVING: tuple[tuple[Words, int], ...] = (
    (("ledger",), 99),
    (("ledger", "--what-if", "3 more rounds"), 9),
    (("ledger", "--what-if", "30 runder mere af bicycle-repair"), 9),
    (("ledger", "--what-if", "3000 runder"), 9),
    (("journal",), 99),
    (("journal", "--since", "2026-05-05"), 99),
    (("journal", "--verify"), 9),
    (("journal", "--export", "journal.jsonl"), 9),
    (("verify", "journal.jsonl"), 9),
    (("model", "list"), 9),
    (("model", "export", FEDERATION[:8], "--out", "model.npz"), 9),
    (("withdraw", CARD.id), 9),
    (("verify", "agent/receipts/withdraw-bicycle-repair-9.json"), 9),
    (("policy",), 99),
)


def _line_for_policy(capsys: pytest.CaptureFixture[str], name: str) -> str:
    assert say("person", name, "--key", f"{name}.key") == 0
    return capsys.readouterr().out.splitlines()[-1].strip()


def _edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text(encoding="utf-8")
    assert old in text
    Path(path).write_text(text.replace(old, new), encoding="utf-8")


# Mistakes

ASK: Words = ("approve", "CARD", "--population", "cyklister", "--declared-size", 50)
MISTAKES: tuple[Words, ...] = (
    ("init", "--municipality", "851", "--dir", "AGENT"),
    ("init", "--municipality", "999", "--dir", "FOLDER/new"),
    ("init", "--municipality", "Aalborg", "--dir", "FOLDER/new"),
    ("init", "--municipality", "851", "--dir", "FOLDER/a-file"),
    ("init", "--municipality", "851", "--dir", "FOLDER/a-file/below"),
    ("policy", "--dir", "FOLDER/nowhere"),
    ("policy", "--dir", "FOLDER/a-file"),
    ("person", '"', "--key", "FOLDER/new.key"),
    ("person", "", "--key", "FOLDER/new.key"),
    ("population", "add", "Ældre borgere", "--citizen", "cpr", "--source", "FOLDER/copy.csv"),
    ("population", "add", "n", "--citizen", "cpr", "--source", "FOLDER/copy.csv"),
    ("population", "add", "nye", "--citizen", "cpr"),
    ("population", "add", "nye", "--citizen", "", "--source", "FOLDER/copy.csv"),
    ("population", "add", "nye", "--citizen", "cpr", "--source", ""),
    ("population", "add", "nye", "--citizen", "cpr", "--source", "FOLDER/copy.csv"),
    ("population", "add", "cyklister"),
    ("population", "add", "cyklister", "--citizen", "cpr", "--source", "FOLDER/copy.csv"),
    ("population", "add", "nye", "--citizen", "cpr", "--source", "FOLDER/copy.csv", "--key", "FOLDER/nowhere"),
    ("check-data", "nothing-such", "--population", "cyklister"),
    ("check-data", "FOLDER", "--population", "cyklister"),
    ("check-data", "CARD", "--population", "nowhere"),
    ("check-data", "income", "--population", "cyklister"),
    (*ASK, "--epsilon", 0),
    (*ASK, "--epsilon", -1),
    (*ASK, "--epsilon", "nan"),
    (*ASK, "--epsilon", "inf"),
    (*ASK, "--epsilon", "1e9"),
    (*ASK, "--epsilon", "8,01"),
    (*ASK, "--epsilon", 2, "--declared-size", 49),
    (*ASK, "--epsilon", 2, "--declared-size", -50),
    (*ASK, "--epsilon", 2, "--until", "2026-05-03"),
    (*ASK, "--epsilon", 2, "--key", "FOLDER/a-file"),
    (*ASK, "--epsilon", 2, "--key", "FOLDER"),
    ("approve", "cyklister", "--population", "CARD", "--declared-size", 50, "--epsilon", 2),
    ("countersign", "--key", "FOLDER/a-file"),
    ("countersign", "bicycle-repair", "--population", "cyklister", "--key", "FOLDER/a-file"),
    ("countersign", "bicycle-repair", "--key", "FOLDER/nowhere"),
    ("withdraw", "bicycle-repair"),
    ("ledger", "recover"),
    ("ledger", "recover", "--what-if", "3 runder"),
    ("ledger", "--what-if", ""),
    ("ledger", "--what-if", "hvad nu hvis"),
    ("ledger", "--what-if", "3 runder"),
    ("journal", "--export", "FOLDER"),
    ("journal", "--export", "FOLDER/nowhere/j.jsonl"),
    ("journal", "--export", "AGENT/store.sqlite"),
    ("journal", "--export", "AGENT/agent.yaml"),
    ("journal", "--export", "FOLDER/copy.csv"),
    ("verify", "FOLDER/nowhere"),
    ("verify", "FOLDER"),
    ("verify", "FOLDER/copy.csv"),
    ("model", "export"),
    ("model", "export", "6f1b"),
    ("model", "export", "--out", "FOLDER/m.npz"),
    ("model", "export", "6f1b", "--out", "FOLDER/m.npz"),
)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_mistake_gets_the_golden_line_and_changes_nothing(
    language: str, town: Municipality, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("FAELLES_AGENT_DIR", str(home.folder))
    (tmp_path / "a-file").write_text("no key", encoding="utf-8")
    (tmp_path / "a-file").chmod(0o600)
    (tmp_path / "copy.csv").write_bytes(town.data.read_bytes())
    before, there = written(home), sorted(tmp_path.rglob("*"))
    told = []
    for words in MISTAKES:
        line = tuple(_placed(word, home.folder, town.card_folder) for word in words)
        text = run(tmp_path, capsys, ("--lang", language, *line), lines=0).replace(str(town.card_folder), "CARD")
        assert text.endswith("[2]"), text
        assert text.count("\n") == 2, text
        assert written(home) == before, text
        assert sorted(tmp_path.rglob("*")) == there, text
        told.append(text)
    check_golden(f"mistakes.{language}.txt", "\n\n".join(told) + "\n")


def _placed(word: str | Path | int | float, agent: Path, card: Path) -> str:
    text = str(word).replace("AGENT", str(agent)).replace("FOLDER", str(agent.parent))
    return str(card) if text == "CARD" else text


@pytest.mark.usefixtures("clock")
def test_people_look_and_decide_while_the_agent_serves(home: Home, tmp_path: Path) -> None:
    desk.approve(home, CARD)
    serving = home.store(serving=True)
    for words in (("policy",), ("ledger",), ("journal", "--verify"), ("journal", "--export", tmp_path / "j"),
                  ("model", "list"), ("withdraw", CARD.id)):  # fmt: skip
        assert say(*words, "--dir", home.folder) == 0
    serving.close()


# What breaks around the commands


def raising(error: BaseException) -> Callable[..., Iterator[str]]:
    def command(*_: object) -> Iterator[str]:
        yield "begun"
        raise error

    return command


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("error", "status", "da", "en"),
    [
        (MemoryError("0101701234"), 2, "hukommelse", "memory"),
        (PermissionError(13, "Permission denied", "a-file"), 2, "a-file: adgang nægtet;", "a-file: permission denied;"),
        (OSError(28, "No space left on device"), 2, "-: disken er fuld;", "-: no space left on device;"),
        (OSError("0101701234"), 2, "-: det går ikke;", "-: oserror;"),
        (KeyError("0101701234"), 1, "KeyError", "KeyError"),
        (ValueError("0101701234\n"), 1, "ValueError", "ValueError"),
    ],
)
def test_what_no_command_foresaw_is_one_line_without_a_value(
    error: Exception, status: int, da: str, en: str, language: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cli, "COMMANDS", {"policy": raising(error)})
    assert say("--lang", language, "policy") == status
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert (da if language == "da" else en) in shown
    assert "0101701234" not in shown


def test_a_command_that_is_stopped_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", {"policy": raising(KeyboardInterrupt())})
    assert say("policy") == 130
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("clock")
def test_a_name_of_two_lines_still_gets_one(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert say("withdraw", "one\ntwo", "--dir", home.folder) == 2
    assert capsys.readouterr().err.count("\n") == 1


def agent(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "client.cli", *map(str, words)], capture_output=True, check=False, timeout=60,
        env=os.environ | environment, cwd=Path(__file__).parents[3],
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_our_letters_is_no_reason_to_stop(home: Home, encoding: str) -> None:
    done = agent("ledger", "--dir", home.folder, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"cyklister  ? h" in done.stdout


def test_a_screen_that_is_closed_is_no_reason_to_stop(home: Home) -> None:
    command = f'exec "{sys.executable}" -m client.cli ledger --dir "{home.folder}" >&-'
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_who_reads_only_the_first_line_gets_it_and_no_complaint(home: Home) -> None:
    command = f'"{sys.executable}" -m client.cli policy --dir "{home.folder}" | head -1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, timeout=60)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, client.cli\n"
        "try: client.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'pyarrow', 'pydantic', 'scipy', 'flwr'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_ends_a_command_without_a_trace(home: Home, tmp_path: Path) -> None:
    pipe = tmp_path / "slow.csv"
    os.mkfifo(pipe)  # a source that never begins
    words = ["population", "add", "slow", "--citizen", "cpr", "--source", str(pipe), "--dir", str(home.folder)]
    before = written(home)
    started = subprocess.Popen([sys.executable, "-m", "client.cli", *words], stderr=subprocess.PIPE)
    opened = threading.Event()

    def wait_for_reader() -> None:
        with pipe.open("wb"):
            opened.set()
            started.send_signal(signal.SIGINT)
            started.wait(60)

    writer = threading.Thread(target=wait_for_reader, daemon=True)
    writer.start()
    _, told = started.communicate(timeout=60)
    writer.join(60)
    assert opened.is_set()
    assert (started.returncode, told) == (130, b"")
    assert written(home) == before
