"""Start an agent whose noise is seeded, and which waits where a test says; a script that no package knows.

    python tests/launcher.py up HOME MUNICIPALITY SEED       what `faelles-agent up` does, with the worker below
    python tests/launcher.py worker HOME MUNICIPALITY SEED   the real worker, but for the mechanisms

A file HOME/hold-ROUND makes the release of that round wait, after budget was reserved and before noise is drawn, until
the file is gone; HOME/held-ROUND says that it has come so far.
"""

import logging
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.clientapp import ClientApp

from client import agent, worker
from client.home import Home
from faelles.privacy.mechanisms import Randomness
from simulations.mechanisms import SeededMechanisms


@dataclass(frozen=True, kw_only=True)
class HeldMechanisms:
    """Wait, and draw seeded noise."""

    folder: Path
    seeded: SeededMechanisms

    def open_release(self, federation: str, server_round: int, kind: str) -> Randomness:
        """Return the release's stream, once nothing holds it."""
        hold = self.folder / f"hold-{server_round}"
        while kind == "train" and hold.exists():
            (self.folder / f"held-{server_round}").touch()
            time.sleep(0.02)
        return self.seeded.open_release(federation, server_round, kind)


def main() -> None:
    """Start what the first word says."""
    what, folder, municipality, seed = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    mechanisms = HeldMechanisms(folder=folder, seeded=SeededMechanisms(seed=seed, municipality=municipality))

    def build(home: Home) -> ClientApp:
        import torch

        from client.app import build_client_app, open_node

        torch.set_num_threads(1)
        return build_client_app(replace(open_node(home), mechanisms=mechanisms))

    if what == "worker":
        worker.run(folder, build)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    command = (sys.executable, __file__, "worker", str(folder), municipality, str(seed))
    agent.supervise(Home.open(folder), command, health_port=0, language="en")


if __name__ == "__main__":
    main()
