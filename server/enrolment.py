"""Admit municipalities, replace their keys, and turn them away."""

import logging
from datetime import UTC, datetime

from cryptography.hazmat.primitives import serialization

from faelles.enrolment import EnrolmentRequest
from faelles.errors import EnrolmentError
from server.control import Control
from server.register import Enrolment, Register

log = logging.getLogger(__name__)


def check_request(request: EnrolmentRequest, register: Register) -> Enrolment | None:
    """See that a request may be admitted, before anybody is asked to compare fingerprints.

    Returns:
        The enrolment that it would replace; None where the municipality has none.

    Raises:
        EnrolmentError: The key was admitted before, is another's, or does not follow from the municipality's earlier.
    """
    for one in register.history():
        if one.request.login_key != request.login_key:
            continue
        if one.municipality == request.municipality and one.revoked_at is None:
            raise EnrolmentError(f"municipality {request.municipality}: is enrolled with this very key; nothing to do")
        # A request has no date: an old one must not bring an old key back.
        raise EnrolmentError(
            f"municipality {request.municipality}: expected a key that was never enrolled, this one was; ask for a new "
            "request made with `faelles-agent enrol --rotate`"
        )
    earlier = register.current().get(request.municipality)
    if earlier is None:
        return None
    known = earlier.request.signing_key
    if request.signing_key != known and not request.replaces(known):
        raise EnrolmentError(
            f"municipality {request.municipality}: expected a request signed by the enrolled signing key, it is not; "
            f"if they lost that key, run `faelles-server revoke {request.municipality}` first"
        )
    return earlier


def admit(request: EnrolmentRequest, register: Register, control: Control) -> Enrolment:
    """Admit a request that was checked; an earlier key of the municipality is turned away.

    Guarantees: typed again after a crash, it goes on where it ended; whom the register does not name is turned away.

    Raises:
        CoordinatorError: The coordinator does not answer.
    """
    earlier = check_request(request, register)
    key = public_bytes(request.login_key)
    # After a crash the node may be there already.
    node = control.node_of(key) or control.register(request.municipality, key)
    if earlier is not None:
        control.unregister(earlier.node)
    made = Enrolment(request=request, node=node, enrolled_at=datetime.now(UTC))
    register.add(made)  # last: a request that stands there is one with nothing left to do
    return made


def revoke(municipality: str, register: Register, control: Control) -> Enrolment:
    """Turn a municipality's node away at once; what it sends from now on is refused.

    Raises:
        EnrolmentError: It is not enrolled, or is revoked already.
        CoordinatorError: The coordinator does not answer.
    """
    found = register.current().get(municipality)
    if found is None:
        earlier = [one.revoked_at for one in register.history() if one.municipality == municipality and one.revoked_at]
        if earlier:
            raise EnrolmentError(
                f"municipality {municipality}: expected one that is enrolled, it is revoked already, since "
                f"{earlier[-1]:%Y-%m-%d}; nothing to do"
            )
        known = ", ".join(sorted(register.current())) or "none"
        raise EnrolmentError(
            f"municipality {municipality}: expected one that is enrolled ({known}); see `faelles-server nodes`"
        )
    control.unregister(found.node)
    register.revoke(municipality, datetime.now(UTC))  # last: who is revoked there is turned away
    return found


def restore(register: Register, control: Control) -> None:
    """Register again whom Flower has never heard of, because its database was lost.

    Guarantees: a node that was turned away is not let in again, also where a crash kept that out of the register.
    """
    known = control.keys()
    for one in register.current().values():
        key = public_bytes(one.request.login_key)
        if key not in known:
            register.renumber(one.municipality, control.register(one.municipality, key))
            log.warning("event=registered-again municipality=%s", one.municipality)


def public_bytes(login_key: str) -> bytes:
    """Write a login key as Flower keeps it."""
    key = serialization.load_ssh_public_key(login_key.encode())
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
