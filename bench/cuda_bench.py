"""Training steps on a GPU: `Solver.step()` on its data layer beside a hand-written captured loop.

The hand-written module is in channels_last, compiled where that works and is faster, its whole step
captured in one CUDA graph, its batches on the device. Samples end when the device is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial

import torch
from torch import Tensor

from bench.agreement import Agreement, check
from bench.cases import CASES, Case
from bench.hand_written.classifier import Classifier
from bench.hand_written.training import LAYOUTS, Batch, optimizer
from bench.options import Measurements, Options
from bench.rows import Row, alternate_for, fastest
from bench.train_bench import batches, fresh, scratch
from gmnet_pt import Solver
from gmnet_pt.solver.precision import named_precision

BATCHES = (64, 512)
PRECISIONS = ("fp32", "tf32", "bf16")
BOUND = 1.0
WARM_UP = 3
"""Steps before a capture, as torch asks for."""
CALLS = 20
"""Steps between two waits for the device."""


def measurements(options: Options) -> Measurements:
    """`bua` at both batches in each precision."""
    return {
        f"bua-{batch}-{precision}": partial(_row, CASES["bua"], batch, precision, options)
        for batch in BATCHES
        for precision in PRECISIONS
    }


@cache
def _checked(name: str) -> Agreement:
    return check(CASES[name], CASES[name].module())


def _row(case: Case, batch: int, precision: str, options: Options) -> Iterable[Row]:
    found = _checked(case.name)
    device = torch.device(options.device)
    with (
        scratch(case, batch) as files,
        Solver(files.solver, device=options.device, precision=precision) as solver,
    ):
        make = fresh(case, solver)
        given = [Batch(x.to(device), y.to(device)) for x, y in batches(files)]
        with kernels(precision):
            ways, failed = _ways(case, make, given, precision, device)
            best, tried = fastest({name: _waited(way, device) for name, way in ways.items()})
        solver.step(WARM_UP + 2)  # the recording is among them

        def theirs() -> None:
            # Kernels were chosen when the step was captured; the switch matters to nothing else.
            with kernels(precision):
                for _ in range(CALLS):
                    ways[best]()
                torch.cuda.synchronize(device)

        def ours() -> None:
            solver.step(CALLS)
            torch.cuda.synchronize(device)

        mine, other = alternate_for(options.budget, ours, theirs)
        images = batch * CALLS
        yield Row(
            f"training step, {case.name}, batch {batch}, {precision}, "
            f"{torch.cuda.get_device_name(device)}",
            mine * (1 / CALLS),
            other * (1 / CALLS),
            BOUND,
            note=f"yardstick: {best}{failed}; {images / mine.median:,.0f} and "
            f"{images / other.median:,.0f} images/s; on the CPU gradients differ by "
            f"{found.gradients:.0e}",
            tried={name: value / CALLS for name, value in tried.items()},
        ).in_milliseconds()


@contextmanager
def kernels(precision: str) -> Iterator[None]:
    """The kernels that our side uses, and cuDNN's search among them."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with named_precision(precision).kernels():
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def _ways(
    case: Case,
    make: Callable[[], Classifier],
    given: list[Batch],
    precision: str,
    device: torch.device,
) -> tuple[dict[str, Callable[[], object]], str]:
    """Captured steps, with and without torch.compile; and why the latter is missing, if it is."""
    ways: dict[str, Callable[[], object]] = {}
    failed = ""
    for name, compiled in (("captured", False), ("compiled, captured", True)):
        try:
            ways[name] = CapturedLoop(case, make(), given, precision, device, compiled).step
        except Exception as error:
            if not compiled:
                raise
            failed = f" (torch.compile failed: {type(error).__name__})"
    return ways, failed


class CapturedLoop:
    """Forward, backward and update in one CUDA graph, on batches of the device in turn."""

    def __init__(
        self,
        case: Case,
        module: Classifier,
        given: list[Batch],
        precision: str,
        device: torch.device,
        compiled: bool,
    ) -> None:
        layout = LAYOUTS["channels_last"]
        self.module = module.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = optimizer(self.module, case.rule, case.rates, fused=True)
        self.batches = [Batch(x.contiguous(memory_format=layout), y) for x, y in given]
        self.images, self.labels = (x.clone() for x in self.batches[0])
        self.loss: Tensor
        self._half = precision == "bf16"
        self._compute = torch.compile(self.module.loss) if compiled else self.module.loss
        self._next = 0
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._step()
        torch.cuda.current_stream(device).wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        half = torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
        with half if self._half else nullcontext():
            self.loss = self._compute(self.images, self.labels)
        self.loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def step(self) -> Tensor:
        """A step on the next batch; the loss, a scalar that the next step overwrites."""
        batch = self.batches[self._next % len(self.batches)]
        self._next += 1
        self.images.copy_(batch.images)
        self.labels.copy_(batch.labels)
        self.graph.replay()
        return self.loss.detach()


def _waited(way: Callable[[], object], device: torch.device) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS):
            way()
        torch.cuda.synchronize(device)

    return run
