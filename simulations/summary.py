"""Put a study's outcomes together into one result."""

import importlib.metadata
import platform
from collections import Counter
from typing import Any

from faelles.card import Bilingual, UseCaseCard
from faelles.errors import PlanError
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.statement import Language, statement
from server.result import PlanFigures, Privacy, RunRecord, Site, Usecase
from simulations import population
from simulations.study import Study

LANGUAGES: tuple[Language, ...] = ("da", "en")
PACKAGES = ("faelles", "flwr", "torch", "opacus", "numpy", "hydra-core")


def privacy_of(study: Study, record: RunRecord) -> Privacy:
    """State what a run cost each citizen of the municipalities that took part."""
    card, private = study.card, study.terms.epsilon < float("inf")
    sizes = Counter(record.declared_sizes.values())
    plans = {size: study.terms.plan(card, size) for size in sorted(sizes)}
    evaluation = card.evaluation.epsilon if private and study.terms.evaluate else None
    prv_epsilon = _prv_epsilon(list(plans.values())) if private else None
    return Privacy(
        private=private,
        unit=card.unit_name,
        epsilon=max(plan.epsilon for plan in plans.values()) if private else None,
        delta=card.privacy.delta,
        clipping_norm=card.privacy.clipping_norm,
        prv_epsilon=prv_epsilon,
        evaluation_epsilon=evaluation,
        plans=[_figures(plan, sizes[size]) for size, plan in plans.items()],
        statement=_statement(card, list(plans.values()), evaluation, prv_epsilon),
    )


def usecase_of(study: Study) -> Usecase:
    """Name what was learned."""
    card = study.card
    return Usecase(
        id=card.id, version=card.version, title=card.title, card_sha256=card.sha256, derived=study.derived,
        note=card.note,
    )  # fmt: skip


def sites_of(sites: list[population.Site], counts: dict[str, tuple[int, int]]) -> dict[str, Site]:
    """Describe the simulated municipalities; counts are of training and held-out citizens."""
    return {
        site.label: Site(
            name=site.name,
            declared_size=site.declared_size,
            citizens=sum(counts[site.label]),
            training_citizens=counts[site.label][0],
            held_out_citizens=counts[site.label][1],
        )
        for site in sites
    }


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
