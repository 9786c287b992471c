"""Know people by their keys: make one, find whose it is, and ask for it where the policy wants two people."""

import re
from pathlib import Path

from client import keys
from client.consent import Person
from client.keys import Signer
from client.policy import Policy
from faelles.errors import ConfigError, PolicyError

PERSON = re.compile(r"[A-Za-zÀ-ÖØ-öø-ɏ0-9_. -]{1,64}")  # policy.yaml takes more: what each regex engine calls \w


def make_person(name: str, key: Path) -> Signer:
    """Make a person's key.

    Raises:
        ConfigError: policy.yaml takes no such name.
        KeyFileError: The file is there, or cannot be written.
    """
    if not PERSON.fullmatch(name):
        raise ConfigError(
            "person: expected a name of at most 64 letters, digits, blanks, points and hyphens; choose another",
            da="person: navnet skal bestå af højst 64 bogstaver, tal, mellemrum, punktummer og bindestreger; vælg et "
            "andet",
        )
    return keys.create(key)


def person(policy: Policy, key: Path | None) -> Person | None:
    """Find whose key this is.

    Raises:
        PolicyError: It belongs to nobody of the policy.
    """
    if key is None:
        return None
    signer = keys.load(key)
    name = next((name for name, public in policy.people.items() if public == signer.public), None)
    if name is None:
        raise PolicyError(
            f"{key}: expected the key of somebody in policy.yaml, it is nobody's; write its owner under people: "
            f'NAME: "{signer.public}"',
            da=f'{key}: nøglen tilhører ingen i policy.yaml; skriv dens ejer under people: NAVN: "{signer.public}"',
        )
    return Person(name=name, signer=signer)


def required(by: Person | None, two: bool) -> Person | None:
    """Pass a person on.

    Raises:
        PolicyError: There is none, and the policy asks for two people.
    """
    if two and by is None:
        raise PolicyError(
            "--key: expected the key of the first of two people, for the policy asks for two; name its file",
            da="--key: politikken kræver to mennesker; angiv filen med den førstes nøgle",
        )
    return by
