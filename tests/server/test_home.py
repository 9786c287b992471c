"""A coordinator's folder is laid out once and safely, and nothing starts where it is not safe."""

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.connection import Address
from faelles.certificates import Pair, make_authority, make_own_certificate, make_server_certificate
from faelles.errors import ConfigError, FaellesError, KeyFileError
from server import heads, home
from server.home import Home, Wish, create, split_address


def now() -> datetime:
    """Tell the time: long after this file was read, where others ran first."""
    return datetime.now(UTC)


WISH = Wish(address="federation.example.dk:8443")
SECRETS = ("control.token", "superexec.secret", "loopback.key")


@pytest.fixture
def made(tmp_path: Path) -> Home:
    return create(tmp_path / "srv", WISH)


def one_line(error: FaellesError) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def write_pair(folder: Path, pair: Pair, key: bytes | None = None) -> tuple[Path, Path]:
    certificate, private = folder / "given.pem", folder / "given.key"
    certificate.write_bytes(pair.certificate)
    private.write_bytes(key or pair.key)
    private.chmod(0o600)
    return certificate, private


def test_a_new_coordinator_can_start(made: Home) -> None:
    made.check(now())
    again = Home.open(made.folder)
    assert again == made
    assert again.settings.address == "federation.example.dk:8443"
    assert again.settings.listen == "0.0.0.0:8443"
    assert again.loopback_address == "127.0.0.1:8444"
    assert again.certificate == made.folder / "tls/server.pem"
    assert again.key == made.folder / "tls/server.key"
    assert again.authority.read_bytes() != again.certificate.read_bytes()
    assert again.heads == made.folder / heads.FILE


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_only_the_owner_can_read_anything_but_certificates(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = create(tmp_path / "srv", WISH)
    finally:
        os.umask(before)
    found = {str(path.relative_to(made.folder)): stat.S_IMODE(path.stat().st_mode) for path in made.folder.rglob("*")}
    certificates = ("tls/ca.pem", "tls/server.pem", "loopback.pem")
    private = ("tls/ca.key", "tls/server.key", *SECRETS, "coordinator.yaml")
    assert found == {
        **dict.fromkeys(("tls", "runs"), 0o700), **dict.fromkeys(certificates, 0o644), **dict.fromkeys(private, 0o600),
    }  # fmt: skip
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700


def test_every_coordinator_has_its_own_secrets(made: Home, tmp_path: Path) -> None:
    other = create(tmp_path / "other", WISH)
    for name in (*SECRETS, "tls/ca.key", "tls/server.key"):
        assert made.secret(name) != other.secret(name)
    assert len(made.secret("control.token")) >= 43  # 256 bits


def test_a_trial_on_loopback_listens_there_only(tmp_path: Path) -> None:
    for host in ("localhost", "127.0.0.5"):
        assert create(tmp_path / host, Wish(address=f"{host}:8443")).settings.listen == f"{host}:8443"


def test_a_second_init_changes_nothing(made: Home) -> None:
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="expected a folder without a coordinator, one is there") as caught:
        create(made.folder, Wish(address="elsewhere.example.dk:443"))
    one_line(caught.value)
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == before


def test_a_given_certificate_is_used_where_it_lies(tmp_path: Path) -> None:
    authority = make_authority("KOMBIT", days=2)
    certificate, key = write_pair(tmp_path, make_server_certificate(authority, ["federation.example.dk"], days=2))
    made = create(tmp_path / "srv", Wish(address="federation.example.dk:8443", certificate=certificate, key=key))
    assert (made.certificate, made.key) == (certificate, key)
    assert not made.authority.exists()
    made.check(now())


def expired(folder: Path) -> tuple[Path, Path]:
    return write_pair(folder, make_own_certificate(["localhost"], days=0))


def foreign(folder: Path) -> tuple[Path, Path]:
    return write_pair(folder, make_own_certificate(["localhost"], 2), make_own_certificate(["localhost"], 2).key)


