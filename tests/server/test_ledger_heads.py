"""The coordinator keeps the last head that each municipality signed, and presents it with whatever costs budget."""

import uuid
from collections.abc import Callable
from pathlib import Path

from flwr.app import Message

from faelles.records import CONFIG, LARGEST_HEAD, LEDGER_HEAD, Kind
from server.heads import FILE, LedgerHeads
from tests.builders import OTHER_FEDERATION, build_card, build_policy
from tests.scripted import NAMES, Answering, Town, only, silence

CARD = build_card()
WORK = (Kind.READY, Kind.TRAIN, Kind.EVALUATE)


def head_in(message: Message) -> str | None:
    config = message.content.config_records[CONFIG]
    return str(config[LEDGER_HEAD]) if LEDGER_HEAD in config else None


def watched(passed: list[tuple[str, str | None, str | None]]) -> Callable[[Answering], Answering]:
    """Note of each message its type and the heads that went and came with it."""

    def change(answering: Answering) -> Answering:
        def answer(message: Message) -> list[Message]:
            (reply,) = answering(message)
            passed.append((message.metadata.message_type, head_in(message), head_in(reply)))
            return [reply]

        return answer

    return change


def test_each_municipality_is_shown_the_head_that_it_signed_last(tmp_path: Path) -> None:
    passed: dict[str, list[tuple[str, str | None, str | None]]] = {name: [] for name in NAMES}
    town = Town(tmp_path, CARD)
    for name in NAMES:
        town.at(name, watched(passed[name]))
    town.run()
    kept = LedgerHeads(town.folder / "run" / FILE)
    for name, messages in passed.items():
        latest = None
        for kind, went, came in messages:
            assert went == (latest if kind in WORK else None)
            assert (came is not None) == (kind in WORK)
            latest = came or latest
        assert kept.last(name) == latest
    assert len({kept.last(name) for name in NAMES}) == len(NAMES)
    kept.close()


def test_a_resumed_run_presents_the_heads_that_came_last_also_after_its_checkpoint(tmp_path: Path) -> None:
    passed: list[tuple[str, str | None, str | None]] = []
    town = Town(tmp_path, CARD)
    for name in NAMES:
        town.at(name, watched(passed))
    for name in NAMES[1:]:
        town.at(name, only(Kind.EVALUATE, None, silence))
    assert town.run().status == "incomplete"
    evaluated = [came for kind, _, came in passed if kind == Kind.EVALUATE and came]
    trained = [came for kind, _, came in passed if kind == Kind.TRAIN][-len(NAMES) :]
    town.run(resume=True)
    ready = [one for one in town.grid.sent if one.metadata.message_type == Kind.READY]
    # The others evaluated too, but their answers never came.
    assert {head_in(one) for one in ready} == {evaluated[0], *trained[1:]}


def test_a_head_that_is_too_large_is_a_faulty_answer(tmp_path: Path) -> None:
    def swell(message: Message, reply: Message) -> list[Message]:
        reply.content.config_records[CONFIG][LEDGER_HEAD] = "x" * (LARGEST_HEAD + 1)
        return [reply]

    town = Town(tmp_path, CARD).at("0751", only(Kind.TRAIN, 2, swell))
    record = town.run()
    assert record.rounds[1].rejected == {"0751": "ledger-head: expected at most 50000 letters, more came"}
    kept = LedgerHeads(town.folder / "run" / FILE)
    assert 0 < len(kept.last("0751") or "") < LARGEST_HEAD
    kept.close()


def test_two_federations_share_the_heads_of_one_coordinator(tmp_path: Path) -> None:
    passed: list[tuple[str, str | None, str | None]] = []
    town, shared = Town(tmp_path, CARD), tmp_path / "heads.sqlite"
    for agent in town.agents.values():
        agent.restart(policy=build_policy(CARD, agent.policy.municipality, epsilon_cap=4.0))
    for name in NAMES:
        town.at(name, watched(passed))
    town.run(heads=shared)
    last = {came for kind, _, came in passed if kind == Kind.EVALUATE}
    town.run(heads=shared, federation=uuid.UUID(OTHER_FEDERATION), folder=tmp_path / "second")
    ready = [one for one in town.grid.sent if one.metadata.message_type == Kind.READY]
    assert {head_in(one) for one in ready} == last
    assert not (tmp_path / "run" / FILE).exists()
