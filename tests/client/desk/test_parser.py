"""What is typed is read in two languages, and what cannot be read is told in one line that repeats nothing."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.desk.parser import COMPLAINTS, GRAMMAR, Option, language_of, parser
from client.home import ENVIRONMENT
from client.language import Language
from faelles.privacy.plan import DECLARED_SIZES
from tests.desk import GOLDEN, LANGUAGES, check_golden
from tests.municipality import say

PAGES: dict[Language, Path] = {
    "da": Path(__file__).parents[3] / "docs" / "agent.da.md",
    "en": Path(__file__).parents[3] / "docs" / "agent.md",
}
EVERY_OPTION = [(name, option) for name, (_, _, options) in GRAMMAR.items() for option in options]


def complaint(words: Sequence[str], language: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert say("--lang", language, *words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err


def ids(case: object) -> str:
    return " ".join(case) if isinstance(case, tuple) else str(case)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("command", ["", *GRAMMAR])
def test_the_help_is_the_golden_one(
    command: str, language: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert say("--lang", language, *([command] if command else []), "--help") == 0
    check_golden(f"help{command and '-'}{command}.{language}.txt", capsys.readouterr().out)


@pytest.mark.parametrize("name", GRAMMAR)
def test_every_command_has_help_in_both_languages(name: str) -> None:
    da, en, _ = GRAMMAR[name]
    assert da
    assert en
    assert da != en


@pytest.mark.parametrize(("command", "option"), EVERY_OPTION, ids=lambda one: getattr(one, "name", one))
def test_every_option_has_help_and_a_value_in_both_languages(command: str, option: Option) -> None:
    assert option.da
    assert option.en
    assert option.da != option.en
    assert bool(option.value[0]) == bool(option.value[1])
    assert option.value[0] or option.choices or option.name.startswith("--")


def test_the_help_names_the_environment_variable_that_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert say("--help") == 0
    assert ENVIRONMENT in capsys.readouterr().out


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_command_of_the_parser_is_documented(language: Language) -> None:
    page = PAGES[language].read_text(encoding="utf-8")
    assert [name for name in GRAMMAR if f"`{name}" not in page] == []
    options = {option.name for _, option in EVERY_OPTION if option.name.startswith("--")}
    left_to_help = {"--password-file", "--no-special-categories", "--held-out", "--accept-overlap"}
    assert [name for name in sorted(options - left_to_help) if name not in page] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_command_of_the_documentation_is_one_of_the_parser(language: Language) -> None:
    page = PAGES[language].read_text(encoding="utf-8")
    written = re.findall(r"(?:^ {4}|`)faelles-agent ([^`\n]+)", page, re.MULTILINE)
    for line in written:
        words = re.findall(r'"[^"]*"|\S+', line)
        parser(language).parse_args([word.strip('"') for word in words])
    rows = re.findall(r"^\| (`[^|]+`[^|]*) \|", page, re.MULTILINE)
    named = {word.split()[0] for row in rows for word in re.findall(r"`([^`]+)`", row) if word[0].isalpha()}
    files = {"agent.yaml", "policy.yaml", "signing.key", "store.sqlite", "receipts/", "login.key", "login.key.TIME",
             "login.key.TID", "coordinator.yaml", "coordinator-ca.pem", "request.json", "run/"}  # fmt: skip
    assert named - files == set(GRAMMAR)


def test_both_pages_document_the_same() -> None:
    pages = [PAGES[language].read_text(encoding="utf-8") for language in ("da", "en")]
    options = [sorted(set(re.findall(r"--[a-z-]+", page))) for page in pages]
    assert options[0] == options[1]
    headings = [len(re.findall(r"^## ", page, re.MULTILINE)) for page in pages]
    assert headings[0] == headings[1]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_say_how_a_card_is_allowed_and_which_sizes_may_be_declared(language: Language) -> None:
    page = PAGES[language].read_text(encoding="utf-8")
    assert "`cards: [elder-admission]`" in page
    steps = " ".join(page[page.index("`--declared-size` ") :].split())
    assert ", ".join(map(str, DECLARED_SIZES)) in steps[:250]
    assert "`check-data`" in steps[:300]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_do_not_say_that_check_sees_what_kombit_has_admitted(language: Language) -> None:
    page = PAGES[language].read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `check` |"))
    assert "KOMBIT" in row
    assert "`event=connected`, " in page[: page.index("- **Proxy**")]


def test_no_page_tells_to_restart_after_a_rotation() -> None:
    pages = [PAGES[language].read_text(encoding="utf-8") for language in ("da", "en")]
    assert [re.findall(r"restart|genstart", page, re.IGNORECASE) for page in pages] == [["genstart"], ["restart"]]
    assert "genstart den ikke imens" in pages[0]
    assert "do not restart it in between" in pages[1]


MISREAD = (
    (), ("polciy",), ("policy", "more"), ("policy", "--foo"), ("policy", "--dir"), ("policy", "--verify"),
    ("population",), ("population", "list", "x"), ("approve", "x"), ("journal", "--verify=3"),
    ("journal", "--since", "x"), ("up", "--health", "x"), ("up", "--health", "65536"),
    ("approve", "x", "--population", "p", "--declared-size", "many", "--epsilon", "2"),
    ("approve", "x", "--population", "p", "--declared-size", "50", "--epsilon", "2,5,0"),
    ("population", "add", "p", "--held-out", "1.5"), ("population", "add", "p", "--held-out", "nan"),
    ("ledger", "reset"), ("model",), ("countersign", "x"), ("--lang", "fr", "policy"), ("init", "--lan", "en"),
    ("population", "add", "p", "--no"),
)  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_cannot_be_read_is_told_in_the_golden_words(language: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = "".join(f"$ faelles-agent {' '.join(words)}\n{complaint(words, language, capsys)}\n" for words in MISREAD)
    check_golden(f"misread.{language}.txt", told)


@pytest.mark.parametrize("words", MISREAD, ids=ids)
def test_a_complaint_in_danish_holds_no_english(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text = complaint(words, "da", capsys)
    assert text.startswith("fejl: ")
    english = {"argument", "arguments", "expected", "invalid", "choice", "required", "following", "choose", "value"}
    assert english & set(re.findall(r"[a-zæøå]+", text)) == set()


COMMANDS = st.sampled_from([("policy",), ("approve", "x"), ("journal", "--since"), ("init", "--municipality")])


@given(
    typed=st.from_regex(r"[0-3][0-9][01][0-9]{3}-?[0-9]{4}", fullmatch=True), place=st.integers(0, 3), words=COMMANDS
)
@example(typed="0101701234", place=0, words=("policy",))
def test_what_was_typed_in_a_wrong_place_is_not_repeated(typed: str, place: int, words: tuple[str, ...]) -> None:
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *texts, **_: printed.extend(map(str, texts)))
        with contextlib.suppress(SystemExit):
            parser("da").parse_args([*words[:place], typed, *words[place:]])
    assert len(printed) <= 1
    assert all(typed not in text for text in printed)


@pytest.mark.parametrize(
    ("words", "language"),
    [
        ((), "da"), (("policy",), "da"), (("--lang", "en", "policy"), "en"), (("policy", "--lang", "en"), "en"),
        (("--lang=en",), "en"), (("policy", "--lang=da"), "da"), (("--lang",), "da"), (("--lang", "fr"), "da"),
    ],
)  # fmt: skip
def test_the_language_is_known_before_anything_is_read(words: tuple[str, ...], language: str) -> None:
    assert language_of(words) == language


@pytest.mark.parametrize("place", [0, 1])
def test_an_option_for_all_commands_stands_before_or_after_the_command(place: int) -> None:
    words = ["policy"]
    words[place:place] = ["--lang", "en", "--dir", "here"]
    given = parser("en").parse_args(words)
    assert (given.command, given.lang, given.dir) == ("policy", "en", Path("here"))


@pytest.mark.parametrize("text", ["2.5", "2,5"])
def test_a_decimal_is_typed_as_it_is_shown_in_either_language(text: str) -> None:
    given = parser("da").parse_args(
        ["approve", "x", "--population", "p", "--declared-size", "5.000", "--epsilon", text]
    )
    assert (given.declared_size, given.epsilon) == (5000, 2.5)


@pytest.mark.parametrize("da", [da for _, da, _ in COMPLAINTS])
def test_every_complaint_has_a_case(da: str) -> None:
    told = (GOLDEN / "misread.da.txt").read_text(encoding="utf-8")
    pattern = re.escape(da).replace(re.escape(r"\1"), ".*").replace(re.escape(r"\2"), ".*")
    assert re.search(f"fejl: {pattern}; se ", told)
