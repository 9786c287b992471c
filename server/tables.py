"""Arrange a result in tables for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from faelles.card import Bilingual
from server.benefit import Benefit, Share
from server.formats import ABSENT, delta, epsilon, fixed, percent, ranges, seconds, signed, significant
from server.participation import LOST, Absence, Noun, replies_lost
from server.result import Arm, EvaluationRecord, Privacy, Result, RunRecord

ArmName = Literal["local", "pooled", "federated", "personalised"]
ARMS: dict[ArmName, tuple[str, str]] = {  # in the order in which they are shown
    "local": ("Each alone", "own rows only, without noise"),
    "federated": ("Federated", "one shared model"),
    "personalised": ("Federated, personalised", "one shared model, some parameters kept at home"),
    "pooled": ("Ceiling", "all rows in one place, without noise: what no federation may do"),
}
MEASURES = {"auc": "AUC", "log_loss": "Log loss"}
FIGURES = {"auc": "AUC", "log_loss": "Log loss", "accuracy": "Accuracy", "calibration_error": "Calibration error"}
DIGITS = 12  # of a model's digest, which are enough to tell rounds apart
Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Hold a table: the first `words` columns are text, the others figures; `strong` is the row that matters."""

    head: Row
    rows: tuple[Row, ...]
    words: int = 1
    strong: int | None = None


def arms_table(result: Result) -> Table:
    """Compare the arms on all held-out citizens pooled."""
    present = [(name, result.arms[name]) for name in ARMS if name in result.arms]
    rows = [(*ARMS[name], *_arm_figures(arm)) for name, arm in present]
    strong = next((at for at, (name, _) in enumerate(present) if name == result.main_arm), None)
    head = ("Arm", "What it is", "AUC", "Log loss", "Accuracy", "Calibration error")
    return Table(head=head, rows=tuple(rows), words=2, strong=strong)


def _arm_figures(arm: Arm) -> Row:
    return (
        fixed(arm.auc.pooled),
        fixed(arm.log_loss.pooled),
        percent(arm.accuracy.pooled),
        fixed(arm.calibration_error.pooled),
    )


def privacy_table(privacy: Privacy) -> Table:
    """List what the run cost."""
    rows = [
        ("Unit of privacy", both(privacy.unit)),
        ("ε of the training (Rényi account; the one that counts)", epsilon(privacy.epsilon)),
        ("δ", delta(privacy.delta)),
        ("Clipping norm C", significant(privacy.clipping_norm)),
    ]
    if privacy.prv_epsilon is not None:
        rows.insert(2, ("the same by the tighter PRV accounting, for this fixed plan", epsilon(privacy.prv_epsilon)))
    if privacy.evaluation_epsilon is not None:
        rows.append(("ε of the evaluation (held-out part only; does not add up)", epsilon(privacy.evaluation_epsilon)))
    return Table(head=("What", "Value"), rows=tuple(rows))


def both(text: Bilingual) -> str:
    """Write both languages, or the one word where they share it."""
    return text.en if text.en == text.da else f"{text.en} / {text.da}"


def plans_table(privacy: Privacy, noun: Noun) -> Table:
    """List the plan of each declared size."""
    rows = [
        (
            f"{plan.declared_size:,}",
            f"{plan.sites:,}",
            significant(plan.sampling_rate),
            significant(plan.noise_multiplier),
            f"{plan.steps:,}",
            epsilon(plan.epsilon),
        )
        for plan in privacy.plans
    ]
    head = ("Declared size", noun.en[1].capitalize(), "Sampling rate q", "Noise multiplier σ", "Steps T", "ε")
    return Table(head=head, rows=tuple(rows), words=0)


def released_table(released: EvaluationRecord, exact: Arm | None) -> Table:
    """Show the released figures beside the exact ones, and how far off they are."""
    rows = []
    for name, label in FIGURES.items():
        told: float | None = getattr(released, name)
        true: float | None = getattr(exact, name).pooled if exact else None
        off = None if told is None or true is None else told - true
        rows.append((label, fixed(told), fixed(true), signed(off)))
    return Table(head=("Figure", "Released", "Exact", "Off by"), rows=tuple(rows))


def noisy_table(released: EvaluationRecord) -> Table:
    """Show the released figures where nobody knows the exact ones."""
    rows = tuple((label, fixed(getattr(released, name))) for name, label in FIGURES.items())
    return Table(head=("Figure", "Released"), rows=rows)


def bands_table(found: Benefit, noun: Noun) -> Table:
    """Show the means of each size."""
    rows = [
        (
            band.label,
            f"{band.sites}" + (f" ({band.undefined} not defined)" if band.undefined else ""),
            *((fixed(band.alone),) if found.compared else ()),
            fixed(band.together),
            *((signed(band.gain), signed(band.median)) if found.compared else ()),
        )
        for band in found.bands
    ]
    first = ("Training citizens", noun.en[1].capitalize())
    return Table(head=(*first, *_figure_head(found), *(("Median gain",) if found.compared else ())), rows=tuple(rows))


