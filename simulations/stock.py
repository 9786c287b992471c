"""Answer as a stock Flower ClientApp does, one new process for each message, to measure what the warm worker saves.

Flower's node starts this from a bundle that names it; a municipality's agent never does.
"""

import os
import time
from pathlib import Path
from typing import Final

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.app import open_node, reply
from client.home import Home

FOLDER: Final = "FAELLES_STOCK_AGENT"  # the environment variable that names the agent's folder
LOG: Final = "stock.log"  # in it; Flower throws away what these processes say


class StockApp(ClientApp):
    """Open the municipality's node for one message, and answer it."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        folder = Path(os.environ[FOLDER])
        began = time.monotonic()
        answer = reply(open_node(Home.open(folder)), message)
        with (folder / LOG).open("a", encoding="utf-8") as log:
            kind, work_s = message.metadata.message_type, time.monotonic() - began
            log.write(f"event=answered kind={kind} pid={os.getpid()} work={work_s:.2f}\n")
        return answer


app = StockApp()
