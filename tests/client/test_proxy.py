"""What the agent says of proxies is what httpx, and so Flower, does."""

import os

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.connection import Address
from client.proxy import LOOPBACK, excepted, way_to
from faelles.errors import ConfigError

ADDRESS = Address("federation.example.dk:8443")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def goes_through_proxy(no_proxy: str, address: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Ask httpx itself."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with httpx.Client() as client:
        return client._transport_for_url(httpx.URL(f"https://{address}")) is not client._transport


EXCEPTIONS = (
    "", " ", ",", "*", "a,*", LOOPBACK, f"localhost, {LOOPBACK}", "localhost", "127.0.0.0/8", "127.0.0", ".0.0.1",
    "127.0.0.1:8443", "127.0.0.1:9", "0.0.1", "example.dk", ".example.dk", "Example.DK", "federation.example.dk",
    ".federation.example.dk", "eration.example.dk", "federation.example.dk:8443", "example.dk:8443", "example.dk:9",
    ".example.dk:8443", ".dk", "dk", "::1", "fe80::1", "10.1.2.3", "localhost:8443",
)  # fmt: skip


@pytest.mark.parametrize("no_proxy", EXCEPTIONS)
@pytest.mark.parametrize("address", ["federation.example.dk:8443", "example.dk:443", f"{LOOPBACK}:8443", "[::1]:8443",
                                     "localhost:8443", "10.1.2.3:1"])  # fmt: skip
def test_exceptions_are_read_as_httpx_reads_them(no_proxy: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    through = goes_through_proxy(no_proxy, address, monkeypatch)
    assert (way_to(Address(address)).variable == "HTTPS_PROXY") == through


@given(st.lists(st.text("ad.k:1*- ", max_size=8), max_size=3))
def test_no_exception_is_too_strange_to_read(entries: list[str]) -> None:
    assert excepted(entries, "a.dk", 1) in (True, False)


def test_without_a_proxy_the_coordinator_is_asked_directly() -> None:
    way = way_to(ADDRESS)
    assert (way.place, way.variable, way.loopback) == (ADDRESS, "", True)
    assert way_to(Address("[::1]:8443")).place == "[::1]:8443"


@pytest.mark.parametrize(
    ("variables", "place", "variable", "loopback"),
    [
        ({"HTTPS_PROXY": "http://proxy.example.dk:3128"}, "proxy.example.dk:3128", "HTTPS_PROXY", False),
        ({"https_proxy": "proxy.example.dk:3128"}, "proxy.example.dk:3128", "HTTPS_PROXY", False),
        ({"https_proxy": "http://proxy"}, "proxy:80", "HTTPS_PROXY", False),
        ({"https_proxy": "https://proxy"}, "proxy:443", "HTTPS_PROXY", False),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "127.0.0.1"}, "p:1", "ALL_PROXY", True),
        ({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:2", "no_proxy": "127.0.0.1"}, "q:2", "HTTPS_PROXY", True),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.dk"}, ADDRESS, "", False),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "127.0.0.1:9094"}, "p:1", "HTTPS_PROXY", False),
        ({"HTTP_PROXY": "http://p:1"}, ADDRESS, "", False),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, ADDRESS, "", True),
    ],
)
def test_the_environment_names_the_proxy(
    variables: dict[str, str], place: str, variable: str, loopback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    way = way_to(ADDRESS)
    assert (way.place, way.variable, way.loopback) == (place, variable, loopback)


def test_a_proxys_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://agent:hemmelig@proxy:3128")
    assert way_to(ADDRESS).place == "proxy:3128"
    for value in (
        "ftp://agent:hemmelig@proxy",
        "http://agent:hemmelig@proxy:port",
        "http://agent:hemmelig@",
        "socks5://p:1",
    ):
        monkeypatch.setenv("HTTPS_PROXY", value)
        with pytest.raises(ConfigError, match="HTTPS_PROXY: expected a proxy as http://HOST:PORT") as caught:
            way_to(ADDRESS)
        assert "hemmelig" not in str(caught.value) + caught.value.text("da")
