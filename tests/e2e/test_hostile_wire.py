"""A hostile coordinator gets over the wire what it gets in one process: none of its code runs, and nothing more leaves.

The coordinator is the test itself: the real listeners, and a ServerApp's token in hostile hands. The municipalities are
two real agents, neighbours that differ by one citizen; beside them stands a copy that is asked without any wire.
"""

import hashlib
import io
import itertools
import shutil
import stat
import time
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
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
from tests.crafted import Draft, Known
from tests.hostile import ATTACKS, Attack, Happening, seen
from tests.live import until, write_usecase
from tests.municipality import say
from tests.peers import Listening
from tests.privacy.neighbours import MANY, OTHERS, WILD, with_one_more
from tests.privacy.real_path import KEY

pytestmark = pytest.mark.timeout(300)
# A run costs little, so that every attack has a run of its own.
CARD = build_card(model={"local": list(LOCAL)}, privacy={"epsilon": 0.2})
CODE = "0851"
SAMPLE = 4  # drafts of each attack
REPLY_S = 60.0
SIDES = {"plain": MANY, "neighbour": with_one_more(WILD, False)}
# Processes of the agents pause between two looks for less than they do in life; nothing else of them is changed.
HURRY = """
import time
import flwr.supercore.constant
_sleep = time.sleep
time.sleep = lambda seconds: _sleep(min(seconds, 0.03))
flwr.supercore.constant.PULL_INITIAL_BACKOFF = 0.02
"""


@dataclass(kw_only=True)
class Outpost(LiveFederation):
    """Run one agent of somebody else's coordinator.

    Args:
        coordinator_home: The coordinator's.
        extract: The rows that it learns from.
    """

    coordinator_home: Home
    extract: pa.Table

    @property
    def home(self) -> Home:
        return self.coordinator_home

    def join(self, control: Control) -> int:
        """Lay out the agent, register its node under no name, start it; return its node."""
        self.folder.mkdir()
        (town,) = self.towns
        self._set_up_agent(town)
        # A new extract, after the approval: nobody has looked at these rows.
        pyarrow.parquet.write_table(self.extract, self.folder / f"borgere-{CODE}.parquet")
        (self.agent_folder(CODE) / POLICY).write_text(
            self.policy().replace("largest_run_share: 0.7", "largest_run_share: 1.0")
        )
        where = ("--coordinator", self.home.settings.address, "--ca", str(self.home.authority), "--cvr", "29189420")
        self._agent(CODE, "enrol", *where)
        request = parse_request_file(self.agent_folder(CODE) / "request.json")
        shutil.copytree(self.agent_folder(CODE), self.folder / "copy")
        self.start_agent(CODE)
        return control.register(self.folder.name, public_bytes(request.login_key))

    def _agent(self, code: str, *words: str) -> list[str]:
        lines = super()._agent(code, *words)
        if words[0] == "init":  # the key that chooses held-out citizens, before anything rests on it
            path = self.agent_folder(code) / STORE
            path.unlink()
            Store(path, serving=False, key=KEY).close()
        return lines

    def policy(self) -> str:
        return (self.agent_folder(CODE) / POLICY).read_text(encoding="utf-8")


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
        proof = SuperExecAuthHttpInterceptor(
            master_secret=home.secret("superexec.secret"), protected_methods={ACQUIRE}
        )
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

    def send(self, messages: list[Message]) -> list[Message | None]:
        """Send messages at once and wait for every reply; None where Flower itself does not carry one."""
        numbers = list(self._grid.push_messages(messages))
        replies: dict[str, Message] = {}
        ends = time.monotonic() + REPLY_S
        wanted = {number for number in numbers if number}
        while len(replies) < len(wanted):
            for reply in self._grid.pull_messages(wanted - set(replies)):
                replies[reply.metadata.reply_to_message_id] = reply
            assert time.monotonic() < ends, f"no reply to {messages[0].metadata.message_type[:40]}"
            time.sleep(0.01)
        return [replies.get(number) for number in numbers]

    def close(self) -> None:
        """End the run."""
        self._beat.stop()
        self._grid._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details=""))
        self._grid.close()


