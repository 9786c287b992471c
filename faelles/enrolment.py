"""Ask to be let into a federation: the request that a municipality sends, and how whoever receives it checks it.

    municipality: Kommunekode, CVR      who asks
    login_key                           what its node logs in with at the coordinator: NIST P-384, OpenSSH text
    signing_key                         what it signs with for life: ledger heads, receipts, and this request
    software, wire, extensions          what it runs, which wire schema it speaks, and what later versions add
    signature                           by the signing key, over the canonical JSON of all the rest
    previous_signature                  where keys are rotated: by the signing key that is enrolled, over the same bytes

A signature proves who made the request, not who they are: that is what the fingerprint is for, read over the phone.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from faelles.card import describe_mistakes
from faelles.errors import EnrolmentError
from faelles.identifiers import CVR
from faelles.keys import PREFIX, decode, fingerprint, verify
from faelles.municipalities import by_code

VERSION: Final = 1
LARGEST_REQUEST: Final = 64 * 1024  # bytes; a real one has about 700
LONGEST_COMPLAINT: Final = 300  # of mistakes in what somebody else wrote
SIGNED: Final = b"faelles enrolment request\n"
SIGNATURES: Final = ("signature", "previous_signature")
OPENSSH: Final = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def signed_bytes(fields: Mapping[str, Any]) -> bytes:
    """Write what the signatures cover: the canonical JSON of a request's fields without them."""
    rest = {name: value for name, value in fields.items() if name not in SIGNATURES}
    return SIGNED + json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def check_login_key(text: str) -> str:
    """Pass on the OpenSSH text of a login key, in its one spelling.

    Raises:
        EnrolmentError: It is no public key on the curve NIST P-384, or says more than the key.
    """
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    known = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    if not known or key is None or key.public_bytes(*OPENSSH).decode() != text:
        raise EnrolmentError("expected a NIST P-384 public key as OpenSSH writes it, without a comment")
    return text


def check_signing_key(text: str) -> str:
    """Pass on an Ed25519 public key.

    Raises:
        EnrolmentError: It is something else.
    """
    try:
        known = text.startswith(PREFIX) and len(decode(text.removeprefix(PREFIX))) == 32
    except ValueError:
        known = False
    if not known:
        raise EnrolmentError(f"expected {PREFIX} and 43 letters")
    return text


def _code(text: str) -> str:
    if by_code(text).code != text:
        raise EnrolmentError("expected four digits, e.g. 0851")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise EnrolmentError("expected text that can be printed")
    return text


# What is signed must come back from JSON as it went in: no NaN, and no number that some reader rounds.
Whole = Annotated[StrictInt, Field(ge=-(2**53), le=2**53)]
Text = Annotated[StrictStr, Field(max_length=1024), AfterValidator(_printable)]
Scalar = StrictBool | Whole | Annotated[StrictFloat, AllowInfNan(False)] | Text | None
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]


