"""Peak memory of a training in a process of its own, beside a hand-written one in another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import partial

from bench.cases import CASES, Case, Training
from bench.options import Measurements, Options
from bench.processes import environment
from bench.rows import Measure, Row
from bench.train_bench import scratch

NETS = ("bua", "alexnet", "googlenet")
STEPS = 3
BOUND = 1.1
"""Ours also holds what reads and checks Caffe's files, which a hand-written loop does not."""


def measurements(options: Options) -> Measurements:
    """A row for each of `NETS`."""
    return {name: partial(_row, CASES[name]) for name in NETS}


def _row(case: Case) -> Iterable[Row]:
    with scratch(case) as files:
        ours = _peak("ours", case, files)
        theirs = {layout: _peak(layout, case, files) for layout in ("contiguous", "channels_last")}
    best = min(theirs, key=theirs.__getitem__)
    yield Row(
        f"peak memory of training, {case.name}, batch {case.batch}",
        Measure((ours,)),
        Measure((theirs[best],)),
        BOUND,
        unit="MB",
        note=f"whole process, {STEPS} steps; yardstick: {best}",
        tried=theirs,
    )


def _peak(side: str, case: Case, files: Training) -> float:
    """Megabytes of resident memory at the most."""
    shape = ",".join(map(str, case.images.batch(case.batch)))
    given = [str(files.solver)] if side == "ours" else [case.hand_written, shape, str(case.classes)]
    command = [sys.executable, "-m", "bench.peak", side, str(STEPS), *given]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment())
    return int(run.stdout.split()[-1]) / 1e6
