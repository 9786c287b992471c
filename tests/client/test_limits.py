"""The agent keeps to the threads and the memory that the policy leaves it."""

import subprocess
import sys

import pytest

PREPARE = """
import os, resource, sys
from client.limits import apply_limits
from client.policy import Policy
"""


def run(code: str) -> str:
    """Run code in a process of its own: limits cannot be taken back."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + code], capture_output=True, check=True, timeout=60, text=True
    )  # fmt: skip
    return done.stdout.strip()


def test_threads_are_bounded_before_torch_reads_them() -> None:
    told = run("""
apply_limits(Policy(threads=3))
import pyarrow as pa
print('torch' in sys.modules, os.environ['OMP_NUM_THREADS'], pa.cpu_count(), pa.io_thread_count())
""")
    assert told == "False 3 3 3"


def test_memory_is_bounded_in_megabytes_and_what_goes_beyond_is_an_error() -> None:
    told = run("""
apply_limits(Policy(memory_mb=512))
print(resource.getrlimit(resource.RLIMIT_DATA)[0] // 1024**2)
try:
    bytearray(600 * 1024**2)
except MemoryError:
    print('stopped')
bytearray(50 * 1024**2)
""")
    assert told.split() == ["512", "stopped"]


def test_without_a_bound_memory_is_the_machines() -> None:
    told = run("""
before = resource.getrlimit(resource.RLIMIT_DATA)
apply_limits(Policy(memory_mb=None))
print(before == resource.getrlimit(resource.RLIMIT_DATA))
""")
    assert told == "True"


@pytest.mark.parametrize(("hard", "wanted", "soft"), [(600, 4096, 600), (4096, 600, 600)])
def test_a_bound_of_the_machine_is_never_raised(hard: int, wanted: int, soft: int) -> None:
    told = run(f"""
resource.setrlimit(resource.RLIMIT_DATA, ({hard} * 1024**2, {hard} * 1024**2))
apply_limits(Policy(memory_mb={wanted}))
print(*(bound // 1024**2 for bound in resource.getrlimit(resource.RLIMIT_DATA)))
""")
    assert told == f"{soft} {hard}"


def test_the_smallest_memory_that_a_policy_may_say_is_enough_for_the_commands() -> None:
    told = run("""
apply_limits(Policy(memory_mb=512))
from client.desk import decisions
from faelles.privacy.plan import plan_for
print(plan_for(decisions.find_card('elder-admission'), 5000).epsilon <= 2)
""")
    assert told == "True"
