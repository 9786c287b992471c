"""Whatever a hostile peer tries in the middle of a run is refused and noted, and the run learns the very same model."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from sqlite3 import connect

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from client.connection import Connection
from client.home import Home
from client.runtime import Runtime
from client.supernode import command, environment
from faelles.certificates import make_own_certificate
from faelles.loopback import HOST, free_port
from server.doors import LOOPBACK, MEBIBYTE, PUBLIC
from server.executor import ACQUIRE
from server.register import Register
from server.result import RunRecord
from server.rounds import Federation
from server.runs import Run
from simulations.reference import ReferenceGrid
from tests.builders import build_card
from tests.federations import build_crews
from tests.live import SeededFederation, towns, with_folder, write_usecase
from tests.peers import Applicant, Peer, Words, load_key, signed_headers

pytestmark = [pytest.mark.timeout(400), pytest.mark.live]
CARD = build_card()
CITIZENS = {"0101": 90, "0751": 45}
HELD, FREE, THIRD = "0101", "0751", "0147"
MARK = "a-word-of-the-caller"
GARBAGE = MARK.encode() + b"\xff\0" * 500
HUNDRED_MB = 100 * 1000 * 1000
CLOSED = (
    "/docs", "/openapi.json", "/redoc", "/", "/v1/control/list-connectors", "/v1/control/begin-connector-oauth",
    "/v1/control/stream-logs", "/v1/control/list-apps", "/v1/control/start-automation", "/v1/runtime/get-connector",
    "/v1/runtime/create-task", "/v1/runtime/responses", "/v1/runtime/push-logs", "/v1/fleet/../control/list-runs",
)  # fmt: skip
STEER = "/v1/control/list-runs"


@dataclass(frozen=True, kw_only=True)
class Siege:
    """Hold a live run that waits in its second round, and everything that a peer on this machine could reach."""

    live: SeededFederation
    run: Run

    @property
    def public(self) -> Peer:
        return Peer(address=self.live.home.settings.address, trust=self.live.home.authority)

    @property
    def inner(self) -> Peer:
        home = self.live.home
        return Peer(address=home.loopback_address, trust=home.loopback_certificate)

    @property
    def agent(self) -> Peer:
        """Reach the Runtime port of the municipality that has a message in hand."""
        runtime = Runtime.of(self.live.agent_folder(HELD))
        return Peer(address=runtime.address, trust=runtime.certificate)

    @property
    def nodes(self) -> dict[str, int]:
        with closing(Register(self.live.home.register)) as register:
            return {code: one.node for code, one in register.current().items()}

    def key(self, code: str) -> ec.EllipticCurvePrivateKey:
        return load_key(self.live.agent_folder(code) / "login.key")

    def request_in_hand(self) -> tuple[int, str]:
        """Find the Flower run, and the message that the held municipality has not answered."""
        with closing(connect(self.live.home.database)) as database:
            rows = database.execute(
                "SELECT run_id, message_id, dst_node_id FROM message_ins WHERE message_type = 'train'"
            ).fetchall()
            answered = {row[0] for row in database.execute("SELECT reply_to_message_id FROM message_res")}
        node = self.nodes[HELD]
        (found,) = [row for row in rows if row[2] % 2**64 == node and row[1] not in answered]
        return found[0] % 2**64, found[1]

    def memory_mb(self) -> float:
        """Read the most memory that the coordinator ever had."""
        assert self.live.coordinator is not None
        text = Path(f"/proc/{self.live.coordinator.process.pid}/status").read_text(encoding="utf-8")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) / 1000


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    folder = tmp_path_factory.mktemp("siege")
    usecase = write_usecase(folder / CARD.id, CARD)
    live = SeededFederation(folder=folder / "town", usecase=str(usecase), towns=towns(CARD, 2.0, CITIZENS))
    with live:
        live.set_up()
        live.start()
        hold = live.hold(HELD, 2).place()
        run = live.order("quorum=1.0", "deadline=5m", "wait=1m", "deliver=1m", "strategy=fedadam")
        hold.wait()
        yield Siege(live=live, run=run)


def fleet(siege: Siege, key: ec.EllipticCurvePrivateKey, node: int, at: datetime | None = None) -> dict[str, int]:
    """Ask as a node does; return the answers' statuses."""
    me = Node(node_id=node)
    public = public_key_to_bytes(key.public_key())
    asked: dict[str, Words] = {
        "activate-node": ActivateNodeRequest(public_key=public, heartbeat_interval=30),
        "pull-messages": PullMessagesRequest(node=me),
        "push-messages": pushed(node, Metadata(run_id=1, src_node_id=node, dst_node_id=1, reply_to_message_id="1")),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=me, heartbeat_interval=30),
    }
    headers = signed_headers(key, at)
    return {name: siege.public.post(f"/v1/fleet/{name}", one, headers).status for name, one in asked.items()}


