"""The registry and configs/strategy say the same."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from strategies.registry import STRATEGIES

FOLDER = Path(__file__).parents[2] / "configs" / "strategy"


def test_every_strategy_has_a_file_and_every_file_a_strategy() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_file_holds_the_terms_and_defaults_of_the_registry(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    defaults = {key: term.default for key, term in STRATEGIES[name].terms.items()}
    assert OmegaConf.to_container(OmegaConf.load(path)) == {"name": name, "terms": defaults}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_file_begins_with_what_it_is_and_its_paper(name: str) -> None:
    first = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert "arXiv:" in first
