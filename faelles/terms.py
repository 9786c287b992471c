"""Hold what a run asks for within a card: fewer rounds or a smaller epsilon, never more."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from faelles.card import UseCaseCard
from faelles.errors import WireError
from faelles.privacy.plan import PrivacyPlan, plan_for

LONGEST_TEXT = 1000  # letters; a municipality keeps the text for good


class RunTerms(BaseModel):
    """Hold the terms of one run; an infinite epsilon means no privacy, which only simulations allow."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    epsilon: Annotated[float, Field(gt=0)]
    rounds: Annotated[int, Field(ge=1)]
    evaluate: bool = True

    @classmethod
    def of(cls, card: UseCaseCard) -> Self:
        """Ask for exactly what the card says."""
        return cls(epsilon=card.privacy.epsilon, rounds=card.training.rounds)

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read terms from the wire.

        Raises:
            WireError: The text is not a run's terms.
        """
        try:
            return cls.model_validate_json(text if isinstance(text, str) and len(text) <= LONGEST_TEXT else "")
        except ValidationError:
            raise WireError("terms: expected epsilon, rounds and evaluate as JSON, something else came") from None

    def within(self, card: UseCaseCard) -> bool:
        """Say whether these terms only tighten the card's."""
        return self.epsilon <= card.privacy.epsilon and self.rounds <= card.training.rounds

    def plan(self, card: UseCaseCard, declared_size: int) -> PrivacyPlan:
        """Make the plan that both sides compute for a declared size."""
        return plan_for(card, declared_size, epsilon=self.epsilon, rounds=self.rounds)
