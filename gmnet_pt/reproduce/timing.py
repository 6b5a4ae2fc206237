"""How long runs will take: a few iterations of each net, measured here before the first run.

Kept in the run's folder with the processor, threads and device that it is true for.
"""

from __future__ import annotations

import json
import time

from converters.formats.whole_files import written_beside
from gmnet_pt.log.provenance import describe_hardware
from gmnet_pt.reproduce.runs import LAYOUT, RunFolder
from gmnet_pt.reproduce.training import prepare
from gmnet_pt.solver.solver import Solver
from gmnet_pt.solver.solver_file import SolverChoice

_TIMING = "timing.json"
_ITERATIONS = 2
_BACKWARD = 3  # a test's pass is forward alone, about a third of an iteration's


def measure(folder: RunFolder, device: str) -> float:
    """Seconds an iteration of the run's net on `device`; measured once, then read.

    Raises:
        CaffeError: the run cannot be begun.
    """
    if (known := _known(folder, device)) is not None:
        return known
    prepare(folder)
    precision = folder.run.precision
    choice = SolverChoice(folder.solver, device=device, precision=precision, layout=LAYOUT)
    with Solver(choice) as solver:
        # The value, not the call: a GPU is done only once it can be read.
        solver.step(1).item()
        start = time.perf_counter()
        solver.step(_ITERATIONS).item()
        seconds = (time.perf_counter() - start) / _ITERATIONS
    with written_beside(folder.path / _TIMING) as partial:
        text = json.dumps({"seconds": seconds, "hardware": describe_hardware(device)}, indent=1)
        partial.write_text(text + "\n", encoding="utf-8")
    return seconds


def seconds_left(folder: RunFolder, device: str) -> float | None:
    """What remains of a run, tests included; None where its net was never timed here."""
    if folder.result.exists():
        return 0.0
    seconds = _known(folder, device)
    if seconds is None:
        return None
    counts = folder.run.set.counts
    tests = counts["test"] / counts["train"] / _BACKWARD
    return (folder.iterations - folder.iteration) * seconds * (1 + tests)


def _known(folder: RunFolder, device: str) -> float | None:
    try:
        values = json.loads((folder.path / _TIMING).read_text(encoding="utf-8"))
        return float(values["seconds"]) if values["hardware"] == describe_hardware(device) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def span(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `4.2 days`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"
