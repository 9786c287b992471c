"""State what the municipality allows; it has the last word, and what it does not name is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from faelles.card import UseCaseCard
from faelles.records import Code
from faelles.terms import RunTerms


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Consent to one card, pinned by its hash, for one population.

    `declared_size` is the public band that the municipality states; 0 says that it has nobody to learn from.
    """

    card: UseCaseCard
    population: str
    declared_size: int


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Hold the municipality's rules; an empty policy refuses everything.

    `epsilon_cap` bounds what a population's account may ever spend at `delta`. `held_out` is the share of citizens that
    no card may train on: one share for all cards, or a citizen could be in the training part of one and the held-out
    part of another, and the two accounts of a population would no longer be of different people.
    """

    municipality: str
    epsilon_cap: float = 0.0
    delta: float = 1e-5
    held_out: float = 0.2
    approvals: Mapping[str, Approval] = field(default_factory=dict)

    def approval(self, card_sha256: str) -> Approval | Code:
        """Find the approval of a card, or the code that refuses it."""
        approval = self.approvals.get(card_sha256)
        if approval is None or approval.card.sha256 != card_sha256:
            return Code.CARD_NOT_APPROVED
        return approval if approval.declared_size else Code.NO_DATA

    def allows(self, approval: Approval, terms: RunTerms) -> bool:
        """Say whether a run's terms stay within the approved card; an infinite epsilon needs an infinite cap."""
        unprotected = terms.epsilon == float("inf") == self.epsilon_cap
        one_split = approval.card.evaluation.held_out == self.held_out
        return one_split and (unprotected or terms.within(approval.card))
