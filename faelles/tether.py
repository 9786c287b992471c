"""Tie a program to the process that starts it: when that one is gone, however it went, the program is told to end.

    python -m faelles.tether PARENT COMMAND...

Without it, an agent that is killed would leave its node behind, logged in at the coordinator, with nobody to answer;
and a coordinator the processes of runs, beside those that take the runs up.
"""

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # from linux/prctl.h


def tethered(*command: str) -> list[str]:
    """Write the command line that ties a program to this process."""
    # -P: a folder that a process happens to be started in is not where its code comes from.
    return [sys.executable, "-P", "-m", "faelles.tether", str(os.getpid()), *command]


def main() -> None:
    """Ask the kernel for a signal at the parent's end, and become the program."""
    parent, *command = sys.argv[1:]
    # The kernel looks at the thread that started this process: it must be one that lasts as long as the parent.
    # SIGTERM and not SIGKILL, so that the node may still log off. It may come twice, once for each thread that ends,
    # and then cuts that short: such a node counts as connected for a minute.
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        sys.exit("tether: the kernel does not tell when a parent ends")
    if os.getppid() != int(parent):
        sys.exit("tether: the parent is gone already")
    os.execv(command[0], command)  # noqa: S606 - our own command line, and no shell


if __name__ == "__main__":
    main()
