"""faelles-agent: what the people of a municipality say to their agent."""

import io
import logging
import os
import sqlite3
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from client.desk.parser import GRAMMAR, language_of, parser
from client.language import Language, reason, say
from faelles.errors import FaellesError

MISTAKE = 2  # the exit status of something that the user can mend
BROKEN = 1  # of what no command can mend
INTERRUPTED = 130
Command = Callable[[Namespace, Language], Iterable[str]]


def _command(name: str) -> Command:
    """Import a command when it is called: help comes at once, and Ctrl-C never meets an import outside `main`."""

    def run(given: Namespace, language: Language) -> Iterable[str]:
        from client.desk import commands

        return commands.COMMANDS[name](given, language)

    return run


COMMANDS = {name: _command(name) for name in GRAMMAR}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; whatever a person can mend ends in one line and status 2."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    language = language_of(typed)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed
            stream.reconfigure(errors="replace")  # a terminal that has no ε is no reason to stop
    try:
        given = parser(language).parse_args(typed)
        for line in COMMANDS[given.command](given, language):
            print(line)
        if sys.stdout:
            sys.stdout.flush()
    except FaellesError as error:
        _stop(error.text(language), language)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os._exit(INTERRUPTED)  # whoever read went away; flushing again would fail again
    except Exception as error:
        status, da, en = _unforeseen(error)
        _stop(say(language, da, en), language, status)


def _unforeseen(error: Exception) -> tuple[int, str, str]:
    """Word what no command foresaw; of the error only its type or its file, for a library's text may quote a value."""
    if isinstance(error, sqlite3.OperationalError):
        return (
            MISTAKE,
            "lageret kan ikke skrives eller er optaget; se efter plads og rettigheder, og prøv igen",
            "the store cannot be written or is busy; look for space and permissions, and try again",
        )
    if isinstance(error, MemoryError):
        return (
            MISTAKE,
            "dataene kræver mere hukommelse, end limits.memory_mb giver; hæv den i policy.yaml",
            "the data need more memory than limits.memory_mb gives; raise it in policy.yaml",
        )
    if isinstance(error, OSError):
        what = error.filename or "-"
        return (
            MISTAKE,
            f"{what}: {reason(error, 'da')}; ret det, og prøv igen",
            f"{what}: {reason(error, 'en')}; mend it and try again",
        )
    kind = type(error).__name__
    return (
        BROKEN,
        f"uventet fejl ({kind}); meld den, som SECURITY.md siger",
        f"unexpected error ({kind}); report it as SECURITY.md says",
    )


def _stop(text: str, language: Language, status: int = MISTAKE) -> NoReturn:
    line = " ".join(text.splitlines())  # one line, also where a name that was typed has two
    print(say(language, f"fejl: {line}", f"error: {line}"), file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
