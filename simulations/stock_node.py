"""Put a stock Flower node in the place of a municipality's agent, and order a run whose bundle it executes.

Warm agents ignore that bundle as they ignore every other; only the stock node unpacks it, and starts a new process for
each message.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from client.connection import Connection
from client.home import Home
from client.supernode import PROGRAM
from faelles.certificates import make_own_certificate
from faelles.loopback import HOST, free_port
from server import keeper
from server.bundle import build_bundle
from server.control import control_of
from server.orders import order
from server.runs import Run, create
from simulations.footprint import Life
from simulations.live import BIN, LiveFederation

# Not imported from there: PyTorch would come along.
STOCK_APP, FOLDER, LOG = "simulations.stock:app", "FAELLES_STOCK_AGENT", "stock.log"
CLIENTAPP: Final = "flwr-clientapp"
LINE: Final = re.compile(r"kind=(\S+) pid=([0-9]+) work=([0-9.]+)")
DAYS: Final = 1


@dataclass(frozen=True, kw_only=True)
class Handled:
    """Hold one message that a process of its own handled.

    Args:
        kind: Of what kind.
        seconds: How long the process lived.
        work: How much of it went to opening the municipality's node and answering.
    """

    kind: str
    seconds: float
    work: float


def replace_agent(live: LiveFederation, code: str) -> int:
    """End a municipality's agent and start a stock node with its key; return the node's process id."""
    live.agents[code].end()
    agent, live.agent = live.agent, lambda code, folder: _command(live, code)
    try:
        node = live.start_agent(code)
    finally:
        live.agent = agent
    live.wait_until_connected(len(live.towns))
    return node.process.pid


def order_stock(live: LiveFederation, overrides: Sequence[str]) -> Run:
    """Order a run with the stock bundle, in a folder of its own: the coordinator keeps runs in its own folder only."""
    folder = live.folder / "stock-runs"
    folder.mkdir(exist_ok=True)
    run = create(folder, "faelles-server run", order([f"usecase={live.usecase}", *overrides], folder))
    with control_of(live.home) as control:
        keeper.start(run, live.home, control, build_bundle(STOCK_APP))
    return run


def handled(live: LiveFederation, code: str, lives: Sequence[Life]) -> list[Handled]:
    """Join how long processes lived with what they say of themselves; one that answered nothing is left out."""
    text = (live.agent_folder(code) / LOG).read_text(encoding="utf-8")
    said = {int(match[2]): match for match in LINE.finditer(text)}
    return [
        Handled(kind=said[one.pid][1], seconds=one.seconds, work=float(said[one.pid][3]))
        for one in lives
        if one.pid in said
    ]


def _command(live: LiveFederation, code: str) -> Sequence[str]:
    """Write the command line of a stock node that logs in as the municipality."""
    home = Home.open(live.agent_folder(code))
    connection = Connection.open(home)
    own = make_own_certificate([HOST], DAYS)
    certificate, key = home.folder / "stock.pem", home.folder / "stock.key"
    certificate.write_bytes(own.certificate)
    key.touch(mode=0o600)
    key.write_bytes(own.key)
    return [
        # Flower looks for its own programs on the path.
        "/usr/bin/env", f"PATH={BIN}:/usr/bin:/bin", f"FLWR_HOME={home.folder / 'stock-flower'}",
        f"{FOLDER}={home.folder}",
        str(BIN / PROGRAM), "--superlink", connection.address, "--root-certificates", str(connection.ca),
        "--auth-supernode-private-key", str(connection.login_key), "--isolation", "subprocess",
        "--host", HOST, "--port", str(free_port()),
        "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key), "--ssl-ca-certfile", str(certificate),
    ]  # fmt: skip
