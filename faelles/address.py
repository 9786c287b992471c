"""Read and write where a coordinator is reached: host:port, an IPv6 address in brackets, as in [::1]:8443."""

import ipaddress
import re
from typing import Final

LARGEST_PORT: Final = 65535
LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def split(text: str) -> tuple[str, int] | None:
    """Split host:port as it was typed; None where it is something else.

    Returns:
        The host as it is asked for, an IPv6 address without its brackets, and the port.
    """
    found = re.fullmatch(r"(?P<host>\[[^\]]*\]|[^:\[\]/@]+):(?P<port>[0-9]{1,5})", text.strip())
    host = _host(found["host"]) if found else None
    if found is None or host is None or not 0 < int(found["port"]) <= LARGEST_PORT:
        return None
    return host, int(found["port"])


def join(host: str, port: int) -> str:
    """Write host:port, an IPv6 address in brackets: without them nobody can tell where its port begins."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host(text: str) -> str | None:
    try:
        if text.startswith("["):
            return str(ipaddress.IPv6Address(text[1:-1]))
        name = text.encode("idna").decode().lower()
        if re.fullmatch(r"[0-9.]+", name):
            return str(ipaddress.IPv4Address(name))
    except ValueError:
        return None
    return name if len(name) <= 253 and re.fullmatch(rf"{LABEL}(\.{LABEL})*", name) else None
