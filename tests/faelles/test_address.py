"""Both sides read and write where a coordinator is reached in the same way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faelles.address import join, split


@pytest.mark.parametrize(("typed", "host", "port"), [
    ("federation.example.dk:8443", "federation.example.dk", 8443),
    (" Federation.Example.DK:443 ", "federation.example.dk", 443),
    ("127.0.0.1:1", "127.0.0.1", 1),
    ("[::1]:65535", "::1", 65535),
    ("[0:0::1]:8443", "::1", 8443),
    ("k\u00f8benhavn.dk:8443", "xn--kbenhavn-54a.dk", 8443),
])  # fmt: skip
def test_an_address_is_read_as_it_is_asked_for(typed: str, host: str, port: int) -> None:
    assert split(typed) == (host, port)
    assert split(join(host, port)) == (host, port)


@pytest.mark.parametrize("typed", [
    "", "federation.example.dk", "https://federation.example.dk:8443", "::1:8443", "[::1]", "[x]:1", "foo bar:8443",
    "a:0", "a:65536", "1.2.3:80", "-a.dk:80", f"{'a' * 64}.dk:80", "user@a.dk:80",
])  # fmt: skip
def test_what_is_no_address_is_none(typed: str) -> None:
    assert split(typed) is None


@given(typed=st.text(max_size=40))
def test_whatever_is_read_is_written_so_that_it_is_read_again(typed: str) -> None:
    found = split(typed)
    assert found is None or split(join(*found)) == found
