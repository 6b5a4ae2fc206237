"""`python -m tests.torture [MODULE …] [--scale X]`: attack, and print what came of it."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time

import tests.torture as package
from converters.command_line.table import aligned
from tests.torture.child import Tally

_FRAME = ("child", "__main__")


def main() -> int:
    """Run the modules' `tallies(scale)`; 1 if anything failed."""
    known = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in _FRAME]
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(known))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of trials (1)")
    args = parser.parse_args()
    if unknown := set(args.modules) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    rows, failed = [("attack", "trials", "failures", "ends", "minutes")], 0
    for name in args.modules or known:
        start = time.monotonic()
        for tally in importlib.import_module(f"tests.torture.{name}").tallies(args.scale):
            minutes = (time.monotonic() - start) / 60
            start = time.monotonic()
            rows.append(_row(tally, minutes))
            failed += len(tally.failures)
            print(
                f"{tally.what}: {tally.trials} trials, {len(tally.failures)} failures", flush=True
            )
            for failure in tally.failures:
                print(f"  {failure}", flush=True)
    print("\n" + "\n".join(aligned(rows, right={1, 2, 4}, ruled=True)))
    return 1 if failed else 0


def _row(tally: Tally, minutes: float) -> tuple[str, str, str, str, str]:
    ends = ", ".join(f"{count} {end}" for end, count in tally.ends.items())
    return tally.what, str(tally.trials), str(len(tally.failures)), ends, f"{minutes:.1f}"


if __name__ == "__main__":
    sys.exit(main())
