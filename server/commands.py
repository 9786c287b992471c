"""Carry out each command of faelles-server and word its answer; what it decides is decided elsewhere."""

import re
import shlex
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from faelles.errors import ConfigError, CoordinatorError, EnrolmentError
from faelles.health import probe
from faelles.municipalities import by_code
from server.home import Home, Wish, create
from server.lock import hold
from server.views import node_lines, run_line, status_lines

if TYPE_CHECKING:
    from server.runs import Run

PATIENCE_S = 15.0
LOOK_EVERY_S = 0.5


def init(given: Namespace) -> Iterator[str]:
    """Lay out a coordinator."""
    wish = Wish(
        address=given.address, listen=given.listen, loopback_port=given.loopback_port, health_port=given.health_port,
        certificate=given.tls_cert, key=given.tls_key,
    )  # fmt: skip
    home = create(given.dir, wish)
    yield f"a coordinator for {home.settings.address} is laid out in {home.folder}"
    yield f"it will listen on {home.settings.listen}"
    if home.authority.exists():
        yield f"its certificate is signed by an authority of its own, for trials: give municipalities {home.authority}"
    yield f"start it with: {_up(given)}"


def up(given: Namespace) -> Iterator[str]:
    """Run the coordinator until Ctrl-C."""
    from server import coordinator
    from server.logs import configure

    home = Home.open(given.dir)
    configure()
    coordinator.up(home)
    yield "the coordinator has ended; what was running is taken up when it starts again"


def enrol(given: Namespace) -> Iterator[str]:
    """Admit a municipality."""
    from faelles.enrolment import parse_request_file
    from server import enrolment
    from server.control import control_of
    from server.register import Register

    home = Home.open(given.dir)
    request = parse_request_file(given.request)
    with closing(Register(home.register)) as register, control_of(home) as control:
        earlier = enrolment.check_request(request, register)
        name = by_code(request.municipality).name
        yield f"municipality  {name} ({request.municipality}), CVR {request.cvr}"
        yield f"software      {request.software}"
        yield f"fingerprint   {request.fingerprint}"
        if earlier:
            yield f"replaces      the key enrolled {earlier.enrolled_at:%Y-%m-%d}"
        if not given.yes and not _agreed(
            "call the municipality on a number you know: is this the fingerprint they read? [yes/no] "
        ):
            raise EnrolmentError("enrol: not admitted, the fingerprints were not confirmed; ask for a new request")
        made = enrolment.admit(request, register, control)
    yield f"{name} is enrolled as node {made.node}; its agent may connect"


def revoke(given: Namespace) -> Iterator[str]:
    """Turn a municipality away, at once."""
    from server import enrolment
    from server.control import control_of
    from server.register import Register

    home = Home.open(given.dir)
    code = by_code(given.municipality).code
    with closing(Register(home.register)) as register, control_of(home) as control:
        enrolment.revoke(code, register, control)
    yield f"{by_code(code).name} ({code}) is revoked; whatever its node sends from now on is refused"


def nodes(given: Namespace) -> Iterator[str]:
    """List who is enrolled."""
    from server.control import control_of
    from server.register import Register

    home = Home.open(given.dir)
    with closing(Register(home.register)) as register, control_of(home) as control:
        yield from node_lines(register.history(), control.nodes())


def run(given: Namespace) -> Iterator[str]:
    """Start a run."""
    from server.orders import order
    from server.runs import create as create_run

    home = _running(given)
    federation = order(given.overrides, home.runs)
    made = create_run(home.runs, shlex.join(["faelles-server", "run", *given.overrides]), federation)
    yield made.name


def runs(given: Namespace) -> Iterator[str]:
    """List the runs."""
    from server.runs import all_runs

    found = all_runs(Home.open(given.dir).runs)
    yield from (run_line(one) for one in found) if found else ["no run yet; start one with `faelles-server run`"]


def status(given: Namespace) -> Iterator[str]:
    """Show one run, or the coordinator itself."""
    from server.runs import find

    home = Home.open(given.dir)
    if given.run is None:
        _running(given)
        yield "the coordinator is serving"
        return
    found = find(home.runs, given.run)
    yield from status_lines(found, datetime.now(UTC))
    if found.record is None and not _served(home):
        yield f"  the coordinator does not answer; start it with `{_up(given)}`"


