"""A cohort refuses what the production agents refuse, with the same words, whatever a hostile coordinator sends."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from faelles.records import CONFIG, DECLARED_SIZE, LEDGER_HEAD, MODEL_SHA256, MUNICIPALITY, PROXIMAL_MU, Code
from faelles.terms import RunTerms
from simulations.grid import FIRST_NODE_ID, SimulationGrid
from tests.builders import FEDERATION, OTHER_FEDERATION, build_sites, personal_card
from tests.cohorts import build_cohort, build_reference
from tests.crafted import Draft, Known
from tests.hostile import ATTACKS, Attack, Coordinator

CARD = personal_card()
CAP = 2.5  # as a hostile coordinator meets it in `tests.privacy`
SITES = {"0101": 60, "0147": 40, "0400": 0}
NOBODY = FIRST_NODE_ID + 2
HEADS = (  # which no simulated account signs
    "heads that it signed before", "heads that it never signed", "the store is set back to before the run",
)  # fmt: skip


def known() -> Known:
    return Known(card=CARD, declared_size=50, federation=FEDERATION, others=(OTHER_FEDERATION,), foreign="{}")


def shown(reply: Message) -> tuple[object, ...]:
    """Tell all that a reply shows but numbers, and a head, which no simulated account signs."""
    if reply.has_error():
        return reply.error.code, reply.error.reason
    config = {key: value for key, value in reply.content.config_records[CONFIG].items() if key != LEDGER_HEAD}
    arrays = [(name, one.dtype, one.shape) for name, one in next(iter(reply.content.array_records.values())).items()]
    return config, arrays


def replies_to(grid: SimulationGrid, drafts: list[Draft], node: int = FIRST_NODE_ID) -> list[tuple[object, ...]]:
    with grid:
        coordinator = Coordinator(grid, node, known())
        return [shown(coordinator.send(draft)) for draft in drafts]


def check_alike(folder: Path, drafts: list[Draft], node: int = FIRST_NODE_ID) -> list[tuple[object, ...]]:
    """Send the same to a cohort and to production agents; what both show."""
    sites = build_sites(SITES)
    ours = replies_to(build_cohort(folder, CARD, sites, epsilon_cap=CAP), drafts, node)
    theirs = replies_to(build_reference(folder, CARD, sites, epsilon_cap=CAP), drafts, node)
    assert ours == theirs
    return ours


def names_of(attack: Attack) -> str:
    return attack.name.replace(" ", "-")


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.name not in HEADS], ids=names_of)
def test_an_attack_gets_what_the_production_agent_answers(tmp_path: Path, attack: Attack) -> None:
    drafts = itertools.islice(itertools.chain(attack.opening(known()), attack.drafts(known())), 40)
    check_alike(tmp_path, [draft for draft in drafts if LEDGER_HEAD not in draft.config])


def terms(**fields: Any) -> str:
    return RunTerms(**({"epsilon": 2.0, "rounds": 3} | fields)).model_dump_json()


def other_plan(**fields: Any) -> str:
    plan = RunTerms.of(CARD).plan(CARD, 50)
    return dataclasses.replace(plan, **fields).to_json()


BAD = {"output.weight": np.full((1, 5), np.nan, np.float32)}
REFUSED: Mapping[str, tuple[Code, Callable[[Known], tuple[Draft, ...]]]] = {
    "unknown card": (Code.CARD_NOT_APPROVED, lambda k: (k.ready().but(card_sha256="0" * 64),)),
    "more epsilon": (Code.TERMS_REFUSED, lambda k: (k.ready(terms(epsilon=2.6)),)),
    "more epsilon than the card's": (Code.TERMS_REFUSED, lambda k: (k.ready(terms(epsilon=2.2)),)),
    "no privacy": (Code.TERMS_REFUSED, lambda k: (k.ready('{"epsilon":"Infinity","rounds":3}'),)),
    "more rounds": (Code.TERMS_REFUSED, lambda k: (k.ready(terms(rounds=4)),)),
    "no terms": (Code.MALFORMED, lambda k: (k.ready("{}"),)),
    "other terms": (Code.REQUEST_CONFLICTS, lambda k: (k.ready(), k.ready(terms(rounds=2)))),
    "the same terms in other words": (Code.REQUEST_CONFLICTS, lambda k: (k.ready(), k.ready(terms() + " "))),
    "training unasked": (Code.NOT_READY, lambda k: (k.train(1),)),
    "evaluation unasked": (Code.NOT_READY, lambda k: (k.evaluate(),)),
    "a model unasked": (Code.NOT_READY, lambda k: (k.final(),)),
    "another federation": (Code.NOT_READY, lambda k: (k.ready(), k.train(1).but(federation=OTHER_FEDERATION))),
    "evaluation excluded": (Code.NOT_READY, lambda k: (k.ready(terms(evaluate=False)), k.evaluate())),
    "a round too many": (Code.BUDGET_EXHAUSTED, lambda k: (k.ready(), k.train(4))),
    "a round too many of fewer": (
        Code.BUDGET_EXHAUSTED, lambda k: (k.ready(terms(rounds=2)), k.train(3, plan=k.plan(terms(rounds=2)))),
    ),
    "less noise": (Code.PLAN_DIFFERS, lambda k: (k.ready(), k.train(1).but(plan=other_plan(noise_multiplier=0.1)))),
    "another size": (Code.PLAN_DIFFERS, lambda k: (k.ready(), k.train(1).but(plan=other_plan(declared_size=100)))),
    "another plan and no model": (
        Code.PLAN_DIFFERS, lambda k: (k.ready(), k.train(1, BAD).but(plan=other_plan(local_steps=3))),
    ),
    "no model to train": (Code.MALFORMED, lambda k: (k.ready(), k.train(1, BAD))),
    "no model to evaluate": (Code.MALFORMED, lambda k: (k.ready(), k.evaluate(arrays=BAD))),
    "no model at the end": (Code.MALFORMED, lambda k: (k.ready(), k.final(BAD))),
    "no plan": (Code.MALFORMED, lambda k: (k.ready(), k.train(1).but(plan="{}"))),
    "an endless pull": (Code.MALFORMED, lambda k: (k.ready(), k.train(1).but(**{PROXIMAL_MU: 100.0}))),
    "a pull in words": (Code.MALFORMED, lambda k: (k.ready(), k.train(1).but(**{PROXIMAL_MU: "0.1"}))),
    "endless rounds": (Code.TERMS_REFUSED, lambda k: (k.ready(terms(rounds=2**40)),)),
    "another model for the same round": (
        Code.REQUEST_CONFLICTS, lambda k: (k.ready(), k.train(1), k.train(1, k.filled(0.25))),
    ),
    "a round that is long over": (
        Code.SUPERSEDED, lambda k: (k.ready(), k.train(2), k.train(3), k.train(1)),
    ),
    "a second evaluation": (
        Code.BUDGET_EXHAUSTED, lambda k: (k.ready(), k.evaluate(2), k.evaluate(3)),
    ),
    "an evaluation of a round too many": (Code.BUDGET_EXHAUSTED, lambda k: (k.ready(), k.evaluate(4))),
    "another final model": (Code.REQUEST_CONFLICTS, lambda k: (k.ready(), k.final(), k.final(k.filled(0.25)))),
    "a final model of another digest": (
        Code.MALFORMED, lambda k: (k.ready(), k.final().but(**{MODEL_SHA256: "0" * 64})),
    ),
    "training after the end": (Code.NOT_READY, lambda k: (k.ready(), k.train(1), k.close(), k.train(2))),
    "a round too many after the end": (Code.NOT_READY, lambda k: (k.ready(), k.close(), k.train(4))),
    "evaluation after the end": (Code.NOT_READY, lambda k: (k.ready(), k.close(), k.evaluate())),
    "a second run beyond the budget": (
        Code.BUDGET_EXHAUSTED, lambda k: (k.ready(), k.ready().but(federation=OTHER_FEDERATION)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_the_production_agents_word_by_word(tmp_path: Path, name: str) -> None:
    code, drafts = REFUSED[name]
    *_, last = check_alike(tmp_path, list(drafts(known())))
    cap = f" (cap {CAP:g})" if code == Code.TERMS_REFUSED or name.startswith("a second run") else ""
    assert last == (code, code.text + cap)


def test_who_has_no_citizens_says_so_whatever_is_asked(tmp_path: Path) -> None:
    found = check_alike(tmp_path, list(known().everything()), NOBODY)
    assert set(found) == {(Code.NO_DATA, "no-data")}


def test_an_honest_run_is_answered_alike(tmp_path: Path) -> None:
    honest = known()
    rounds = [honest.train(number) for number in (1, 2, 3)]
    ready, *_ = check_alike(
        tmp_path, [honest.ready(), *rounds, honest.evaluate(), honest.ready(), honest.final(), honest.close()]
    )
    config = ready[0]
    assert isinstance(config, dict)
    assert (config[MUNICIPALITY], config[DECLARED_SIZE]) == ("0101", 50)


def test_some_are_refused_and_the_others_of_the_same_messages_trained(tmp_path: Path) -> None:
    with build_cohort(tmp_path, CARD, build_sites(SITES), epsilon_cap=CAP) as grid:
        list(grid.send_and_receive([known().ready().message(node) for node in (FIRST_NODE_ID, NOBODY)]))
        train = known().train(1)
        replies = list(grid.send_and_receive([train.message(node) for node in grid.get_node_ids()]))
    codes = [reply.error.code if reply.has_error() else None for reply in replies]
    assert codes == [None, Code.NOT_READY, Code.NO_DATA]
