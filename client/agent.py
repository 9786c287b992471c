"""Keep a municipality's agent running: Flower's node, which speaks with the coordinator, and the worker, which answers.

This process only starts, watches and restarts them. It knows no data, and neither PyTorch nor Flower.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from types import FrameType
from typing import Final

from client.child import Backoff, Child, Ended, Program
from client.connection import LOGIN, Connection
from client.home import Home
from client.language import LANGUAGES, Language, say
from client.ledger import utc_now
from client.readiness import Mark, look_at_way
from client.runtime import Runtime, only_agent
from client.supernode import Ear, Ending, command, environment
from faelles import loopback

log = logging.getLogger(__name__)
HEALTH_PORT: Final = 8446
TICK_S: Final = 0.1
SETTLED_S: Final = 3.0  # a node that ends at once is not up
FORGOTTEN_S: Final = 20.0  # a worker that is there takes a message in a fraction of a second
MISTAKE: Final = 2  # the worker's status where a person has to mend something
# A node that was killed counts as connected for a minute, and one with its key is turned away meanwhile.
REFUSED_PAUSE_S, DOUBTFUL_S, DOUBTFUL_PAUSE_S = 6.0, 90.0, 20.0


def worker_command(home: Home) -> Sequence[str]:
    """Write the command that starts the worker of an agent."""
    # -P: a folder that the agent happens to be started in is not where its code comes from.
    return (sys.executable, "-P", "-m", "client.worker", "--dir", str(home.folder.resolve()))


def supervise(
    home: Home, worker: Sequence[str], health_port: int = HEALTH_PORT, language: Language = LANGUAGES[0]
) -> None:
    """Run an agent until SIGINT or SIGTERM.

    Args:
        home: The agent's folder.
        worker: The command that starts what answers; it ends with status 2 where a person has to mend something.
        health_port: Of loopback, for probes; 0 takes a free one.
        language: Of what people should read.

    Raises:
        FaellesError: It is not enrolled, runs already, cannot write or listen, or the worker cannot start.
    """
    connection = Connection.open(home)
    loopback.prepare()
    from faelles.health import HealthServer  # gRPC reads the environment when it is imported

    with only_agent(home.folder) as runtime:
        agent = _Agent(connection, runtime, worker, language)
        with closing(HealthServer(health_port, agent.healthy)) as health, _signals() as asked:
            log.info(say(language, "agenten kører; Ctrl-C stopper den", "the agent is running; Ctrl-C stops it"))
            log.info("event=up coordinator=%s health=%s:%d", connection.address, loopback.HOST, health.port)
            agent.run(lambda: bool(asked))
        log.info("event=down")


class _Agent:
    """Tend the two processes.

    Args:
        connection: The coordinator's.
        runtime: What the two hand each other.
        worker: The command that starts the worker.
        language: Of what people should read.
    """

    def __init__(self, connection: Connection, runtime: Runtime, worker: Sequence[str], language: Language) -> None:
        self._connection, self._runtime, self._language = connection, runtime, language
        self._ear, self._way = Ear(), _Way(connection, language)
        self._refusals = Refusals(language)
        node = Program(name="node", command=self._node_command, environment=environment(connection, runtime),
                       hear=self._ear.hear)  # fmt: skip
        answering = Program(name="worker", command=lambda: worker, environment=dict(os.environ))
        self._node, self._worker = Child(node), Child(answering)
        self._backoffs = {child: Backoff() for child in (self._node, self._worker)}
        self._busy_at = time.monotonic()
        self._due: dict[Child, float] = dict.fromkeys((self._node, self._worker), 0.0)

    def healthy(self) -> bool:
        """Say whether the node runs, and the worker takes its messages."""
        return self._node.alive_s > SETTLED_S and self._worker.alive_s > 0 and self._runtime.ready()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Keep both running until told to stop, and end them.

        Raises:
            FaellesError: The worker cannot start.
        """
        try:
            self._way.look()
            while not stopped():
                self._tend()
                time.sleep(TICK_S)
        finally:
            self._end_both()

    def _tend(self) -> None:
        if self._runtime.lost() or self._ear.stranded or self._forgotten():
            self._renew_node()
        for child, judge in ((self._node, self._judge_node), (self._worker, self._judge_worker)):
            ended = child.look()
            if ended is not None:
                pause_s = judge(ended)
                self._due[child] = time.monotonic() + pause_s
            elif child.pid is None and time.monotonic() >= self._due[child]:
                self._start(child)

    def _forgotten(self) -> bool:
        """Say whether the node waits for an answer that nobody makes, for the worker asks and is given nothing."""
        now = time.monotonic()
        if self._runtime.holding() or not self._runtime.ready() or self._worker.pid is None:
            self._busy_at = now  # and after a long training the node takes a moment to fetch the answer
        return now - self._busy_at > FORGOTTEN_S and self._ear.waits_s() > FORGOTTEN_S

    def _start(self, child: Child) -> None:
        if child is self._node:
            self._ear.forget()
            self._runtime.forget_task()
        else:
            self._runtime.forget_ready()
        child.start()
        log.info("event=started process=%s pid=%d", child.name, child.pid)

    def _node_command(self) -> Sequence[str]:
        # Another port each time: somebody else may have taken the last.
        port = loopback.free_port()
        self._runtime.listen_on(port)
        return command(self._connection, self._runtime, port)

    def _judge_worker(self, ended: Ended) -> float:
        """Say after how many seconds the worker starts again."""
        mistake = self._runtime.mistake() if ended.status == MISTAKE else None
        if mistake is not None:
            raise mistake  # starting again would not mend it
        if self._runtime.holding():
            self._renew_node()
        return self._again(self._worker, ended, self._backoffs[self._worker].pause_s(ended.lived_s))

    def _renew_node(self) -> None:
        """End a node that waits for an answer that cannot come any more: Flower's would wait for ever.

        It logs off, the coordinator notices that its question is open, and asks the next node with the same key.
        """
        self._runtime.forget_task()
        self._ear.forget()
        log.warning("event=lost; a message is not answered, and the coordinator asks again")
        self._node.end()

    def _judge_node(self, ended: Ended) -> float:
        """Say after how many seconds the node starts again."""
        if ended.asked:
            return 0.0
        if self._ear.connected:
            self._refusals.forget()
        self._way.look()
        if self._ear.ending(ended.status) is Ending.REFUSED:
            return self._refusals.pause_s(time.monotonic(), known=self._ear.connected)
        return self._again(self._node, ended, self._backoffs[self._node].pause_s(ended.lived_s))

    def _again(self, child: Child, ended: Ended, pause_s: float) -> float:
        log.warning("event=ended process=%s status=%d lived_s=%.0f again_in_s=%.0f",
                    child.name, ended.status, ended.lived_s, pause_s)  # fmt: skip
        return pause_s

    def _end_both(self) -> None:
        """End both, and wait until they have."""
        children = [self._node, self._worker]
        for child in children:
            child.end()
        while any(child.pid is not None for child in children):
            for child in children:
                child.look()
            time.sleep(TICK_S / 2)


