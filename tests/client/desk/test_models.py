"""The finished models are listed and exported as plain arrays, and an export replaces nothing but its like."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client import outbox
from client.desk import models
from client.home import Home
from client.language import Language
from client.store import Store
from faelles.errors import ConfigError
from faelles.records import pack
from tests import desk
from tests.builders import build_card

CARD = build_card()
FIRST, SECOND = "aaaa0000-0000-4000-8000-000000000001", "aaab0000-0000-4000-8000-000000000002"
ARRAYS = {"output.bias": np.array([0.5], np.float32), "output.weight": np.eye(2, dtype=np.float32)}


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """Keep two models, one of a card that was approved."""
    desk.approve(home, CARD)
    opened = home.store()
    with opened.transaction() as database:
        outbox.keep_model(database, FIRST, CARD.sha256, pack({}, ARRAYS), "2026-05-04T12:00:00Z")
        outbox.keep_model(database, SECOND, "e" * 64, pack({}, ARRAYS), "2026-05-04T13:00:00Z")
    yield opened
    opened.close()


def test_models_are_listed_by_time_with_their_cards(store: Store) -> None:
    assert list(models.lines(store.database, "en")) == [
        f"{FIRST}  {CARD.id}  2026-05-04T12:00:00Z",
        f"{SECOND}  eeeeeeeeeeee  2026-05-04T13:00:00Z",
    ]


@pytest.mark.parametrize("language", ["da", "en"])
def test_where_none_came_home_it_is_said(home: Home, language: Language) -> None:
    store = home.store()
    assert len(list(models.lines(store.database, language))) == 1
    store.close()


@pytest.mark.parametrize("beginning", [FIRST, "aaaa"])
def test_a_model_is_exported_without_pickle_for_its_owner_only(store: Store, tmp_path: Path, beginning: str) -> None:
    path = models.export(store.database, beginning, tmp_path / "model.out")
    assert path.stat().st_mode & 0o077 == 0
    with np.load(path, allow_pickle=False) as found:
        assert {name: found[name].tolist() for name in found.files} == {
            name: value.tolist() for name, value in ARRAYS.items()
        }


@pytest.mark.parametrize("federation", [None, "", "aaa", "bbbb", FIRST + "0", "%", "aaaa_"])
def test_it_has_to_be_clear_which_model(store: Store, tmp_path: Path, federation: str | None) -> None:
    with pytest.raises(ConfigError, match="model list"):
        models.export(store.database, federation, tmp_path / "model.npz")
    assert not (tmp_path / "model.npz").exists()


def test_it_has_to_be_said_where_to(store: Store) -> None:
    with pytest.raises(ConfigError, match="--out"):
        models.export(store.database, FIRST, None)


def test_an_export_takes_the_place_of_an_export_and_of_nothing_else(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    models.export(store.database, FIRST, path)
    models.export(store.database, SECOND, path)
    data = tmp_path / "borgere.csv"
    data.write_text("cpr;alder\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="choose another name"):
        models.export(store.database, FIRST, data)
    assert data.read_text(encoding="utf-8") == "cpr;alder\n"
