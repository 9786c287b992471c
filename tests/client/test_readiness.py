"""Whatever stands between the agent and the coordinator is told in one line, with what to do about it."""

import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.connection import Address, Connection
from client.readiness import ANSWER, CLOCK, PROXY, REACH, TLS, Mark, look_at_way
from tests.tls import Authority, serve, unused_port

AUTHORITY = Authority.make()
Line = tuple[Mark, str]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return AUTHORITY.server(tmp_path / "server.pem")


def looked(port: int, ca: Path | None, host: str = "127.0.0.1") -> Mapping[str, Line]:
    connection = Connection(address=Address(f"{host}:{port}"), ca=ca, login_key=Path("login.key"), cvr="29189420")
    found = list(look_at_way(connection, lambda: datetime.now(UTC)))
    assert [one.subject for one in found] == [PROXY, REACH, TLS, ANSWER, CLOCK][-len(found) :]
    for one in found:
        assert one.da != one.en
        assert (one.da + one.en).isprintable()
    return {one.subject[1]: (one.mark, one.en) for one in found}


def marks(lines: Mapping[str, Line]) -> list[str]:
    return [mark.value for mark, _ in lines.values()]


def test_a_coordinator_that_is_as_it_should_be_is_ok_in_every_line(pem: Path, tmp_path: Path) -> None:
    with serve(pem) as port:
        lines = looked(port, AUTHORITY.pem(tmp_path / "ca.pem"))
    assert marks(lines) == ["ok"] * 5
    assert lines["proxy"][1] == "none; the coordinator is asked directly"
    assert lines["connection"][1] == f"127.0.0.1:{port} answers"
    assert "the certificate is genuine by coordinator-ca.pem, and valid until 20" in lines["TLS"][1]
    assert lines["clock"][1] == "right"


# TLS


def distrusted(lines: Mapping[str, Line]) -> str:
    assert marks(lines) == ["ok", "ok", "mend", "-", "-"]
    return lines["TLS"][1]


def test_an_expired_certificate_is_KOMBITs_to_renew(tmp_path: Path) -> None:
    pem = AUTHORITY.server(tmp_path / "old.pem", since=-90, days=-1)
    with serve(pem) as port:
        assert "it has expired; tell KOMBIT" in distrusted(looked(port, AUTHORITY.pem(tmp_path / "ca.pem")))


def test_a_certificate_of_tomorrow_is_a_matter_of_the_clock(tmp_path: Path) -> None:
    pem = AUTHORITY.server(tmp_path / "new.pem", since=1)
    with serve(pem) as port:
        assert "look at this machine's clock" in distrusted(looked(port, AUTHORITY.pem(tmp_path / "ca.pem")))


@pytest.mark.parametrize("name", ["test CA", "another CA"])
def test_a_certificate_by_another_ca_is_told_so(pem: Path, tmp_path: Path, name: str) -> None:
    other = Authority.make(name=name).pem(tmp_path / "other.pem")
    with serve(pem) as port:
        line = distrusted(looked(port, other))
    assert "expected a certificate by the CA in coordinator-ca.pem, it is by another" in line
    assert "`faelles-agent enrol --ca FILE`" in line


def test_a_ca_that_the_machine_does_not_trust_is_told_so(pem: Path) -> None:
    with serve(pem) as port:
        assert "a CA that this machine trusts, it is by another" in distrusted(looked(port, None))


def test_a_certificate_for_another_host_is_told_so(tmp_path: Path) -> None:
    ca = AUTHORITY.pem(tmp_path / "ca.pem")
    for host, asked in (("federation.example.dk", "localhost"), ("10.1.2.3", "127.0.0.1")):
        with serve(AUTHORITY.server(tmp_path / "other.pem", host=host)) as port:
            assert f"expected a certificate for {asked}, it is for another" in distrusted(looked(port, ca, asked))


def test_a_certificate_that_expires_soon_is_noted(tmp_path: Path) -> None:
    pem = AUTHORITY.server(tmp_path / "soon.pem", days=20)
    with serve(pem) as port:
        lines = looked(port, AUTHORITY.pem(tmp_path / "ca.pem"))
    assert marks(lines) == ["ok", "ok", "note", "ok", "ok"]
    assert "the coordinator's certificate expires on" in lines["TLS"][1]


def test_a_ca_that_expires_soon_is_noted(tmp_path: Path) -> None:
    authority = Authority.make(days=20)
    with serve(authority.server(tmp_path / "server.pem")) as port:
        lines = looked(port, authority.pem(tmp_path / "ca.pem"))
    assert lines["TLS"][0] is Mark.NOTE
    assert "coordinator-ca.pem expires on" in lines["TLS"][1]


def test_what_does_not_speak_tls_is_told_so(tmp_path: Path) -> None:
    with serve(None) as port:
        line = distrusted(looked(port, AUTHORITY.pem(tmp_path / "ca.pem")))
    assert "expected an answer over TLS, none came; check host and port" in line


