"""A hostile coordinator: every attack as data, and who plays it over a Flower Grid.

An attack opens as an honest run would, something happens in the municipality, and then come its drafts. ATTACKS rests
on what a coordinator knows and on nothing else, so it can be played over any Grid, one with a network too; only what
happens in the municipality has to be brought about by whoever plays it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from faelles.records import ARRAYS, CONFIG, LEDGER_HEAD, MODEL_SHA256, Code
from tests import crafted
from tests.crafted import Draft, Known

ROUNDS = 10_000
LAST = 3  # the card's rounds
Drafts = Callable[[Known], Iterable[Draft]]


class Happening(StrEnum):
    """Name what happens in the municipality between the opening and the drafts."""

    NOTHING = "nothing"
    WITHDRAWN = "the approval is withdrawn"
    APPROVAL_EXPIRED = "the approval expires"
    RESERVATION_EXPIRED = "the reservation expires"
    OUTSIDE_HOURS = "the working day ends"
    NO_UPDATES = "the policy stops updates"
    NO_HISTOGRAMS = "the policy stops histograms"
    POLICY_LOST = "the policy is lost"
    SET_BACK = "the store is set back to before the run"
    RESTARTED = "the agent is started anew"


def nothing(known: Known) -> Iterable[Draft]:
    """Open with no word."""
    return ()


def asked(known: Known) -> Iterable[Draft]:
    """Open with a run that is ready for its first round."""
    return (known.ready(),)


def asked_without_evaluation(known: Known) -> Iterable[Draft]:
    """Open with a run that never said it would evaluate."""
    return (known.ready('{"epsilon":2.0,"rounds":3,"evaluate":false}'),)


def begun(known: Known) -> Iterable[Draft]:
    """Open with a run in its first round."""
    return known.ready(), known.train(1)


def ended(known: Known) -> Iterator[Draft]:
    """Open with a whole run."""
    yield known.ready()
    yield from (known.train(number) for number in range(1, LAST + 1))
    yield from (known.evaluate(), known.final(), known.close())


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Hold one attack; `codes` are what its drafts get, all of them, where None is an answer."""

    name: str
    drafts: Drafts
    codes: frozenset[Code | None]
    opening: Drafts = begun
    happening: Happening = Happening.NOTHING


class Coordinator:
    """Attack one municipality over a grid, and keep what comes back."""

    def __init__(self, grid: Grid, node_id: int, known: Known) -> None:
        self.known = known
        self.replies: list[Message] = []
        self._grid, self._node_id = grid, node_id

    def send(self, draft: Draft) -> Message:
        """Send a message, wait for its reply, and remember the head that comes with it."""
        (reply,) = self._grid.send_and_receive([draft.message(self._node_id)], timeout=60)
        self.replies.append(reply)
        config = {} if reply.has_error() else reply.content.config_records[CONFIG]
        if LEDGER_HEAD in config:
            self.known.heads.append(str(config[LEDGER_HEAD]))
        return reply

    def play(self, attack: Attack, happen: Callable[[Happening], None]) -> list[Message]:
        """Play an attack and give the replies to its drafts."""
        for draft in attack.opening(self.known):
            self.send(draft)
        happen(attack.happening)
        return [self.send(draft) for draft in attack.drafts(self.known)]


def seen(reply: Message) -> tuple[object, ...]:
    """Tell all that a reply shows but the numbers in its arrays, and of a signed head its number and its lengths."""
    if reply.has_error():
        return "refused", reply.metadata.message_type, reply.error.code, reply.error.reason
    config = dict(reply.content.config_records[CONFIG])
    if LEDGER_HEAD in config:
        head = json.loads(str(config[LEDGER_HEAD]))
        config[LEDGER_HEAD] = str([head.pop("number"), *((key, len(text)) for key, text in head.items())])
    record = reply.content.array_records[ARRAYS]
    arrays = [(name, one.dtype, one.shape, one.stype, len(one.data)) for name, one in record.items()]
    return "answer", reply.metadata.message_type, list(reply.content), list(config.items()), arrays


def ten_thousand_rounds(known: Known, every: int = 1) -> Iterator[Draft]:
    """Go on after the last round; the refusal does not wait for the arrays."""
    draft = known.train(0, {})
    yield from (draft.but(server_round=number) for number in (*range(LAST + 1, ROUNDS, every), ROUNDS))


def _everything(known: Known) -> Iterator[Draft]:
    return known.everything()


