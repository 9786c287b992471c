"""Ask a coordinator to be let in: the files that it takes in the agent's folder, and the signed request.

The signing key is the municipality's for life: the ledger's heads are signed with it and sealed by it, and a
coordinator presents them again after years. A rotation replaces the login key alone, and the signing key says so.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from client import keys
from client.connection import (
    CA,
    COORDINATOR,
    LOGIN,
    REQUEST,
    Address,
    CoordinatorSettings,
    read_ca,
    read_settings,
    refuse_expired,
    write,
)
from client.home import Home
from client.keys import Signer
from faelles.enrolment import VERSION, EnrolmentRequest, signed_bytes
from faelles.errors import ConfigError, DataError
from faelles.identifiers import CVR

NEXT = LOGIN + ".next"


@dataclass(frozen=True, kw_only=True)
class Enrolling:
    """Hold what a person typed to enrol; None stands for what is known already.

    Args:
        coordinator: Its address.
        ca: The CA that signs its certificate; None beside an address means the system's trust store.
        cvr: The municipality's CVR number.
        rotate: Whether a new login key takes the place of the present one.
    """

    coordinator: Address | None = None
    ca: Path | None = None
    cvr: str | None = None
    rotate: bool = False


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """Hold what lies ready to be sent.

    Args:
        settings: The coordinator, as it is known now.
        request: What KOMBIT is asked.
        path: Where it lies.
        previous: Where the login key lies that was replaced; None where none was.
    """

    settings: CoordinatorSettings
    request: EnrolmentRequest
    path: Path
    previous: Path | None


def enrol(home: Home, wish: Enrolling, wire: int, now: datetime) -> Enrolled:
    """Write down the coordinator, make a login key where there is none, and write the request.

    Guarantees: what is typed wrongly changes nothing; a login key is never overwritten. Where it is cut short,
        `faelles-agent check` sees that request and login key differ, and the same command typed again mends it.

    Args:
        home: The agent's folder.
        wish: What was typed.
        wire: The wire schema that this agent speaks.
        now: The time.

    Raises:
        ConfigError: The coordinator or the CVR number is not known, or the CA's file is not one.
        KeyFileError: A key cannot be used or made.
    """
    signer = home.signer()
    settings, authority = _settings(home, wish, now)
    path, previous = home.folder / LOGIN, None
    if wish.rotate and path.exists():
        _check_present(path)
        previous = _place_beside(path, now)
        (home.folder / NEXT).unlink(missing_ok=True)  # of a rotation that was cut short
        login = keys.create_login(home.folder / NEXT)
    else:
        login = keys.load_login(path) if path.exists() else keys.create_login(path)
    request = make_request(home, signer, settings.cvr, login, wire, rotate=wish.rotate)
    if authority is not None:
        write(home.folder / CA, authority, 0o644)
    elif not settings.ca:
        (home.folder / CA).unlink(missing_ok=True)  # of another coordinator
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write(home.folder / COORDINATOR, text.encode(), 0o644)
    if previous is not None:
        os.link(path, previous)  # fails where something has that name
        os.replace(home.folder / NEXT, path)
    write(home.folder / REQUEST, request.text().encode(), 0o644)
    return Enrolled(settings=settings, request=request, path=home.folder / REQUEST, previous=previous)


def make_request(
    home: Home, signer: Signer, cvr: str, login_key: str, wire: int, *, rotate: bool = False
) -> EnrolmentRequest:
    """Write and sign a request.

    Args:
        home: Whose it is.
        signer: The municipality's signing key.
        cvr: Its CVR number.
        login_key: The public half of the login key.
        wire: The wire schema that the agent speaks.
        rotate: Whether the login key takes the place of one that is enrolled, which may be lost.
    """
    extensions: Mapping[str, str] = {}
    fields = {
        "version": VERSION, "municipality": home.settings.municipality, "cvr": cvr, "login_key": login_key,
        "signing_key": signer.public, "software": version("faelles"), "wire": wire, "extensions": extensions,
    }  # fmt: skip
    signature = signer.sign(signed_bytes(fields))
    return EnrolmentRequest.model_validate(
        {**fields, "signature": signature, "previous_signature": signature if rotate else None}
    )


def _settings(home: Home, wish: Enrolling, now: datetime) -> tuple[CoordinatorSettings, bytes | None]:
    """Put together what was typed and what is known; and the CA's certificates to copy, None where nothing changes."""
    known = read_settings(home)
    address = wish.coordinator or (Address(known.address) if known else None)
    if address is None:
        raise ConfigError(
            "enrol: expected the coordinator's address, none is known; add --coordinator HOST:PORT",
            da="enrol: koordinatorens adresse er ikke kendt; tilføj --coordinator VÆRT:PORT",
        )
    cvr = _cvr(wish.cvr) if wish.cvr is not None else known.cvr if known else None
    if cvr is None:
        raise ConfigError(
            "enrol: expected the municipality's CVR number, none is known; add --cvr 12345678",
            da="enrol: kommunens CVR-nummer er ikke kendt; tilføj --cvr 12345678",
        )
    kept = known is not None and known.ca and wish.coordinator is None
    settings = CoordinatorSettings(address=address, cvr=cvr, ca=wish.ca is not None or kept)
    if wish.ca is None:
        return settings, None
    found = read_ca(wish.ca)
    refuse_expired(wish.ca, found, now)
    # Written anew, so that a private key in the same file is not copied along.
    return settings, b"".join(one.public_bytes(Encoding.PEM) for one in found)


def _cvr(text: str) -> str:
    try:
        return str(CVR(text))
    except DataError as error:
        raise ConfigError(
            str(error), da="CVR: skal være otte cifre, der opfylder modulus 11, uden DK og mellemrum; ret tallet"
        ) from None


def _check_present(path: Path) -> None:
    """See that what is replaced is a file and no link: it is given another name."""
    if path.is_symlink() or not path.is_file():
        raise ConfigError(
            f"{path}: expected the login key itself, a link or a folder came; put the file there and rotate again",
            da=f"{path}: skal være selve nøglen og ikke en henvisning eller en mappe; læg filen der, og skift igen",
        )


def _place_beside(path: Path, now: datetime) -> Path:
    """Name where a key that is replaced lies: by the time, to the second."""
    place = path.with_name(f"{path.name}.{now:%Y%m%dT%H%M%SZ}")
    if place.exists():
        raise ConfigError(
            f"{place}: expected a name for the key that is replaced, it is taken; wait a second and rotate again",
            da=f"{place}: navnet til den gamle nøgle er optaget; vent et sekund, og skift igen",
        )
    return place
