"""Run the coordinator: Flower's SuperLink behind two doors, the processes of runs, and its health."""

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import uvicorn

from faelles.address import join
from faelles.errors import ConfigError, FaellesError
from faelles.health import HealthServer
from faelles.loopback import HOST
from server.control import Control
from server.doors import LOOPBACK, PUBLIC, Door
from server.executor import Executor
from server.home import Home, split_address
from server.keeper import Keeper
from server.lock import hold
from server.superlink import build_superlink, known_to

log = logging.getLogger(__name__)
MOMENT_S = 1.0  # each look costs some milliseconds of a core
BACKLOG = 256
CONNECTIONS = 1000  # 98 municipalities keep a few each


class _Listener(uvicorn.Server):
    """Listen on one socket; who runs several decides when they end."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # uvicorn's is a generator
        """Leave signals to the coordinator."""
        return nullcontext()


def up(home: Home) -> None:
    """Run until a signal ends it.

    Raises:
        FaellesError: It cannot start; what to do is in the text.
    """
    home.check(datetime.now(UTC))
    state = _State()
    with hold(home.folder), ExitStack() as stack:
        # Every port before anything starts, so that one in use leaves nothing running.
        stack.enter_context(closing(HealthServer(home.settings.health_port, state.healthy)))
        public = stack.enter_context(_bind(*split_address(home.settings.listen)))
        inner = stack.enter_context(_bind(HOST, home.settings.loopback_port))
        app = build_superlink(home)
        token = home.secret("control.token")
        listeners = [
            _listener(Door(app=app, name="public", routes=PUBLIC, known=known_to(app)), home.certificate, home.key),
            _listener(
                Door(app=app, name="loopback", routes=LOOPBACK, token=token),
                home.loopback_certificate, home.folder / "loopback.key",
            ),
        ]  # fmt: skip
        asyncio.run(_serve(home, listeners, [public, inner], state))


@dataclass(kw_only=True)
class _State:
    """Tell probes how the coordinator is."""

    listeners: list[_Listener] = field(default_factory=list)
    work: threading.Thread | None = None

    def healthy(self) -> bool:
        """Say whether it listens, and looks after its runs."""
        works = self.work is not None and self.work.is_alive()
        return works and all(listener.started and not listener.should_exit for listener in self.listeners)


async def _serve(home: Home, listeners: list[_Listener], sockets: list[socket.socket], state: _State) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    servers = [
        asyncio.ensure_future(listener.serve(sockets=[one])) for listener, one in zip(listeners, sockets, strict=True)
    ]
    while not all(listener.started for listener in listeners) and not any(server.done() for server in servers):
        await asyncio.sleep(0.01)
    work = threading.Thread(target=_work, args=(home, ended.is_set), name="work")
    work.start()
    state.listeners, state.work = listeners, work
    log.info("event=up address=%s listen=%s", home.settings.address, home.settings.listen)
    try:
        await asyncio.wait([asyncio.ensure_future(ended.wait()), *servers], return_when=asyncio.FIRST_COMPLETED)
    finally:
        log.info("event=stopping")
        ended.set()
        # The processes of runs say good-bye over the listeners, so those end last.
        await asyncio.to_thread(work.join)
        for listener in listeners:
            listener.should_exit = True
        await asyncio.gather(*servers)
    log.info("event=down")


def _work(home: Home, ended: Callable[[], bool]) -> None:
    """Start, keep and end the processes of runs."""
    control, executor = Control(home), Executor(home)
    keeper = Keeper(home, control, executor)
    try:
        taken_over = False
        while not ended():
            try:
                if not taken_over:
                    keeper.take_over()
                    taken_over = True
                executor.step()
                keeper.step()
            except (FaellesError, OSError) as error:  # e.g. a full disk: it may have space again in a moment
                log.error("event=work why=%s", error)
            time.sleep(MOMENT_S)
    finally:
        executor.close()
        control.close()


def _bind(host: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # A coordinator that was killed may start again at once.
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
    except OSError as error:
        one.close()
        why = (error.strerror or "cannot be used").lower()
        raise ConfigError(
            f"{join(host, port)}: expected an address that is free here, {why}; end what uses it, "
            "or change coordinator.yaml"
        ) from None
    return one


def _listener(door: Door, certificate: Path, key: Path) -> _Listener:
    return _Listener(
        uvicorn.Config(
            door, lifespan="off", log_config=None, access_log=False, ssl_certfile=certificate, ssl_keyfile=key,
            backlog=BACKLOG, limit_concurrency=CONNECTIONS, server_header=False, date_header=True, ws="none",
            timeout_graceful_shutdown=5,
        )
    )  # fmt: skip
