"""Enrolling writes what is typed, or nothing; a key is replaced and never lost."""

import stat
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client import keys
from client.connection import CA, LOGIN, REQUEST, Address, Connection
from client.enrolment import Enrolled, Enrolling, enrol
from client.home import Home, create
from faelles.enrolment import parse_request_file
from faelles.errors import ConfigError, FaellesError
from tests.tls import Authority

NOW = datetime.now(UTC)
FIRST = Enrolling(coordinator=Address("federation.example.dk:8443"), cvr="29189420")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create(tmp_path / "agent", "851", "en")


def go(home: Home, wish: Enrolling, later_s: int = 0) -> Enrolled:
    return enrol(home, wish, wire=2, now=NOW + timedelta(seconds=later_s))


def files(home: Home) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in home.folder.iterdir() if path.is_file()}


def test_a_request_says_who_asks_and_with_which_keys(home: Home) -> None:
    done = go(home, FIRST)
    request = parse_request_file(home.folder / REQUEST)
    assert request == done.request
    assert (request.municipality, request.cvr, request.wire) == ("0851", "29189420", 2)
    assert request.login_key == keys.load_login(home.folder / LOGIN)
    assert request.signing_key == home.signer().public
    assert request.previous_signature is None
    connection = Connection.open(home)
    assert (connection.address, connection.ca, connection.cvr) == ("federation.example.dk:8443", None, "29189420")


def test_only_its_owner_can_read_the_login_key_and_everybody_the_request(home: Home) -> None:
    go(home, FIRST)
    modes = {name: stat.S_IMODE((home.folder / name).stat().st_mode) for name in (LOGIN, REQUEST)}
    assert modes[LOGIN] == 0o600
    assert modes[REQUEST] & 0o400


def test_enrolling_again_asks_for_the_same(home: Home) -> None:
    first = go(home, FIRST)
    again = go(home, Enrolling(), 1)
    assert again.request == first.request
    assert again.settings == first.settings
    assert again.previous is None


def test_a_ca_is_copied_without_what_else_the_file_holds(home: Home, tmp_path: Path) -> None:
    authority = Authority.make()
    path = authority.pem(tmp_path / "ca.pem")
    keys.create_login(tmp_path / "a.key")
    pem = path.read_bytes()
    path.write_bytes((tmp_path / "a.key").read_bytes() + pem)
    go(home, Enrolling(coordinator=FIRST.coordinator, cvr=FIRST.cvr, ca=path))
    assert (home.folder / CA).read_bytes() == pem
    assert Connection.open(home).ca == home.folder / CA


def test_a_ca_holds_until_a_coordinator_is_named_anew(home: Home, tmp_path: Path) -> None:
    path = Authority.make().pem(tmp_path / "ca.pem")
    go(home, Enrolling(coordinator=FIRST.coordinator, cvr=FIRST.cvr, ca=path))
    assert go(home, Enrolling(rotate=True), 1).settings.ca
    renewed = Authority.make().pem(tmp_path / "new.pem")
    go(home, Enrolling(ca=renewed), 2)
    assert (home.folder / CA).read_bytes() == renewed.read_bytes()
    assert not go(home, Enrolling(coordinator=Address("other.dk:8443")), 3).settings.ca
    assert not (home.folder / CA).exists()
    assert Connection.open(home).cvr == "29189420"


def test_a_rotation_keeps_the_old_login_key_and_is_signed_by_the_enrolled_signing_key(home: Home) -> None:
    first = go(home, FIRST)
    old = (home.folder / LOGIN).read_bytes()
    (home.folder / f"{LOGIN}.next").write_bytes(b"of a rotation that was cut short")
    done = go(home, Enrolling(rotate=True), 1)
    assert done.previous is not None
    assert done.previous.name.startswith(f"{LOGIN}.2")
    assert done.previous.read_bytes() == old
    assert done.request.login_key == keys.load_login(home.folder / LOGIN) != first.request.login_key
    assert done.request.signing_key == first.request.signing_key == home.signer().public
    assert done.request.replaces(first.request.signing_key)
    assert not (home.folder / f"{LOGIN}.next").exists()


def test_a_lost_login_key_is_rotated_too(home: Home) -> None:
    first = go(home, FIRST)
    (home.folder / LOGIN).unlink()
    done = go(home, Enrolling(rotate=True))
    assert done.previous is None
    assert done.request.replaces(first.request.signing_key)
    assert done.request.login_key == keys.load_login(home.folder / LOGIN) != first.request.login_key


def test_no_old_key_is_overwritten(home: Home) -> None:
    go(home, FIRST)
    go(home, Enrolling(rotate=True))
    before = files(home)
    with pytest.raises(ConfigError, match="wait a second and rotate again"):
        go(home, Enrolling(rotate=True))
    assert files(home) == before


def test_a_login_key_that_is_a_link_is_not_renamed(home: Home, tmp_path: Path) -> None:
    go(home, FIRST)
    (home.folder / LOGIN).rename(tmp_path / "elsewhere")
    (home.folder / LOGIN).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="put the file there"):
        go(home, Enrolling(rotate=True))


@pytest.mark.parametrize("place", ["write", "os.link", "os.replace"])
def test_a_rotation_that_is_cut_short_never_leaves_the_agent_without_a_key(
    home: Home, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    go(home, FIRST)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"client.enrolment.{place}", full)
    with pytest.raises(OSError, match="No space left"):
        go(home, Enrolling(rotate=True))
    monkeypatch.undo()
    assert keys.load_login(home.folder / LOGIN)
    done = go(home, Enrolling(rotate=True), 1)
    assert done.request.login_key == keys.load_login(home.folder / LOGIN)


KNOWN = FIRST.coordinator
WRONG: Mapping[str, tuple[Enrolling, str]] = {
    "add --coordinator HOST:PORT": (Enrolling(cvr="29189420"), ""),
    "add --cvr 12345678": (Enrolling(coordinator=KNOWN), ""),
    "expected eight digits": (Enrolling(coordinator=KNOWN, cvr="DK29189420"), ""),
    "modulus 11": (Enrolling(coordinator=KNOWN, cvr="12345678"), ""),
    "found none that can be read": (FIRST, "absent"),
    "a server's came": (FIRST, "server"),
    "it expired on": (FIRST, "expired"),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_typed_wrongly_changes_nothing(home: Home, tmp_path: Path, words: str) -> None:
    Authority.make().server(tmp_path / "server")
    Authority.make(days=-1).pem(tmp_path / "expired")
    wish, ca = WRONG[words]
    before = files(home)
    with pytest.raises(FaellesError, match=words) as caught:
        go(home, replace(wish, ca=tmp_path / ca if ca else None))
    assert caught.value.da
    assert files(home) == before


def test_the_signing_key_is_not_replaced_because_heads_rest_on_it(home: Home) -> None:
    before = (home.folder / "signing.key").read_bytes()
    go(home, FIRST)
    go(home, Enrolling(rotate=True))
    assert (home.folder / "signing.key").read_bytes() == before
