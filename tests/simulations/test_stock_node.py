"""A stock node's messages are joined with what its processes say of themselves."""

import io
import zipfile
from pathlib import Path

from server.bundle import build_bundle
from simulations.footprint import Life
from simulations.live import LiveFederation
from simulations.stock_node import FOLDER, LOG, STOCK_APP, Handled, handled


def test_the_bundle_names_an_app_and_holds_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(build_bundle(STOCK_APP))) as bundle:
        assert bundle.namelist() == ["pyproject.toml", ".info/CONTENT"]
        text = bundle.read("pyproject.toml").decode()
    assert 'clientapp = "simulations.stock:app"' in text
    assert 'serverapp = "server.app:app"' in text


def test_the_names_are_those_of_the_app() -> None:
    from simulations import stock  # brings PyTorch along

    assert (stock.FOLDER, stock.LOG) == (FOLDER, LOG)
    assert type(stock.app) is stock.StockApp


def test_a_process_that_answered_nothing_is_left_out(tmp_path: Path) -> None:
    live = LiveFederation(folder=tmp_path, usecase="", towns=())
    live.agent_folder("0101").mkdir()
    (live.agent_folder("0101") / LOG).write_text("event=answered kind=train pid=7 work=0.25\n", encoding="utf-8")
    lives = [Life(pid=6, seconds=9.0), Life(pid=7, seconds=8.0)]
    assert handled(live, "0101", lives) == [Handled(kind="train", seconds=8.0, work=0.25)]
