"""Whatever comes in - messages, people's files, a damaged store - one line or a constant code comes out."""

import copy
import logging
import random
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from client import head, ledger
from client.home import AGENT, Home
from client.keys import Signer
from client.ledger import TRAINING
from client.policy import LARGEST_EPSILON, Policy, load_policy, policy_or_nothing
from client.store import Store
from faelles.card import load_card
from faelles.errors import CardError, ConfigError, FaellesError, LedgerError, PolicyError
from faelles.privacy.accountant import Curve
from faelles.records import CONFIG, LEDGER_HEAD, PLAN, TERMS, Code, Kind, Request, request_content
from faelles.terms import RunTerms
from tests import mutations
from tests.builders import DECLARED_SIZE, Agent, code_of, identify
from tests.custody import Place
from tests.scrutiny import LEARNED, Scrutiny, hashes, open_agent, spent

Read = TypeVar("Read")
MESSAGES_OF_ONE_STORE = 60
NODE = 1001
ROUNDING = 1e-9
FEDERATIONS = [str(uuid.UUID(int=number)) for number in range(1, 5)]
ASKED = (Kind.READY, Kind.READY, Kind.TRAIN, Kind.TRAIN, Kind.TRAIN, Kind.EVALUATE, Kind.FINAL, Kind.CLOSE)
TERMS_OF_ALL = RunTerms(epsilon=1.0, rounds=3)
PLAN_OF_ALL = TERMS_OF_ALL.plan(LEARNED, DECLARED_SIZE)
TEMPLATES = files("client").joinpath("templates")
POLICY_TEXT = (
    TEMPLATES.joinpath("policy.en.yaml").read_text(encoding="utf-8")
    .replace("cards: []", "cards: [bicycle-repair]")
    .replace("people: {}", 'people: {Ann: "ed25519:abc", Bo: "ed25519:cba"}')
    .replace("working_hours: null", 'working_hours: {days: [mon, tue], start: "07:00", end: "18:00"}')
)  # fmt: skip
SETTINGS_TEXT = (
    TEMPLATES.joinpath("agent.da.yaml").read_text(encoding="utf-8").replace("@MUNICIPALITY@", "0101")
    + """\
  cyklister:
    citizen: cpr
    special_categories: false
    held_out: 0.2
    source: {location: borgere.csv, encoding: windows-1252, delimiter: ";", decimal: ",", password_env: KODE}
    columns: {age: alder}
    values:
      sex: {K: f, M: m}
"""
)
CARD_PATH = Path(__file__).parents[2] / "catalogue" / "elder_admission" / "card.yaml"


