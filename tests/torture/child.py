"""Runs one of our commands in a process of its own and says what was wrong with how it ended.

A command must end in success or in one clear error: no traceback, no signal, no hang, no line that
nobody can read. The attack runs in a child, so that a signal is a failed row and no dead test run.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_MEMORY = 6 << 30
_LONGEST_LINE = 4000


class Tally(NamedTuple):
    """A kind of attack: how often it was tried, and what went wrong each time that something did.

    `ends` counts how the trials ended, as {"refused": 480, "unharmed": 20}.
    """

    what: str
    trials: int
    failures: tuple[str, ...]
    ends: Mapping[str, int]


class Ended(NamedTuple):
    """How a command ended: its status, None for one that did not, and all that it printed."""

    status: int | None
    text: str


def run(
    arguments: Sequence[str | Path],
    folder: Path,
    seconds: float = 60,
    environment: Mapping[str, str] | None = None,
    memory: int = _MEMORY,
) -> Ended:
    """`python -m` with these arguments in `folder`, within `memory` bytes of address space."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    try:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            | (environment or {}),
            capture_output=True,
            timeout=seconds,
            preexec_fn=limit,
        )
    except subprocess.TimeoutExpired:
        return Ended(None, "")
    return Ended(done.returncode, (done.stderr + done.stdout).decode(errors="replace"))


def wrong(ended: Ended, allowed: Iterable[int] = (0, 1, 2)) -> str:
    """What is wrong with how a command ended; "" for nothing."""
    status, text = ended
    lines = text.strip().splitlines() or [""]
    if status is None:
        return "no end"
    if "Traceback" in text:
        return f"traceback: {lines[-1][:160]}"
    if status not in allowed:
        return f"ended with status {status}: {lines[-1][:160]}"
    if status == 1 and not any(line.startswith("error: ") for line in lines):
        return f"status 1 without an error: {lines[-1][:160]}"
    if max(map(len, lines)) > _LONGEST_LINE:
        return f"a line of {max(map(len, lines))} characters"
    return ""