def pushed(node: int, metadata: Metadata) -> PushMessagesRequest:
    metadata.message_type, metadata.message_id = "train", "1" * 64
    metadata.created_at, metadata.ttl = datetime.now(UTC).timestamp(), 60
    return PushMessagesRequest(
        node=Node(node_id=node), messages_list=[MessageProto(metadata=metadata, content=RecordDict())],
        message_object_trees=[ObjectTree(object_id="1" * 64)],
    )  # fmt: skip


REFUSED_NODE = {"activate-node": 412, "pull-messages": 401, "push-messages": 401, "send-node-heartbeat": 401}


def strangers(siege: Siege) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    for node in (0, SUPERLINK_NODE_ID, *siege.nodes.values()):
        assert fleet(siege, key, node) == REFUSED_NODE


def replays(siege: Siege) -> None:
    for seconds in (-3600, -310, 10, 3600):
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        statuses = fleet(siege, siege.key(FREE), siege.nodes[FREE], at)
        assert set(statuses.values()) == {401}, seconds


def revoked(siege: Siege) -> None:
    """Let a third municipality in, and turn it away in the middle of the run."""
    third = Applicant(THIRD)
    request = siege.live.folder / "request.json"
    request.write_text(third.request().text(), encoding="utf-8")
    siege.live.command("enrol", str(request), "--yes")
    node = siege.nodes[THIRD]
    let_in = fleet(siege, third.login, node)
    assert (let_in["activate-node"], let_in["pull-messages"], let_in["send-node-heartbeat"]) == (200, 200, 200)
    siege.live.command("revoke", THIRD)
    assert fleet(siege, third.login, node) == REFUSED_NODE


def others_names(siege: Siege) -> None:
    """Answer for another, command another, and answer what another was asked."""
    run, request = siege.request_in_hand()
    own, other, key = siege.nodes[FREE], siege.nodes[HELD], siege.key(FREE)
    tries = {
        "as another": (Metadata(run_id=run, src_node_id=other, dst_node_id=1, reply_to_message_id=request), 401),
        "as the coordinator": (Metadata(run_id=run, src_node_id=SUPERLINK_NODE_ID, dst_node_id=other), 401),
        "another's request": (Metadata(run_id=run, src_node_id=own, dst_node_id=1, reply_to_message_id=request), 200),
        "a command": (Metadata(run_id=run, src_node_id=own, dst_node_id=other), 200),
    }
    for name, (metadata, status) in tries.items():
        answer = siege.public.post("/v1/fleet/push-messages", pushed(own, metadata), signed_headers(key))
        assert answer.status == status, name
    with closing(connect(siege.live.home.database)) as database:
        for table in ("message_ins", "message_res"):
            stored = database.execute(f"SELECT count(*) FROM {table} WHERE message_id = ?", ["1" * 64])  # noqa: S608  # ours
            assert stored.fetchone() == (0,)
    assert siege.request_in_hand() == (run, request)


def control(siege: Siege) -> None:
    token = siege.live.home.secret("control.token").decode()
    shown = {
        "none": {},
        "wrong": {"authorization": "Bearer " + token[::-1]},
        "right": {"authorization": "Bearer " + token},
    }
    assert {name: siege.inner.post(STEER, b"", one).status for name, one in shown.items()} == {
        "none": 401, "wrong": 401, "right": 200,
    }  # fmt: skip
    assert {siege.public.post(STEER, b"", one).status for one in shown.values()} == {404}
    twice = f"POST {STEER} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n" + f"authorization: Bearer {token}\r\n" * 2
    assert siege.inner.raw(f"{twice}\r\n".encode()) == 401


