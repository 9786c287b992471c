"""What the documentation says about the repository is true."""

import ast
import importlib.util
import os
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

LEFT_BEHIND = {"__pycache__", "build", "dist", "outputs", "multirun"}  # by tools and runs; git ignores them too
HIDDEN_BUT_OURS = {".ci", ".gitignore"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 50


def our_files() -> list[Path]:
    """List every file of the repository, relative to its root, without what tools leave behind."""
    found: list[Path] = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = filter(is_ours, folders)  # an environment holds fifty thousand files: it is not walked through
        found += (Path(folder, name).relative_to(ROOT) for name in filter(is_ours, files))
    return sorted(found)


def is_ours(name: str) -> bool:
    """Say whether a file or folder of this name belongs to the repository."""
    hidden = name.startswith(".") and name not in HIDDEN_BUT_OURS
    return not (hidden or name in LEFT_BEHIND or name.endswith(".egg-info"))


def tree_in_readme() -> dict[Path, str]:
    """Read the file tree of the README: a path with its comment for every line; two spaces a level."""
    block = re.search(r"## The files\n.*?```text\n(.*?)```", README, flags=re.DOTALL)
    assert block, "README.md has no file tree under '## The files'"
    tree: dict[Path, str] = {}
    parents: list[str] = []
    for line in block[1].splitlines():
        found = re.fullmatch(r"( *)(\S+)\s+(\S.*)", line)
        assert found, f"a line of the file tree has no comment: {line!r}"
        depth = len(found[1]) // 2
        parents[depth:] = [found[2].rstrip("/")]
        tree[Path(*parents)] = found[3]
    return tree


FILES = our_files()
TEXTS = {path: (ROOT / path).read_text(encoding="utf-8", errors="replace") for path in FILES}
PROSE = README.split("## The files")[0]
COMMANDS = re.findall(r"^ {4}(\S.*?)(?: {2,}#.*)?$|`((?:make|faelles-)[^`]*)`", PROSE, flags=re.MULTILINE)
COMMAND_LINES = sorted({indented or inline for indented, inline in COMMANDS})


def test_every_file_of_the_packages_is_in_the_tree() -> None:
    tree = set(tree_in_readme())
    # A folder whose files are always the same, such as a use case, stands for them; a package lists its modules.
    closed = {path for path in tree if len(path.parts) > 1 and not any(path in other.parents for other in tree)}
    shipped = {path for path in FILES if path.parts[0] in PACKAGES}
    missing = {path for path in shipped - tree if not closed & set(path.parents)}
    assert not missing, "files that the README's tree does not name"


def test_every_line_of_the_tree_is_on_disk() -> None:
    assert [str(path) for path in tree_in_readme() if not (ROOT / path).exists()] == []


def test_every_file_outside_the_packages_is_in_the_tree_or_in_a_folder_of_it() -> None:
    tree = set(tree_in_readme())
    others = [path for path in FILES if path.parts[0] not in PACKAGES]
    assert [str(path) for path in others if not tree & {path, *path.parents}] == []


@pytest.mark.parametrize("page", [path for path in FILES if path.suffix == ".md"], ids=str)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", TEXTS[page])
    assert [link for link in links if not (ROOT / page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [path for path in FILES if path.suffix == ".md"], ids=str)
def test_every_python_file_named_in_a_page_exists(page: Path) -> None:
    named = re.findall(r"`([\w/]+\.py)`", TEXTS[page])
    known = {str(path) for path in FILES} | {path.name for path in FILES if path.name.startswith("test_")}
    allowed = {"__init__.py", "twin.py"}  # kinds of file, not files
    assert sorted(set(named) - known - allowed) == []


def test_no_path_of_a_machine_is_written_down() -> None:
    folders = "|".join(("home", "root", "tmp", "work", "Users", "opt", "mnt"))
    machine_path = re.compile(rf"(?<![\w.}})*])/(?:{folders})/\w")
    assert [str(path) for path, text in TEXTS.items() if machine_path.search(text)] == []


def test_no_file_is_too_long_to_hold_in_mind() -> None:
    lengths = {str(path): text.count("\n") for path, text in TEXTS.items() if path.name != "LICENSE"}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}


def lines_of_code(function: ast.FunctionDef) -> int:
    """Count a function's lines without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) else None
    return _height(function) - (_height(docstring) if docstring else 0)


def _height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_function_is_too_long_to_hold_in_mind() -> None:
    too_long = [
        f"{path}:{node.lineno} {node.name}"
        for path in FILES
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(TEXTS[path]))
        if isinstance(node, ast.FunctionDef) and lines_of_code(node) > LONGEST_FUNCTION
    ]
    assert too_long == []


def test_the_readme_names_commands() -> None:
    assert {"make demo", "make test"} <= set(COMMAND_LINES)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_of_the_readme_exists(line: str) -> None:
    program, *words = line.split()
    if program == "make":
        target = words[0] if words else "help"
        assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    else:
        module, function = PROJECT["project"]["scripts"][program].split(":")
        found = importlib.util.find_spec(module)
        assert found, f"{module} is not installed"
        assert found.origin, f"{module} is no file"
        assert re.search(rf"^def {function}\(", Path(found.origin).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if line.startswith("faelles-sim")])
def test_every_use_case_and_strategy_of_the_readme_exists(line: str) -> None:
    terms = dict(word.split("=", 1) for word in line.split()[1:] if "=" in word)
    use_case = terms.get("usecase", "list")
    if "/" not in use_case and use_case != "list":
        assert (ROOT / "catalogue" / use_case.replace("-", "_") / "card.yaml").exists()
    for strategy in filter(None, terms.get("strategy", "").split(",")):
        assert (ROOT / "configs" / "strategy" / f"{strategy}.yaml").exists()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert TEXTS[Path(".ci/run")].rstrip().endswith("make test")


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in FILES if path.match("docs/adr/[0-9]*.md")]
    assert numbers == list(range(1, len(numbers) + 1))
