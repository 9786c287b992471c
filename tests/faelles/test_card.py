"""A card says everything wrong with it at once, and its hash holds every field of it."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, TypeAdapter, ValidationError

from faelles.card import UseCaseCard, describe_mistakes, load_card, parse_card
from faelles.errors import CardError

TEXT = """
id: elder-admission
version: 1
title: {da: Indlæggelser, en: Admissions}
category: forecasting
model_type: specific
unit: citizen
max_rows_per_unit: 3
label: {column: admitted, kind: binary}
features:
  - {name: age, kind: number, min: 65, max: 105, unit: years}
  - {name: visits, kind: number, min: 0, max: 20, bins: 10}
  - {name: sex, kind: category, values: [f, m]}
model: {kind: mlp, hidden: [32, 16], local: [output.bias]}
training: {rounds: 30, local_steps: 10, batch_size: 64, learning_rate: 0.5}
privacy: {epsilon: 2.0, delta: 1.0e-5, clipping_norm: 1.0, noise: local}
law: {special_categories: true, ai_act: annex-iii-5a, basis: {develop: a, retrain: b, operate: null}}
"""


def fields() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(TEXT)
    return loaded


def changed(path: str, value: object) -> dict[str, Any]:
    """Give a card's fields with one of them set to another value."""
    whole = fields()
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    part: Any = whole
    for parent in parents:
        part = part[parent]
    part[last] = value
    return whole


def mistakes(given_fields: object) -> list[str]:
    """List what `parse_card` finds wrong, one entry for each mistake."""
    with pytest.raises(CardError) as caught:
        parse_card(given_fields)
    text = str(caught.value)
    assert text.isprintable(), "an error is one line"
    found = re.fullmatch(r"card: (\d+) mistake\(s\): (.*)", text)
    assert found
    listed = found[2].split("; ")
    assert int(found[1]) >= 1
    return listed


def test_a_card_is_read() -> None:
    card = parse_card(fields())
    assert card.columns == ("citizen", "age", "visits", "sex", "admitted")
    assert card.label.values == ("0", "1")
    assert card.model.parameter_names == (
        *("hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias"),
        *("output.weight", "output.bias"),
    )
    assert (card.evaluation.epsilon, card.evaluation.bins, card.evaluation.held_out) == (0.5, 20, 0.2)


def test_a_card_without_a_unit_reads_no_column_for_it() -> None:
    card = parse_card(fields() | {"unit": None, "max_rows_per_unit": 1})
    assert card.columns == ("age", "visits", "sex", "admitted")


def test_a_card_cannot_be_changed_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_card(fields()).version = 2


def test_every_mistake_is_reported_at_once() -> None:
    whole = fields()
    del whole["title"]
    whole |= {"version": "one", "category": "fortune-telling", "epsilon": 3, "unit": 7}
    whole["features"][0]["max"] = 60
    whole["features"][2]["values"] = ["f", "f"]
    whole["label"]["kind"] = "ordinal"
    whole["training"]["learning_rate"] = -0.25
    whole["privacy"]["delta"] = 0.5
    with pytest.raises(CardError) as caught:
        parse_card(whole, "my card")
    text = str(caught.value)
    assert text.startswith("my card: 10 mistake(s): ")
    for expected in (
        "version: input should be a valid integer (came: 'one')",
        "title: is missing; write it",
        "category: input should be 'perception', ",
        "(came: 'fortune-telling')",
        "unit: input should be a valid string (came: 7)",
        "label.kind: input should be 'binary' or 'multiclass' (came: 'ordinal')",
        "features.0: min 65 is not below max 60; write the public range of the column",
        "features.2: values holds a category twice; list each once",
        "training.learning_rate: input should be greater than 0 (came: -0.25)",
        "privacy.delta: input should be less than 0.01 (came: 0.5)",
        "epsilon: is no known field; remove it or correct its name",
    ):
        assert expected in text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("id", "Elder Admission", "id: string should match pattern"),
        ("version", 0, "version: input should be greater than or equal to 1 (came: 0)"),
        ("version", True, "version: input should be a valid integer (came: True)"),
        ("title", {"en": "Admissions"}, "title.da: is missing; write it"),
        ("model_type", "global", "model_type: input should be 'general', "),
        ("max_rows_per_unit", 0, "max_rows_per_unit: input should be greater than or equal to 1 (came: 0)"),
        ("unit", "age", "card: the unit age is also a feature or the label; it only tells citizens apart"),
        ("unit", None, "card: max_rows_per_unit must be 1 where unit is null, for then a row is a unit"),
        ("label.column", "age", "card: the label age is also a feature; a model must not see its answer"),
        ("label.values", ["a"], "label: a binary label takes exactly 2 different values; "),
        ("label.values", ["a", "a"], "label: a binary label takes exactly 2 different values; "),
        (
            "label",
            {"column": "y", "kind": "multiclass"},
            "label: a multiclass label takes 3 or more",
        ),
        ("features", [], "features: tuple should have at least 1 item"),
        ("features.0.kind", "text", "features.0: input tag 'text' found using 'kind' does not match"),
        ("features.0.min", float("nan"), "features.0.min: input should be a finite number (came: nan)"),
        ("features.0.max", float("inf"), "features.0.max: input should be a finite number (came: inf)"),
        ("features.0.min", "old", "features.0.min: input should be a valid number"),
        ("features.0.bins", 1, "features.0.bins: input should be greater than or equal to 2 (came: 1)"),
        ("features.2.values", ["f"], "features.2.values: tuple should have at least 2 items"),
        ("features.2.values", ["f", True], "features.2.values.1: input should be a valid string (came: True)"),
        ("features.1.name", "age", "card: features names age twice; declare each column once"),
        ("model.kind", "forest", "model.kind: input should be 'logistic' or 'mlp' (came: 'forest')"),
        ("model.hidden", [], "model: hidden lists the widths of an mlp, e.g. [32, 16]; "),
        ("model", {"kind": "logistic", "hidden": [4]}, "model: hidden lists the widths of an mlp, e.g. [32, 16]; "),
        ("model.local", ["head"], "model: local names head; known are hidden.0.weight, "),
        ("training.local_epochs", 1, "training: give either local_steps or local_epochs, "),
        ("training.local_steps", None, "training: give either local_steps or local_epochs, "),
        ("privacy.epsilon", float("inf"), "privacy.epsilon: input should be a finite number (came: inf)"),
        ("privacy.epsilon", 0, "privacy.epsilon: input should be greater than 0 (came: 0)"),
        ("privacy.clipping_norm", 1e30, "privacy.clipping_norm: input should be less than or equal to 1000000"),
        ("privacy.clipping_norm", 1e-30, "privacy.clipping_norm: input should be greater than or equal to 0.000001"),
        ("privacy.noise", "central", "privacy.noise: input should be 'local' (came: 'central')"),
        ("evaluation", {"held_out": 1}, "evaluation.held_out: input should be less than 1 (came: 1)"),
        ("law.basis", {"deploy": "x"}, "law.basis.deploy: is no known field; "),
    ],
)
def test_a_mistake_is_told_with_its_path_and_what_came(path: str, value: object, expected: str) -> None:
    first, *_ = mistakes(changed(path, value))
    assert first.startswith(expected.split("; ")[0])


