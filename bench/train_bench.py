"""Training as users run it: `Solver.step()` on its data layers beside a hand-written loop.

An iteration of ours reads its records from an LMDB, transforms them, runs forward and backward and
updates. The hand-written loop has its batches in memory, and the better of what torch offers:
memory layout, kind of SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from bench.agreement import check, copy_weights
from bench.cases import CASES, RECORDS, Case, Training, write_training
from bench.hand_written.classifier import Classifier
from bench.hand_written.training import LAYOUTS, Batch, Loop, optimizer
from bench.options import Measurements, Options
from bench.rows import Row, alternate_for, fastest, seconds
from converters import load_net
from gmnet_pt import Solver, feeds

BF16_BOUND = 0.55
JPEG_BOUND = 1.05


def measurements(options: Options) -> Measurements:
    """A row for each net."""
    return {name: partial(_step, case, options) for name, case in CASES.items()}


def bf16(options: Options) -> Measurements:
    """Our step in bfloat16 beside our own in float32."""
    return {"bua": partial(_bf16, CASES["bua"], options)}


def jpeg(options: Options) -> Measurements:
    """Our step on compressed records beside our own on pixels: decoding has to keep up."""
    return {"bua": partial(_jpeg, CASES["bua"], options)}


def _step(case: Case, options: Options) -> Iterable[Row]:
    found = check(case, case.module())
    with scratch(case) as files, Solver(files.solver, device="cpu") as solver:
        best = best_loop(case, fresh(case, solver), batches(files))
        solver.step(2)  # whatever is chosen or built once is done
        ours, yardstick = alternate_for(options.budget, solver.step, best.loop.step)
        yield Row(
            f"training step, {case.name}, batch {case.batch}",
            ours,
            yardstick,
            case.bound,
            note=f"yardstick: {best.name}; {torch.get_num_threads()} threads; "
            f"gradients differ by {found.gradients:.0e}, updates by {found.updates:.0e}",
            tried=best.tried,
        ).in_milliseconds()


def _bf16(case: Case, options: Options) -> Iterable[Row]:
    with (
        scratch(case) as files,
        Solver(files.solver, device="cpu", precision="bf16") as half,
        Solver(files.solver, device="cpu") as single,
    ):
        half.step(2)
        single.step(2)
        ours, yardstick = alternate_for(options.budget, half.step, single.step)
        yield Row(
            f"training step, {case.name}, batch {case.batch}, bf16; our own fp32",
            ours,
            yardstick,
            BF16_BOUND,
        ).in_milliseconds()


def _jpeg(case: Case, options: Options) -> Iterable[Row]:
    with (
        scratch(case, jpeg=True) as files,
        scratch(case) as plain_files,
        Solver(files.solver, device="cpu") as compressed,
        Solver(plain_files.solver, device="cpu") as plain,
    ):
        compressed.step(2)
        plain.step(2)
        ours, yardstick = alternate_for(options.budget, compressed.step, plain.step)
        with closing(feeds(load_net(files.net, phase="TRAIN"))) as stream:
            decoding = seconds(lambda: next(stream), 4 * RECORDS)
        yield Row(
            f"training step, {case.name}, batch {case.batch}, JPEG records; our own on pixels",
            ours,
            yardstick,
            JPEG_BOUND,
            note=f"a batch alone is read and decoded in {decoding * 1000:.1f} ms",
        ).in_milliseconds()


class Best(NamedTuple):
    """The fastest loop, how it is made, and what each way took in seconds."""

    loop: Loop
    name: str
    tried: dict[str, float]


def best_loop(
    case: Case, make: Callable[[], Classifier], given: Sequence[Batch], budget: float = 1.0
) -> Best:
    """Choose the memory layout, then how SGD runs; `make` gives modules of the same weights.

    Each way is timed for `budget` seconds, at least twice.
    """
    loops: dict[str, Loop] = {}

    def step(name: str, layout: str, fused: bool) -> None:
        if name not in loops:
            module = make()
            steps = optimizer(module, case.rule, case.rates, fused)
            loops[name] = Loop(module, steps, given, LAYOUTS[layout])
        loops[name].step()

    fused = {f"{layout}, fused SGD": layout for layout in LAYOUTS}
    best, tried = fastest({name: partial(step, name, x, True) for name, x in fused.items()}, budget)
    foreach, layout = best.replace("fused", "foreach"), fused[best]
    best, again = fastest(
        {foreach: partial(step, foreach, layout, False), best: partial(step, best, layout, True)},
        budget,
    )
    return Best(loops[best], best, tried | again)


@contextmanager
def scratch(case: Case, batch: int = 0, jpeg: bool = False, solver: str = "") -> Iterator[Training]:
    """The files of a training, for as long as the block lasts."""
    with TemporaryDirectory(prefix="bench_") as folder:
        yield write_training(case, Path(folder), batch, jpeg, solver)


def batches(files: Training, count: int = RECORDS) -> list[Batch]:
    """The first batches of a training, as its data layer gives them."""
    stream = feeds(load_net(files.net, phase="TRAIN"), seed=1)
    return [Batch(feed["data"], feed["label"].long()) for feed in islice(stream, count)]


def fresh(case: Case, solver: Solver) -> Callable[[], Classifier]:
    """Makes hand-written modules with the weights that the solver has when this is called."""
    start = case.module()
    copy_weights(case, solver.net, start)
    weights = start.state_dict()

    def make() -> Classifier:
        module = case.module()
        module.load_state_dict(weights)
        return module

    return make
