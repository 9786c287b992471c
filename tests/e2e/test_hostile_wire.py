"""A hostile coordinator gets over the wire what it gets in one process: none of its code runs, and nothing more leaves.

The coordinator is the test itself: the real listeners, and a ServerApp's token in hostile hands. The municipality is a
real agent. Beside it stands its neighbour, a copy that lacks one citizen and is asked without any wire: what the two
answer must show the same.
"""

import hashlib
import io
import itertools
import shutil
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity

from client import journal
from client.home import POLICY, STORE
from client.store import Store
from faelles.enrolment import parse_request_file
from faelles.records import CONFIG, LEDGER_HEAD, Code
from server.control import FINISHED, ONLINE, Control
from server.enrolment import public_bytes
from server.executor import ACQUIRE, Executor
from server.grid import LiveGrid
from server.home import Home
from simulations.live import LiveFederation, Town
from tests.builders import DECLARED_SIZE, LOCAL, build_card, code_of, over_the_wire
from tests.bundles import NAMES, PROJECT, bundle_of
from tests.coordinators import wait_until
from tests.crafted import Draft, Known
from tests.hostile import ATTACKS, Attack, Happening, begun, seen
from tests.live import write_usecase
from tests.municipality import say
from tests.peers import Listening
from tests.privacy.neighbours import MANY, OTHERS, WILD, with_one_more
from tests.privacy.real_path import KEY

pytestmark = [pytest.mark.timeout(500), pytest.mark.live]
# A run costs little, so that every attack has a run of its own.
CARD = build_card(model={"local": list(LOCAL)}, privacy={"epsilon": 0.2})
CODE = "0851"
REPLY_S = 60.0
PLAIN, WITH_ONE_MORE = MANY, with_one_more(WILD, False)
# Processes of the agents pause between two looks for less than they do in life; nothing else of them is changed.
HURRY = """
import time
import flwr.supercore.constant
_sleep = time.sleep
time.sleep = lambda seconds: _sleep(min(seconds, 0.1))
flwr.supercore.constant.PULL_INITIAL_BACKOFF = 0.02
"""


@dataclass(kw_only=True)
class Outpost(LiveFederation):
    """Run one agent of somebody else's coordinator.

    Args:
        coordinator_home: The coordinator's.
    """

    coordinator_home: Home

    @property
    def home(self) -> Home:
        return self.coordinator_home

    def join(self, control: Control) -> int:
        """Lay out the agent and its copy, register its node under no name, start it; return its node."""
        self.folder.mkdir()
        (town,) = self.towns
        self._set_up_agent(town)
        edit(self.agent_folder(CODE) / POLICY, "largest_run_share: 0.7", "largest_run_share: 1.0")
        where = ("--coordinator", self.home.settings.address, "--ca", str(self.home.authority), "--cvr", "29189420")
        self._agent(CODE, "enrol", *where)
        shutil.copytree(self.agent_folder(CODE), self.copied)
        # A new extract, after the approval: nobody has looked at its rows.
        pyarrow.parquet.write_table(WITH_ONE_MORE, self.folder / f"borgere-{CODE}.parquet")
        self.start_agent(CODE)
        request = parse_request_file(self.agent_folder(CODE) / "request.json")
        return control.register(self.folder.name, public_bytes(request.login_key))

    @property
    def copied(self) -> Path:
        """Name the copy's folder."""
        return self.folder / "copy"

    def _agent(self, code: str, *words: str) -> list[str]:
        lines = super()._agent(code, *words)
        if words[0] == "init":  # the key that chooses held-out citizens, before anything rests on it
            path = self.agent_folder(code) / STORE
            path.unlink()
            Store(path, serving=False, key=KEY).close()
        return lines


