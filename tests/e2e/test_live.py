"""Three municipalities and a coordinator, as they will run: real commands, real processes, TLS, and a proxy between."""

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from client import journal
from client.home import STORE
from client.store import Store
from faelles.health import probe
from server.bundle import build_bundle
from server.provenance import Provenance, package_sha256
from server.result import RunRecord
from server.runs import Run
from simulations.live import LiveFederation
from tests.builders import build_card
from tests.live import towns, write_usecase
from tests.municipality import say
from tests.watching import Proxy, Sockets, descendants

pytestmark = [pytest.mark.timeout(400), pytest.mark.live]
CARD = build_card()
CODES = ["0101", "0751", "0851"]
ADDRESS = "127.0.0.2"  # loopback, and not among the addresses that no proxy is asked for


@dataclass(frozen=True, kw_only=True)
class Ran:
    """Hold what one live run left behind, and what was seen of it."""

    live: LiveFederation
    run: Run
    record: RunRecord
    proxy: Proxy
    sockets: Sockets
    spoken: list[str]  # command lines and environments of every process


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("town")
    usecase = write_usecase(folder / CARD.id, CARD)
    proxy = Proxy()
    live = LiveFederation(
        folder=folder / "town",
        usecase=str(usecase),
        towns=towns(CARD, epsilon=2.0, citizens={"0101": 90, "0751": 45, "0851": 30}),
        host=ADDRESS,
        environment={"HTTPS_PROXY": proxy.url, "HTTP_PROXY": proxy.url},
    )
    with proxy.serving(), live:
        live.set_up()
        live.start()
        agents = [one.process.pid for one in live.agents.values()]
        with Sockets(pids=agents).watched() as sockets:
            run = live.order("rounds=2", "quorum=1.0", "deadline=2m", "strategy=fedadam", "deliver=2m")
            record = live.finish(run, 150)
        assert live.coordinator is not None
        everybody = descendants([*agents, live.coordinator.process.pid])
        yield Ran(live=live, run=run, record=record, proxy=proxy, sockets=sockets, spoken=spoken(everybody))


def spoken(processes: list[psutil.Process]) -> list[str]:
    """Read what every user of the machine could read of processes, and their environments."""
    words = []
    for one in processes:
        with contextlib.suppress(psutil.Error):
            words += [" ".join(one.cmdline()), *one.environ().values()]
    return words


def test_three_municipalities_learn_a_model(ran: Ran) -> None:
    assert (ran.record.status, ran.record.why, ran.record.sits_out) == ("completed", "", {})
    assert ran.record.expected == ran.record.delivered == CODES
    assert [one.contributing for one in ran.record.rounds] == [CODES] * 2
    assert ran.record.evaluation is not None
    assert ran.record.evaluation.contributing == CODES


def test_nothing_is_connected_to_but_the_coordinator(ran: Ran) -> None:
    public = ran.live.home.settings.address
    assert ran.proxy.targets == {public}
    assert ran.sockets.looks > 20
    # All else is between an agent's own processes, and they listen on loopback only.
    loopback = {"127.0.0.1", "::ffff:127.0.0.1"}  # gRPC binds the same address in its longer spelling
    assert {host for host, _ in ran.sockets.remote} <= loopback
    assert ran.sockets.listening <= loopback


def test_no_secret_stands_on_a_command_line_or_in_an_environment(ran: Ran) -> None:
    secrets = [ran.live.home.secret("control.token"), ran.live.home.secret("superexec.secret")]
    secrets += [(ran.live.agent_folder(code) / "run/superexec.secret").read_bytes() for code in CODES]
    text = "\n".join(ran.spoken)
    assert len(ran.spoken) > 20
    assert not [one for one in secrets if one.decode() in text]
    logs = "".join(path.read_text(encoding="utf-8") for path in ran.live.folder.glob("*.log"))
    assert not [one for one in secrets if one.decode() in logs]


def test_every_municipality_has_the_model_and_a_journal_that_names_the_coordinator(ran: Ran) -> None:
    with np.load(ran.run.folder / "model.npz", allow_pickle=False) as model:
        shared = {name: model[name] for name in model.files}
    for code in CODES:
        folder = ran.live.agent_folder(code)
        out = folder / "model.npz"
        assert say("model", "export", ran.record.federation[:8], "--out", out, "--dir", folder) == 0
        with np.load(out, allow_pickle=False) as found:
            assert all(np.array_equal(found[name], value) for name, value in shared.items())
        assert say("journal", "--verify", "--dir", folder) == 0
        store = Store(folder / STORE, serving=False)
        lines = list(journal.lines(store.database))
        store.close()
        assert {line["recipient"] for line in lines} == {ran.live.home.settings.address}
        assert [line["kind"] for line in lines] == [
            "query.ready", "train", "train", "evaluate", "query.final", "query.close",
        ]  # fmt: skip


def test_the_run_says_where_its_model_came_from(ran: Ran) -> None:
    found = Provenance.model_validate_json((ran.run.folder / "provenance.json").read_bytes())
    assert found.card_sha256 == CARD.sha256
    assert found.packages["server"] == package_sha256("server")
    assert json.loads(found.config)["terms"]["rounds"] == 2
    assert str(ran.live.folder) not in found.model_dump_json()


def test_the_bundle_is_a_pyproject_and_nothing_else() -> None:
    with zipfile.ZipFile(io.BytesIO(build_bundle())) as bundle:
        assert bundle.namelist() == ["pyproject.toml", ".info/CONTENT"]
    assert build_bundle() == build_bundle()


def test_both_sides_answer_health_probes(ran: Ran) -> None:
    assert probe(ran.live.home.settings.health_port)
    for code in CODES:
        log = (ran.live.folder / f"agent-{code}.log").read_text(encoding="utf-8")
        port = int(log.split("health=127.0.0.1:")[1].split()[0])
        assert probe(port)


def test_the_report_can_be_written(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = ran.live.command("report", ran.run.name)
    page = Path(path).read_text(encoding="utf-8")
    assert "Gennemført" in page
    assert "Completed" in page
    (line,) = ran.live.command("runs")
    assert ran.run.name in line
    assert "completed" in line
    assert any("Aarhus (0751)" in one or "0751" in one for one in ran.live.command("nodes"))
