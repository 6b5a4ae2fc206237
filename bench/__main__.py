"""`python -m bench [GROUP[:NAME] …]`: measure, print the table, write the results as JSON.

Without names everything is measured that the device and the options allow. `python -m bench compare
A.json B.json` shows what changed between two results. The rows a GROUP has are listed by --list.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.options import Measurement, Measurements, Options
from bench.results import Results, compare, default_path, read_results, write_results
from bench.rows import table
from converters.command_line.program import run_guarded
from converters.errors import CaffeError


class Group(NamedTuple):
    """Rows that are measured alike: `place` is a function from `Options` to `Measurements`."""

    place: str
    summary: str
    cuda: bool = False
    """Whether it is measured on a CUDA device; the others are on the CPU."""


GROUPS = {
    "train": Group("train_bench.measurements", "Solver.step(); hand-written loops"),
    "bf16": Group("train_bench.bf16", "Solver.step() in bf16; in fp32"),
    "jpeg": Group("train_bench.jpeg", "Solver.step() on JPEG records; on pixels"),
    "trainer": Group("trainer_bench.measurements", "the command gmnet_pt.train; its bare step"),
    "memory": Group("memory_bench.measurements", "peak of a training; of a hand-written one"),
    "inference": Group("inference_bench.measurements", "net(x); folded hand-written modules"),
    "opencv": Group("inference_bench.opencv", "net(x); OpenCV 4, with --cv-python"),
    "detector": Group(
        "detector_bench.measurements",
        "DetectionOutput; a MobileNet-SSD in OpenCV, with --cv-python",
    ),
    "caffe": Group("trainer_bench.caffe", "training; real Caffe, with --caffe"),
    "lmdb": Group("lmdb_bench.measurements", "databases written and read; lmdb alone"),
    "files": Group("files_bench.measurements", "caffemodels; NumPy on the same bytes"),
    "reading": Group("reading_bench.measurements", "batches prepared; record by record"),
    "cuda": Group("cuda_bench.measurements", "Solver.step(); captured loops", cuda=True),
}
"""By name on the command line. Modules are imported when they are asked what they measure."""


def main() -> int:
    """Measure or compare; 1 when a row exceeds its bound or could not be measured."""
    if sys.argv[1:2] == ["compare"]:
        return _compare(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="GROUP[:NAME]", help=", ".join(GROUPS))
    add("--list", action="store_true", help="list what can be measured")
    add("--device", default="cpu", help="cpu, or cuda for the rows of that device")
    add("--out", type=Path, help="results go there (default: bench/results/DATE_COMMIT.json)")
    add("--caffe", type=Path, default=_given("CAFFE"), help="real Caffe's binary; or CAFFE=")
    add(
        "--cv-python",
        type=Path,
        default=_given("CV_PY"),
        help="a Python with opencv-python-headless<5; or CV_PY=",
    )
    add("--budget", type=float, default=20.0, help="seconds of alternation a row (20)")
    args = parser.parse_args()
    options = Options(args.device, args.caffe, args.cv_python, args.budget)
    try:
        chosen = choose(args.names, options)
    except KeyError as error:
        parser.error(str(error.args[0]))
    if args.list:
        _list(chosen)
        return 0
    results = measure(chosen, args.device)
    print(f"{results.heading()}\n\n{_tables(results)}", end="")
    path = args.out or default_path(results)
    write_results(results, path)
    print(f"written to {path}", file=sys.stderr)
    return 0 if results.ok else 1


def choose(names: Sequence[str], options: Options) -> Mapping[str, Measurements]:
    """The measurements of each group that is meant, all of those of the device without names.

    Raises:
        KeyError: there is no such group or row; says which there are.
    """
    cuda = options.device.startswith("cuda")
    wanted = names or [name for name, group in GROUPS.items() if group.cuda == cuda]
    chosen: dict[str, dict[str, Measurement]] = {}
    for whole in wanted:
        name, _, row = whole.partition(":")
        if name not in GROUPS:
            raise KeyError(f"no group {name!r}; there are {', '.join(GROUPS)}")
        module, function = GROUPS[name].place.split(".")
        there = getattr(importlib.import_module(f"bench.{module}"), function)(options)
        if names and not there:
            raise KeyError(f"{name} needs an option: {GROUPS[name].summary}")
        if row and row not in there:
            raise KeyError(f"no {whole}; there are {', '.join(there)}")
        chosen.setdefault(name, {}).update({row: there[row]} if row else there)
    return chosen


def measure(chosen: Mapping[str, Measurements], device: str) -> Results:
    """Run them all; what fails is noted, and the others go on."""
    results = Results.begin(device)
    for group, measurements in chosen.items():
        for name, rows in measurements.items():
            key, start = f"{group}:{name}", time.monotonic()
            print(f"measuring {key} …", end=" ", file=sys.stderr, flush=True)
            try:
                results.rows[key] = list(rows())
            except (CaffeError, OSError, RuntimeError) as error:
                results.failed[key] = f"{type(error).__name__}: {error}"
            print(f"{time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return results


def _tables(results: Results) -> str:
    text = table([row for rows in results.rows.values() for row in rows])
    legend = (
        "Median ± half the interquartile range, less is better. "
        '"?": other work on the machine disturbed the row, measure it again.\n'
    )
    failed = "".join(f"NOT MEASURED {name}: {why}\n" for name, why in results.failed.items())
    return f"{text}\n{legend}{failed}"


def _list(chosen: Mapping[str, Measurements]) -> None:
    for name, measurements in chosen.items():
        print(f"{name:<10} {GROUPS[name].summary}")
        for row in measurements:
            print(f"  {name}:{row}")


def _compare(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=compare.__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args(arguments)
    print(compare(read_results(args.before), read_results(args.after)), end="")
    return 0


def _given(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


if __name__ == "__main__":
    sys.exit(run_guarded(main))
