"""Word who is enrolled and how far a run is, for KOMBIT's screen."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from faelles.municipalities import by_code
from server.participation import MUNICIPALITY, status
from server.progress import Progress, read_progress
from server.register import Enrolment
from server.result import RoundRecord, RunRecord
from server.runs import Run

PHASES = {
    "query.ready": "asking who takes part", "train": "training", "evaluate": "evaluating",
    "query.final": "bringing the model home", "query.close": "closing",
}  # fmt: skip
STALE_S = 10.0
NAMED = 6


def node_lines(history: Sequence[Enrolment], statuses: Mapping[int, str]) -> Iterator[str]:
    """List enrolments, one line each."""
    if not history:
        yield "nobody is enrolled yet; admit a municipality with `faelles-server enrol request.json`"
    for one in history:
        state = "revoked" if one.revoked_at else statuses.get(one.node, "unknown")
        yield (
            f"{one.municipality} {by_code(one.municipality).name:<20} {state:<12} since {one.enrolled_at:%Y-%m-%d}  "
            f"node {one.node}  software {one.request.software}"
        )


def run_line(run: Run) -> str:
    """Say how one run is, in one line."""
    record = run.record
    if record is None:
        return f"{run.name:<28} waiting to start"
    return f"{run.name:<28} {_word(run, record):<12} {len(record.rounds)} rounds, {len(record.expected)} expected"


def status_lines(run: Run, now: datetime) -> list[str]:
    """Say how one run is: a line for it, one for each round, and where it waits, for whom and how long."""
    record = run.record
    if record is None:
        return [f"{run.name}: waiting to start"]
    lines = [f"{run.name}: {status(record, MUNICIPALITY).en}"]
    lines += [f"  sits out: {_name(code)} ({why})" for code, why in sorted(record.sits_out.items())]
    for one in record.rounds:
        lines.append(
            f"  round {one.number}: {len(one.contributing)} contributed in {one.seconds:.1f} s" + _missing(one)
        )
    progress = read_progress(run.folder)
    if progress is not None and (record.status == "running" or not run.ended):
        lines.append(_now(progress, now))
    if record.why:
        lines.append(f"  why: {record.why}")
    # Also where it has reached nobody: who stopped a delivery must see that.
    if record.delivered or (record.status == "completed" and record.declared_sizes):
        lines.append(f"  the model has reached {len(record.delivered)} of {len(record.declared_sizes)}")
    return lines


def _word(run: Run, record: RunRecord) -> str:
    return "stopping" if run.stopped and record.status == "running" else record.status


def _missing(one: RoundRecord) -> str:
    parts = []
    for kind, reasons in (("refused", one.refused), ("rejected", one.rejected)):
        if reasons:
            parts.append(f"{kind}: " + ", ".join(f"{name} {reason}" for name, reason in sorted(reasons.items())))
    for kind, names in (("silent", one.silent), ("missing", one.missing), ("late", one.late)):
        if names:
            parts.append(f"{kind}: {', '.join(sorted(names))}")
    return f" ({'; '.join(parts)})" if parts else ""


def _now(progress: Progress, now: datetime) -> str:
    """Say what is going on at this moment, with the countdown."""
    what = PHASES.get(progress.phase, progress.phase)
    where = f"round {progress.server_round} of {progress.rounds}: " if progress.phase == "train" else ""
    line = f"  now: {where}{what}, {progress.answered} of {progress.asked} have answered"
    if not progress.waiting_for:
        return line
    waiting = ", ".join(progress.waiting_for[:NAMED]) + (" ..." if len(progress.waiting_for) > NAMED else "")
    left = progress.deadline_at - now.timestamp()
    if left > 0:
        return f"{line}; waiting for {waiting}, deadline in {left:.0f} s"
    gives_up = max(0.0, progress.gives_up_at - now.timestamp())
    return f"{line}; waiting for a quorum of {progress.needed}, giving up in {gives_up:.0f} s"


def _name(code: str) -> str:
    return f"{by_code(code).name} ({code})" if code.isdecimal() else code
