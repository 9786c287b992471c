"""The shelf finds what is on it, reads folders as data only, and says what it knows."""

import re
from pathlib import Path

import pytest

from catalogue import shelf
from faelles.errors import ConfigError

HEADINGS = (
    "What", "Source", "Rows", "Sites", "Licence", "Label", "Features", "Unit of privacy", "Law", "Ethics",
)  # fmt: skip


def test_the_catalogue_holds_the_six() -> None:
    assert shelf.names() == (
        "elder-admission", "exam-grades", "heart-disease", "heart-disease-flamby", "income", "mortality-65",
    )  # fmt: skip


@pytest.mark.parametrize("name", shelf.names())
def test_every_card_loads_under_the_name_of_its_folder(name: str) -> None:
    usecase = shelf.find(name)
    assert usecase.card.id == name
    assert usecase.folder.name == name.replace("-", "_")


@pytest.mark.parametrize("name", shelf.names())
def test_every_data_sheet_answers_every_question(name: str) -> None:
    sheet = (shelf.find(name).folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \*\*(.+?)\*\* \|", sheet, re.MULTILINE) == list(HEADINGS)
    assert sheet.startswith(f"# {name}\n")
    assert "## How to run\n" in sheet
    assert "## Results\n" in sheet


@pytest.mark.parametrize("name", shelf.names())
def test_every_card_speaks_danish_and_english(name: str) -> None:
    card = shelf.find(name).card
    assert card.title.da != card.title.en
    assert card.note is not None
    assert card.note.da != card.note.en


def test_nothing_of_the_catalogue_may_be_operated_without_a_basis() -> None:
    assert {name: shelf.find(name).card.law.basis.operate for name in shelf.names()} == dict.fromkeys(shelf.names())


def test_the_column_that_decides_the_grade_is_no_feature() -> None:
    assert "score" not in shelf.find("exam-grades").card.columns


def test_only_the_published_protocol_fixes_who_is_held_out() -> None:
    marked = {name: shelf.find(name).held_out for name in shelf.names()}
    assert {name: mark for name, mark in marked.items() if mark} == {"heart-disease-flamby": ("set", "test")}


def test_a_use_case_is_either_synthetic_or_read_from_a_file() -> None:
    twins = {name for name in shelf.names() if shelf.find(name).twin}
    assert twins == {"elder-admission"}
    assert {name for name in shelf.names() if shelf.find(name).adapter} == {"heart-disease-flamby", "mortality-65"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    card = (shelf.USECASES["elder-admission"] / "card.yaml").read_text(encoding="utf-8")
    (tmp_path / "card.yaml").write_text(card, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("module", ["twin.py", "adapter.py", "__init__.py"])
def test_a_folder_from_elsewhere_runs_no_python(folder: Path, module: str) -> None:
    (folder / module).write_text("raise SystemExit('this ran')", encoding="utf-8")
    usecase = shelf.find(str(folder))
    assert (usecase.twin, usecase.adapter, usecase.held_out) == (None, None, None)


def test_the_path_of_a_card_is_the_path_of_its_folder(folder: Path) -> None:
    assert shelf.find(str(folder / "card.yaml")) == shelf.find(str(folder))
    assert shelf.find(str(folder)).card == shelf.find("elder-admission").card


def test_a_path_into_the_catalogue_is_the_use_case_with_its_code() -> None:
    assert shelf.find(str(shelf.USECASES["mortality-65"])) == shelf.find("mortality-65")


def test_an_unknown_name_is_answered_with_the_known_and_the_closest() -> None:
    with pytest.raises(
        ConfigError, match=r"usecase=elder_admision: .*mortality-65.*did you mean elder-admission"
    ) as hit:
        shelf.find("elder_admision")
    assert "\n" not in str(hit.value)


def test_a_name_like_no_other_still_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"elder-admission, .*choose one") as hit:
        shelf.find("zzzzzz")
    assert "did you mean" not in str(hit.value)


def test_a_folder_without_a_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a folder that holds a card") as hit:
        shelf.find(str(tmp_path))
    assert "\n" not in str(hit.value)
