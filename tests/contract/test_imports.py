"""The arrows between the packages hold, and the kernel stays light."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def loaded_by(module: str) -> set[str]:
    """Import one module in a fresh process and return the top-level names it brought along."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_contracts_are_kept() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command as run; sys.argv[1:] = ['--no-cache']; run()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_package_is_shipped_and_under_contract() -> None:
    on_disk = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert on_disk == set(PACKAGES) == set(PROJECT["tool"]["importlinter"]["root_packages"])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_starts_with_a_docstring_and_no_logic(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        lines = path.read_text(encoding="utf-8").strip()
        assert lines.startswith('"""'), f"{path.relative_to(ROOT)} has no docstring"
        assert lines.endswith('"""'), f"{path.relative_to(ROOT)} holds more than its docstring"
        assert lines.count('"""') == 2, f"{path.relative_to(ROOT)} holds more than its docstring"


@pytest.mark.parametrize("module", ["faelles.identifiers", "faelles.municipalities", "faelles.card", "faelles.errors"])
def test_cards_and_identifiers_need_no_heavy_library(module: str) -> None:
    assert not loaded_by(module) & {"torch", "flwr", "opacus", "hydra", "pyarrow", "scipy"}


def test_the_accountant_needs_neither_torch_nor_flower() -> None:
    assert not loaded_by("faelles.privacy.accountant") & {"torch", "flwr", "opacus"}


def test_an_agent_cannot_construct_noise_that_anybody_could_repeat() -> None:
    assert not loaded_by("client.cli, client.agent, client.worker, client.app") & {"simulations", "tests"}
    # What the worker's command line builds draws from the operating system; nothing typed or sent chooses otherwise.
    words = {"SeededMechanisms", "PCG64", "default_rng", "manual_seed", "RandomState"}
    for folder in ("client", "faelles/privacy"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not [word for word in words if word in path.read_text(encoding="utf-8")], path.relative_to(ROOT)
