"""Nothing passes the gate but what a mechanism made and what policy, approval and ledger state in public."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from client import head, node
from client.admission import EXACT
from client.egress import Blocked, Gate
from client.keys import Signer
from client.store import Store
from faelles.metrics import HISTOGRAM
from faelles.models import shared_shapes
from faelles.privacy.accountant import Event
from faelles.privacy.release import Release
from faelles.privacy.update import TrainingRelease
from faelles.records import LARGEST_HEAD, LEDGER_HEAD, Answer, Code, Constants, Kind, Request, parse_answer
from faelles.terms import RunTerms
from tests.books import NOW, SEED
from tests.builders import DECLARED_SIZE, FEDERATION, Agent, build_card, code_of, content_bytes

CARD = build_card()
SIGNER = Signer.from_seed(SEED)
EVENT = Event(sampling_rate=0.1, noise_multiplier=2.0, steps=10)
PRIVATE = "0101701234"  # what looks like a CPR number
UPDATE = {name: np.full(shape, 0.5, np.float32) for name, shape in shared_shapes(CARD).items()}
COUNTS = {HISTOGRAM: np.ones((2, CARD.evaluation.bins), np.float32)}
MADE: dict[Kind, dict[str, np.ndarray]] = {Kind.TRAIN: UPDATE, Kind.EVALUATE: COUNTS}
SILENT = (Kind.READY, Kind.FINAL, Kind.CLOSE)  # the kinds that are answered without arrays


class Array(np.ndarray):
    """Be an array that can carry a text along."""


class Arrays(dict[str, Any]):
    """Be a mapping that can carry a text along."""


class Name(str):
    """Be a name that says more than it equals."""

    __slots__ = ("more",)


@dataclass(frozen=True, kw_only=True)
class More(Release):
    """Be a release that carries a text along."""

    more: str = PRIVATE


@dataclass(frozen=True, kw_only=True)
class MoreConstants(Constants):
    """Be constants that carry a text along."""

    more: str = PRIVATE


class Cheap(Event):
    """Be an event that equals every other."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = Event.__hash__


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Sign a head of ours, and one of somebody else."""
    store = Store(tmp_path_factory.mktemp("store") / "agent.sqlite", durable=False)
    yield head.sign(store.database, SIGNER, NOW), head.sign(store.database, Signer.from_seed(SEED[::-1]), NOW)
    store.close()


def constants_of(kind: Kind, own: str) -> Constants:
    return {
        Kind.READY: Constants(municipality="0101", declared_size=50, ledger_head=own),
        Kind.TRAIN: Constants(ledger_head=own),
        Kind.EVALUATE: Constants(ledger_head=own),
    }.get(kind, Constants())


def clear(kind: Kind, constants: Any, release: Any = None, event: Any = None) -> Answer:
    request = Request(kind=kind, federation=FEDERATION, server_round=1, card_sha256=CARD.sha256)
    return Gate(municipality="0101", signer=SIGNER).clear(request, CARD, 50, constants, release, event)


def blocked(caplog: pytest.LogCaptureFixture, kind: Kind, *parts: Any) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(Blocked) as caught:
        clear(kind, *parts)
    assert str(caught.value) == ""
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert f"event=blocked kind={kind}" in caplog.text
    assert PRIVATE not in caplog.text


# what passes


@pytest.mark.parametrize("kind", Kind)
def test_what_may_leave_leaves_as_it_is(heads: tuple[str, str], kind: Kind) -> None:
    constants = constants_of(kind, heads[0])
    release, event = (Release(arrays=MADE[kind], event=EVENT), EVENT) if kind in MADE else (None, None)
    answer = clear(kind, constants, release, event)
    assert (answer.federation, answer.server_round, answer.card_sha256) == (FEDERATION, 1, CARD.sha256)
    assert answer.extra == constants.config
    assert answer.arrays == MADE.get(kind, {})


@pytest.mark.parametrize("kind", MADE)
def test_a_release_without_noise_leaves_where_everything_was_charged(heads: tuple[str, str], kind: Kind) -> None:
    for event in (None, EXACT):
        clear(kind, constants_of(kind, heads[0]), Release(arrays=MADE[kind], event=event), EXACT)


# what is smuggled among the arrays


def subclassed(array: np.ndarray) -> Array:
    viewed = array.view(Array)
    viewed.more = PRIVATE  # type: ignore[attr-defined]
    return viewed


def renamed(name: str) -> Name:
    other = Name(name)
    other.more = PRIVATE  # type: ignore[attr-defined]
    return other


def wrong_arrays(made: dict[str, Any]) -> dict[str, Any]:
    """List what are not the arrays of a release, by what is wrong with them."""
    first, array = next(iter(made.items()))
    return {
        "a key more": made | {"rows": np.zeros(1, np.float32)},
        "a key less": {name: value for name, value in made.items() if name != first},
        "none": {},
        "another name": {name + "s": value for name, value in made.items()},
        "another order": dict(reversed(made.items())) | ({"more": array} if len(made) == 1 else {}),
        "a larger shape": made | {first: np.zeros((*array.shape, 2), np.float32)},
        "a row more": made | {first: np.concatenate([array, array])},
        "float64": made | {first: array.astype(np.float64)},
        "float16": made | {first: array.astype(np.float16)},
        "whole numbers": made | {first: array.astype(np.int32)},
        "the other byte order": made | {first: array.astype(">f4")},
        "objects": made | {first: np.full(array.shape, PRIVATE, dtype=object)},
        "text": made | {first: np.full(array.shape, PRIVATE)},
        "fields": made | {first: np.zeros(array.shape, [(PRIVATE, "<f4")])},
        "no number": made | {first: np.full_like(array, np.nan)},
        "infinity": made | {first: np.full_like(array, np.inf)},
        "far too much": made | {first: np.full_like(array, 1.1e6)},
        "an array of another class": made | {first: subclassed(array)},
        "a masked array": made | {first: np.ma.masked_array(array)},
        "a list for an array": made | {first: array.tolist()},
        "a number for an array": made | {first: 0.5},
        "a text for an array": made | {first: PRIVATE},
        "nothing for an array": made | {first: None},
        "a name of another class": {renamed(name): value for name, value in made.items()},
        "a mapping of another class": Arrays(made),
        "a mapping that is no dict": MappingProxyType(made),
        "a list of arrays": list(made.values()),
        "a list of pairs": list(made.items()),
        "a text": PRIVATE,
    }


def among(kind: Kind) -> dict[str, Any]:
    """List what is no release of this kind, by what is wrong with it."""
    made = MADE[kind]
    array = next(iter(made.values()))
    whole = Release(arrays=made, event=EVENT)
    wrong = {name: Release(arrays=arrays, event=EVENT) for name, arrays in wrong_arrays(made).items()}
    return wrong | {
        "no release": None,
        "a bare number": 0.5,
        "a bare count": 17,
        "a bare text": PRIVATE,
        "a bare array": array,
        "bare arrays": made,
        "a list": [whole],
        "a release of another class": More(arrays=made, event=EVENT),
        "the class itself": Release,
        "a training release": TrainingRelease(update=whole, local={"output.bias": array}),
        "an exception": ValueError(PRIVATE),
        "a release without an event": Release(arrays=made, event=None),
        "a release of a dearer event": Release(arrays=made, event=replace(EVENT, steps=11)),
        "a release of a cheaper event": Release(arrays=made, event=replace(EVENT, noise_multiplier=2.1)),
        "a release of an event that equals all": Release(
            arrays=made, event=Cheap(sampling_rate=1.0, noise_multiplier=0.0, steps=1)
        ),
        "a release of a text for an event": Release(arrays=made, event=PRIVATE),  # type: ignore[arg-type]
    }


CASES = [(kind, name) for kind in MADE for name in among(kind)]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_whatever_is_no_release_is_blocked(
    heads: tuple[str, str], caplog: pytest.LogCaptureFixture, kind: Kind, name: str
) -> None:
    blocked(caplog, kind, constants_of(kind, heads[0]), among(kind)[name], EVENT)


@pytest.mark.parametrize("event", [None, EXACT, replace(EVENT, steps=9), "an event", 0.5])
def test_a_release_that_was_charged_otherwise_is_blocked(
    heads: tuple[str, str], caplog: pytest.LogCaptureFixture, event: Any
) -> None:
    for kind, arrays in MADE.items():
        blocked(caplog, kind, constants_of(kind, heads[0]), Release(arrays=arrays, event=EVENT), event)


@pytest.mark.parametrize("kind", SILENT)
@pytest.mark.parametrize("release", [Release(arrays={}, event=None), Release(arrays=UPDATE, event=EVENT), 0.5, {}, ""])
def test_kinds_that_are_answered_without_arrays_carry_none(
    heads: tuple[str, str], caplog: pytest.LogCaptureFixture, kind: Kind, release: Any
) -> None:
    blocked(caplog, kind, constants_of(kind, heads[0]), release)
    blocked(caplog, kind, constants_of(kind, heads[0]), None, EVENT)


@pytest.mark.parametrize(("kind", "other"), [(Kind.TRAIN, Kind.EVALUATE), (Kind.EVALUATE, Kind.TRAIN)])
def test_a_release_of_one_kind_does_not_answer_another(
    heads: tuple[str, str], caplog: pytest.LogCaptureFixture, kind: Kind, other: Kind
) -> None:
    blocked(caplog, kind, constants_of(kind, heads[0]), Release(arrays=MADE[other], event=EVENT), EVENT)


# what is smuggled among the constants


def beside(own: str, foreign: str) -> dict[str, Any]:
    """List what are no constants of a ready answer, by what is wrong with them."""
    good = Constants(municipality="0101", declared_size=50, ledger_head=own)
    more = Constants(municipality="0101", declared_size=50, ledger_head=own)
    object.__setattr__(more, "rows", PRIVATE)
    return {
        "constants of another class": MoreConstants(municipality="0101", declared_size=50, ledger_head=own),
        "constants with a field more": more,
        "a dict": good.config,
        "a text": PRIVATE,
        "a number": 17,
        "nothing": None,
        "an exception": RuntimeError(PRIVATE),
        "the class itself": Constants,
        "another municipality": replace(good, municipality="0147"),
        "a text for the municipality": replace(good, municipality=PRIVATE),
        "a number for the municipality": replace(good, municipality=101),  # type: ignore[arg-type]
        "a name of another class": replace(good, municipality=renamed("0101")),
        "no municipality": replace(good, municipality=None),
        "another size": replace(good, declared_size=100),
        "the true count": replace(good, declared_size=57),
        "a float for the size": replace(good, declared_size=50.0),  # type: ignore[arg-type]
        "a truth for the size": replace(good, declared_size=True),
        "a text for the size": replace(good, declared_size="50"),  # type: ignore[arg-type]
        "no size": replace(good, declared_size=None),
        "a foreign head": replace(good, ledger_head=foreign),
        "a text for the head": replace(good, ledger_head=PRIVATE),
        "a head with a text behind it": replace(good, ledger_head=own + " "),
        "a head with a text in it": replace(good, ledger_head=own.replace("{", f'{{"rows":"{PRIVATE}",')),
        "a head that is too long": replace(good, ledger_head=own + " " * LARGEST_HEAD),
        "a head of another class": replace(good, ledger_head=renamed(own)),
        "a number for the head": replace(good, ledger_head=7),  # type: ignore[arg-type]
        "no head": replace(good, ledger_head=None),
    }


@pytest.mark.parametrize("name", beside("", ""))
def test_whatever_is_no_public_constant_is_blocked(
    heads: tuple[str, str], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    blocked(caplog, Kind.READY, beside(*heads)[name])


def test_a_size_of_one_is_not_said_by_a_truth(heads: tuple[str, str]) -> None:
    request = Request(kind=Kind.READY, federation=FEDERATION, server_round=1, card_sha256=CARD.sha256)
    gate = Gate(municipality="0101", signer=SIGNER)
    truth = Constants(municipality="0101", declared_size=True, ledger_head=heads[0])
    with pytest.raises(Blocked):
        gate.clear(request, CARD, 1, truth)
    gate.clear(request, CARD, 1, replace(truth, declared_size=1))


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_says_exactly_its_own_constants(
    heads: tuple[str, str], caplog: pytest.LogCaptureFixture, kind: Kind
) -> None:
    release, event = (Release(arrays=MADE[kind], event=EVENT), EVENT) if kind in MADE else (None, None)
    sayings: Mapping[tuple[str, ...], Constants] = {
        tuple(one.config): one
        for one in (
            Constants(municipality=municipality, declared_size=size, ledger_head=own)
            for municipality in (None, "0101")
            for size in (None, 50)
            for own in (None, heads[0])
        )
    }
    own_keys = tuple(constants_of(kind, heads[0]).config)
    assert own_keys in sayings
    for keys, constants in sayings.items():
        if keys == own_keys:
            clear(kind, constants, release, event)
        else:
            blocked(caplog, kind, constants, release, event)


# over the node: journalled, answered with a code, and nothing spent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path, CARD)
    agent.ready()
    yield agent
    agent.store.close()


def check_stopped(agent: Agent, kind: Kind) -> None:
    """Check that the last reply says `failed`, that a line says `blocked`, and that all else is as it was."""
    reply = agent.messages[-1]
    assert (code_of(reply), reply.error.reason) == (Code.FAILED, "failed")
    line = agent.journal()[-1]
    assert (line["outcome"], line["kind"], line["bytes"], line["sha256"]) == ("blocked", kind, len("failed"), "")
    assert (line["epsilon"], line["federation"], line["card"]) == (None, FEDERATION, CARD.sha256)
    assert PRIVATE not in str(agent.journal())
    assert agent.releases() == agent.releases("held-out") == 0
    assert not agent.spent().any()
    assert agent.store.database.execute("SELECT COUNT(*) FROM outbox").fetchone() == (0,)
    assert agent.local_state(9) is None


@pytest.mark.parametrize("name", [name for kind, name in CASES if kind is Kind.TRAIN])
def test_a_mechanism_that_gives_something_else_is_stopped_and_nothing_is_spent(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    planned = RunTerms.of(CARD).plan(CARD, DECLARED_SIZE).round_event
    smuggled = among(Kind.TRAIN)[name]
    if type(smuggled) is Release and type(smuggled.event) is Event and smuggled.event == EVENT:
        smuggled = replace(smuggled, event=planned)  # so that what else is wrong with it shows
    with monkeypatch.context() as patch:
        patch.setattr(node, "release_update", lambda *_: TrainingRelease(update=smuggled, local={}))
        agent.train(1)
    check_stopped(agent, Kind.TRAIN)
    assert PRIVATE not in caplog.text
    # What stopped it is forgotten with it: the same request is answered now.
    assert code_of(agent.train(1)) is None


@pytest.mark.parametrize("name", ["a bare number", "a key more", "a release without an event", "an exception", "text"])
def test_an_evaluation_that_gives_something_else_is_stopped_and_nothing_is_spent(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(node, "release_histogram", lambda *_: among(Kind.EVALUATE)[name])
    agent.ask(Kind.EVALUATE, 3, arrays=agent.start())
    check_stopped(agent, Kind.EVALUATE)


@pytest.mark.parametrize("kind", [Kind.READY, Kind.FINAL, Kind.CLOSE])
def test_other_constants_are_stopped_and_what_was_done_for_them_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    agent = Agent(tmp_path, CARD)
    if kind is not Kind.READY:
        agent.ready()
    before = agent.store.database.execute("SELECT COUNT(*) FROM ledger").fetchone()
    with monkeypatch.context() as patch:
        patch.setattr(node, "Constants", lambda **_: MoreConstants())
        agent.ready() if kind is Kind.READY else agent.ask(kind, 3, arrays=agent.start())
    check_stopped(agent, kind)
    assert agent.store.database.execute("SELECT COUNT(*) FROM ledger").fetchone() == before
    assert agent.model() is None


def test_an_answer_that_was_changed_on_disk_is_not_sent_again(agent: Agent) -> None:
    agent.train(1)
    kept = Answer.unpack(agent.store.database.execute("SELECT answer FROM outbox").fetchone()[0])
    changed = replace(kept, arrays={name: array * 2 for name, array in kept.arrays.items()})
    agent.store.database.execute("UPDATE outbox SET answer = ?", (changed.pack(),))
    assert code_of(agent.train(1)) is Code.FAILED
    assert agent.journal()[-1]["outcome"] == "blocked"
    agent.store.database.execute("UPDATE outbox SET answer = ?", (kept.pack(),))
    assert LEDGER_HEAD in parse_answer(agent.train(1)).extra
    assert content_bytes(agent.messages[-1]) == content_bytes(agent.messages[3])