class EnrolmentRequest(BaseModel):
    """Hold one request; whoever holds one holds one whose signature is right.

    Args:
        version: Of this form.
        municipality: The kommunekode, four digits.
        cvr: The municipality's CVR number.
        login_key: OpenSSH text of a NIST P-384 public key.
        signing_key: ed25519: and 43 letters.
        software: The version of Fælles that wrote it.
        wire: The wire schema that this version speaks.
        extensions: What later versions add; carried along and signed, and read by nobody who does not know it.
        signature: By the signing key.
        previous_signature: By the signing key that is enrolled already, where this request replaces keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: Literal[1]
    municipality: Annotated[StrictStr, AfterValidator(_code)]
    cvr: Annotated[StrictStr, AfterValidator(lambda text: str(CVR(text)))]
    login_key: Annotated[StrictStr, Field(max_length=512), AfterValidator(check_login_key)]
    signing_key: Annotated[StrictStr, Field(max_length=64), AfterValidator(check_signing_key)]
    software: Annotated[str, Field(pattern=r"^[0-9A-Za-z.+_-]{1,64}$")]
    wire: Annotated[StrictInt, Field(ge=1, le=2**31)]
    extensions: Annotated[Mapping[Name, Scalar], Field(max_length=32)] = {}
    signature: Annotated[StrictStr, Field(max_length=128)]
    previous_signature: Annotated[StrictStr, Field(max_length=128)] | None = None

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if not verify(self.signing_key, self.signed_bytes, self.signature):
            raise EnrolmentError("signature: expected one by the signing key over these fields, another came")
        return self

    @property
    def signed_bytes(self) -> bytes:
        """Return the bytes that both signatures cover."""
        return signed_bytes(self.model_dump(mode="json"))

    @property
    def fingerprint(self) -> str:
        """Shorten the request to what two people can compare over the phone: 8 groups of 4."""
        return fingerprint(self.signed_bytes)

    def replaces(self, old_signing_key: str) -> bool:
        """Say whether the owner of the signing key that is enrolled asks for these keys to take the place of the old.

        Assumes:
            Whoever asks refuses a login key that was enrolled before: a request has no date, so that an old one,
            sent again, would bring an old login key back.
        """
        return self.previous_signature is not None and verify(
            old_signing_key, self.signed_bytes, self.previous_signature
        )

    def text(self) -> str:
        """Write the request as the file that is sent."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def parse_request(text: str | bytes, place: str = "request") -> EnrolmentRequest:
    """Read a request, whoever wrote it.

    Args:
        text: At most 64 KiB of JSON.
        place: What an error calls it, e.g. its file.

    Raises:
        EnrolmentError: It is no request, holds a mistake, or its signature is not by its signing key.
    """
    if len(text) > LARGEST_REQUEST:
        raise _refused(place, f"at most {LARGEST_REQUEST // 1024} KiB", "it is larger", "er for stor")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise _refused(place, "a request in JSON", "something else came", "er ikke en anmodning i JSON")
    try:
        return EnrolmentRequest.model_validate(fields)
    except (ValidationError, RecursionError) as error:
        mistakes = _mistakes(error) if isinstance(error, ValidationError) else "nested too deep"
        raise EnrolmentError(
            f"{place}: {mistakes}; ask the municipality for a new request",
            da=f"{place}: anmodningen er ikke, som den skal være; lav en ny med `faelles-agent enrol`",
        ) from None


def parse_request_file(path: Path) -> EnrolmentRequest:
    """Read a request from a file.

    Raises:
        EnrolmentError: The file cannot be read, or holds no request.
    """
    try:
        # Not blocking, so that a pipe with nobody at its other end is refused and not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(LARGEST_REQUEST + 1) or b""
    except OSError as error:
        raise _unread(path, error) from None
    return parse_request(text, str(path))


def _unread(path: Path, error: OSError) -> EnrolmentError:
    """Word why a file cannot be read; what the municipality sent may be as it should."""
    if isinstance(error, FileNotFoundError):
        why, da = "there is no such file", "findes ikke"
    elif isinstance(error, IsADirectoryError):
        why, da = "it is a folder", "er en mappe"
    else:
        why, da = (error.strerror or "it cannot be read").lower(), "kan ikke læses"
    return EnrolmentError(
        f"{path}: expected the file of a request, {why}; check the path and who may read it",
        da=f"{path}: {da}; se efter stien, eller lav en ny med `faelles-agent enrol`",
    )


def _mistakes(error: ValidationError) -> str:
    """Write what pydantic found; a stranger's field names can be of any length."""
    if error.errors()[0]["loc"] == ():  # what `_signed` says, which names its field itself
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    text = describe_mistakes(error, values=False)
    return text if len(text) <= LONGEST_COMPLAINT else text[:LONGEST_COMPLAINT] + " ..."


def _refused(place: str, expected: str, came: str, da: str) -> EnrolmentError:
    return EnrolmentError(
        f"{place}: expected {expected}, {came}; ask the municipality for a new request",
        da=f"{place}: {da}; lav en ny med `faelles-agent enrol`",
    )
