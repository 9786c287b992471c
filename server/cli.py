"""faelles-server: what KOMBIT's people say to their coordinator."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from configs.schema import strategies
from faelles.errors import FaellesError
from faelles.loopback import prepare

MISTAKE = 2  # the exit status of something that the user can mend
INTERRUPTED = 130
ENVIRONMENT = "FAELLES_SERVER_DIR"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; whatever a person can mend ends in one line and status 2."""
    prepare()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    given = parser().parse_args(arguments)
    before = os.umask(0o077)  # nothing of a coordinator is for other users of the machine
    try:
        from server.commands import COMMANDS

        for line in COMMANDS[given.command](given):
            print(line, flush=True)
    except FaellesError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os._exit(INTERRUPTED)  # whoever read went away; flushing again would fail again
    except OSError as error:
        why = (error.strerror or "cannot be used").lower()
        _stop(f"{error.filename or 'coordinator'}: {why}; mend it and try again")
    finally:
        os.umask(before)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _stop(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    whole = _Parser(prog="faelles-server", description="KOMBIT's coordinator: it asks, and municipalities decide.")
    commands = whole.add_subparsers(required=True, dest="command", metavar="COMMAND")
    made = {name: _command(commands, name, text) for name, text in TEXTS.items()}
    one = made["init"]
    one.add_argument("--address", required=True, metavar="HOST:PORT", help="how municipalities reach it")
    one.add_argument("--listen", metavar="HOST:PORT", help="where it listens; unless given, every interface")
    one.add_argument("--loopback-port", type=int, default=8444, metavar="PORT", help="of Control and Runtime; 8444")
    one.add_argument("--health-port", type=int, default=8445, metavar="PORT", help="of the gRPC health service; 8445")
    one.add_argument("--tls-cert", type=Path, metavar="FILE", help="a certificate that you have; else an own authority")
    one.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, readable by its owner only")
    made["enrol"].add_argument("request", type=Path, metavar="request.json", help="what the municipality sent")
    made["enrol"].add_argument("--yes", action="store_true", help="the fingerprint was compared already")
    made["revoke"].add_argument("municipality", metavar="CODE", help="the kommunekode, e.g. 851")
    made["run"].add_argument("overrides", nargs="+", metavar="KEY=VALUE", help=OVERRIDES)
    made["status"].add_argument("run", nargs="?", metavar="RUN", help="a run; without one, the coordinator itself")
    for name in ("watch", "stop", "resume", "report"):
        made[name].add_argument("run", metavar="RUN", help="its name, or the beginning of it")
    return whole


OVERRIDES = (
    "usecase=NAME|FOLDER, and any of strategy=NAME rounds=N privacy.epsilon=E evaluate=false quorum=0.8 deadline=10m "
    "wait=1h deliver=24h weighting=equal seed=N; terms may only tighten the card's; strategies are "
    + ", ".join(strategies())
)
TEXTS = {
    "init": "lay out a coordinator: folders, keys, certificates",
    "up": "run the coordinator in the foreground",
    "enrol": "admit a municipality",
    "nodes": "list who is enrolled and connected",
    "revoke": "turn a municipality away, at once",
    "run": "start a run",
    "runs": "list the runs",
    "status": "show how far a run is",
    "watch": "follow a run to its end",
    "stop": "stop a run; it can be resumed",
    "resume": "take up a run at its last finished round",
    "report": "write a run's report as things stand",
}


def _command(commands: "argparse._SubParsersAction[_Parser]", name: str, text: str) -> argparse.ArgumentParser:
    one = commands.add_parser(name, help=text, description=text)
    folder = Path(os.environ.get(ENVIRONMENT, "."))
    one.add_argument(
        "--dir", type=Path, default=folder, help=f"the coordinator's folder; else {ENVIRONMENT} or this one"
    )
    return one


def _stop(text: str) -> NoReturn:
    line = " ".join(text.splitlines())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(MISTAKE)


if __name__ == "__main__":
    main()