def tasks(siege: Siege) -> None:
    """Ask for a run's task, or a municipality's message, without the secret, with a wrong one and with another's."""
    here = siege.live.home.secret("superexec.secret")
    there = Runtime.of(siege.live.agent_folder(HELD)).secret.read_bytes()
    for peer, foreign in ((siege.inner, there), (siege.agent, here)):
        proofs: list[ProtobufClientInterceptor] = [RuntimeTokenHttpInterceptor("made-up")]
        for guess in (b"", b"guess", foreign):
            proofs.append(SuperExecAuthHttpInterceptor(master_secret=guess, protected_methods={ACQUIRE}))
        for proof in ([], *([one] for one in proofs)):
            assert acquired(peer, proof) == 401
    assert siege.public.post("/v1/runtime/acquire-task").status == 404


def acquired(peer: Peer, proof: list[ProtobufClientInterceptor]) -> int:
    version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
    with RuntimeHttpClient.from_server_address(
        peer.address, insecure=False, root_certificates=peer.trust.read_bytes(), interceptors=[version, *proof]
    ) as client:
        try:
            client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP, TaskType.CLIENT_APP]))
        except httpx.HTTPStatusError as error:
            return error.response.status_code
    return 200


def second_node(siege: Siege) -> None:
    """Start Flower's own node with the key of one that is connected."""
    home = Home.open(siege.live.agent_folder(FREE))
    runtime = Runtime(folder=siege.live.folder / "second")
    runtime.flower.mkdir(parents=True)
    pair = make_own_certificate([HOST], days=1)
    for path, data in ((runtime.secret, b"x" * 64), (runtime.certificate, pair.certificate), (runtime.key, pair.key)):
        path.write_bytes(data)
        path.chmod(0o600)
    connection = Connection.open(home)
    second = subprocess.run(
        command(connection, runtime, free_port()), env=environment(connection, runtime),
        capture_output=True, timeout=60, check=False, text=True,
    )  # fmt: skip
    assert second.returncode != 0
    assert "[code: 2004]" in second.stdout + second.stderr
    public = public_key_to_bytes(siege.key(FREE).public_key())
    again = ActivateNodeRequest(public_key=public, heartbeat_interval=30)
    assert siege.public.post("/v1/fleet/activate-node", again, signed_headers(siege.key(FREE))).status == 412


def closed(siege: Siege) -> None:
    token = {"authorization": f"Bearer {siege.live.home.secret('control.token').decode()}"}
    for peer in (siege.public, siege.inner):
        for path in CLOSED:
            head = (
                f" {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nauthorization: {token['authorization']}\r\n\r\n"
            )
            assert {peer.raw(f"{method}{head}".encode()) for method in ("GET", "POST")} == {404}, path


def garbage(siege: Siege) -> None:
    """Send what is no request to every open route, with and without what opens it."""
    token = {"authorization": f"Bearer {siege.live.home.secret('control.token').decode()}"}
    signed = signed_headers(siege.key(FREE))
    for peer, routes in ((siege.public, PUBLIC), (siege.inner, LOOPBACK)):
        for path in routes:
            statuses = {
                peer.post(path, GARBAGE, one).status for one in ({}, {**token, **signed}, {"content-type": MARK})
            }
            assert all(400 <= status < 500 for status in statuses), (path, statuses)
        assert peer.raw(GARBAGE * 10) in (0, 400)
        assert peer.raw(b"POST /health HTTP/1.1\r\n" + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n") in (
            0,
            400,
            404,
            405,
            431,
        )


