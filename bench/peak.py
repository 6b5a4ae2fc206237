"""A training in a process of its own, whose peak of memory is its last line of output.

`python -m bench.peak ours STEPS SOLVER`, or `… contiguous|channels_last STEPS MODULE.NAME
N,C,H,W CLASSES` for a hand-written one, which must not import what only ours needs.
"""

from __future__ import annotations

import importlib
import sys


def ours(steps: int, solver_file: str) -> None:
    """Train as a user of the library does."""
    from gmnet_pt import Solver

    with Solver(solver_file, device="cpu") as solver:
        solver.step(steps)


def hand_written(layout: str, steps: int, name: str, shape: str, classes: str) -> None:
    """Train as without it, on one batch of noise."""
    import torch

    from bench.hand_written.rule import Rule, equal_rates
    from bench.hand_written.training import LAYOUTS, Batch, Loop, optimizer

    place, made = name.rsplit(".", 1)
    module = getattr(importlib.import_module(f"bench.hand_written.{place}"), made)()
    images = torch.rand(tuple(map(int, shape.split(","))))
    batch = Batch(images, torch.randint(int(classes), (len(images),)))
    rule = optimizer(module, Rule(0.01, 1e-4), equal_rates, fused=True)
    loop = Loop(module, rule, [batch], LAYOUTS[layout])
    for _ in range(steps):
        loop.step()


def main() -> None:
    """Run one side; print its peak in bytes."""
    side, steps, *given = sys.argv[1:]
    if side == "ours":
        ours(int(steps), *given)
    else:
        hand_written(side, int(steps), *given)
    # VmHWM, as getrusage's peak would start from the memory of the process that forked.
    with open("/proc/self/status") as status:
        print(next(int(x.split()[1]) * 1024 for x in status if x.startswith("VmHWM")))


if __name__ == "__main__":
    main()
