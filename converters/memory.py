"""How much memory is free, asked before much of it is taken, and errors once it was too little.

Shapes and file headers say what will be allocated; who is about to do so calls `require_memory`.
What no shape tells (a convolution's workspace) is found by `ran_out`, from the errors of Python,
NumPy and torch. `keep_freed` saves a training the way to the system and back. Nothing here imports
torch.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import resource
from contextlib import suppress
from pathlib import Path

from converters.errors import CaffeError

_GIB = 1 << 30
_SMALL = 1 << 26
"""Bytes below which nobody asks: looking takes as long as allocating."""

_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h
_LARGEST_INT = (1 << 31) - 1
_TORCH = re.compile(r"can't allocate memory|out of memory|std::bad_alloc|not enough memory", re.I)


def free_memory() -> int | None:
    """Bytes that this process can still take: the machine's, its container's, its own limit's.

    None where the system does not tell.
    """
    found = [_available(), _below_own_limit(), *map(_below_limit_of, _CGROUPS)]
    return min((size for size in found if size is not None), default=None)


def require_memory(size: int, what: str, error: type[CaffeError]) -> None:
    """Raise `error` if `size` bytes are more than there are; `what` names who needs them.

    Raises:
        error: "WHAT needs N GiB of memory, M GiB are free".
    """
    if size <= _SMALL:
        return
    free = free_memory()
    if free is not None and size > free:
        raise error(f"{what} needs {gibibytes(size)} of memory, {gibibytes(free)} are free")


def limit_growth(size: int | None) -> None:
    """Let this process take at most `size` bytes more than it has; None lifts that limit.

    What is mapped counts, touched or not: who is about to load large libraries lifts it before.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = hard
    if size is not None and (own := _mapped()) is not None:
        limit = own + size if hard == resource.RLIM_INFINITY else min(own + size, hard)
    with suppress(ValueError, OSError):  # a system that knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def ran_out(error: BaseException) -> bool:
    """Whether an exception of Python, NumPy, h5py or torch (CPU or GPU) means too little memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and bool(_TORCH.search(str(error)))


def keep_freed() -> bool:
    """Let this process keep the memory that it frees, for its next allocations.

    glibc gives large blocks back to the system, which clears each page when it is asked for again:
    a quarter of LeNet's step. Where MALLOC_… variables say how that is to be, or malloc is another
    one, nothing changes. Returns whether glibc agreed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    # Older ones take no threshold above 32 MiB.
    large = mallopt(_MMAP_THRESHOLD, _GIB) or mallopt(_MMAP_THRESHOLD, 32 << 20)
    return bool(large and mallopt(_TRIM_THRESHOLD, _LARGEST_INT))


def gibibytes(size: int) -> str:
    """`7.3 GiB`."""
    return f"{size / _GIB:.{1 if size >= _GIB else 2}f} GiB"


def _available() -> int | None:
    told = _counters("/proc/meminfo")
    free = told.get("MemAvailable")
    return None if free is None else 1024 * (free + told.get("SwapFree", 0))


def _below_own_limit() -> int | None:
    """What `ulimit -v` leaves of the address space."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    mapped = _mapped()
    return None if limit == resource.RLIM_INFINITY or mapped is None else max(0, limit - mapped)


def _mapped() -> int | None:
    """Bytes of this process's address space that are taken."""
    pages = _text("/proc/self/statm").split()
    return int(pages[0]) * mmap.PAGESIZE if pages else None


def _below_limit_of(names: tuple[str, str, str]) -> int | None:
    """What a control group leaves; the kernel gives its cache of files back when asked."""
    folder, *files = names
    limit, used = (_text(f"{folder}/{name}").strip() for name in files)
    if not (limit.isdecimal() and used.isdecimal()):
        return None
    told = _counters(f"{folder}/memory.stat")
    cache = told.get("inactive_file", 0) + told.get("active_file", 0)
    return max(0, int(limit) - int(used) + cache)


def _counters(path: str) -> dict[str, int]:
    """The numbers of a file of lines `NAME[:] NUMBER …`."""
    return {name: int(number) for name, number in re.findall(r"^(\w+):? +(\d+)", _text(path), re.M)}


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
