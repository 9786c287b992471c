"""Every error a user can meet.

    FaellesError
    ├── CardError        a card or its contract does not say what it must
    ├── ConfigError      a command was given something it does not know
    ├── CoordinatorError the coordinator does not answer, or refuses
    ├── DataError        a source does not fit the contract
    ├── EnrolmentError   a municipality cannot be enrolled as it asks, or is not enrolled
    ├── KeyFileError     a key is missing, readable by others, or not the right one
    ├── LedgerError      the account on disk cannot be trusted as it is
    ├── PlanError        a privacy plan cannot be met
    ├── PolicyError      a municipality's rules do not allow what was asked
    ├── ReachError       the coordinator cannot be reached, or is not known to be the right one
    ├── RunError         a federation could not go on
    ├── StrategyError    a strategy is unknown or was given wrong terms
    └── WireError        a message does not keep the wire contract

The command lines print such an error as one line and end with status 2. A message says what was expected, what came
and what to do, and never holds a data value: names of columns are public (they stand in a card), values are not.

    try:
        card = load_card(path)
    except FaellesError as error:
        print(f"error: {error}")
"""


class FaellesError(ValueError):
    """Report something that the user can mend.

    Args:
        text: One line in English.
        da: The same in Danish, where a municipality's own people meet it.
    """

    def __init__(self, text: str, da: str | None = None) -> None:
        super().__init__(text)
        self.da = da

    def __reduce__(self) -> tuple[type["FaellesError"], tuple[str, str | None]]:
        return type(self), (str(self), self.da)

    def text(self, language: str) -> str:
        """Say it in `da` or `en`; in English where there is no Danish."""
        return self.da if language == "da" and self.da else str(self)


class CardError(FaellesError):
    """Report every mistake in a card."""


class ConfigError(FaellesError):
    """Report an unknown or impossible setting."""


class CoordinatorError(FaellesError):
    """Report that the coordinator does not answer its own command line, or refuses it."""


class DataError(FaellesError):
    """Report a source that does not fit its contract."""


class EnrolmentError(FaellesError):
    """Report a municipality that cannot be enrolled as it asks, or is not enrolled."""


class KeyFileError(FaellesError):
    """Report a key file that cannot be used."""


class LedgerError(FaellesError):
    """Report an account, outbox or journal that is damaged, older than it was, or in use."""


class PlanError(FaellesError):
    """Report privacy terms that contradict each other or cannot be met."""


class PolicyError(FaellesError):
    """Report a request that the municipality's policy refuses."""


class ReachError(FaellesError):
    """Report a coordinator that cannot be reached, or is not known to be the right one."""


class RunError(FaellesError):
    """Report a federation that could not go on."""


class StrategyError(FaellesError):
    """Report an unknown strategy or a wrong term of one."""


class WireError(FaellesError):
    """Report a message that does not keep the wire contract."""
