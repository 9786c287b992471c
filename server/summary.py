"""Say of a run, simulated or live, what was learned, what it cost each citizen and which versions it depends on."""

import importlib.metadata
import platform
from collections import Counter
from typing import Any

from faelles.card import Bilingual, UseCaseCard
from faelles.errors import PlanError
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.statement import Language, statement
from faelles.terms import RunTerms
from server.result import PlanFigures, Privacy, RunRecord, Usecase

LANGUAGES: tuple[Language, ...] = ("da", "en")
PACKAGES = ("faelles", "flwr", "torch", "opacus", "numpy", "hydra-core")
NOBODY = Bilingual(
    da="Privatlivsgaranti\n\nIngen kommune har deltaget: der er ingen plan, og intet er blevet frigivet.",
    en="Privacy guarantee\n\nNo municipality has taken part: there is no plan, and nothing was released.",
)


def privacy_of(card: UseCaseCard, terms: RunTerms, record: RunRecord) -> Privacy:
    """State what a run costs each citizen of the municipalities that took part, when it is run to its end.

    Args:
        card: What was learned.
        terms: What the run asked for within the card.
        record: Who took part, with their declared sizes; where nobody has yet, epsilon is what was asked for.
    """
    private = terms.epsilon < float("inf")
    sizes = Counter(record.declared_sizes.values())
    plans = {size: terms.plan(card, size) for size in sorted(sizes)}
    evaluation = card.evaluation.epsilon if private and terms.evaluate else None
    prv_epsilon = _prv_epsilon(list(plans.values())) if private and plans else None
    epsilon = max((plan.epsilon for plan in plans.values()), default=terms.epsilon)
    return Privacy(
        private=private,
        unit=card.unit_name,
        epsilon=epsilon if private else None,
        delta=card.privacy.delta,
        clipping_norm=card.privacy.clipping_norm,
        prv_epsilon=prv_epsilon,
        evaluation_epsilon=evaluation,
        plans=[_figures(plan, sizes[size]) for size, plan in plans.items()],
        statement=_statement(card, list(plans.values()), evaluation, prv_epsilon) if plans else NOBODY,
    )


def usecase_of(card: UseCaseCard, derived: bool) -> Usecase:
    """Name what was learned, and whether the card that ran is another than the catalogue's."""
    return Usecase(
        id=card.id, version=card.version, title=card.title, card_sha256=card.sha256, derived=derived, note=card.note
    )


def versions() -> dict[str, str]:
    """List the versions that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def plain(config: Any) -> dict[str, Any]:
    """Render a resolved configuration as JSON can hold it; infinity as text."""
    return {
        key: plain(value) if isinstance(value, dict) else "inf" if value == float("inf") else value
        for key, value in config.items()
    }


def _figures(plan: PrivacyPlan, sites: int) -> PlanFigures:
    return PlanFigures(
        declared_size=plan.declared_size,
        sites=sites,
        sampling_rate=plan.sampling_rate,
        noise_multiplier=plan.noise_multiplier,
        steps=plan.steps,
        epsilon=plan.epsilon if plan.private else None,
    )


def _prv_epsilon(plans: list[PrivacyPlan]) -> float | None:
    """Compute the tighter figure; None where the PRV accountant cannot hold a plan this large."""
    try:
        return max(plan.prv_epsilon for plan in plans)
    except PlanError:
        return None


def _statement(
    card: UseCaseCard, plans: list[PrivacyPlan], evaluation: float | None, prv_epsilon: float | None
) -> Bilingual:
    texts = {
        language: statement(
            plans,
            language,
            unit_name=getattr(card.unit_name, language),
            evaluation_epsilon=evaluation,
            prv_epsilon=prv_epsilon,
        )
        for language in LANGUAGES
    }
    return Bilingual.model_validate(texts)