def cases(few: int, many: int) -> pytest.MarkDecorator:
    """Give the number of cases for `make test`, and for `make soak`."""
    return pytest.mark.parametrize(
        "count", [few, pytest.param(many, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
    )


@contextmanager
def case(seed: int) -> Iterator[None]:
    """Name the seed of a case that fails."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


# people's files


@cases(80, 1600)
def test_a_policy_in_any_state_is_read_or_refuses_everything_in_one_line(tmp_path: Path, count: int) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY_TEXT, encoding="utf-8")
    load_policy(path)
    for seed, rng in mutations.seeds(random.getrandbits(32), count):
        path.write_bytes(mutations.text(rng, POLICY_TEXT))
        with case(seed):
            policy = read_or_one_line(partial(load_policy, path), PolicyError)
            if policy is None:
                assert policy_or_nothing(path) == Policy()
            else:
                assert min(policy.special.epsilon, policy.otherwise.epsilon) > 0
                assert max(policy.special.epsilon, policy.otherwise.epsilon) <= LARGEST_EPSILON


@cases(50, 1000)
def test_settings_in_any_state_are_read_or_refused_in_one_line(tmp_path: Path, count: int) -> None:
    read_each(tmp_path / AGENT, SETTINGS_TEXT, lambda path: Home.open(path.parent), ConfigError, count)


@cases(50, 1000)
def test_a_card_in_any_state_is_read_or_refused_in_one_line(tmp_path: Path, count: int) -> None:
    text = CARD_PATH.read_text(encoding="utf-8")
    read_each(tmp_path / "card.yaml", text, load_card, CardError, count)


def read_each(path: Path, text: str, read: Callable[[Path], object], expected: type[FaellesError], count: int) -> None:
    """Read a file in many states."""
    path.write_text(text, encoding="utf-8")
    read(path)
    for seed, rng in mutations.seeds(random.getrandbits(32), count):
        path.write_bytes(mutations.text(rng, text))
        with case(seed):
            read_or_one_line(lambda: read(path), expected)


def read_or_one_line(read: Callable[[], Read], expected: type[FaellesError]) -> Read | None:
    """Read something, or see that it is refused in one line; None where it is."""
    try:
        return read()
    except expected as error:
        refused = error
    assert mutations.one_line(refused)
    return None


# messages


@cases(250, 5000)
def test_a_message_in_any_state_is_answered_with_what_was_paid_for_or_with_a_code(
    tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    for seed, rng in mutations.seeds(random.getrandbits(32), -(-count // MESSAGES_OF_ONE_STORE)):
        with case(seed), caplog.at_level(logging.DEBUG):
            folder = tmp_path / str(seed)
            send_many(folder, rng, min(count, MESSAGES_OF_ONE_STORE))
            assert not [record for record in caplog.records if record.exc_info or "\n" in record.getMessage()]
            caplog.clear()
            shutil.rmtree(folder)


def send_many(folder: Path, rng: random.Random, count: int) -> None:
    """Send valid and spoiled messages to one municipality."""
    strange = [lost_head(folder / "lost"), foreign_head(folder / "foreign")]
    agent = open_agent(folder)
    scrutiny = Scrutiny(agent)
    asked: list[tuple[str, RecordDict]] = []
    for _ in range(count):
        kind, content = rng.choice(asked) if asked and rng.random() < 0.2 else some_request(rng, agent)
        if rng.random() < 0.5:
            scrutiny.send(addressed(kind, content))
            asked.append((kind, content))
        heads = [*scrutiny.heads[-4:], *strange]
        kind, content = mutations.message(rng, kind, copy.deepcopy(content), heads)
        scrutiny.send(addressed(kind, content))
        if head.frozen(agent.store.database):
            assert content.config_records[CONFIG][LEDGER_HEAD] == strange[0]
            reply = scrutiny.send(addressed(*some_request(rng, agent, (Kind.READY,))))
            assert code_of(reply) is Code.LEDGER_FROZEN
            with agent.store.transaction() as database:
                head.recover(database, agent.signer, ledger.utc_now())
    agent.store.close()


def addressed(kind: str, content: RecordDict) -> Message:
    """Address a message, of whatever type."""
    identify()
    message = Message(copy.deepcopy(content), NODE, Kind.READY)
    message.metadata.message_type = kind
    return message


def some_request(rng: random.Random, agent: Agent, kinds: tuple[Kind, ...] = ASKED) -> tuple[Kind, RecordDict]:
    """Make a request that an honest coordinator might make now."""
    kind, federation = rng.choice(kinds), rng.choice(FEDERATIONS)
    server_round = max(1, min(3, agent.releases(TRAINING, federation) + rng.choice((1, 1, 0))))
    return kind, request_of(agent, kind, federation, server_round)


def request_of(agent: Agent, kind: Kind, federation: str, server_round: int, newest: str | None = None) -> RecordDict:
    """Make a request as an honest coordinator does."""
    terms = {Kind.READY: {TERMS: TERMS_OF_ALL.model_dump_json()}, Kind.TRAIN: {PLAN: PLAN_OF_ALL.to_json()}}
    extra = terms.get(kind, {}) | ({} if newest is None else {LEDGER_HEAD: newest})
    request = Request(
        kind=kind, federation=federation, server_round=0 if kind == Kind.READY else server_round,
        card_sha256=LEARNED.sha256, extra=extra,
        arrays={} if kind in (Kind.READY, Kind.CLOSE) else agent.start(),
    )  # fmt: skip
    return request_content(request)


def lost_head(folder: Path) -> str:
    """Sign a head that the municipality itself signed in a history that was lost."""
    folder.mkdir(parents=True)
    agent = open_agent(folder)
    scrutiny = Scrutiny(agent)
    for number in range(8):
        scrutiny.send(addressed(*some_request(random.Random(number), agent, (Kind.READY,))))
    agent.store.close()
    return scrutiny.heads[-1]


def foreign_head(folder: Path) -> str:
    """Sign a head as another municipality would."""
    folder.mkdir(parents=True)
    store = Store(folder / "store.sqlite", durable=False)
    with store.transaction() as database:
        text = head.sign(database, Signer.from_seed(bytes(32)), ledger.utc_now())
    store.close()
    return text


# stores


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Hold what a store knew before it was spoiled.

    The copies are of its folder: `hot` where the last writes are still in the log beside the file, as after a kill, and
    `cold` where they are in the file.
    """

    hot: Path
    cold: Path
    left: dict[Place, bytes]
    newest: str
    hashes: list[str]
    spent: dict[str, Curve]
    key: bytes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    agent = open_agent(folder)
    scrutiny = Scrutiny(agent)
    for number in range(30):
        for kind in (Kind.READY, Kind.CLOSE):
            scrutiny.send(addressed(kind, request_of(agent, kind, str(uuid.UUID(int=100 + number)), 0)))
    agent.store.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for federation, last in (FEDERATIONS[0], 3), (FEDERATIONS[1], 2):
        scrutiny.send(addressed(Kind.READY, request_of(agent, Kind.READY, federation, 0)))
        for number in range(1, last + 1):
            scrutiny.send(addressed(Kind.TRAIN, request_of(agent, Kind.TRAIN, federation, number)))
    scrutiny.send(addressed(Kind.EVALUATE, request_of(agent, Kind.EVALUATE, FEDERATIONS[0], 3)))
    hot = shutil.copytree(folder, folder.with_name("hot"))
    known = Whole(hot=hot, cold=folder, left=scrutiny.left, newest=scrutiny.heads[-1], spent=spent(agent.store),
                  hashes=hashes(agent.store.database), key=agent.store.key)  # fmt: skip
    agent.store.close()
    return known


@cases(70, 1400)
def test_a_store_in_any_state_is_whole_or_noticed(tmp_path: Path, whole: Whole, count: int) -> None:
    for seed, rng in mutations.seeds(random.getrandbits(32), count):
        folder = shutil.copytree(rng.choice((whole.hot, whole.cold)), tmp_path / str(seed))
        path = folder / "0101.sqlite"
        with case(seed):
            mutations.store(rng, path)
            store = read_or_one_line(partial(Store, path, durable=False), LedgerError)
            if store is not None:
                older = is_older(store, whole)
                store.close()
                ask_all(folder, whole, older)
        shutil.rmtree(folder)


def is_older(store: Store, whole: Whole) -> bool:
    """Say whether a store that could be opened is an older copy, and check that it is what it was otherwise."""
    rows = hashes(store.database)
    assert rows == whole.hashes[: len(rows)], "rows were changed"
    if len(rows) < len(whole.hashes):
        return True
    now = spent(store)
    assert all(np.array_equal(now[part], whole.spent[part]) for part in now), "spent was changed"
    assert store.key == whole.key, "other citizens are held out"
    return False


def ask_all(folder: Path, whole: Whole, older: bool) -> None:
    """Ask a municipality on a spoiled store for old and new things, with the newest head that it signed."""
    agent = open_agent(folder)
    scrutiny = Scrutiny(agent)
    scrutiny.left = dict(whole.left)
    for kind, federation, number in (
        (Kind.READY, FEDERATIONS[1], 0), (Kind.TRAIN, FEDERATIONS[1], 2), (Kind.TRAIN, FEDERATIONS[1], 3),
        (Kind.EVALUATE, FEDERATIONS[0], 3), (Kind.READY, FEDERATIONS[2], 0), (Kind.TRAIN, FEDERATIONS[2], 1),
    ):  # fmt: skip
        reply = scrutiny.send(addressed(kind, request_of(agent, kind, federation, number, whole.newest)))
        assert not older or code_of(reply) in (Code.LEDGER_FROZEN, Code.FAILED), "a store that was set back worked on"
    if older and head.frozen(agent.store.database):
        with agent.store.transaction() as database:
            head.recover(database, agent.signer, ledger.utc_now())
    now = spent(agent.store)
    assert all((now[part] >= whole.spent[part] * (1 - ROUNDING)).all() for part in now), "spent fell"
    agent.store.close()
    again = read_or_one_line(partial(Store, folder / "0101.sqlite", durable=False), LedgerError)
    if again is not None:
        again.close()
