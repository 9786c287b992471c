"""The ServerApp runs the federation that its run's config describes."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from faelles.errors import ConfigError
from server.app import app
from server.federation import RUN_CONFIG_KEY
from server.result import RunRecord
from tests.builders import build_card
from tests.scripted import NAMES, ScriptedGrid, Town


def context(run_config: dict[str, Any]) -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config)


def test_the_app_runs_the_described_federation(tmp_path: Path) -> None:
    town = Town(tmp_path, build_card())
    app(ScriptedGrid(town.nodes), context({RUN_CONFIG_KEY: town.config().model_dump_json()}))
    record = RunRecord.model_validate_json((tmp_path / "run" / "run.json").read_bytes())
    assert record.status == "completed"
    assert record.expected == list(NAMES)


@pytest.mark.parametrize("run_config", [{}, {RUN_CONFIG_KEY: 5}, {RUN_CONFIG_KEY: "{}"}, {"other": "{}"}])
def test_a_run_without_a_description_is_refused(run_config: dict[str, Any]) -> None:
    grid = ScriptedGrid({})
    with pytest.raises(ConfigError, match="federation config: "):
        app(grid, context(run_config))
    assert not grid.sent