def edit(path: Path, old: str, new: str) -> None:
    """Edit a file as a person would."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


class Hands:
    """Be the ServerApp of a Flower run, with its token, and with messages of one's own.

    Args:
        home: The coordinator's.
        bundle: What the run brings along.
    """

    def __init__(self, home: Home, bundle: bytes) -> None:
        trust = home.loopback_certificate.read_bytes()
        with closing(Control(home)) as control:
            start(control, bundle)
        proof = SuperExecAuthHttpInterceptor(master_secret=home.secret("superexec.secret"), protected_methods={ACQUIRE})
        version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
        with RuntimeHttpClient.from_server_address(
            home.loopback_address, insecure=False, root_certificates=trust, interceptors=[version, proof]
        ) as client:
            task = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        self._grid = LiveGrid(home.loopback_address, trust, task.token)
        taken = self._grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        self._grid.set_run(run_from_proto(taken.run))
        TaskIdentity.run_id, TaskIdentity.node_id = taken.run.run_id, taken.context.node_id
        TaskIdentity.task_id = taken.task_id
        self._beat = HeartbeatSender(make_task_heartbeat_fn_http(self._grid._runtime_client))
        self._beat.start()

    def send(self, message: Message) -> Message:
        """Send a message and wait for its reply."""
        (number,) = self._grid.push_messages([message])
        assert number, "Flower itself does not carry it"
        found: list[Message] = []

        def look() -> bool:
            found.extend(self._grid.pull_messages([number]))
            return bool(found)

        wait_until(look, REPLY_S, f"reply to {message.metadata.message_type[:40]}", every_s=0.15)
        return found[0]

    def close(self) -> None:
        """End the run."""
        self._beat.stop()
        self._grid._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details=""))
        self._grid.close()


class Copy:
    """Answer as an agent's copy, in this process and without any wire, and with the rows that were approved."""

    def __init__(self, folder: Path) -> None:
        import torch

        from client.app import MunicipalityApp, open_node
        from client.home import Home as AgentHome

        self.folder = folder
        self._node = replace(open_node(AgentHome.open(folder)), rows=lambda population, card: PLAIN)
        torch.set_num_threads(1)
        self._app = MunicipalityApp(self._node)

    def ask(self, message: Message) -> Message:
        """Answer a message."""
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        return over_the_wire(self._app(over_the_wire(message), context))

    def close(self) -> None:
        """Let the store go."""
        self._node.store.close()


def start(control: Control, bundle: bytes) -> int:
    """Start a Flower run of any bundle."""
    fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
    return int(control._client.StartRun(StartRunRequest(fab=fab)).run_id)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Hold the hostile coordinator, the agent with its node, and the copy."""

    home: Home
    agent: Outpost
    node: int
    copy: Copy
    marks: Path  # where code that was executed would leave a trace

    @property
    def folder(self) -> Path:
        """Name the agent's folder."""
        return self.agent.agent_folder(CODE)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    usecase = write_usecase(folder / CARD.id, CARD)
    for name in ("hurry", "marks"):
        (folder / name).mkdir()
    (folder / "hurry" / "sitecustomize.py").write_text(HURRY, encoding="utf-8")
    with ExitStack() as stack:
        home = stack.enter_context(Listening(folder / "coordinator").serving())
        control = stack.enter_context(closing(Control(home)))
        agent = stack.enter_context(Outpost(
            folder=folder / "agent", usecase=str(usecase), coordinator_home=home,
            towns=[Town(code=CODE, table=PLAIN, declared_size=DECLARED_SIZE, epsilon=8.0)],
            environment={"PYTHONPATH": str(folder / "hurry")},
        ))  # fmt: skip
        node = agent.join(control)
        copy = stack.enter_context(closing(Copy(agent.copied)))
        wait_until(lambda: control.nodes()[node] == ONLINE, 120, "online")
        yield Stage(home=home, agent=agent, node=node, copy=copy, marks=folder / "marks")


# None of its code runs