class Copy:
    """Answer as an agent's copy, in this process and without any wire."""

    def __init__(self, folder: Path) -> None:
        import torch

        from client.app import MunicipalityApp, open_node
        from client.home import Home as AgentHome

        self.folder = folder
        self._node = open_node(AgentHome.open(folder))
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
    """Hold the hostile coordinator, the two agents by their nodes, and the copy."""

    home: Home
    agents: Mapping[int, Outpost]
    copy: Copy
    marks: Path  # where code that was executed would leave a trace

    def folders(self) -> list[Path]:
        """Name the three municipalities' folders."""
        return [*(one.agent_folder(CODE) for one in self.agents.values()), self.copy.folder]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    usecase = write_usecase(folder / CARD.id, CARD)
    (folder / "hurry").mkdir()
    (folder / "hurry" / "sitecustomize.py").write_text(HURRY, encoding="utf-8")
    (folder / "marks").mkdir()
    with ExitStack() as stack:
        home = stack.enter_context(Listening(folder / "coordinator").serving())
        control = stack.enter_context(closing(Control(home)))
        agents: dict[int, Outpost] = {}
        for name, table in SIDES.items():
            town = Town(code=CODE, table=MANY, declared_size=DECLARED_SIZE, epsilon=8.0)
            made = Outpost(
                folder=folder / name, usecase=str(usecase), towns=[town], coordinator_home=home, extract=table,
                environment={"PYTHONPATH": str(folder / "hurry")},
            )  # fmt: skip
            agents[stack.enter_context(made).join(control)] = made
        copy = stack.enter_context(closing(Copy(folder / "plain" / "copy")))
        until(lambda: set(agents) <= {node for node, status in control.nodes().items() if status == ONLINE})
        yield Stage(home=home, agents=agents, copy=copy, marks=folder / "marks")


# None of its code runs

PROJECT = """
[project]
name = "{name}"
version = "1.0.0"
[tool.flwr.app]
publisher = "{publisher}"
[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"
"""
PAYLOAD = """
from pathlib import Path

Path({mark!r}).write_text("it ran")
stolen = [path.read_bytes() for path in Path({data!r}).iterdir() if path.is_file()]
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query("ready")
def rows(message, context):
    return Message(RecordDict({{"rows": ConfigRecord({{"rows": stolen}})}}), reply_to=message)
"""
SHADOWS = (
    "evil.py", "client/__init__.py", "client/app.py", "client/worker.py", "faelles/__init__.py", "sitecustomize.py",
    "usercustomize.py", "evil.pth", "flwr/__init__.py", "torch.py", "torch/__init__.py", "setup.py", "__main__.py",
    "../../../../evil.py", "../sitecustomize.py", ".info/METADATA",
)  # fmt: skip
NAMES = {
    "another app": {"client": "evil:app"},
    "our own name": {"client": "client.app:app"},
    "our own names": {"client": "client.app:app", "server": "server.app:app", "publisher": "faelles", "name": "faelles"},
    "a name that climbs": {"client": "evil:app", "publisher": "../../..", "name": "../../evil"},
}


def bundle_of(names: Mapping[str, str], stage: Stage, data: Path) -> bytes:
    """Pack code under every name that might be found, with links and paths that lead elsewhere."""
    fields = {"server": "evil:app", "client": "evil:app", "publisher": "evil", "name": "evil", **names}
    code = PAYLOAD.format(mark=str(stage.marks / "ran"), data=str(data))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("pyproject.toml", PROJECT.format(**fields))
        for name in (*SHADOWS, str(stage.marks / "absolute.py")):
            archive.writestr(name, code)
        for name, target in (("link", str(data)), ("client/link", "/etc"), ("evil-link.py", "evil.py")):
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
    return out.getvalue()


