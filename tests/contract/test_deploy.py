"""What deploy/ and the pages about deployment say is true of the code; nginx and systemd need not be here."""

import configparser
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

import client.home
import server.home
from client import agent, child, enrolment, runtime
from client.connection import Address
from client.desk import parser as agent_parser
from faelles.certificates import make_authority
from server import cli as server_cli
from server import coordinator, doors, executor, runs
from server.heads import LedgerHeads
from server.lock import hold
from server.register import Register

ROOT = Path(__file__).parents[2]
NGINX = (ROOT / "deploy" / "nginx" / "faelles.conf").read_text(encoding="utf-8")
PAGES = {
    "en": (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8"),
    "da": (ROOT / "docs" / "deployment.da.md").read_text(encoding="utf-8"),
}
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def directives(text: str) -> list[tuple[str, str]]:
    """Read nginx's directives, without comments, as name and rest; a block's opening is one too."""
    bare = re.sub(r"(?m)(^|\s)#.*$", "", text)
    return re.findall(r"([a-z_]+)\s+([^;{}]*?)\s*[;{]", bare)


def value(name: str) -> str:
    found = [rest for one, rest in directives(NGINX) if one == name]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def locations() -> dict[str, str]:
    return {place: body.strip().rstrip(";") for place, body in re.findall(r"location\s+([^{]+?)\s*\{([^}]*)\}", NGINX)}


def passed_on(path: str) -> bool:
    """Say whether nginx hands a path on: an exact place first, then the longest beginning, as nginx chooses."""
    places = locations()
    if f"= {path}" in places:
        return places[f"= {path}"].startswith("proxy_pass")
    begins = max((place for place in places if not place.startswith("=") and path.startswith(place)), key=len)
    return places[begins].startswith("proxy_pass")


def unit(path: Path) -> configparser.SectionProxy:
    read = configparser.RawConfigParser(strict=True)
    read.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    read.read_string(path.read_text(encoding="utf-8"))
    return read["Service"]


def command_of(path: Path) -> list[str]:
    return shlex.split(unit(path)["ExecStart"])


def parse(words: list[str]) -> None:
    """Let the command line of one of our programs read some words."""
    program, *rest = words
    assert program in SCRIPTS
    if program == "faelles-server":
        server_cli.parser().parse_args(rest)
    else:
        agent_parser.parser("en").parse_args(rest)


def blocks(page: str) -> list[str]:
    return re.findall(r"(?m)^ {4}(\S.*)$", page)


def documented(page: str) -> set[str]:
    """List the commands of ours that a page tells people to type, whole."""
    inline = re.findall(r"`(faelles-(?:server|agent) [^`]+)`", page.replace("\n", " "))
    typed = [re.sub(r"^runuser -u \S+ -- ", "", line) for line in blocks(page)]
    lines = [line for line in (*inline, *typed) if re.match(r"faelles-(server|agent) ", line)]
    return {" ".join(line.split()) for line in lines}


# nginx


def test_nginx_hands_on_what_the_public_door_opens_and_nothing_of_the_other() -> None:
    assert [path for path in doors.PUBLIC if not passed_on(path)] == []
    assert [path for path in doors.LOOPBACK if path not in doors.PUBLIC and passed_on(path)] == []
    assert not any(passed_on(path) for path in ("/", "/docs", "/openapi.json", "/health/x", "/v1/fleet"))


def test_nginx_bounds_bodies_as_the_door_does() -> None:
    assert value("client_max_body_size") == f"{doors.LARGEST_BODY_BYTES // doors.MEBIBYTE}m"
    assert value("client_body_timeout") == f"{doors.SLOWEST_BODY_S:.0f}s"


def test_nginx_speaks_tls_with_the_coordinator_and_looks_whom_it_speaks_with() -> None:
    passes = [body for body in locations().values() if body.startswith("proxy_pass")]
    assert passes == ["proxy_pass https://127.0.0.1:8443"] * 2
    assert value("proxy_ssl_verify") == "on"
    assert value("proxy_ssl_name") == value("server_name")


def test_nginx_logs_no_query_and_asks_flower_to_try_again() -> None:
    form = value("log_format")
    assert not re.search(r"\$(request|request_uri|args|query_string|is_args)\b", form)
    assert {value("limit_req_status"), value("limit_conn_status")} == {"503"}  # Flower's node repeats after it


# systemd


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists_in_the_folder_it_may_write_in(path: Path) -> None:
    program, *words = command_of(path)
    parse([Path(program).name, *words])
    assert words[words.index("--dir") + 1] == unit(path)["ReadWritePaths"]
    assert Path(program).name.removeprefix("faelles-") in path.stem


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_hardened_and_starts_again(path: Path) -> None:
    service = unit(path)
    wanted = {
        "Restart": "always", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "PrivateTmp": "yes",
        "ProtectHome": "yes", "UMask": "0077", "CapabilityBoundingSet": "",
    }  # fmt: skip
    assert {name: service.get(name) for name in wanted} == wanted
    assert int(service["RestartSec"]) >= 15  # two of them outlast the minute in which Flower counts a node as there
    assert service["User"] != "root"
    assert "MemoryMax" in service


def test_units_leave_the_time_and_files_that_the_processes_take() -> None:
    of_server, of_agent = (
        unit(ROOT / "deploy" / "systemd" / f"faelles-{name}.service") for name in ("server", "agent")
    )
    assert int(of_server["TimeoutStopSec"]) >= 5 * executor.PATIENCE_S
    assert int(of_server["LimitNOFILE"]) > 2 * coordinator.CONNECTIONS
    assert int(of_agent["TimeoutStopSec"]) > 2 * child.GRACE_S
    assert (of_server["KillMode"], of_agent["KillMode"]) == ("mixed", "control-group")


# The pages


def test_both_languages_have_the_same_sections_commands_ports_and_tables() -> None:
    english, danish = PAGES["en"], PAGES["da"]

    def shape(page: str) -> list[str]:
        return re.findall(r"(?m)^(#+) ", page)

    def numbers(page: str) -> set[str]:
        return set(re.findall(r"(?<![0-9,.])[0-9]{3,4}(?![0-9,])", page))

    def first_cells(page: str) -> list[str]:
        return re.findall(r"(?m)^\| (`[^|]*`) \|", page)

    assert shape(english) == shape(danish)
    assert blocks(english) == blocks(danish)
    assert documented(english) == documented(danish)
    assert numbers(english) == numbers(danish)
    assert first_cells(english) == first_cells(danish)


@pytest.mark.parametrize("command", sorted(documented(PAGES["en"]) | documented(PAGES["da"])))
def test_every_documented_command_can_be_typed(command: str) -> None:
    parse(shlex.split(command))


@pytest.mark.parametrize("language", PAGES)
def test_the_pages_name_the_ports_of_the_code(language: str) -> None:
    given = server_cli.parser().parse_args(["init", "--address", "federation.example.dk:8443"])
    assert (given.loopback_port, given.health_port, agent.HEALTH_PORT) == (8444, 8445, 8446)
    for port in (443, 8443, given.loopback_port, given.health_port, agent.HEALTH_PORT):
        assert re.search(rf"\b{port}\b", PAGES[language])


@pytest.mark.parametrize("language", PAGES)
def test_the_pages_name_what_a_run_leaves(language: str) -> None:
    described = re.findall(r"(?m)^((?:[\w.]+(?:/|\.\w+)(?:, )?)+|stop)(?:\s|$)", str(runs.__doc__))
    names = [name for line in described for name in line.split(", ")]
    assert len(names) >= 10
    assert [name for name in names if f"`{name}`" not in PAGES[language]] == []


def test_the_readme_of_deploy_names_every_file_of_it() -> None:
    folder = ROOT / "deploy"
    text = (folder / "README.md").read_text(encoding="utf-8")
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert [name for name in files if name != "README.md" and f"`{name}`" not in text] == []
    assert [name for name in re.findall(r"(?m)^\| `([^`]+)`", text) if name not in files] == []


# The tables of files


def rows(language: str, heading: str) -> dict[str, set[int]]:
    """Read a table of files: each name with the modes that its row allows for it."""
    section = re.split(r"(?m)^## ", PAGES[language])
    (text,) = [part for part in section if "`control.token`" in part and "`signing.key`" in part]
    coordinators, agents = text.split("`agent.yaml`", 1)
    lines = re.findall(
        r"(?m)^\| (`.*?) \| ([^|]*) \|", coordinators if heading == "server" else "| `agent.yaml`" + agents
    )
    found: dict[str, set[int]] = {}
    for names, modes in lines:
        named = re.findall(r"`([a-z][^`]*)`", re.sub(r"\(.*?\)", "", names))
        given = [int(one, 8) for one in re.findall(r"0[0-7]{3}", modes)]
        # As many modes as names go with them one by one; else each may have any of them.
        each = [{one} for one in given] if len(given) == len(named) > 1 else [set(given)] * len(named)
        found.update(zip(named, each, strict=True))
    return found


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Work as a person's shell does, which hides nothing by itself."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path, names: set[str]) -> dict[str, int]:
    return {name: (folder / name).stat().st_mode & 0o777 for name in names if (folder / name).exists()}


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("language", PAGES)
def test_every_file_of_the_coordinator_is_there_with_its_mode(language: str, tmp_path: Path) -> None:
    table = rows(language, "server")
    folder = tmp_path / "coordinator"
    folder.mkdir(mode=0o700)  # as `install -d` makes it
    home = server.home.create(folder, server.home.Wish(address="federation.example.dk:8443"))
    with closing(Register(home.register)), closing(LedgerHeads(home.heads)), hold(home.folder):
        there = modes(home.folder, set(table))
    later = {home.database.name, "ledger-heads.sqlite", "lock"}  # made by `up`, which hides what it makes
    assert set(table) - set(there) == {home.database.name}
    assert {name: mode for name, mode in there.items() if name not in later and mode not in table[name]} == {}
    assert {table_mode for name in later for table_mode in table[name]} == {0o600}
    written = {path.relative_to(home.folder).as_posix() for path in home.folder.rglob("*") if path.is_file()}
    assert written - set(table) == set()


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("language", PAGES)
def test_every_file_of_the_agent_is_there_with_its_mode(language: str, tmp_path: Path) -> None:
    table = rows(language, "agent")
    folder, authority = tmp_path / "agent", tmp_path / "ca.pem"
    folder.mkdir(mode=0o700)
    authority.write_bytes(make_authority("test CA", days=2).certificate)
    home = client.home.create(folder, "0851", "en")
    wish = enrolment.Enrolling(coordinator=Address("federation.example.dk:8443"), ca=authority, cvr="29189420")
    enrolment.enrol(home, wish, wire=2, now=datetime.now(UTC))
    with runtime.only_agent(folder):
        there = modes(folder, {name.rstrip("/") for name in table})
    later = {client.home.RECEIPTS}
    assert {name.rstrip("/") for name in table} - set(there) == later
    assert {
        name: mode for name, mode in there.items() if mode not in table.get(name, table.get(f"{name}/", set()))
    } == {}
    written = {path.name for path in folder.iterdir()}
    assert written - {name.rstrip("/") for name in table} == set()
