"""Look last at what leaves: a typed gate that fails closed.

A reply is assembled here and nowhere else, from a release that a DP mechanism made and from public constants. Anything
else - a bare number, a text, another shape or key, an array that no mechanism made - is blocked: it is journalled and
answered with a code that does not depend on data. The types say the same to a type checker; what counts is the check.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from client.admission import EXACT
from client.head import read as read_head
from client.keys import Signer
from faelles.card import UseCaseCard
from faelles.metrics import HISTOGRAM, histogram_columns
from faelles.models import check_arrays, shared_shapes
from faelles.privacy.accountant import Event
from faelles.privacy.release import Release
from faelles.records import (
    ANSWERED,
    DECLARED_SIZE,
    LARGEST_HEAD,
    LEDGER_HEAD,
    MUNICIPALITY,
    Answer,
    Constants,
    Kind,
    Request,
)

log = logging.getLogger(__name__)
RELEASED = (Kind.TRAIN, Kind.EVALUATE)  # the kinds that are answered with arrays


class Blocked(Exception):  # noqa: N818  # a blocked reply is an answer and not an error
    """Say that something was stopped at the gate; it holds no word of what."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Know what this municipality may say.

    Args:
        municipality: Its public name.
        signer: Whose ledger heads may leave.
    """

    municipality: str
    signer: Signer

    def clear(
        self,
        request: Request,
        card: UseCaseCard,
        declared_size: int,
        constants: Constants,
        release: Release | None = None,
        event: Event | None = None,
    ) -> Answer:
        """Assemble the answer to a request.

        Args:
            request: What is answered; its public terms are repeated.
            card: The approved card.
            declared_size: Of the approval.
            constants: Public constants, exactly those that the kind of request is answered with.
            release: What a mechanism made; None for the kinds that are answered without arrays.
            event: What was charged for it; None where nothing was spent.

        Guarantees: arrays leave only as a Release whose event is the one that was charged, of the card's own shapes;
            text and numbers only as Constants with the values that policy, approval and ledger state.

        Raises:
            Blocked: Anything is otherwise.
        """
        try:
            arrays = _released(request.kind, card, release, event)
            self._check(request.kind, declared_size, constants)
        except Exception:
            # Whatever it is, it is not what may leave, and what it says of itself may leave no more than it.
            log.error("event=blocked kind=%s", request.kind)
            raise Blocked from None
        return Answer(
            federation=request.federation, server_round=request.server_round, card_sha256=request.card_sha256,
            extra=constants.config, arrays=arrays,
        )  # fmt: skip

    def _check(self, kind: Kind, declared_size: int, constants: Constants) -> None:
        if type(constants) is not Constants or set(vars(constants)) != {one.name for one in fields(Constants)}:
            raise Blocked
        config = constants.config
        if tuple(config) != ANSWERED[kind]:
            raise Blocked
        expected: Mapping[str, object] = {MUNICIPALITY: self.municipality, DECLARED_SIZE: declared_size}
        for key, value in config.items():
            if key == LEDGER_HEAD:
                self._check_head(value)
            elif type(value) is not type(expected[key]) or value != expected[key]:
                raise Blocked

    def _check_head(self, value: object) -> None:
        if type(value) is not str or len(value) > LARGEST_HEAD:
            raise Blocked
        read_head(value, self.signer)


def _released(kind: Kind, card: UseCaseCard, release: Release | None, event: Event | None) -> dict[str, np.ndarray]:
    if kind not in RELEASED:
        if release is not None or event is not None:
            raise Blocked
        return {}
    # Exactly these types: what looks like a release, or like an array, may carry more along.
    if type(release) is not Release or type(release.arrays) is not dict:
        raise Blocked
    made = EXACT if release.event is None else release.event
    if type(made) is not Event or made != event:
        raise Blocked
    if any(type(name) is not str or type(array) is not np.ndarray for name, array in release.arrays.items()):
        raise Blocked
    check_arrays(_shapes(kind, card), release.arrays)
    return dict(release.arrays)


def _shapes(kind: Kind, card: UseCaseCard) -> Mapping[str, tuple[int, ...]]:
    if kind == Kind.TRAIN:
        return shared_shapes(card)
    classes = len(card.label.values)
    return {HISTOGRAM: (classes, histogram_columns(classes, card.evaluation.bins))}
