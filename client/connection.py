"""Know the coordinator that this agent has enrolled with: what lies of it in the agent's folder, and how to open it.

coordinator.yaml     its address, the municipality's CVR number, and whether a CA of its own is trusted
coordinator-ca.pem   that CA; without it the system's trust store decides
login.key            what the node logs in with, readable by its owner only
request.json         the request that KOMBIT enrols
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from cryptography import x509
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from client import keys
from client.home import Home
from client.language import danish_mistakes
from faelles import address
from faelles.card import describe_mistakes
from faelles.errors import ConfigError, EnrolmentError
from faelles.identifiers import CVR

COORDINATOR, CA, LOGIN, REQUEST = "coordinator.yaml", "coordinator-ca.pem", "login.key", "request.json"
LARGEST_CA: Final = 1024 * 1024  # bytes; a system's whole trust store is a quarter of that


class Address(str):
    """Hold where a coordinator is reached, as host:port; an IPv6 address stands in brackets, as in [::1]:8443.

    Raises:
        ConfigError: The text is something else.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Read an address as it was typed; no port is taken for granted, for coordinators listen on different ones."""
        found = address.split(text)
        if found is None:
            raise ConfigError(
                "coordinator: expected HOST:PORT without https://, such as federation.example.dk:8443 or [::1]:8443, "
                "something else came; type it as KOMBIT wrote it",
                da="koordinator: skal være VÆRT:PORT uden https://, som federation.example.dk:8443 eller [::1]:8443; "
                "skriv den, som KOMBIT oplyste den",
            )
        return super().__new__(cls, address.join(*found))

    @property
    def host(self) -> str:
        """Return the host, an IPv6 address without its brackets."""
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Return the port."""
        return int(self.rpartition(":")[2])


class CoordinatorSettings(BaseModel):
    """Hold coordinator.yaml as it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: Literal[1] = 1
    address: Annotated[str, AfterValidator(lambda text: str(Address(text)))]
    cvr: Annotated[str, Field(strict=True), AfterValidator(lambda text: str(CVR(text)))]
    ca: bool


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Hold what it takes to reach the coordinator and to log in there.

    Args:
        address: Where it is.
        ca: The CA that its certificate must be signed by; None where the system's trust store decides.
        login_key: The file with the node's login key.
        cvr: The municipality's CVR number.
    """

    address: Address
    ca: Path | None
    login_key: Path
    cvr: str

    @classmethod
    def open(cls, home: Home) -> "Connection":
        """Find the coordinator of an agent's folder, and see that the login key can be used.

        Raises:
            EnrolmentError: The municipality has not asked to be enrolled yet.
            ConfigError: A file of it cannot be read, or holds a mistake.
            KeyFileError: The login key is missing, readable by others, or something else.
        """
        settings = read_settings(home)
        if settings is None:
            raise EnrolmentError(
                f"{home.folder / COORDINATOR}: expected a coordinator, none is known; run "
                "`faelles-agent enrol --coordinator HOST:PORT`",
                da=f"{home.folder / COORDINATOR}: ingen koordinator er kendt; kør "
                "`faelles-agent enrol --coordinator VÆRT:PORT`",
            )
        ca = home.folder / CA if settings.ca else None
        if ca is not None:
            read_ca(ca)
        keys.load_login(home.folder / LOGIN)
        return cls(address=Address(settings.address), ca=ca, login_key=home.folder / LOGIN, cvr=settings.cvr)

    @property
    def trust(self) -> Path | None:
        """Return the file of the CAs that decide: the coordinator's own, else the system's; None where it has none.

        Flower left alone would trust a list that came with a Python package, and none that the municipality added.
        """
        system = ssl.get_default_verify_paths().cafile
        return self.ca or (Path(system) if system else None)


def read_settings(home: Home) -> CoordinatorSettings | None:
    """Read coordinator.yaml; None where there is none yet.

    Raises:
        ConfigError: It cannot be read, or holds a mistake.
    """
    path = home.folder / COORDINATOR
    if not path.exists():
        return None
    try:
        return CoordinatorSettings.model_validate(_fields(path))
    except ValidationError as error:
        raise ConfigError(
            f"{path}: {error.error_count()} mistake(s): {describe_mistakes(error, values=False)}",
            da=f"{path}: {error.error_count()} fejl: {danish_mistakes(error)}",
        ) from None


def read_ca(path: Path) -> list[x509.Certificate]:
    """Read a file of CA certificates in PEM; keys and other parts of it are not looked at.

    Raises:
        ConfigError: It cannot be read, holds none, or one that is no CA's.
    """
    try:
        with path.open("rb") as file:
            found = x509.load_pem_x509_certificates(file.read(LARGEST_CA))
        authorities = [_is_authority(one) for one in found]
    except (OSError, ValueError):
        raise ConfigError(
            f"{path}: expected a CA certificate in PEM, found none that can be read; ask KOMBIT for the file",
            da=f"{path}: skal være et CA-certifikat i PEM, men kan ikke læses som det; bed KOMBIT om filen",
        ) from None
    if not all(authorities):
        raise ConfigError(
            f"{path}: expected the certificate of a CA, a server's came; ask KOMBIT for the CA's",
            da=f"{path}: skal være en CA's certifikat, men er en servers; bed KOMBIT om CA'ens",
        )
    return found


def refuse_expired(path: Path, found: list[x509.Certificate], now: datetime) -> None:
    """Let certificates pass that are valid now.

    Raises:
        ConfigError: One is not.
    """
    for one in found:
        if now > one.not_valid_after_utc:
            day = one.not_valid_after_utc.date()
            raise ConfigError(
                f"{path}: expected a CA certificate that is valid, it expired on {day}; ask KOMBIT for the new one",
                da=f"{path}: CA-certifikatet udløb {day}; bed KOMBIT om det nye",
            )
        if now < one.not_valid_before_utc:
            day = one.not_valid_before_utc.date()
            raise ConfigError(
                f"{path}: expected a CA certificate that is valid, it begins on {day}; look at this machine's clock",
                da=f"{path}: CA-certifikatet gælder først fra {day}; se efter, om maskinens ur går rigtigt",
            )


def _is_authority(one: x509.Certificate) -> bool:
    try:
        return one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _fields(path: Path) -> Mapping[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError):
        fields = None
    if not isinstance(fields, Mapping):
        raise ConfigError(
            f"{path}: expected what `faelles-agent enrol` wrote, it cannot be read; move it away and enrol again",
            da=f"{path}: kan ikke læses, som `faelles-agent enrol` skrev den; flyt den, og tilmeld jer igen",
        )
    return fields


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
