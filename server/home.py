"""Know the coordinator's folder: what lies in it, who may read it, and how to open each thing.

coordinator.yaml       the address, the ports, which certificate
tls/                   ca.pem for municipalities; ca.key, server.pem and server.key of a trial's own authority
loopback.pem, .key     the certificate of Control and Runtime, which only this machine's processes speak
control.token          who holds it may admit municipalities and start runs
superexec.secret       who holds it may run the coordinator's side of a run
flower.sqlite          Flower's nodes, runs and messages
register.sqlite        who is enrolled
ledger-heads.sqlite    the last ledger head that each municipality signed
runs/                  a folder for each run

Every secret is readable by its owner only, and nothing starts where it is not.
"""

import os
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from faelles.address import join, split
from faelles.card import describe_mistakes
from faelles.certificates import (
    Pair,
    days_left,
    load_certificate,
    make_authority,
    make_own_certificate,
    make_server_certificate,
)
from faelles.errors import ConfigError, KeyFileError
from faelles.loopback import HOST
from server import heads

SETTINGS = "coordinator.yaml"
YEARS = 365
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseModel):
    """Hold coordinator.yaml as it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    address: str  # as municipalities reach it
    listen: str  # where the public listener binds
    loopback_port: Port
    health_port: Port
    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class Home:
    """Hold the coordinator's folder and its settings."""

    folder: Path
    settings: Settings

    @classmethod
    def open(cls, folder: Path) -> "Home":
        """Read the settings of a folder.

        Raises:
            ConfigError: There are none, they hold a mistake, or they are somebody else's.
        """
        path = folder / SETTINGS
        try:
            fields = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls(folder=folder.resolve(), settings=Settings.model_validate(fields))
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: expected a coordinator, found none; make one with `faelles-server init`"
            ) from None
        except PermissionError:
            raise ConfigError(
                f"{path}: expected settings that can be read, permission denied; type it as the user that owns {folder}"
            ) from None
        except (OSError, ValueError, yaml.YAMLError) as error:
            mistakes = describe_mistakes(error) if isinstance(error, ValidationError) else "cannot be read as YAML"
            raise ConfigError(f"{path}: {mistakes}; correct it") from None

    @property
    def authority(self) -> Path:
        """Name the certificate that municipalities trust; only a trial's own authority has one here."""
        return self.folder / "tls" / "ca.pem"

    @property
    def loopback_certificate(self) -> Path:
        """Name the certificate that processes of this machine trust."""
        return self.folder / "loopback.pem"

    @property
    def loopback_address(self) -> str:
        """Name where Control and Runtime listen."""
        return f"{HOST}:{self.settings.loopback_port}"

    @property
    def certificate(self) -> Path:
        """Name the public listener's certificate."""
        return self.folder / self.settings.certificate

    @property
    def key(self) -> Path:
        """Name the public listener's key."""
        return self.folder / self.settings.key

    @property
    def register(self) -> Path:
        """Name the register of municipalities."""
        return self.folder / "register.sqlite"

    @property
    def heads(self) -> Path:
        """Name the ledger heads of every municipality, of every run."""
        return self.folder / heads.FILE

    @property
    def database(self) -> Path:
        """Name Flower's database."""
        return self.folder / "flower.sqlite"

    @property
    def runs(self) -> Path:
        """Name the folder of runs."""
        return self.folder / "runs"

    def secret(self, name: str) -> bytes:
        """Read a secret.

        Raises:
            KeyFileError: There is none, or others can read it.
        """
        return read_secret(self.folder / name)

    def check(self, now: datetime) -> None:
        """See that everything needed to start is there and safe.

        Raises:
            KeyFileError: A certificate has expired or is another key's, a secret is missing or readable by others.
        """
        for name in ("control.token", "superexec.secret", "loopback.key"):
            self.secret(name)
        check_certificate(self.certificate, self.key, now)
        check_certificate(self.loopback_certificate, self.folder / "loopback.key", now)


def read_secret(path: Path) -> bytes:
    """Read a file that only its owner may read.

    Raises:
        KeyFileError: There is none, it is empty, or others can read it.
    """
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError:
        raise KeyFileError(
            f"{path}: expected a secret that can be read, found none; restore it from a backup"
        ) from None
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: expected a secret that only its owner can read, others can too; run chmod 600, "
            "and consider a new one"
        )
    if not data:  # an empty token would let in whoever shows none
        raise KeyFileError(f"{path}: expected a secret, it is empty; restore it from a backup")
    return data


