"""`converters.memory.keep_freed`: blocks that are freed come back without the system's help."""

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import numpy as np
from converters.memory import keep_freed

if sys.argv[1] == "keep":
    assert keep_freed()
sizes = [40 << 20, 10 << 20, 30 << 20]
def fill():
    blocks = [np.ones(size, np.uint8) for size in sizes]
    return sum(int(block[-1]) for block in blocks)
fill(), fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, how],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return int(done.stdout)


def _has_glibc() -> bool:
    import ctypes

    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not _has_glibc(), reason="malloc is another one's")
def test_freed_memory_is_kept():
    asked = _faults("ask")
    assert asked > 50, "the system gives such blocks anew each time"
    assert _faults("keep") < asked / 10


def test_a_users_own_settings_stay():
    program = "from converters.memory import keep_freed; print(keep_freed())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={"MALLOC_ARENA_MAX": "2"},
    )
    assert done.stdout == "False\n"
