"""The agent knows one coordinator, by files that say so or get one line."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client import keys
from client.connection import CA, COORDINATOR, LOGIN, Address, Connection, read_ca, read_settings, refuse_expired, write
from client.home import Home, create
from faelles.errors import ConfigError, EnrolmentError, KeyFileError
from tests.tls import Authority

NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("typed", "whole", "host", "port"),
    [
        ("federation.example.dk:8443", "federation.example.dk:8443", "federation.example.dk", 8443),
        ("Federation.Example.DK:443", "federation.example.dk:443", "federation.example.dk", 443),
        (" localhost:1 ", "localhost:1", "localhost", 1),
        ("127.0.0.1:65535", "127.0.0.1:65535", "127.0.0.1", 65535),
        ("[::1]:8443", "[::1]:8443", "::1", 8443),
        ("[0:0::1]:443", "[::1]:443", "::1", 443),
        ("fælles.dk:8443", "xn--flles-sra.dk:8443", "xn--flles-sra.dk", 8443),
    ],
)
def test_an_address_is_read_as_it_is_typed(typed: str, whole: str, host: str, port: int) -> None:
    address = Address(typed)
    assert (address, address.host, address.port) == (whole, host, port)
    assert Address(address) == address


@pytest.mark.parametrize(
    "typed",
    [
        "", ":", ":8443", "https://example.dk:8443", "example.dk:8443/", "user:pass@example.dk:1", "::1", "::1:8443",
        "127.0.0.1", "federation.example.dk", "[::1]",
        "[::1", "[]:1", "[127.0.0.1]:1", "example.dk:0", "example.dk:65536", "example.dk:x", "example.dk:", "a b:1",
        "-a.dk:1", "a..dk:1", "a_b.dk:1", "1.2.3:4", "1.2.3.256:4", "x" * 64 + ".dk:1", "0101701234\n:1",
        ".".join(["abcdefghi"] * 26) + ":1",
    ],
)  # fmt: skip
def test_what_is_no_address_gets_one_line_that_repeats_nothing(typed: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT without https://") as caught:
        Address(typed)
    assert "VÆRT:PORT" in caught.value.text("da")
    assert "0101701234" not in str(caught.value)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create(tmp_path / "agent", "851", "en")


def enrolled(home: Home, text: str = "{version: 1, address: 'example.dk:8443', cvr: '29189420', ca: false}") -> None:
    (home.folder / COORDINATOR).write_text(text, encoding="utf-8")
    keys.create_login(home.folder / LOGIN)


def test_an_agent_that_has_not_enrolled_is_told_how(home: Home) -> None:
    assert read_settings(home) is None
    with pytest.raises(EnrolmentError, match="run `faelles-agent enrol --coordinator HOST:PORT`"):
        Connection.open(home)


def test_a_connection_is_what_enrolling_wrote(home: Home) -> None:
    enrolled(home)
    connection = Connection.open(home)
    assert connection == Connection(
        address=Address("example.dk:8443"), ca=None, login_key=home.folder / LOGIN, cvr="29189420"
    )
    assert isinstance(connection.address, Address)
    assert connection.trust is None or connection.trust.is_absolute()


def test_a_ca_of_its_own_is_trusted_alone(home: Home) -> None:
    enrolled(home, "{version: 1, address: '[::1]:8443', cvr: '29189420', ca: true}")
    with pytest.raises(ConfigError, match="expected a CA certificate in PEM"):
        Connection.open(home)
    Authority.make().pem(home.folder / CA)
    assert Connection.open(home).trust == Connection.open(home).ca == home.folder / CA


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "text", "{}", "\x00", "[" * 5000, "{version: 2, address: 'a.dk:1', cvr: '29189420', ca: true}",
        "{version: 1, address: 'https://a.dk', cvr: '29189420', ca: true}",
        "{version: 1, address: 'a.dk:1', cvr: 29189420, ca: true}",
        "{version: 1, address: 'a.dk:1', cvr: '12345678', ca: true}",
        "{version: 1, address: 'a.dk:1', cvr: '29189420', ca: true, more: 1}",
    ],
)  # fmt: skip
def test_a_file_with_a_mistake_gets_one_line(home: Home, text: str) -> None:
    enrolled(home, text)
    with pytest.raises(ConfigError, match=r"coordinator\.yaml: ") as caught:
        Connection.open(home)
    assert caught.value.da
    assert "12345678" not in str(caught.value)


def test_a_login_key_must_be_there_and_be_its_owners(home: Home) -> None:
    enrolled(home)
    (home.folder / LOGIN).chmod(0o644)
    with pytest.raises(KeyFileError, match="others can too"):
        Connection.open(home)
    (home.folder / LOGIN).unlink()
    with pytest.raises(KeyFileError, match="found none"):
        Connection.open(home)


# the CA's file


def test_a_ca_is_told_from_a_server_and_from_nonsense(tmp_path: Path) -> None:
    authority = Authority.make()
    assert read_ca(authority.pem(tmp_path / "ca.pem")) == [authority.certificate]
    with pytest.raises(ConfigError, match="a server's came"):
        read_ca(authority.server(tmp_path / "server.pem"))
    for content in (b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        (tmp_path / "nonsense").write_bytes(content)
        with pytest.raises(ConfigError, match="found none that can be read"):
            read_ca(tmp_path / "nonsense")
    for name in ("absent", "."):
        with pytest.raises(ConfigError, match="found none that can be read"):
            read_ca(tmp_path / name)


@pytest.mark.parametrize(("days", "words"), [(-400, "it begins on"), (400, "it expired on")])
def test_a_ca_that_is_not_valid_now_is_refused(tmp_path: Path, days: int, words: str) -> None:
    found = read_ca(Authority.make(days=365, since=365).pem(tmp_path / "ca.pem"))
    refuse_expired(tmp_path / "ca.pem", found, NOW)
    with pytest.raises(ConfigError, match=words):
        refuse_expired(tmp_path / "ca.pem", found, NOW + timedelta(days=days))


def test_a_file_is_written_whole_over_what_a_crash_left(tmp_path: Path) -> None:
    (tmp_path / "file.new").write_text("half of", encoding="utf-8")
    write(tmp_path / "file", b"all", 0o644)
    assert (tmp_path / "file").read_bytes() == b"all"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
