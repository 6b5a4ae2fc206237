"""`gmnet time`, `python -m gmnet_pt.time`: milliseconds a layer; `gmnet_pt.options.time` has the
options.

The layers run one at a time, as Caffe runs them (`converters.net.layerwise`). Source: Caffe
tools/caffe.cpp, time.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from converters.command_line.net_options import net_choice
from converters.command_line.program import run_program
from converters.command_line.progress import progress
from converters.command_line.table import aligned
from converters.net.caffe_net import CaffeNet
from converters.net.layerwise import backward, forward
from converters.readers import MemoryReader
from converters.readers.reader import READERS
from gmnet_pt.log.caffe_log import CaffeLog
from gmnet_pt.log.events import Message
from gmnet_pt.log.open_log import open_log
from gmnet_pt.net_command import OpenNet, open_net, use_threads
from gmnet_pt.options import time as options
from gmnet_pt.solver.batches import Source, closing, next_feed, open_batches
from gmnet_pt.solver.choices import AUTO
from gmnet_pt.solver.layout import LAYOUTS, Chosen, choose
from gmnet_pt.solver.precision import FP32


class Noise(NamedTuple):
    """The same numbers below 1 for every batch: as labels and indices all are 0, so they fit."""

    tops: Mapping[str, Tensor]

    def next(self) -> dict[str, Tensor]:
        """The numbers, by top name."""
        return dict(self.tops)

    def close(self) -> None:
        """Nothing is held."""


class Span(NamedTuple):
    """Milliseconds forward and backward."""

    forward: float
    backward: float

    @property
    def both(self) -> float:
        """Their sum."""
        return self.forward + self.backward


@dataclass(frozen=True)
class LayerTime:
    """A layer's average."""

    name: str
    type: str
    span: Span


@dataclass(frozen=True)
class NetTime:
    """Averages over `iterations`: layer by layer, and of the whole graph; items in a batch.

    `layout` is the memory format, that of a training unless it was given.
    """

    layers: tuple[LayerTime, ...]
    graph: Span
    iterations: int
    items: int
    layout: Chosen

    @property
    def total(self) -> Span:
        """The sum of the layers."""
        return Span(*(sum(part) for part in zip(*(layer.span for layer in self.layers))))


class Stopwatch:
    """Milliseconds since the last lap; on a GPU it waits for what was queued, as Caffe does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()
        self.lap()

    def lap(self) -> float:
        """The time since the last call."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed * 1000


def run(args: argparse.Namespace) -> int:
    """Measure, and print the table or Caffe's lines."""
    use_threads(args.threads)
    choice = net_choice(args)
    # Caffe's lines are the result there, and nothing but remarks beside a table.
    log = CaffeLog(sys.stderr) if args.log == "caffe" else open_log("caffe")
    opened = open_net(choice, args.device, log.show)
    label = f"{opened.net.name or args.net} ({args.phase}, {opened.device})"
    passes = progress(range(args.iterations), "timing", args.iterations, "iterations")
    times = measure(opened, choice.input_shapes, args.iterations, passes, args.layout)
    log.show(Message(f"Memory layout: {times.layout.name} ({times.layout.reason})."))
    if args.log == "caffe":
        for text in caffe_lines(times):
            log.show(Message(text, "caffe.cpp:400"))
    else:
        print(to_table(times, label))
    return 0


def open_sources(net: CaffeNet, given: Iterable[str]) -> list[Source]:
    """What feeds each data layer: its files, or noise for Input, MemoryData and `given` tops.

    Raises:
        DataError: a layer's files are absent or damaged.
    """
    known, shapes = set(given), net.plan.input_shapes()
    sources: list[Source] = []
    for layer in net.plan.data_layers:
        tops = layer.param.top
        if known & set(tops) or READERS.get(layer.type, MemoryReader) is MemoryReader:
            sources.append(Noise({name: torch.rand(shapes[name]) for name in tops}))
        else:
            sources += open_batches([layer], None)
    return sources


