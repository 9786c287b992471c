"""Release an update of the shared parameters: one round of DP-SGD, and what of it may leave."""

from dataclasses import dataclass

from faelles.card import UseCaseCard
from faelles.features import Citizens
from faelles.models import Arrays, Network
from faelles.privacy.dpsgd import LocalTerms, train_locally
from faelles.privacy.mechanisms import Randomness
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.release import Release, bounded


@dataclass(frozen=True, kw_only=True)
class TrainingRelease:
    """Hold an update that may leave and, made by the same mechanism, the local state that stays."""

    update: Release
    local: Arrays


def release_update(
    card: UseCaseCard,
    model: Network,
    start: Arrays,
    citizens: Citizens,
    plan: PrivacyPlan,
    terms: LocalTerms,
    randomness: Randomness,
) -> TrainingRelease:
    """Train one round and split its result into the update of the shared parameters and the local state.

    Guarantees: one event covers both, for both are the output of one mechanism over one vector.
    Assumes: as `train_locally`.

    Returns:
        The update: weights after minus weights before, shared parameters only, finite.
    """
    shared = tuple(name for name in start if name not in card.model.local)
    after = train_locally(model, start, citizens, plan, terms, randomness, proximal=shared)
    update = {name: bounded(after[name] - start[name]) for name in shared}
    local = {name: bounded(after[name]) for name in card.model.local}
    return TrainingRelease(update=Release(arrays=update, event=plan.round_event if plan.private else None), local=local)
