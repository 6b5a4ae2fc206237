"""The whole trainer: `python -m gmnet_pt.train` in a process of its own, beside the bare step.

What counts is an iteration of its loop, by its own record: reading, transformation, step, log and
display; start-up and the first display's interval, in which things are chosen and warmed up, do not
count. The bare step is `Solver.step` on tensors that lie in memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from bench.cases import CASES, Case, Training
from bench.options import Measurements, Options
from bench.processes import environment
from bench.rows import Row, rounds, seconds
from bench.train_bench import batches, scratch
from converters.errors import DataError
from gmnet_pt import Solver

BOUND = 1.05
CAFFE_BOUND = 1 / 1.7
ROUNDS = 3
DISPLAY, ITERATIONS = 100, 500
SOLVER = f"display: {DISPLAY} max_iter: {ITERATIONS}"
CAFFE_TIMED = 10
"""Passes of `caffe time`."""


def measurements(options: Options) -> Measurements:
    """LeNet: its step is so short that whatever the loop adds shows."""
    return {"lenet": partial(_bare, CASES["lenet"])}


def caffe(options: Options) -> Measurements:
    """Beside real Caffe: `caffe train` on LeNet, `caffe time` on all nets."""
    if options.caffe is None:
        return {}
    rows: dict[str, Callable[[], Iterable[Row]]] = {
        "train": partial(_caffe_train, CASES["lenet"], options.caffe)
    }
    for name, case in CASES.items():
        rows[name] = partial(_caffe_time, case, options.caffe, options.budget)
    return rows


def _bare(case: Case) -> Iterable[Row]:
    with scratch(case, solver=SOLVER) as files, Solver(files.solver, device="cpu") as solver:
        feeds = [{"data": images, "label": labels} for images, labels in batches(files)]
        for feed in feeds:
            solver.step(feed)

        def steps() -> None:
            for feed in feeds:
                solver.step(feed)

        calls = max(1, ITERATIONS // (2 * len(feeds)))
        ours, bare = rounds(
            (lambda: trained(files), lambda: seconds(steps, calls) / len(feeds)), ROUNDS
        )
        yield Row(
            f"iteration of the trainer, {case.name}, batch {case.batch}; its bare step",
            ours,
            bare,
            BOUND,
            note=f"{1 / ours.median:.1f} iterations/s",
        ).in_milliseconds()


def _caffe_train(case: Case, binary: Path) -> Iterable[Row]:
    with scratch(case, solver=f"{SOLVER} solver_mode: CPU") as files:
        ours, theirs = rounds(
            (lambda: trained(files), lambda: trained_by_caffe(binary, files)), ROUNDS
        )
        yield Row(
            f"iteration of the trainer, {case.name}, batch {case.batch}; caffe train",
            ours,
            theirs,
            CAFFE_BOUND,
            note=f"{1 / ours.median:.1f} and {1 / theirs.median:.1f} iterations/s",
        ).in_milliseconds()


def _caffe_time(case: Case, binary: Path, budget: float) -> Iterable[Row]:
    """Our whole step, update and reading included, beside Caffe's forward and backward alone."""
    with scratch(case) as files, Solver(files.solver, device="cpu") as solver:
        solver.step(2)
        calls = max(2, int(budget / 6 / seconds(solver.step)))
        ours, theirs = rounds(
            (lambda: seconds(solver.step, calls), lambda: timed_by_caffe(binary, files)), ROUNDS
        )
        yield Row(
            f"training step, {case.name}, batch {case.batch}; caffe time, forward and backward",
            ours,
            theirs,
            1.0,
        ).in_milliseconds()


def trained(files: Training) -> float:
    """Seconds of an iteration of the trainer that runs the solver to its end."""
    folder = files.solver.parent
    record = folder / "train.jsonl"
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "gmnet_pt.train", str(files.solver), "--device", "cpu"]
    _run([*command, "--log", "caffe"])
    speeds = []
    for line in record.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "Display" and event.get("speed"):
            elapsed, iterations, _ = event["speed"].values()
            speeds.append((elapsed, iterations))
    return _mean_iteration(speeds, files)


def trained_by_caffe(binary: Path, files: Training) -> float:
    """The same of `caffe train`."""
    log = _run([str(binary), "train", f"--solver={files.solver}"])
    return _mean_iteration(caffe_speeds(log), files)


def caffe_speeds(log: str) -> list[tuple[float, int]]:
    """Seconds and iterations of each display of a log of Caffe's."""
    found = re.findall(r"Iteration \d+ \((\S+) iter/s, (\S+)s/(\d+) iters?\)", log)
    # Its first line says nothing of speed: 0 iterations were done.
    return [(float(taken), round(float(rate) * float(taken))) for rate, taken, _ in found]


def timed_by_caffe(binary: Path, files: Training) -> float:
    """Seconds of forward and backward by `caffe time`."""
    log = _run(
        [str(binary), "time", f"--model={files.net}", f"--iterations={CAFFE_TIMED}"],
    )
    return caffe_average(log)


def caffe_average(log: str) -> float:
    """Seconds of forward and backward in the log of `caffe time`.

    Raises:
        DataError: it has no such line.
    """
    found = re.findall(r"Average Forward-Backward: (\S+) ms", log)
    if not found:
        raise DataError(f"caffe time printed no average: {log[-200:]}")
    return float(found[-1]) / 1000


def _mean_iteration(speeds: list[tuple[float, int]], files: Training) -> float:
    """Over all displays but the first that has any iterations."""
    counted = [speed for speed in speeds if speed[1] > 0][1:]
    if not counted:
        raise DataError(f"{files.solver}: the log shows no speed")
    return sum(taken for taken, _ in counted) / sum(iterations for _, iterations in counted)


def _run(command: list[str]) -> str:
    """What the command printed.

    Raises:
        DataError: it failed; the last lines are shown.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    printed = done.stdout + done.stderr
    if done.returncode:
        raise DataError(f"{' '.join(command)}: exit status {done.returncode}: {printed[-500:]}")
    return printed
