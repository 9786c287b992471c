"""The coordinator keeps the last head that each municipality signed, and presents it with whatever costs budget."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message

from faelles.errors import RunError
from faelles.records import CONFIG, LARGEST_HEAD, LEDGER_HEAD, Kind
from server.heads import FILE, LedgerHeads
from tests.builders import build_card
from tests.scripted import NAMES, Answering, Town, only

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
    kept = LedgerHeads(town.folder / "run")
    for name, messages in passed.items():
        latest = None
        for kind, went, came in messages:
            assert went == (latest if kind in WORK else None)
            assert (came is not None) == (kind in WORK)
            latest = came or latest
        assert kept.last(name) == latest
    assert len({kept.last(name) for name in NAMES}) == len(NAMES)


def test_a_resumed_run_presents_the_heads_that_came_last_also_after_its_checkpoint(tmp_path: Path) -> None:
    passed: list[tuple[str, str | None, str | None]] = []
    town = Town(tmp_path, CARD)
    for name in NAMES:
        town.at(name, watched(passed))
    town.run()
    evaluated = [came for kind, _, came in passed if kind == Kind.EVALUATE][-len(NAMES) :]
    town.run(resume=True)
    ready = [one for one in town.grid.sent if one.metadata.message_type == Kind.READY]
    assert {head_in(one) for one in ready} == set(evaluated)


def test_a_file_of_heads_that_cannot_be_read_ends_in_one_line(tmp_path: Path) -> None:
    for text in ("", "[]", "\x00", "{"):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(RunError, match="it cannot be read; restore it"):
            LedgerHeads(tmp_path)


def test_a_head_that_is_too_large_is_a_faulty_answer(tmp_path: Path) -> None:
    def swell(message: Message, reply: Message) -> list[Message]:
        reply.content.config_records[CONFIG][LEDGER_HEAD] = "x" * (LARGEST_HEAD + 1)
        return [reply]

    town = Town(tmp_path, CARD).at("0751", only(Kind.TRAIN, 2, swell))
    record = town.run()
    assert record.rounds[1].rejected == {"0751": "ledger-head: expected at most 50000 letters, more came"}
    assert len(LedgerHeads(town.folder / "run").last("0751") or "") < LARGEST_HEAD


def test_a_later_head_is_kept_whatever_comes_after_it(tmp_path: Path) -> None:
    heads = LedgerHeads(tmp_path)
    for text in ('{"number":3}', '{"number":5}', '{"number":4}', "nonsense", '{"number":true}', '{"number":"9"}', "[]"):
        heads.keep("0101", text)
    heads.save()
    assert LedgerHeads(tmp_path).last("0101") == '{"number":5}'