def shares_table(found: Benefit, shares: Sequence[Share], noun: Noun, *, short: bool = False) -> Table:
    """List sites with their figures."""
    rows = [
        (
            one.name,
            f"{one.training_citizens:,}",
            *(() if short else (f"{one.held_out_citizens:,}", f"{one.declared_size:,}")),
            *((fixed(one.alone),) if found.compared else ()),
            fixed(one.together),
            *((signed(one.gain),) if found.compared else ()),
        )
        for one in shares
    ]
    sizes = ("Training",) if short else ("Training citizens", "Held-out citizens", "Declared size")
    return Table(head=(noun.en[0].capitalize(), *sizes, *_figure_head(found)), rows=tuple(rows))


def _figure_head(found: Benefit) -> Row:
    label = MEASURES[found.measure]
    return (f"{label} alone", f"{label} federated", "Gain") if found.compared else (f"{label} federated",)


def absences_table(found: Sequence[Absence], noun: Noun) -> Table:
    """List who did not contribute."""
    rows = [
        (
            one.when,
            one.what,
            one.reason,
            f"{len(one.names)}: {', '.join(one.names)}" if len(one.names) > 1 else one.names[0],
        )
        for one in found
    ]
    return Table(head=("When", "What", "Why", f"Which {noun.en[1]}"), rows=tuple(rows), words=4)


def expected_table(result: Result, noun: Noun) -> Table:
    """List everyone expected, with the rounds that each contributed to."""
    run = result.run
    rows = []
    for key, site in sorted(result.sites.items(), key=lambda item: (item[1].name, item[0])):
        numbers = [one.number for one in run.rounds if key in one.contributing]
        parts = [ranges(numbers)] if numbers else []
        parts += [f"sits out: {run.sits_out[key]}"] if key in run.sits_out else []
        evaluated = ABSENT if run.evaluation is None else "yes" if key in run.evaluation.contributing else "no"
        delivered = "yes" if key in run.delivered else "no" if run.status == "completed" else ABSENT
        size = ABSENT if site.declared_size is None else f"{site.declared_size:,}"
        rows.append((site.name, key, "; ".join(parts) or "none", evaluated, delivered, size))
    what = ("Contributed to rounds", "To the evaluation", "Has the finished model")
    head = (noun.en[0].capitalize(), "Code", *what, "Declared size")
    return Table(head=head, rows=tuple(rows), words=5)


def rounds_table(run: RunRecord) -> Table:
    """Count the replies of each round."""
    rows = [
        (
            str(one.number),
            one.model_sha256[:DIGITS],
            str(len(one.contributing)),
            *(str(replies_lost(one, kind)) for kind in LOST),
            seconds(one.seconds),
        )
        for one in run.rounds
    ]
    head = ("Round", "Model after it", "Contributed", "Refused", "Rejected", "Late", "Silent", "Missing", "Time")
    return Table(head=head, rows=tuple(rows), words=2)


def timing_table(result: Result) -> Table:
    """List seconds by phase, those that were measured."""
    timing, run = result.timing, result.run
    mean = sum(one.seconds for one in run.rounds) / len(run.rounds) if run.rounds else None
    phases = (
        ("Start-up", timing.startup_s),
        ("Training", timing.train_s),
        (f"a round, on average of {len(run.rounds)}", mean),
        ("waiting beyond a deadline for a quorum", run.waited_s or None),
        ("Evaluation", timing.evaluate_s),
        ("Comparison arms", timing.compare_s),
        ("Total", timing.total_s),
    )
    # Of a live federation nothing but the rounds is measured: no total says more.
    shown = phases[:-1] if result.live else phases
    rows = [(phase, seconds(measured)) for phase, measured in shown if measured is not None]
    return Table(head=("Phase", "Time"), rows=tuple(rows), strong=0 if result.live else len(rows) - 1)


def identity_table(result: Result) -> Table:
    """List what identifies the run."""
    usecase = result.usecase
    rows = [
        ("Use case", f"{usecase.id}, version {usecase.version}"),
        ("Card (SHA-256)", usecase.card_sha256),
        ("Strategy", result.strategy),
        ("Seed", str(result.seed)),
        ("Federation", result.run.federation),
        ("Model (SHA-256)", result.run.model_sha256 or ABSENT),
    ]
    return Table(head=("What", "Value"), rows=tuple(rows), words=2)


def versions_table(result: Result) -> Table:
    """List the versions that the result depends on."""
    return Table(head=("Package", "Version"), rows=tuple(result.versions.items()), words=2)