class Refusals:
    """Wait while the coordinator does not let the node in, and say what it may mean: once at first, once when it lasts.

    Args:
        language: Of what people should read.
    """

    def __init__(self, language: Language) -> None:
        self._language = language
        self._since: float | None = None
        self._doubted = False

    def forget(self) -> None:
        """Forget earlier ones: the node was let in."""
        self._since, self._doubted = None, False

    def pause_s(self, now: float, known: bool) -> float:
        """Say after how many seconds to try again.

        Args:
            now: Monotonic seconds.
            known: Whether the node had been let in, and is not known any more.
        """
        if known:
            self._since = now - DOUBTFUL_S - 1
        if self._since is None:
            self._since = now
            log.warning(say(
                self._language,
                "koordinatoren lukker ikke noden ind: den regner nok en tidligere proces for forbundet endnu; prøver "
                f"igen om {REFUSED_PAUSE_S:.0f} s",
                "the coordinator does not let the node in: it probably still counts an earlier process as connected; "
                f"trying again in {REFUSED_PAUSE_S:.0f} s",
            ))  # fmt: skip
        if now - self._since <= DOUBTFUL_S:
            return REFUSED_PAUSE_S
        if not self._doubted:
            self._doubted = True
            log.warning(say(
                self._language,
                f"koordinatoren lukker ikke noden ind: spørg KOMBIT, om {LOGIN} er tilmeldt og ikke spærret, og "
                f"se efter, om den bruges på en anden maskine; prøver igen hvert {DOUBTFUL_PAUSE_S:.0f}. s",
                f"the coordinator does not let the node in: ask KOMBIT whether {LOGIN} is enrolled and not "
                f"revoked, and look whether another machine uses it; trying again every {DOUBTFUL_PAUSE_S:.0f} s",
            ))  # fmt: skip
        return DOUBTFUL_PAUSE_S


class _Way:
    """Look at the way to the coordinator beside everything else, and say what has to be mended when that changes.

    Flower's node tries for ever and says little of why.
    """

    def __init__(self, connection: Connection, language: Language) -> None:
        self._connection, self._language = connection, language
        self._said: list[str] = []
        self._looking: threading.Thread | None = None

    def look(self) -> None:
        """Begin to look, unless that is under way."""
        if self._looking is None or not self._looking.is_alive():
            self._looking = threading.Thread(target=self._look, daemon=True)
            self._looking.start()

    def _look(self) -> None:
        wrong = [one for one in look_at_way(self._connection, utc_now) if one.mark is Mark.MEND]
        lines = [say(self._language, one.da, one.en) for one in wrong]
        if lines != self._said:
            self._said = lines
            for line in lines:
                log.warning(line)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