def tree(folder: Path, *but: str) -> dict[str, str]:
    """Name everything in a folder with its content's hash."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if not name.startswith(but):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def check_nothing_of_a_bundle_runs(stage: Stage) -> None:
    around = stage.marks.parent
    before = tree(stage.folder, "run", STORE), tree(around, "agent", "coordinator")
    for number, names in enumerate(NAMES.values()):
        known = known_of(stage, 1000 + number)
        hands = Hands(stage.home, bundle_of(names, stage.marks, stage.folder))
        for draft, answered in ((known.ready(), True), (replace(known.ready(), kind="query.rows"), False)):
            reply = hands.send(draft.message(stage.node))
            assert seen(reply) == seen(stage.copy.ask(draft.message(1)))
            assert code_of(reply) == (None if answered else Code.MALFORMED)
            assert answered or not reply.has_content()
        hands.close()
    check_our_own_side_runs_none_either(stage, bundle_of(NAMES["another app"], stage.marks, stage.home.folder))
    assert list(stage.marks.iterdir()) == []
    assert (tree(stage.folder, "run", STORE), tree(around, "agent", "coordinator")) == before
    left = tree(stage.folder / "run")
    assert not [name for name in left if "apps" in name or name.endswith((".py", ".fab", ".zip", ".whl", ".pth"))]
    log = (stage.agent.folder / f"agent-{CODE}.log").read_text(encoding="utf-8")
    assert [log.count(f"event=started process={name}") for name in ("node", "worker")] == [1, 1]


def check_our_own_side_runs_none_either(stage: Stage, bundle: bytes) -> None:
    """Have the coordinator's own executor take a run up; the bundle's ServerApp is not what runs."""
    with closing(Control(stage.home)) as control, closing(Executor(stage.home)) as executor:
        run = start(control, bundle)

        def ended() -> bool:
            executor.step()
            return control.runs()[run] == FINISHED

        wait_until(ended, 200, "ended")
    assert not list(stage.home.folder.rglob("apps"))


# Nothing more leaves than does without a wire

# All but those of happenings that are not played here, and of what goes wrong at home.
EXPECTED = {None, *Code} - {Code.APPROVAL_EXPIRED, Code.LEDGER_FROZEN, Code.NO_DATA, Code.FAILED}
SAME = ("outcome", "recipient", "kind", "bytes", "epsilon", "delta", "card", "federation", "server_round")
RULES: dict[Happening, tuple[str, str]] = {
    Happening.NO_UPDATES: ("updates: true", "updates: false"),
    Happening.NO_HISTOGRAMS: ("histograms: true", "histograms: false"),
    Happening.OUTSIDE_HOURS: ("working_hours: null", 'working_hours: {days: [], start: "07:00", end: "18:00"}'),
    Happening.POLICY_LOST: ("version: 1 ", "version: 7 "),
}
# The rest needs another day, an older store, or waits for a start of PyTorch; the tests in one process have them.
PLAYED = [attack for attack in ATTACKS if attack.happening in (Happening.NOTHING, Happening.WITHDRAWN, *RULES)]


def known_of(stage: Stage, number: int) -> Known:
    """Know a new federation, and others that are new too."""
    names = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{number}/{place}")) for place in range(1 + len(OTHERS))]
    return Known(card=CARD, declared_size=DECLARED_SIZE, federation=names[0], others=tuple(names[1:]), foreign="{}")


def check_attacks(stage: Stage, sample: int) -> None:
    hands = Hands(stage.home, harmless_bundle())
    heads: tuple[list[str], list[str]] = [], []
    codes: set[Code | None] = set()
    opened: set[int] = set()
    # Last what cannot be taken back.
    for number, attack in enumerate(sorted(PLAYED, key=lambda one: one.happening is Happening.WITHDRAWN)):
        # Whose drafts are refused whatever the run has come to, share one.
        alike = len(attack.codes - {None}) == len(attack.codes) == 1 and attack.happening is Happening.NOTHING
        federation = -1 if alike and attack.opening is begun else number
        known = [replace(known_of(stage, federation), heads=one) for one in heads]
        codes |= play(stage, hands, attack, known, sample, opened=federation in opened)
        opened.add(federation)
    hands.close()
    assert codes == EXPECTED
    told = []
    for folder in (stage.folder, stage.copy.folder):
        assert say("journal", "--verify", "--dir", folder) == 0
        with closing(Store(folder / STORE, serving=False)) as store:
            told.append([{name: line[name] for name in SAME} for line in journal.lines(store.database)])
    assert told[0] == told[1]


def harmless_bundle() -> bytes:
    """Pack what Flower wants of a bundle, and no more."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("pyproject.toml", PROJECT.format(name="learn", publisher="kombit", server="a:b", client="c:d"))
    return out.getvalue()


def play(stage: Stage, hands: Hands, attack: Attack, known: list[Known], sample: int, opened: bool) -> set[Code | None]:
    """Play an attack on both at once; return the codes of all replies, where None is an answer."""
    codes: set[Code | None] = set()
    for drafts in zip(*(() if opened else attack.opening(one) for one in known), strict=True):
        codes.add(ask(stage, hands, drafts, known))
    happen(stage, attack.happening)
    enough = max(sample, len(attack.codes))  # to see each of them
    for drafts in itertools.islice(zip(*(attack.drafts(one) for one in known), strict=True), enough):
        codes.add(ask(stage, hands, drafts, known))
    happen(stage, attack.happening, back=True)
    return codes


def ask(stage: Stage, hands: Hands, drafts: Iterable[Draft], known: list[Known]) -> Code | None:
    """Ask both the same, check that their replies show the same, and keep the heads that they signed."""
    wired, alone = drafts
    replies = hands.send(wired.message(stage.node)), stage.copy.ask(alone.message(1))
    assert seen(replies[0]) == seen(replies[1]), alone.kind[:40]
    for one, reply in zip(known, replies, strict=True):
        config = {} if reply.has_error() else reply.content.config_records[CONFIG]
        if LEDGER_HEAD in config:
            one.heads.append(str(config[LEDGER_HEAD]))
    return code_of(replies[0])  # and its text is a constant


def happen(stage: Stage, happening: Happening, back: bool = False) -> None:
    """Bring about in both municipalities what people would, and take it back."""
    for folder in (stage.folder, stage.copy.folder):
        if happening is Happening.WITHDRAWN and not back:
            assert say("withdraw", CARD.id, "--dir", folder) == 0
        elif happening in RULES:
            edit(folder / POLICY, *(RULES[happening][::-1] if back else RULES[happening]))


@pytest.mark.parametrize("drafts", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_a_hostile_coordinator_gets_over_the_wire_what_it_gets_without_one(stage: Stage, drafts: int) -> None:
    check_nothing_of_a_bundle_runs(stage)
    check_attacks(stage, drafts)