def watch(given: Namespace) -> Iterator[str]:
    """Follow one run to its end; a line for each thing that changes."""
    from server.runs import find

    found = find(Home.open(given.dir).runs, given.run)
    said: list[str] = []
    while True:
        ended = found.ended  # read before the lines, so that the last ones are those of the end
        lines = status_lines(found, datetime.now(UTC))
        # A countdown changes every second; it is said again every ten.
        yield from (line for line in lines if _steady(line) not in said)
        said = [_steady(line) for line in lines]
        if ended:
            return
        time.sleep(LOOK_EVERY_S)


def stop(given: Namespace) -> Iterator[str]:
    """Stop a run; it can be resumed."""
    from server.runs import find

    found = find(_running(given).runs, given.run)
    if found.ended:
        raise ConfigError(f"run {found.name}: expected one that goes on, it has ended; see `faelles-server status`")
    found.stop()
    if not _within(PATIENCE_S, lambda: found.ended):
        raise CoordinatorError(f"run {found.name}: asked to stop, it has not yet; see the coordinator's log")
    yield _stopped(found)


def resume(given: Namespace) -> Iterator[str]:
    """Take up a run that was stopped or gave up."""
    from server.runs import find

    found = find(_running(given).runs, given.run)
    record = found.record
    if record is not None and record.status == "completed" and not record.undelivered:
        raise ConfigError(f"run {found.name}: expected one that did not complete, it did; start a new run")
    found.resume()
    if record is not None and record.status == "completed":
        yield f"{found.name} is complete; its model is delivered to the {len(record.undelivered)} it has not reached"
    else:
        yield f"{found.name} is taken up at its last finished round"


def report(given: Namespace) -> Iterator[str]:
    """Write a run's report as things stand."""
    from server.outcome import write_outcome
    from server.runs import find

    home = Home.open(given.dir)
    found = find(home.runs, given.run)
    record = found.record
    if record is None:
        advice = "wait a moment" if _served(home) else f"the coordinator does not answer, start it with `{_up(given)}`"
        raise ConfigError(f"run {found.name}: expected a run that has begun, it has not; {advice}")
    order = found.order
    write_outcome(found.folder, order.federation, record, order.command)
    yield str(found.folder / "report.html")


COMMANDS: dict[str, Callable[[Namespace], Iterator[str]]] = {
    one.__name__: one for one in (init, up, enrol, revoke, nodes, run, runs, status, watch, stop, resume, report)
}


def _running(given: Namespace) -> Home:
    """Open the folder of a coordinator that is running."""
    home = Home.open(given.dir)
    if not probe(home.settings.health_port):
        raise CoordinatorError(f"coordinator: expected it to run, it does not; start it with `{_up(given)}`")
    return home


def _up(given: Namespace) -> str:
    """Write what starts the coordinator of the folder that was given."""
    return f"faelles-server up --dir {shlex.quote(str(given.dir))}"


def _served(home: Home) -> bool:
    """Say whether a coordinator serves a folder; its lock answers at once, where its port may take seconds."""
    if not (home.folder / "lock").exists():  # making it here could make it another user's
        return False
    try:
        with hold(home.folder):
            return False
    except ConfigError:  # also where the lock is not ours to try: then nobody here can tell
        return True


def _stopped(run: "Run") -> str:
    """Say what was stopped: a run, or only the way home of a model that is complete."""
    record, resume = run.record, f"`faelles-server resume {run.name}`"
    if record is None or record.status != "completed":
        return f"{run.name} is stopped; {resume} takes it up again"
    reached = f"the model has reached {len(record.delivered)} of {len(record.declared_sizes)}"
    if not record.undelivered:
        return f"{run.name} is complete, and so was its delivery: {reached}"
    return f"{run.name} is complete and its delivery was stopped: {reached}; {resume} delivers again"


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("yes", "y", "ja")
    except EOFError:
        return False


def _steady(line: str) -> str:
    """Round a line's countdown, so that lines that differ in a second or two are the same."""
    return re.sub(r" in ([0-9]+) s$", lambda found: f" in {int(found[1]) // 10 * 10} s", line)


def _within(patience_s: float, done: Callable[[], bool]) -> bool:
    ends = time.monotonic() + patience_s
    while not done() and time.monotonic() < ends:
        time.sleep(LOOK_EVERY_S)
    return done()
