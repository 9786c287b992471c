"""Every error a user can meet.

    FaellesError
    ├── CardError        a card or its contract does not say what it must
    ├── ConfigError      a command was given something it does not know
    ├── DataError        a source does not fit the contract
    ├── PlanError        a privacy plan cannot be met
    ├── PolicyError      a municipality's rules do not allow what was asked
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
    """Report something that the user can mend."""


class CardError(FaellesError):
    """Report every mistake in a card."""


class ConfigError(FaellesError):
    """Report an unknown or impossible setting."""


class DataError(FaellesError):
    """Report a source that does not fit its contract."""


class PlanError(FaellesError):
    """Report privacy terms that contradict each other or cannot be met."""


class PolicyError(FaellesError):
    """Report a request that the municipality's policy refuses."""


class RunError(FaellesError):
    """Report a federation that could not go on."""


class StrategyError(FaellesError):
    """Report an unknown strategy or a wrong term of one."""


class WireError(FaellesError):
    """Report a message that does not keep the wire contract."""
