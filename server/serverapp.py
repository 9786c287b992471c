"""Be the process of one run: speak to the coordinator's Runtime API, and run the installed ServerApp.

Started by the executor with a ticket on standard input; ends with the coordinator, for the checkpoint is what survives.
"""

import ctypes
import json
import logging
import signal
import sys
from contextlib import suppress
from types import FrameType

import httpx
from flwr.app import Context, RecordDict
from flwr.common.config import get_fused_config_from_fab
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto, fab_from_proto, run_from_proto
from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.task_identity import TaskIdentity

from faelles.errors import FaellesError
from server.app import app
from server.federation import RUN_CONFIG_KEY, FederationConfig
from server.grid import LiveGrid
from server.logs import configure
from server.outcome import write_outcome
from server.runs import LOG, Run

log = logging.getLogger(__name__)
PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """Leave whatever is going on: somebody stops the run, or the coordinator ends."""


def main() -> None:
    """Run one ticket."""
    # A killed coordinator takes this process along at once: no message would reach it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    ticket = json.loads(sys.stdin.buffer.read())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    configure()
    grid = LiveGrid(ticket["address"], ticket["trust"].encode(), ticket["token"])
    status, details = SubStatus.FAILED, "stopped"
    try:
        _run(grid)
        status, details = SubStatus.COMPLETED, ""
    except FaellesError as error:
        details = str(error)
    except Stopped:
        pass
    finally:
        # Not an exit status: this process says itself how it ended.
        with suppress(httpx.HTTPError):  # Flower has ended the run already
            grid._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=details))


def _run(grid: LiveGrid) -> None:
    found = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
    TaskIdentity.task_id, TaskIdentity.run_id = found.task_id, found.run.run_id
    TaskIdentity.node_id = found.context.node_id
    run = run_from_proto(found.run)
    grid.set_run(run)
    context: Context = context_from_proto(found.context)
    # The bundle is read for the names of its settings and never unpacked.
    context.run_config = get_fused_config_from_fab(fab_from_proto(found.fab).content, run)
    context.state = RecordDict()
    config = FederationConfig.parse(context.run_config.get(RUN_CONFIG_KEY))
    kept = Run(folder=config.folder)
    configure(config.folder / LOG)
    log.info("event=running run=%s flower_run=%d resume=%s", kept.name, run.run_id, config.resume)
    try:
        app(grid, context)
    except FaellesError as error:
        log.error("event=gave-up run=%s why=%s", kept.name, error)
        kept.close("incomplete", str(error))
        raise
    except Stopped:
        if kept.stopped:
            kept.close("stopped", "stopped by hand")
        raise
    except Exception:
        log.exception("event=broken run=%s", kept.name)
        raise
    finally:
        record = kept.record
        if record is not None:
            write_outcome(config.folder, config, record, kept.order.command)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


if __name__ == "__main__":
    main()
