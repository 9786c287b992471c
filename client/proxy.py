"""Find the proxy that stands between this machine and the coordinator, and what stays clear of it.

Flower speaks through httpx, which follows HTTPS_PROXY, ALL_PROXY and NO_PROXY; the same is read here, to say it.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from client.connection import Address
from faelles.errors import ConfigError

LOOPBACK: Final = "127.0.0.1"
PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Way:
    """Hold where a connection to the coordinator goes first.

    Args:
        host: The coordinator's, or the proxy's.
        port: Likewise.
        variable: The environment variable that names the proxy; empty where there is none.
        loopback: Whether connections within this machine stay clear of every proxy.
    """

    host: str
    port: int
    variable: str = ""
    loopback: bool = True

    @property
    def place(self) -> str:
        """Write host and port; of a proxy's address nothing else, for it may hold a password."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def way_to(address: Address) -> Way:
    """Find the proxy that httpx, and so Flower, goes through for an address; by the environment alone.

    Raises:
        ConfigError: The environment names a proxy that cannot be read.
    """
    proxies = getproxies()
    exceptions = [one.strip().lower() for one in proxies.get("no", "").split(",")]
    some = any(proxies.get(scheme) for scheme in ("http", "https", "all"))
    loopback = not some or excepted(exceptions, LOOPBACK, None)
    scheme = next((scheme for scheme in ("https", "all") if proxies.get(scheme)), None)
    if scheme is None or excepted(exceptions, address.host, address.port):
        return Way(host=address.host, port=address.port, loopback=loopback)
    variable = f"{scheme}_proxy".upper()
    try:
        text = proxies[scheme]
        parts = urlsplit(text if "://" in text else f"http://{text}")
        default = PORTS[parts.scheme]  # Flower brings nothing along that speaks SOCKS
        host, port = parts.hostname or "", parts.port or default
    except (ValueError, KeyError):
        host, port = "", 0
    if not host:
        raise ConfigError(
            f"{variable}: expected a proxy as http://HOST:PORT, something else came; correct it in the environment",
            da=f"{variable}: skal være en proxy som http://VÆRT:PORT, men er noget andet; ret den i miljøet",
        )
    return Way(host=host, port=port, variable=variable, loopback=loopback)


def excepted(exceptions: list[str], host: str, port: int | None) -> bool:
    """Say whether NO_PROXY keeps an address clear of the proxy, as httpx reads it: no CIDR, no port that differs."""
    return any(one == "*" or _matches(one, host, port) for one in exceptions if one)


def _matches(entry: str, host: str, port: int | None) -> bool:
    if entry == host:
        return True
    name, colon, digits = entry.rpartition(":")
    if colon and digits.isdecimal() and "]" not in entry and ":" not in name:
        if port is None or int(digits) != port:
            return False
        entry = name
    if entry.startswith("."):
        return host.endswith(entry) and host != entry
    if entry == "localhost" or _is_ip(entry):
        return host == entry
    return host == entry or host.endswith(f".{entry}")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