def _forks(known: Known) -> Iterator[Draft]:
    """Ask in an answered round for something else."""
    for arrays in (known.spotted(1e-45), known.filled(1.0), known.filled(np.nan), {"more": np.zeros(3, np.float32)}):
        yield known.train(1, arrays)
    whole = json.dumps(known.plan(), indent=1)
    yield from (known.train(1).but(plan="{}"), known.train(1).but(plan=whole), known.train(1).but(proximal_mu=0.0))


def _repeats(known: Known) -> Iterator[Draft]:
    for draft in (known.train(1), known.ready(), known.evaluate(), known.final(), known.train(1)):
        yield from (draft, draft.but(), draft.but())
    yield from (known.train(1).but(ledger_head=known.latest), known.evaluate().but(ledger_head=known.earliest))


def _reordered(known: Known) -> Iterator[Draft]:
    yield from (known.train(number) for number in (3, 2, 1, 0))
    yield from (known.evaluate(number) for number in (2, 1, 0, 3))


def _round_zero(known: Known) -> Iterator[Draft]:
    yield from (known.train(0), known.train(0), known.train(0, known.filled(1.0)), known.evaluate(0), known.train(1))


def _far_rounds(known: Known) -> Iterator[Draft]:
    for number in (4, 5, 100, ROUNDS, 2**31 - 1):
        yield from (known.train(number), known.evaluate(number))


def _federations(known: Known) -> Iterator[Draft]:
    for other in known.others:
        for draft in (known.ready(), known.train(1), known.evaluate(), known.final()):
            yield draft.but(federation=other)


def _closings(known: Known) -> Iterator[Draft]:
    """Close runs to begin others, until nothing is left to reserve."""
    for before, other in zip((known.federation, *known.others), known.others, strict=False):
        yield known.close().but(federation=before)
        yield known.ready().but(federation=other)
        yield known.train(1).but(federation=other)


def _old_heads(known: Known) -> Iterator[Draft]:
    """Present what it signed itself."""
    early, late = known.earliest, known.latest
    yield from (known.ready().but(ledger_head=text) for text in (early, late))
    yield from (known.train(number).but(ledger_head=text) for number, text in ((1, late), (2, early), (3, late)))
    yield known.evaluate().but(ledger_head=early)


def _late_heads(known: Known) -> Iterator[Draft]:
    """Show an account that was set back what it signed before."""
    yield known.ready().but(ledger_head=known.latest)
    yield from known.everything()


def _backwards(known: Known) -> Iterator[Draft]:
    yield from (known.close(), known.close(), known.final(), known.evaluate(), known.train(1), known.train(2))


def _after_the_end(known: Known) -> Iterator[Draft]:
    yield from (known.train(1), known.train(3), known.train(4), known.evaluate(), known.evaluate(2), known.ready())
    yield from (known.final(known.filled(1.0)), known.close())


def _first_version(known: Known) -> Iterator[Draft]:
    """Ask as a coordinator does that was not upgraded."""
    drafts = (known.ready(), known.train(1), known.train(2), known.evaluate(), known.train(3), known.close())
    yield from (draft.but(schema_version=1) for draft in drafts)


def _other_models(known: Known) -> Iterator[Draft]:
    """Bring a model home that is not the one its digest names, or has no digest to name it."""
    whole = known.final()
    digest = whole.config[MODEL_SHA256]
    yield from (whole.but(model_sha256=one) for one in ("0" * 64, digest.upper(), digest + "\n", "", 5, b"x", [digest]))
    yield from (replace(whole, arrays=known.filled(1.0)), whole.but(schema_version=1))
    yield replace(whole, config={key: value for key, value in whole.config.items() if key != MODEL_SHA256})


def _unasked(known: Known) -> Iterator[Draft]:
    yield from (known.train(0), known.train(1), known.evaluate(), known.final())


def _unpromised(known: Known) -> Iterator[Draft]:
    """Evaluate in a run that was to have no evaluation."""
    yield from (known.evaluate(number) for number in (1, 3))


def _attack(name: str, drafts: Drafts, *codes: Code | None, opening: Drafts = begun) -> Attack:
    return Attack(name=name, drafts=drafts, codes=frozenset(codes), opening=opening)


def _meanwhile(happening: Happening, *codes: Code | None, drafts: Drafts = _everything) -> Attack:
    return Attack(name=happening, drafts=drafts, codes=frozenset(codes), happening=happening)


