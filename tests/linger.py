"""Supervise an agent whose worker lingers over a message when told to: for the tests of what a kill leaves behind.

    python tests/linger.py up|work FOLDER

It stands outside the package, as a launcher with seeded mechanisms does: nothing in `client` can make such a worker.
"""

import logging
import sys
import time
from pathlib import Path

from faelles import loopback

loopback.prepare()  # before Flower is imported

LINGER = "linger"  # the file that tells it to


def up(folder: Path) -> None:
    """Be the agent."""
    from client.agent import supervise
    from client.home import Home

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("client").setLevel(logging.INFO)
    supervise(Home.open(folder), (sys.executable, __file__, "work", str(folder)), 0, "en")


def work(folder: Path) -> None:
    """Be its worker."""
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    from client.home import Home
    from client.worker import run

    class Lingering(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            while (folder / LINGER).exists():
                time.sleep(0.05)
            return Message(RecordDict(), reply_to=message)

    def build(home: Home) -> ClientApp:
        return Lingering()

    run(folder, build)


if __name__ == "__main__":
    {"up": up, "work": work}[sys.argv[1]](Path(sys.argv[2]))
