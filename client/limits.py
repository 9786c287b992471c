"""Keep the agent within the share of the machine that the policy leaves it."""

import os
import resource

import pyarrow as pa

from client.policy import Policy


def apply_limits(policy: Policy) -> None:
    """Bound this process's threads and memory; to be called before torch is imported, which reads its threads once.

    Args:
        policy: Its `threads` and `memory_mb`.
    """
    os.environ["OMP_NUM_THREADS"] = str(policy.threads)
    pa.set_cpu_count(policy.threads)
    pa.set_io_thread_count(policy.threads)
    if policy.memory_mb is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = policy.memory_mb * 1024 * 1024
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # The data segment and not the address space: libraries reserve far more of that than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