ATTACKS: tuple[Attack, ...] = (
    _attack("weights that no model has", crafted.absurd_weights, Code.MALFORMED),
    _attack("weights at the bound", crafted.extreme_weights, None),
    _attack("weights next to nothing", crafted.tiny_weights, None),
    _attack("weights under which one citizen stands out", crafted.spotlights, None),
    _attack("pulls out of bounds", crafted.absurd_pulls, Code.MALFORMED),
    _attack("pulls that diverge", crafted.strong_pulls, None),
    _attack("arrays of other shapes, types and names", crafted.misshapen_arrays, Code.MALFORMED),
    _attack("arrays that are none", crafted.unreadable_arrays, Code.MALFORMED),
    _attack("cards with one field changed", crafted.changed_cards, Code.CARD_NOT_APPROVED),
    _attack("unknown cards", crafted.unknown_cards, Code.CARD_NOT_APPROVED),
    _attack("cards that are no hash", crafted.misspelled_cards, Code.MALFORMED),
    _attack("plans other than the approved one", crafted.other_plans, Code.PLAN_DIFFERS),
    _attack("plans that are none", crafted.broken_plans, Code.MALFORMED),
    _attack("terms looser than the card", crafted.looser_terms, Code.TERMS_REFUSED, opening=nothing),
    _attack("terms that are none", crafted.broken_terms, Code.MALFORMED, opening=nothing),
    _attack("terms of next to no epsilon", crafted.tightest_terms, None, opening=nothing),
    _attack("terms with a million blanks", crafted.endless_terms, Code.MALFORMED, opening=nothing),
    _attack("unknown message types", crafted.unknown_kinds, Code.MALFORMED),
    _attack("records that are missing, more or others", crafted.spoiled_records, Code.MALFORMED),
    _attack("config that breaks the contract", crafted.misspelled_config, Code.MALFORMED),
    _attack("heads that it never signed", crafted.heads_it_never_signed, Code.MALFORMED),
    _attack("heads that it signed before", _old_heads, None),
    _attack("the version before", _first_version, None),
    _attack("models that their digest does not name", _other_models, Code.MALFORMED),
    _attack("the same again", _repeats, None, Code.SUPERSEDED),
    _attack("the same round with other content", _forks, Code.REQUEST_CONFLICTS),
    _attack("rounds in another order", _reordered, None, Code.SUPERSEDED, Code.BUDGET_EXHAUSTED),
    _attack("round zero", _round_zero, None, Code.REQUEST_CONFLICTS, opening=asked),
    _attack("rounds from far away", _far_rounds, Code.BUDGET_EXHAUSTED),
    _attack("ten thousand rounds", lambda known: ten_thousand_rounds(known, 500), Code.BUDGET_EXHAUSTED),
    _attack("other federations", _federations, Code.BUDGET_EXHAUSTED, Code.NOT_READY),
    _attack("runs closed for new ones", _closings, None, Code.BUDGET_EXHAUSTED, Code.NOT_READY, opening=nothing),
    _attack("before it was asked", _unasked, Code.NOT_READY, opening=nothing),
    _attack("what was not asked for", _unpromised, Code.NOT_READY, opening=asked_without_evaluation),
    _attack("from the end", _backwards, None, Code.NOT_READY, opening=asked),
    _attack(
        "after the end", _after_the_end, None, Code.SUPERSEDED, Code.NOT_READY, Code.REQUEST_CONFLICTS, opening=ended
    ),
    _meanwhile(Happening.WITHDRAWN, Code.WITHDRAWN),
    _meanwhile(Happening.APPROVAL_EXPIRED, Code.APPROVAL_EXPIRED),
    _meanwhile(Happening.RESERVATION_EXPIRED, None, Code.NOT_READY),
    _meanwhile(Happening.OUTSIDE_HOURS, None, Code.OUTSIDE_HOURS),
    _meanwhile(Happening.NO_UPDATES, None, Code.RELEASE_NOT_ALLOWED),
    _meanwhile(Happening.NO_HISTOGRAMS, None, Code.RELEASE_NOT_ALLOWED),
    _meanwhile(Happening.POLICY_LOST, Code.CARD_NOT_APPROVED),
    _meanwhile(Happening.SET_BACK, None, Code.LEDGER_FROZEN, Code.NOT_READY, drafts=_late_heads),
    _meanwhile(Happening.RESTARTED, None, Code.BUDGET_EXHAUSTED),
)