def floods(siege: Siege) -> None:
    """Send 100 MB to every open route; none of it is kept, whether its length is stated or not."""
    token = {"authorization": f"Bearer {siege.live.home.secret('control.token').decode()}"}
    before = siege.memory_mb()
    for peer, routes in ((siege.public, PUBLIC), (siege.inner, LOOPBACK)):
        for path in routes:
            expected = {405} if path == "/health" else {413}
            status, sent = peer.flood(path, HUNDRED_MB, stated=True, headers=token)
            assert ({status}, sent < MEBIBYTE) == (expected, True), path
            status, sent = peer.flood(path, HUNDRED_MB, stated=False, headers=token)
            assert {status} <= {0, *expected}, path  # 0: it hung up before the answer could be read
            assert sent < HUNDRED_MB / 2, path  # what the system's own buffers took before the answer came
    assert siege.memory_mb() - before < 200


def agents_port(siege: Siege) -> None:
    """Whoever has an account on a municipality's machine reaches Flower's own port there: no door, but a secret.

    It takes a body of any size into memory, and lets it go; the message in hand is not disturbed.
    """
    runtime = [path for path in LOOPBACK if path.startswith("/v1/runtime/")]
    for path in runtime:
        statuses = {siege.agent.post(path, GARBAGE, one).status for one in ({}, {"content-type": "text/plain"})}
        assert all(400 <= status < 500 for status in statuses), path
    for path in ("/v1/runtime/acquire-task", "/v1/runtime/push-object"):
        for stated in (True, False):
            status, _ = siege.agent.flood(path, HUNDRED_MB, stated=stated)
            assert 400 <= status < 500, path
    assert siege.agent.raw(GARBAGE) in (0, 400)
    assert (siege.live.agent_folder(HELD) / "run" / "task").exists()


ATTEMPTS: tuple[Callable[[Siege], None], ...] = (
    strangers, replays, revoked, others_names, control, tasks, second_node, closed, garbage, floods, agents_port,
)  # fmt: skip


def test_hostile_peers_get_nothing_and_the_run_is_as_if_nobody_had_come(besieged: Siege, tmp_path: Path) -> None:
    live = besieged.live
    for attempt in ATTEMPTS:
        attempt(besieged)
    assert not besieged.run.ended
    live.hold(HELD, 2).lift()
    record = live.finish(besieged.run, 120)
    check_undisturbed(besieged, record, tmp_path)
    check_logs(besieged)


def check_undisturbed(siege: Siege, record: RunRecord, folder: Path) -> None:
    everybody = sorted(CITIZENS)
    assert (record.status, record.why, record.sits_out) == ("completed", "", {})
    assert [one.contributing for one in record.rounds] == [everybody] * 3
    assert record.delivered == everybody
    assert len(siege.run.flower_runs) == 1
    config = with_folder(siege.run.order.federation, folder / "run")
    with ReferenceGrid(build_crews(folder, CARD, citizens=CITIZENS)) as grid:
        assert record.model_sha256 == Federation(grid, config).run().model_sha256
    for code in everybody:
        log = (siege.live.folder / f"agent-{code}.log").read_text(encoding="utf-8")
        assert [log.count(f"event=started process={name}") for name in ("node", "worker")] == [1, 1]


def check_logs(siege: Siege) -> None:
    """Check that every refusal stands in the coordinator's log, and nothing that callers wrote in any."""
    logs = {path.name: path.read_text(encoding="utf-8") for path in siege.live.folder.rglob("*.log")}
    said = logs["coordinator.log"]
    for door, routes in (("public", PUBLIC), ("loopback", LOOPBACK)):
        for path in routes:
            why = "method status=405" if path == "/health" else "large status=413"
            line = rf"event=refused door={door} why={why} peer=127\.0\.0\.1 path='{path}'\n"
            assert len(re.findall(line, said)) >= 2, path
        assert f"event=refused door={door} why=closed status=404 peer=127.0.0.1 path='/docs'" in said
    for line in ("why=token status=401", "why=sender node=", "why=answer status=401", "why=answer status=412"):
        assert line in said
    assert "event=refused door=loopback why=answer status=401 peer=127.0.0.1 path='/v1/runtime/acquire-task'" in said
    home = siege.live.home
    secrets = [home.secret(name).decode() for name in ("control.token", "superexec.secret")]
    secrets += [(siege.live.agent_folder(code) / "run/superexec.secret").read_text() for code in CITIZENS]
    for name, text in logs.items():
        assert "Traceback" not in text, name
        assert not [word for word in (MARK, *secrets) if word in text], name