def readable(folder: Path) -> tuple[Path, Path]:
    certificate, key = write_pair(folder, make_own_certificate(["localhost"], 2))
    key.chmod(0o640)
    return certificate, key


def keyless(folder: Path) -> tuple[Path, Path]:
    certificate, key = write_pair(folder, make_own_certificate(["localhost"], 2))
    key.unlink()
    return certificate, key


def nonsense(folder: Path) -> tuple[Path, Path]:
    certificate, key = write_pair(folder, make_own_certificate(["localhost"], 2))
    certificate.write_text("no certificate")
    return certificate, key


def swapped(folder: Path) -> tuple[Path, Path]:
    certificate, key = write_pair(folder, make_own_certificate(["localhost"], 2))
    return key, certificate


BAD: dict[str, tuple[Callable[[Path], tuple[Path, Path]], str]] = {
    "expired": (expired, "expected a certificate that is valid now"),
    "foreign": (foreign, "expected the key of .*, it is another's"),
    "readable": (readable, "only its owner can read, others can too"),
    "keyless": (keyless, "expected a secret that can be read, found none"),
    "nonsense": (nonsense, "expected a certificate in PEM, found none"),
    "swapped": (swapped, "expected a certificate in PEM, found none"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_given_certificate_that_cannot_serve_leaves_no_coordinator(tmp_path: Path, name: str) -> None:
    make, why = BAD[name]
    certificate, key = make(tmp_path)
    with pytest.raises(KeyFileError, match=why) as caught:
        create(tmp_path / "srv", Wish(address="a.dk:1", certificate=certificate, key=key))
    one_line(caught.value)
    assert not (tmp_path / "srv").exists()


def test_one_of_certificate_and_key_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected both or none") as caught:
        create(tmp_path / "srv", Wish(address="a.dk:1", certificate=tmp_path / "given.pem"))
    one_line(caught.value)


@pytest.mark.parametrize("days", [-2, 800])
def test_a_certificate_is_refused_before_its_time_and_after(made: Home, days: int) -> None:
    with pytest.raises(KeyFileError, match="expected a certificate that is valid now, it is so from") as caught:
        made.check(now() + timedelta(days=days))
    one_line(caught.value)


@pytest.mark.parametrize("name", SECRETS)
def test_nothing_starts_with_a_secret_that_is_lost_empty_or_seen_by_others(made: Home, name: str) -> None:
    path = made.folder / name
    path.chmod(0o604)
    with pytest.raises(KeyFileError, match="others can too; run chmod 600"):
        made.check(now())
    path.chmod(0o600)
    path.write_bytes(b"")
    with pytest.raises(KeyFileError, match=f"{name}: expected a secret, it is empty") as caught:
        made.check(now())
    one_line(caught.value)
    path.unlink()
    with pytest.raises(KeyFileError, match="found none; restore it from a backup"):
        made.check(now())


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(ConfigError, match="expected a folder that can be written, not a directory") as caught:
        create(tmp_path / "file" / "srv", WISH)
    one_line(caught.value)


def test_a_disk_that_is_full_leaves_what_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes, mode: int) -> None:
        if path.name == "superexec.secret":
            raise OSError(28, "No space left on device")
        write(path, data, mode)

    write = home._write
    monkeypatch.setattr(home, "_write", full)
    with pytest.raises(ConfigError, match="no space left on device; choose another") as caught:
        create(tmp_path / "srv", WISH)
    one_line(caught.value)
    monkeypatch.undo()
    create(tmp_path / "srv", WISH).check(now())


@pytest.mark.parametrize("address", ["", "host", "host:", ":8443", "host:0", "host:65536", "host:x", "host:-1", "[]:1"])
def test_an_address_names_a_host_and_a_port(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT") as caught:
        create(tmp_path / "srv", Wish(address=address))
    one_line(caught.value)
    assert not (tmp_path / "srv").exists()


def test_addresses_of_the_newer_kind_are_known() -> None:
    assert split_address("[::1]:8443") == ("::1", 8443)


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(ConfigError, match="loopback_port") as caught:
        create(tmp_path / "srv", Wish(address="a.dk:1", loopback_port=port))
    one_line(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "version: 1", "version: 2\n", "a: [", "\0", "more: 1\n"])
def test_settings_that_are_spoilt_are_named(made: Home, text: str) -> None:
    path = made.folder / "coordinator.yaml"
    path.write_text((path.read_text() + text) if text == "more: 1\n" else text)
    with pytest.raises(ConfigError, match=r"coordinator\.yaml: .*; correct it") as caught:
        Home.open(made.folder)
    one_line(caught.value)


def test_a_folder_without_a_coordinator_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a coordinator, found none; make one with `faelles-server init`"):
        Home.open(tmp_path)


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:18443", "https://a.dk:443", "foo bar:8443", "a/b:1", "u@a.dk:1", "::1:18443", "[a.dk]:1",
     "127.0.0.256:1", "a_b:1", "a..dk:1", "a.dk:\u0661"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["address", "listen"])
