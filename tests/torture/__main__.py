"""`python -m tests.torture [MODULE …] [--scale X] [--jobs N]`: attack, and say what came of it."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import tests.torture as package
from converters.command_line.table import aligned
from tests.torture.child import ROOT, Tally

_FRAME = ("child", "__main__")


def main() -> int:
    """Run the modules' `tallies(scale, part)`; 1 if anything failed."""
    known = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in _FRAME]
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(known))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of trials (1)")
    parser.add_argument("--jobs", type=int, default=1, help="parts to run at once (1)")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)  # one of them: told as JSON
    args = parser.parse_args()
    if unknown := set(args.modules) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    modules = args.modules or known
    if args.part is not None:
        for tally in _tallies(modules, args.scale, args.part):
            print(json.dumps(tally), flush=True)
        return 0
    found: dict[str, Tally] = {}
    start = time.monotonic()
    parts = _parts(modules, args.scale, args.jobs)
    for tally in _tallies(modules, args.scale, 0) if args.jobs == 1 else parts:
        minutes = (time.monotonic() - start) / 60
        print(
            f"{minutes:5.1f} min  {tally.what}: {tally.trials} trials, "
            f"{len(tally.failures)} failures",
            *(f"  {failure}" for failure in tally.failures),
            sep="\n",
            flush=True,
        )
        found[tally.what] = _together(found[tally.what], tally) if tally.what in found else tally
    rows = [("attack", "trials", "failures", "ends"), *map(_row, found.values())]
    print("\n" + "\n".join(aligned(rows, right={1, 2}, ruled=True)))
    failures = sum(len(tally.failures) for tally in found.values())
    print(f"\n{sum(tally.trials for tally in found.values())} trials, {failures} failures")
    return 1 if failures else 0


def _tallies(modules: list[str], scale: float, part: int) -> Iterator[Tally]:
    for name in modules:
        yield from importlib.import_module(f"tests.torture.{name}").tallies(scale, part)


def _parts(modules: list[str], scale: float, jobs: int) -> Iterator[Tally]:
    """Each module's trials in as many parts as there are jobs, each in a process of its own."""

    def run(module: str, part: int) -> list[Tally]:
        command = [sys.executable, "-m", "tests.torture", module, "--part", str(part)]
        command += ["--scale", str(scale / jobs)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        tallies = [Tally(*json.loads(line)) for line in done.stdout.splitlines()]
        if done.returncode != 0:
            ended = f"part {part} of {module} ended with status {done.returncode}"
            tallies.append(Tally(f"{module}: parts", 1, (ended,), {}))
        return tallies

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(run, name, part) for name in modules for part in range(jobs)]
        for done in as_completed(waiting):
            yield from done.result()


def _together(one: Tally, other: Tally) -> Tally:
    ends = dict(Counter(one.ends) + Counter(other.ends))
    return Tally(one.what, one.trials + other.trials, (*one.failures, *other.failures), ends)


def _row(tally: Tally) -> tuple[str, str, str, str]:
    ends = ", ".join(f"{count} {end}" for end, count in tally.ends.items())
    return tally.what, str(tally.trials), str(len(tally.failures)), ends


if __name__ == "__main__":
    sys.exit(main())
