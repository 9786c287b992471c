"""Numbers are written and read as each language does, and a mistake in a file is told in Danish without its value."""

import errno
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from client.home import AgentSettings
from client.language import (
    LANGUAGES,
    MISTAKES,
    REASONS,
    Language,
    danish_mistakes,
    decimal,
    percent,
    plain,
    read_decimal,
    read_whole,
    reason,
    say,
    whole,
)  # fmt: skip
from client.policy import PolicyFile

LANGUAGE = st.sampled_from(LANGUAGES)


def test_the_first_language_is_danish() -> None:
    assert LANGUAGES[0] == "da"
    assert [say(language, "hej", "hello") for language in LANGUAGES] == ["hej", "hello"]


@given(value=st.floats(0, 1e6), language=LANGUAGE, digits=st.integers(0, 4))
def test_a_decimal_is_never_shown_as_less_and_hardly_as_more(value: float, language: Language, digits: int) -> None:
    shown = float(decimal(value, language, digits).replace(",", "."))
    assert value - 1e-8 <= shown <= value + 10.0**-digits + 1e-8


@pytest.mark.parametrize(
    ("value", "da", "en"),
    [(1234.5, "1234,50", "1234.50"), (2.001, "2,01", "2.01"), (math.inf, "∞", "∞"), (0, "0,00", "0.00")],
)
def test_decimals_are_written_as_the_language_does(value: float, da: str, en: str) -> None:
    assert (decimal(value, "da"), decimal(value, "en")) == (da, en)


def test_shares_and_plain_numbers_are_written_as_the_language_does() -> None:
    assert (percent(0.071, "da"), percent(0.071, "en"), percent(math.inf, "da")) == ("8 %", "8%", "∞ %")
    assert (plain(2.5, "da"), plain(2.5, "en"), plain(3, "da")) == ("2,5", "2.5", "3")


@given(value=st.floats(0, 1e4), language=LANGUAGE)
def test_what_is_shown_can_be_typed_again(value: float, language: Language) -> None:
    shown = decimal(value, language)
    assert decimal(read_decimal(shown), language) == shown


@given(value=st.integers(-(10**12), 10**12), language=LANGUAGE)
def test_a_whole_number_is_read_back_as_it_was_written(value: int, language: Language) -> None:
    assert read_whole(str(value)) == value
    if value >= 0:
        assert read_whole(whole(value, language)) == value


@pytest.mark.parametrize("text", ["5,0", "5.00", "2.5", "0.500", "5.0000", "1.000,000.0", "", "x", "5000.0", ".500"])
def test_what_is_no_whole_number_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(ValueError):
        read_whole(text)


def test_why_a_file_cannot_be_used_is_said_in_danish() -> None:
    for number, danish in REASONS.items():
        assert reason(OSError(number, "Said by the system"), "da") == danish
    assert reason(OSError(errno.EIO, "Input/output error"), "da") == "det går ikke"
    assert reason(OSError(errno.ENOENT, "No such file or directory"), "en") == "no such file or directory"
    assert reason(OSError("without a number"), "en") == "oserror"


def danish(model: type[AgentSettings] | type[PolicyFile], fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(fields)
    return danish_mistakes(caught.value)


GOOD: dict[str, Any] = {"version": 1, "municipality": "0851", "populations": {}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "version: skal være 1"),
        ({"version": ...}, "version: mangler; skriv det"),
        ({"more": "0101701234"}, "more: kendes ikke; fjern det, eller ret navnet"),
        ({"municipality": 851}, "municipality: skal være tekst; sæt anførselstegn om"),
        ({"municipality": "0999"}, "municipality: kommunekode 0999: er ikke en af de 98"),
        ({"populations": ["0101701234"]}, "populations: skal have sine felter under sig, rykket ind"),
        ({"populations": {"p": {"citizen": "", "source": {"location": "x.csv"}}}}, "citizen: må ikke være tom"),
        ({"populations": {"p": {"citizen": "c", "source": 5}}}, "source: skal have sine felter under sig"),
        ({"populations": {"p": {"citizen": "c", "source": {"location": "x", "decimal": "0101701234"}}}},
         "decimal: skal være ',' eller '.'"),
        ({"populations": {"p": {"citizen": "c", "source": {"location": "x"}, "held_out": 1}}}, "skal være under 1"),
        ({"populations": {"p": {"citizen": "c", "source": {"location": "x"}, "held_out": "0101701234x"}}},
         "held_out: skal være et tal"),
        ({"populations": {"p": {"citizen": "c", "source": {"location": "x"}, "special_categories": "måske"}}},
         "special_categories: skal være true eller false"),
    ],
)  # fmt: skip
def test_a_mistake_in_agent_yaml_is_told_in_danish_without_what_came(change: dict[str, Any], told: str) -> None:
    fields = {name: value for name, value in (GOOD | change).items() if value is not ...}
    text = danish(AgentSettings, fields)
    assert told in text
    assert "0101701234" not in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["budget", "cards", "epsilon", "limits", "people", "citizen"]), inner)
    ),
    max_leaves=8,
)


@given(fields=st.dictionaries(st.sampled_from(sorted(PolicyFile.model_fields)) | st.text(max_size=3), JSON))
def test_every_mistake_is_one_line_without_english(fields: dict[str, Any]) -> None:
    text = danish(PolicyFile, fields)
    assert text.isprintable()
    assert "nput should" not in text
    assert "{" not in text.replace("{", "", str(fields).count("{"))


def test_every_text_can_be_filled_from_what_pydantic_says() -> None:
    limits = {"expected": "1", "gt": 0, "ge": 512, "lt": 0.01, "le": 10.0}
    assert all(text.format_map(limits) for text in MISTAKES.values())