def test_a_model_that_shares_nothing_is_refused() -> None:
    names = parse_card(fields()).model.parameter_names
    assert mistakes(changed("model.local", list(names)))[0].startswith("model: local names every parameter")


def test_a_range_wider_than_a_number_is_refused() -> None:
    whole = changed("features.0.min", -1.7e308)
    whole["features"][0]["max"] = 1.7e308
    assert mistakes(whole)[0].startswith("features.0: the range from min to max is wider than a number can be")


def test_what_came_is_cut_short() -> None:
    assert len("".join(mistakes(changed("category", "x" * 10_000)))) < 500


def test_numbers_are_read_as_categories_by_their_text() -> None:
    card = parse_card(changed("features.2.values", [1, "b", 2.5]))
    assert card.features[2].values == ("1", "b", "2.5")  # type: ignore[union-attr]  # the third is a category


names = st.text(min_size=1, max_size=30)


@given(names.filter(lambda name: name not in UseCaseCard.model_fields))
def test_a_field_that_no_card_has_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(CardError) as caught:
        parse_card(fields() | {name: 1})
    shown = name if name.isprintable() else repr(name)
    assert str(caught.value) == f"card: 1 mistake(s): {shown}: is no known field; remove it or correct its name"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", ["title", "label", "model", "training", "privacy", "law", "law.basis", "features.0"])
def test_no_part_of_a_card_takes_a_field_that_it_does_not_have(path: str) -> None:
    assert mistakes(changed(f"{path}.colour", "red"))[0] == f"{path}.colour: is no known field"


@pytest.mark.parametrize("not_a_card", [None, 7, "id: x", [], [fields()]])
def test_what_is_no_mapping_is_no_card(not_a_card: object) -> None:
    with pytest.raises(CardError, match="expected a card"):
        parse_card(not_a_card)


def leaves(part: Any, path: str = "") -> dict[str, Any]:
    """Map the path of every field of a card to its value."""
    if not isinstance(part, dict | list):
        return {path: part}
    items = part.items() if isinstance(part, dict) else enumerate(part)
    found: dict[str, Any] = {}
    for key, value in items:
        found |= leaves(value, f"{path}.{key}".lstrip("."))
    return found


OTHERS: dict[str, Any] = {
    "id": "another",
    "category": "decision",
    "model_type": "general",
    "label.values.0": "no",
    "model.local.0": "output.weight",
    "features.0.max": 110.0,
}
FIXED = {"noise", "kind"}  # these choose the rest of their part or have one value only


