"""What the tests of sources share: a secret, settings, and how to see that an error keeps it."""

import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from client.source import SourceSettings
from faelles.errors import FaellesError

PASSWORD = "s3kr@t/kode?æ&=%"  # noqa: S105 - a made-up one, with all that an address must quote
CPR = "0101901234"
SECRETS = (PASSWORD, quote(PASSWORD), CPR, "0202902345")


def settings_of(location: str, **fields: Any) -> SourceSettings:
    """Make the settings of a source."""
    return SourceSettings.model_validate({"location": location, **fields})


def told(act: Callable[[], object]) -> FaellesError:
    """Return the error that an act ends with, having seen that it is one line in two languages without a secret."""
    with pytest.raises(FaellesError) as caught:
        act()
    error = caught.value
    assert error.da
    whole = "".join(traceback.format_exception(error)) + repr(error) + error.da
    assert not [secret for secret in SECRETS if secret in whole]
    assert "\n" not in str(error) + error.da
    return error