def measure(
    opened: OpenNet,
    given: Iterable[str],
    iterations: int,
    passes: Iterable[object],
    layout: str = AUTO,
) -> NetTime:
    """Time `iterations` passes, one for each of `passes`, after one that is not counted.

    Raises:
        DataError: a data layer's files are absent or damaged.
    """
    net, device = opened
    sums = [[0.0, 0.0] for _ in net.plan.layers]
    graph = [0.0, 0.0]
    with closing(open_sources(net, given)) as sources, FP32.arithmetic(device):
        chosen = Chosen(layout, "as given")
        if layout == AUTO:
            feed = next_feed(sources, device)
            chosen = choose(net, device, lambda: _forward_backward(net, feed, Stopwatch(device)))
        net.lay_out(LAYOUTS[chosen.name])
        _time_layers(net, device, sources, [[0.0, 0.0] for _ in sums])
        _time_graph(net, device, sources, [0.0, 0.0])
        for _ in passes:
            _time_layers(net, device, sources, sums)
            _time_graph(net, device, sources, graph)
    layers = tuple(
        LayerTime(position.name, position.layer.type, _average(times, iterations))
        for position, times in zip(net.plan.layers, sums, strict=True)
    )
    shapes = list(net.plan.input_shapes().values())
    items = shapes[0][0] if shapes and shapes[0] else 0
    return NetTime(layers, _average(graph, iterations), iterations, items, chosen)


def _average(times: Sequence[float], iterations: int) -> Span:
    return Span(*(time_ / iterations for time_ in times))


def _time_layers(
    net: CaffeNet, device: torch.device, sources: Sequence[Source], sums: Sequence[list[float]]
) -> None:
    """Add one pass to `sums`, a pair for each layer; data layers are timed by their sources."""
    _clear(net)
    feed: dict[str, Tensor] = {}
    data = [place for place, position in enumerate(net.plan.layers) if position.layer.is_data]
    watch = Stopwatch(device)
    for place, source in zip(data, sources, strict=True):
        feed.update(next_feed([source], device))
        sums[place][0] += watch.lap()
    ran = []
    for place, one in enumerate(forward(net, feed)):
        sums[place][0] += watch.lap()
        ran.append(one)
    for place, _ in zip(reversed(range(len(ran))), backward(ran)):
        sums[place][1] += watch.lap()


def _time_graph(
    net: CaffeNet, device: torch.device, sources: Sequence[Source], sums: list[float]
) -> None:
    """Add one pass of the whole graph to `sums`; its data is read before the watch starts."""
    _clear(net)
    feed = next_feed(sources, device)
    span = _forward_backward(net, feed, Stopwatch(device))
    sums[0] += span.forward
    sums[1] += span.backward


def _forward_backward(net: CaffeNet, feed: Mapping[str, Tensor], watch: Stopwatch) -> Span:
    loss, _ = net.loss(feed)
    forward = watch.lap()
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    return Span(forward, watch.lap())


def _clear(net: CaffeNet) -> None:
    for parameter in net.parameters():
        parameter.grad = None


def to_table(times: NetTime, label: str) -> str:
    """The layers, their sum, and the whole graph, in milliseconds."""
    total = times.total
    rows = [("layer", "type", "forward", "backward", "share")]
    rows += [
        (layer.name, layer.type, *_cells(layer.span), f"{layer.span.both / (total.both or 1):.1%}")
        for layer in times.layers
    ]
    rows += [("all layers", "", *_cells(total), ""), ("whole graph", "", *_cells(times.graph), "")]
    caption = f"\n{label}: milliseconds a pass, mean of {times.iterations}; {_rate(times)}"
    return "\n".join([*aligned(rows, right=(2, 3, 4)), caption])


def _cells(span: Span) -> tuple[str, str]:
    return f"{span.forward:.3f}", f"{span.backward:.3f}"


def _rate(times: NetTime) -> str:
    both = times.graph.both
    return (
        f"forward and backward of the whole graph {both:.3f} ms, "
        f"{1000 * times.items / (both or 1):.0f} items a second"
    )


def caffe_lines(times: NetTime) -> Iterator[str]:
    """The lines of `caffe time`; the totals are those of the layers."""
    yield "*** Benchmark begins ***"
    yield f"Testing for {times.iterations} iterations."
    yield "Average time per layer: "
    for layer in times.layers:
        yield f"{layer.name:>10}\tforward: {layer.span.forward:g} ms."
        yield f"{layer.name:>10}\tbackward: {layer.span.backward:g} ms."
    total = times.total
    yield f"Average Forward pass: {total.forward:g} ms."
    yield f"Average Backward pass: {total.backward:g} ms."
    yield f"Average Forward-Backward: {total.both:g} ms."
    yield f"Total Time: {total.both * times.iterations:g} ms."
    yield "*** Benchmark ends ***"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and measure."""
    return run_program("gmnet_pt.time", options.__doc__, options.configure, run, argv)


if __name__ == "__main__":
    sys.exit(main())
