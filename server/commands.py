"""Carry out each command of faelles-server and word its answer; what it decides is decided elsewhere."""

import re
import shlex
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from faelles.errors import ConfigError, CoordinatorError, EnrolmentError
from faelles.health import probe
from faelles.municipalities import by_code
from server.home import Home, Wish, create
from server.views import node_lines, run_line, status_lines

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
    yield f"start it with: faelles-server up --dir {shlex.quote(str(given.dir))}"


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
    yield from status_lines(find(home.runs, given.run), datetime.now(UTC))


def watch(given: Namespace) -> Iterator[str]:
    """Follow one run to its end; a line for each thing that changes."""
    from server.runs import find

    found = find(Home.open(given.dir).runs, given.run)
    said: list[str] = []
    while True:
        lines = status_lines(found, datetime.now(UTC))
        # A countdown changes every second; it is said again every ten.
        yield from (line for line in lines if _steady(line) not in said)
        said = [_steady(line) for line in lines]
        record = found.record
        if record is not None and record.status != "running":
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
    yield f"{found.name} is stopped; `faelles-server resume {found.name}` takes it up again"


def resume(given: Namespace) -> Iterator[str]:
    """Take up a run that was stopped or gave up."""
    from server.runs import find

    found = find(_running(given).runs, given.run)
    record = found.record
    if record is not None and record.status == "completed" and not record.undelivered:
        raise ConfigError(f"run {found.name}: expected one that did not complete, it did; start a new run")
    found.resume()
    yield f"{found.name} is taken up at its last finished round"


def report(given: Namespace) -> Iterator[str]:
    """Write a run's report as things stand."""
    from server.outcome import write_outcome
    from server.runs import find

    found = find(Home.open(given.dir).runs, given.run)
    record = found.record
    if record is None:
        raise ConfigError(f"run {found.name}: expected a run that has begun, it has not; wait a moment")
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
        folder: Path = given.dir
        raise CoordinatorError(
            f"coordinator: expected it to run, it does not; start it with `faelles-server up --dir {folder}`"
        )
    return home


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