def test_a_scheme_a_space_or_a_bare_ipv6_address_is_refused(tmp_path: Path, address: str, name: str) -> None:
    given = {"address": "a.dk:1", name: address}
    with pytest.raises(ConfigError, match=f"--{name}: expected HOST:PORT without https://") as caught:
        create(tmp_path / "srv", Wish(**given))  # type: ignore[arg-type]  # both are text
    one_line(caught.value)
    assert not (tmp_path / "srv").exists()


def test_an_ipv6_address_keeps_its_brackets_wherever_it_stands(tmp_path: Path) -> None:
    made = create(tmp_path / "srv", Wish(address="[0:0::1]:18443")).settings
    assert (made.address, made.listen) == ("[::1]:18443", "[::1]:18443")
    made = create(tmp_path / "other", Wish(address="a.dk:443", listen="[::]:8443")).settings
    assert (made.address, made.listen) == ("a.dk:443", "[::]:8443")
    assert split_address(made.listen) == ("::", 8443)


def test_an_address_is_stored_as_an_agent_reads_it(tmp_path: Path) -> None:
    for number, typed in enumerate(("Blåbær.Example.dk:8443", " a.dk:08443 ", "[0:0::1]:443", "127.0.0.1:1")):
        made = create(tmp_path / f"{number}", Wish(address=typed))
        assert made.settings.address == Address(made.settings.address)
        made.check(now())
    assert create(tmp_path / "srv", Wish(address="Blåbær.DK:1")).settings.address == "xn--blbr-roah.dk:1"


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        (Wish(address="a.dk:18443", loopback_port=18443), "--loopback-port, 18443 is that of --address too"),
        (Wish(address="a.dk:1", listen="b.dk:8444"), "--loopback-port, 8444 is that of --listen too"),
        (Wish(address="a.dk:2", listen="b.dk:2", health_port=2), "--health-port, 2 is that of --address and --listen"),
        (Wish(address="a.dk:1", loopback_port=9, health_port=9), "--loopback-port, 9 is that of --health-port too"),
    ],
)
def test_a_port_that_is_wanted_twice_is_refused(tmp_path: Path, wish: Wish, names: str) -> None:
    with pytest.raises(ConfigError, match=f"expected a port of its own for {names}") as caught:
        create(tmp_path / "srv", wish)
    one_line(caught.value)
    assert not (tmp_path / "srv").exists()


def test_settings_of_another_user_are_not_called_spoilt(made: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, encoding: str) -> str:  # whoever tests may be root, whom no mode keeps out
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(ConfigError, match="permission denied; type it as the user that owns") as caught:
        Home.open(made.folder)
    assert "YAML" not in one_line(caught.value)