# Reachability


def test_nothing_that_listens_is_told_so() -> None:
    lines = looked(unused_port(), None)
    assert marks(lines) == ["ok", "mend", "-", "-", "-"]
    assert "nothing listens there; check the port, or ask KOMBIT" in lines["connection"][1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "expected a name that is known here"),
        (TimeoutError(), "expected an answer within 5 s, none came"),
        (OSError(113, "No route to host"), "have outbound TCP opened in the firewall"),
    ],
)
def test_a_way_that_is_closed_is_told_so(error: OSError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", closed)
    lines = looked(1, None, "federation.example.dk")
    assert marks(lines) == ["ok", "mend", "-", "-", "-"]
    assert words in lines["connection"][1]


@pytest.mark.parametrize("status", [404, 502, 301])
def test_somebody_else_who_answers_is_told_by_the_status(pem: Path, tmp_path: Path, status: int) -> None:
    with serve(pem, status=status) as port:
        lines = looked(port, AUTHORITY.pem(tmp_path / "ca.pem"))
    assert marks(lines) == ["ok", "ok", "ok", "mend", "ok"]
    assert f"expected status 200 from its /health, {status} came" in lines["coordinator"][1]


# The clock


@pytest.mark.parametrize(
    ("ahead_s", "mark", "words"),
    [
        (-60, Mark.MEND, "s ahead of the coordinator's, which refuses everything; turn on NTP"),
        (-8, Mark.MEND, "s ahead of the coordinator's, which refuses everything"),
        (0, Mark.OK, "right"),
        (60, Mark.NOTE, "s behind of the coordinator's; turn on NTP"),
        (400, Mark.MEND, "s behind of the coordinator's, which refuses everything"),
    ],
)
def test_a_clock_that_is_off_is_told_by_how_much(
    pem: Path, tmp_path: Path, ahead_s: int, mark: Mark, words: str
) -> None:
    with serve(pem, ahead_s=ahead_s) as port:
        lines = looked(port, AUTHORITY.pem(tmp_path / "ca.pem"))
    assert marks(lines)[:4] == ["ok"] * 4
    assert lines["clock"][0] is mark
    assert words in lines["clock"][1]
    if mark is not Mark.OK:
        assert abs(int(lines["clock"][1].split()[0]) - abs(ahead_s)) <= 1


@pytest.mark.parametrize("date", [None, "yesterday", "99 Foo 99999 99:99:99"])
def test_a_coordinator_that_tells_no_time_is_noted(pem: Path, tmp_path: Path, date: str | None) -> None:
    with serve(pem, date=date) as port:
        lines = looked(port, AUTHORITY.pem(tmp_path / "ca.pem"))
    assert lines["clock"][0] is Mark.NOTE


# Proxies


@pytest.mark.parametrize(
    ("status", "words"), [(403, "allow CONNECT to the coordinator"), (407, "it wants a login (407)")]
)
def test_a_proxy_that_refuses_is_told_so(monkeypatch: pytest.MonkeyPatch, status: int, words: str) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(None, status=status) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://agent:hemmelig@127.0.0.1:{port}")
        lines = looked(8443, None, "federation.example.dk")
    assert marks(lines) == ["ok", "ok", "mend", "-", "-"]
    assert lines["proxy"][1] == f"127.0.0.1:{port}, from HTTPS_PROXY"
    assert words in lines["TLS"][1]
    assert "hemmelig" not in str(lines)


def test_a_proxy_that_is_not_there_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{unused_port()}")
    lines = looked(8443, None, "federation.example.dk")
    assert marks(lines) == ["ok", "mend", "-", "-", "-"]
    assert "ask municipal IT about the proxy" in lines["connection"][1]


def test_loopback_must_stay_clear_of_the_proxy(pem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    with serve(pem) as port:
        lines = looked(port, AUTHORITY.pem(tmp_path / "ca.pem"))
    assert marks(lines) == ["mend", "ok", "ok", "ok", "ok"]
    assert lines["proxy"][1].endswith("set NO_PROXY=127.0.0.1,localhost")


def test_a_proxy_that_cannot_be_read_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy")
    assert marks(looked(8443, None, "federation.example.dk")) == ["mend", "-", "-", "-", "-"]


def test_exceptions_that_httpx_cannot_read_are_told_so(pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "::1/128")
    with serve(pem) as port:
        connection = Connection(address=Address(f"127.0.0.1:{port}"), ca=None, login_key=Path("k"), cvr="29189420")
        found = list(look_at_way(connection, lambda: datetime.now(UTC)))
    assert [one.mark.value for one in found] == ["ok", "ok", "mend", "-", "-", "-"]
    assert found[2].en.startswith("NO_PROXY: expected names and addresses")