def tree(folder: Path, *but: str) -> dict[str, str]:
    """Name everything in a folder with its content's hash."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if not name.startswith(but):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def check_nothing_of_a_bundle_runs(stage: Stage) -> None:
    before = [tree(one.agent_folder(CODE), "run", STORE) for one in stage.agents.values()]
    others = tree(stage.marks.parent, *SIDES, "coordinator")
    for number, names in enumerate(NAMES.values()):
        known = known_of(stage, 1000 + number)
        some = next(iter(stage.agents.values()))
        hands = Hands(stage.home, bundle_of(names, stage, some.agent_folder(CODE)))
        for draft, answered in ((known.ready(), True), (replace(known.ready(), kind="query.rows"), False)):
            wired = hands.send([draft.message(node) for node in stage.agents])
            for reply in (*wired, stage.copy.ask(draft.message(1))):
                assert reply is not None
                shown = seen(reply)
                assert shown[0] == ("answer" if answered else "refused")
                assert "rows" not in str(shown[3:])
                assert answered or shown[2:] == (Code.MALFORMED, Code.MALFORMED.text)
        hands.close()
        print("TIME one", time.time())
    check_our_own_side_runs_none_either(stage, bundle_of(NAMES["another app"], stage, stage.home.folder))
    print("TIME one", time.time())
    assert list(stage.marks.iterdir()) == []
    assert tree(stage.marks.parent, *SIDES, "coordinator") == others
    assert [tree(one.agent_folder(CODE), "run", STORE) for one in stage.agents.values()] == before
    for one in stage.agents.values():
        left = tree(one.agent_folder(CODE) / "run")
        assert not [name for name in left if "apps" in name or name.endswith((".py", ".fab", ".zip", ".whl", ".pth"))]
        log = (one.folder / f"agent-{CODE}.log").read_text(encoding="utf-8")
        assert [log.count(f"event=started process={name}") for name in ("node", "worker")] == [1, 1]


def check_our_own_side_runs_none_either(stage: Stage, bundle: bytes) -> None:
    """Have the coordinator's own executor take a run up; the bundle's ServerApp is not what runs."""
    with closing(Control(stage.home)) as control, closing(Executor(stage.home)) as executor:
        run = start(control, bundle)

        def ended() -> bool:
            executor.step()
            return control.runs()[run] == FINISHED

        until(ended)
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


def check_attacks(stage: Stage) -> None:
    hands = Hands(stage.home, harmless_bundle())
    heads: list[list[str]] = [[], [], []]
    codes: set[Code | None] = set()
    # Last what cannot be taken back.
    for number, attack in enumerate(sorted(PLAYED, key=lambda one: one.happening is Happening.WITHDRAWN)):
        known = [replace(known_of(stage, number), heads=one) for one in heads]
        codes |= play(stage, hands, attack, known)
    hands.close()
    assert codes == EXPECTED
    check_journals(stage)


def harmless_bundle() -> bytes:
    """Pack what Flower wants of a bundle, and no more."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("pyproject.toml", PROJECT.format(name="learn", publisher="kombit", server="a:b", client="c:d"))
    return out.getvalue()


def play(stage: Stage, hands: Hands, attack: Attack, known: list[Known]) -> set[Code | None]:
    """Play an attack on all three at once; return the codes of all replies, where None is an answer."""
    codes: set[Code | None] = set()
    for drafts in zip(*(attack.opening(one) for one in known), strict=True):
        codes.add(ask(stage, hands, drafts, known))
    happen(stage, attack.happening)
    drafted = zip(*(attack.drafts(one) for one in known), strict=True)
    for drafts in itertools.islice(drafted, SAMPLE):
        codes.add(ask(stage, hands, drafts, known))
    happen(stage, attack.happening, back=True)
    return codes


def ask(stage: Stage, hands: Hands, drafts: Iterable[Draft], known: list[Known]) -> Code | None:
    """Ask all three the same, check that their replies show the same, and keep the heads that they signed."""
    *wired, alone = drafts
    replies = hands.send([draft.message(node) for draft, node in zip(wired, stage.agents, strict=True)])
    carried = [reply for reply in replies if reply is not None]
    assert len(carried) == len(replies), alone.kind[:40]
    carried.append(stage.copy.ask(alone.message(1)))
    shown = [seen(reply) for reply in carried]
    assert shown[0] == shown[1] == shown[2], alone.kind[:40]
    for one, reply in zip(known, carried, strict=True):
        config = {} if reply.has_error() else reply.content.config_records[CONFIG]
        if LEDGER_HEAD in config:
            one.heads.append(str(config[LEDGER_HEAD]))
    return code_of(carried[0])  # and its text is a constant


def happen(stage: Stage, happening: Happening, back: bool = False) -> None:
    """Bring about in all three municipalities what people would, and take it back."""
    for folder in stage.folders():
        if happening is Happening.WITHDRAWN and not back:
            assert say("withdraw", CARD.id, "--dir", folder) == 0
        elif happening in RULES:
            old, new = RULES[happening][::-1] if back else RULES[happening]
            path = folder / POLICY
            text = path.read_text(encoding="utf-8")
            assert old in text
            path.write_text(text.replace(old, new), encoding="utf-8")


def check_journals(stage: Stage) -> None:
    """Check that the three journals are whole and tell the same."""
    told = []
    for folder in stage.folders():
        assert say("journal", "--verify", "--dir", folder) == 0
        with closing(Store(folder / STORE, serving=False)) as store:
            told.append([{name: line[name] for name in SAME} for line in journal.lines(store.database)])
    assert told[0] == told[1] == told[2]


def test_a_hostile_coordinator_gets_over_the_wire_what_it_gets_without_one(stage: Stage) -> None:
    import time
    t = time.time()
    check_nothing_of_a_bundle_runs(stage)
    print("TIME bundles", time.time() - t); t = time.time()
    check_attacks(stage)
    print("TIME attacks", time.time() - t)