def check_certificate(certificate: Path, key: Path, now: datetime) -> None:
    """See that a certificate is valid now and belongs to its key.

    Raises:
        KeyFileError: It is not.
    """
    found = load_certificate(certificate)
    if days_left(found, now) < 0 or now < found.not_valid_before_utc:
        valid = f"{found.not_valid_before_utc:%Y-%m-%d} to {found.not_valid_after_utc:%Y-%m-%d}"
        raise KeyFileError(f"{certificate}: expected a certificate that is valid now, it is so from {valid}; renew it")
    read_secret(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError):
        raise KeyFileError(
            f"{key}: expected the key of {certificate}, it is another's; name the two that belong together"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Hold what `init` was asked for."""

    address: str
    listen: str | None = None
    loopback_port: int = 8444
    health_port: int = 8445
    certificate: Path | None = None
    key: Path | None = None


def create(folder: Path, wish: Wish) -> Home:
    """Lay out a coordinator's folder.

    Raises:
        ConfigError: There is a coordinator already, it cannot be written, or a setting is wrong.
        KeyFileError: A certificate was given that cannot be used.
    """
    host, port = split_address(wish.address, "--address")
    listen = wish.listen or (join(host, port) if _is_loopback(host) else f"0.0.0.0:{port}")
    bound = split_address(listen, "--listen")
    _check_ports({"--address": port} | ({"--listen": bound[1]} if wish.listen else {}), wish)
    if (folder / SETTINGS).exists():
        raise ConfigError(f"{folder}: expected a folder without a coordinator, one is there; choose another")
    if (wish.certificate is None) != (wish.key is None):
        raise ConfigError("--tls-cert, --tls-key: expected both or none, one came; add the other")
    certificate, key = Path("tls/server.pem"), Path("tls/server.key")
    if wish.certificate is not None and wish.key is not None:
        certificate, key = wish.certificate.resolve(), wish.key.resolve()
        check_certificate(certificate, key, datetime.now(UTC))
    try:
        settings = Settings(
            version=1, address=join(host, port), listen=join(*bound),
            loopback_port=wish.loopback_port, health_port=wish.health_port, certificate=certificate, key=key,
        )  # fmt: skip
    except ValidationError as error:
        raise ConfigError(f"init: {describe_mistakes(error)}") from None
    try:
        _lay_out(folder, settings, host, own=wish.certificate is None)
    except OSError as error:
        reason = (error.strerror or "cannot be written").lower()
        raise ConfigError(f"{folder}: expected a folder that can be written, {reason}; choose another") from None
    return Home.open(folder)


def split_address(address: str, name: str = "address") -> tuple[str, int]:
    """Split host:port, also [::1]:port, as an agent reads it.

    Args:
        address: As it was typed.
        name: What an error calls it.

    Returns:
        The host, an IPv6 address without its brackets, and the port.

    Raises:
        ConfigError: It is something else.
    """
    found = split(address)
    if found is None:
        raise ConfigError(
            f"{name}: expected HOST:PORT without https://, such as federation.example.dk:8443 or [::1]:8443, "
            f"got {ascii(address)[:80]}; correct it"
        )
    return found


def _check_ports(public: Mapping[str, int], wish: Wish) -> None:
    """See that no port is wanted twice; the address's may be a proxy's, which can lie on this machine."""
    inner = {"--loopback-port": wish.loopback_port, "--health-port": wish.health_port}
    for name, port in inner.items():
        others = [other for other, taken in {**public, **inner}.items() if other != name and taken == port]
        if others:
            raise ConfigError(
                f"init: expected a port of its own for {name}, {port} is that of {' and '.join(others)} too; "
                "choose another"
            )


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _lay_out(folder: Path, settings: Settings, host: str, own: bool) -> None:
    for part in (folder, folder / "tls", folder / "runs"):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    if own:
        authority = make_authority("Fælles trial authority", days=5 * YEARS)
        _write_pair(folder / "tls" / "ca", authority)
        _write_pair(folder / "tls" / "server", make_server_certificate(authority, [host], days=2 * YEARS))
    _write_pair(folder / "loopback", make_own_certificate([HOST], days=10 * YEARS))
    for name in ("control.token", "superexec.secret"):
        _write(folder / name, secrets.token_urlsafe(32).encode(), 0o600)
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    _write(folder / SETTINGS, text.encode(), 0o600)  # last: what has no settings is no coordinator


def _write_pair(path: Path, pair: Pair) -> None:
    _write(path.with_suffix(".pem"), pair.certificate, 0o644)
    _write(path.with_suffix(".key"), pair.key, 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        os.fchmod(file.fileno(), mode)  # a certificate is for everybody, whatever the umask
        file.write(data)