def other(path: str, value: Any) -> Any:
    """Give another valid value of a field."""
    if path in OTHERS:
        return OTHERS[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.5 or 0.5
    return "another" if value is None else f"{value}x"


WHOLE: dict[str, Any] = json.loads(parse_card(fields() | {"note": {"da": "a", "en": "b"}}).canonical_json)
CHANGEABLE = [
    path
    for path in leaves(WHOLE)
    if (path.split(".")[-1] not in FIXED and not path.endswith((".bins", "local_epochs"))) or path == "evaluation.bins"
]


@pytest.mark.parametrize("path", CHANGEABLE)
def test_the_hash_changes_with_every_field(path: str) -> None:
    whole: Any = json.loads(json.dumps(WHOLE))
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    part = whole
    for parent in parents:
        part = part[parent]
    part[last] = other(path, part[last])
    assert parse_card(whole).sha256 != parse_card(WHOLE).sha256


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("features.0.kind", {"name": "age", "kind": "category", "values": ["65", "105"]}),
        ("features.1.bins", {"name": "visits", "kind": "number", "min": 0, "max": 20}),
        ("label.kind", {"column": "admitted", "kind": "multiclass", "values": ["0", "1", "2"]}),
        ("model.kind", {"kind": "logistic"}),
        ("training.local_epochs", {"rounds": 30, "local_epochs": 10, "batch_size": 64, "learning_rate": 0.5}),
    ],
)
def test_the_hash_changes_with_the_kind_of_a_part(path: str, value: object) -> None:
    assert parse_card(changed(path.rpartition(".")[0], value)).sha256 != parse_card(fields()).sha256


def test_the_hash_changes_with_the_order_of_features_and_of_categories() -> None:
    turned = fields()
    turned["features"].reverse()
    digests = {parse_card(card).sha256 for card in (fields(), turned, changed("features.2.values", ["m", "f"]))}
    assert len(digests) == 3


def test_the_hash_does_not_change_with_the_layout_of_the_file(tmp_path: Path) -> None:
    layouts = {
        "as-written": TEXT,
        "commented": "# a comment\n" + TEXT.replace("version: 1\n", "version:   1   # the first\n"),
        "sorted": yaml.safe_dump(fields(), sort_keys=True, default_flow_style=False, allow_unicode=True),
        "json": json.dumps(fields()),
        "numbers": TEXT.replace("epsilon: 2.0", "epsilon: 2").replace("min: 65", "min: 65.0"),
        "defaults": TEXT + "evaluation: {epsilon: 0.5, bins: 20, held_out: 0.2}\nnote: null\n",
    }
    for name, text in layouts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert {load_card(tmp_path / name).sha256 for name in layouts} == {parse_card(fields()).sha256}


def test_the_canonical_json_is_a_card_again() -> None:
    card = parse_card(fields())
    assert parse_card(json.loads(card.canonical_json)) == card
    assert re.fullmatch("[0-9a-f]{64}", card.sha256)


@pytest.mark.parametrize(
    "content",
    [
        b"id: [1, 2",
        b"\xff\xfe\x00",
        "title: Indlæggelser".encode("latin-1"),
        b"id: \x00",
        b"a: b: c",
        b"version: 2024-99-99",
        b"version: !!int abc",
        b"version: !!timestamp abc",
        b"version: !!python/object/apply:os.getcwd []",
        b"version: " + b"9" * 5000,
        b"[" * 3000,
        b"{[1]: 2}",
        b"",
        b"just text",
        b"&a [*a]",
        b"id: x",
        b"? ~\n: 1",
        b'"two\\nlines": 1',
    ],
)
def test_a_file_that_is_no_card_gives_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "card.yaml"
    path.write_bytes(content)
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert caught.value.__context__ is None or caught.value.__suppress_context__, "a cause prints a traceback"


def test_a_broken_file_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("id: a\nversion: 1\ntitle: {da: [\n", encoding="utf-8")
    with pytest.raises(CardError, match=r"it breaks off at line 4; check indentation and quotes"):
        load_card(tmp_path / "card.yaml")


@pytest.mark.parametrize("place", ["absent.yaml", ".", "absent/card.yaml"])
def test_a_file_that_cannot_be_read_is_told_by_its_path(tmp_path: Path, place: str) -> None:
    with pytest.raises(CardError, match=r"expected a card\.yaml that can be read") as caught:
        load_card(tmp_path / place)
    assert str(caught.value).startswith(f"{tmp_path / place}: ")
    assert str(caught.value).isprintable()


def test_what_cannot_be_seen_in_a_tag_is_not_repeated() -> None:
    fields = changed("features.0.kind", "category\ufeff")
    with pytest.raises(CardError) as caught:
        parse_card(fields)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("message", "said"),
    [("CVR: expected 8 digits", "CVR: expected 8 digits"), ("A word", "a word"), ("Input should", "input should")],
)
def test_an_abbreviation_keeps_its_capitals(message: str, said: str) -> None:
    def refuse(text: str) -> str:
        raise ValueError(message)

    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[str, AfterValidator(refuse)]).validate_python("")
    assert describe_mistakes(caught.value, values=False) == f"card: {said}"
