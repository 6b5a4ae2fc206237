"""A whole iteration recorded once as a CUDA graph and replayed: forward, backward and update.

A graph holds what the device did, not the Python that told it to. So everything that changes from
one iteration to the next is a tensor that stays where it is: inputs are copied into, rate and
iteration are filled, parameters, history, statistics and hidden states are updated in place, and
torch gives each replay the random numbers that the same iteration would have drawn. What reads
numbers (display, tests, snapshots) stays outside.

The first iterations run as they are, on the stream that records: they are the run's own, so nothing
has to be put back. `step` has the iteration itself, `solver` asks here for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from converters.errors import SolverError
from converters.net.caffe_net import CaffeNet
from converters.net.layer_module import LayerModule
from gmnet_pt.solver.step import Feed, Passed, TrainingStep

Made = TypeVar("Made")

WARM_UP = 3
"""Iterations before the recording one: libraries allocate and choose algorithms in the first."""


class Graphs(Protocol):
    """What records the work that a call gives a device."""

    def aside(self) -> AbstractContextManager[None]:
        """Where calls run that are recorded later."""

    def record(self, call: Callable[[], Made]) -> tuple[Made, Callable[[], None]]:
        """Run `call` without its work being done; its result, and what does that work.

        The tensors of the result have their values after each replay, in the same memory.
        """


class CudaGraphs:
    """CUDA graphs of one device, recorded on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On that stream, behind what the current one was given and before what it gets."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def record(self, call: Callable[[], Made]) -> tuple[Made, Callable[[], None]]:
        """See `Graphs`; the generator of the device takes part by itself."""
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: another reads data ahead, and may pin memory meanwhile.
        recording = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        with torch.cuda.device(self._device), recording:
            made = call()
        return made, graph.replay


class _Iteration(NamedTuple):
    """What an iteration leaves behind, in tensors that the next one overwrites."""

    passed: Passed
    gradients: list[Tensor | None]
    updates: list[Tensor]
    gradient_norm: Tensor | None


class _Recording(NamedTuple):
    """A recorded iteration: what it reads, what runs it, what it leaves behind."""

    shapes: tuple[Any, ...]
    feeds: list[dict[str, Tensor]]
    replay: Callable[[], None]
    left: _Iteration


class CapturedStep:
    """Runs the whole iterations of `step`, by a recording once there is one.

    Args:
        rate, iteration: 0-d tensors on the device, filled before each call.
        graphs: what records.
        debug: whether each layer's values are to be shown, which no recording can.
        tell: is given a line where iterations have to run uncaptured, once for each reason.
    """

    def __init__(
        self,
        step: TrainingStep,
        rate: Tensor,
        iteration: Tensor,
        graphs: Graphs,
        debug: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._step = step
        step.updater.reads_rate = False
        self._rate = rate
        self._iteration = iteration
        self._graphs = graphs
        self._debug = debug
        self._tell = tell
        self._told: set[str] = set()
        self._known: tuple[Any, ...] = ()
        self._warm = 0
        self._recording: _Recording | None = None
        self._obstacle: str | None = None

    def __call__(self, feeds: Sequence[Feed]) -> Passed | None:
        """A whole iteration on iter_size feeds; None where it cannot be captured: nothing ran.

        The outputs hold until the next call.

        Raises:
            SolverError: recording failed.
        """
        if (known := self._fingerprint()) != self._known:
            self._begin(known)
        shapes = _shapes(feeds)
        why = self._obstacle or _unfit(feeds)
        if why is None and self._recording and shapes != self._recording.shapes:
            why = f"other input shapes than those recorded ({_in_words(feeds)})"
        if why is not None:
            self._uncaptured(why)
            return None
        if self._recording is None:
            if self._warm < WARM_UP:
                self._warm += 1
                with self._graphs.aside():
                    return self._run(feeds).passed
            self._recording = self._record(feeds, shapes)
        return self._replay(self._recording, feeds)

    def _begin(self, known: tuple[Any, ...]) -> None:
        """Forget the recording; `known` is what the next one will be of."""
        self._known, self._warm, self._recording = known, 0, None
        self._obstacle = (
            "debug_info shows each layer's values" if self._debug else obstacle(self._step.net)
        )

    def _fingerprint(self) -> tuple[Any, ...]:
        """What a recording has fixed: the graph, which changes with hooks, modes, memory."""
        net = self._step.net
        return (
            net.loss_module,
            net.layout,
            self._step.precision,
            tuple(module.training for module in net.layer_modules),
            tuple((x.data_ptr(), x.requires_grad, _has_hook(x)) for x in net.learnable),
            tuple(x.data_ptr() for m in net.layer_modules for x in m.state.values()),
            tuple(x.data_ptr() for x in self._step.updater.history),
        )

    def _run(self, feeds: Sequence[Feed]) -> _Iteration:
        step = self._step
        loss, outputs = step.accumulate(feeds)
        # An output may be a parameter, which the update is about to change.
        own = {blob.untyped_storage().data_ptr() for blob in step.net.learnable}
        outputs = {
            name: x.clone() if x.untyped_storage().data_ptr() in own else x
            for name, x in outputs.items()
        }
        step.update(self._rate, self._iteration)
        updater = step.updater
        gradients = [blob.grad for blob in step.net.learnable]
        return _Iteration(Passed(loss, outputs), gradients, updater.updates, updater.gradient_norm)

    def _record(self, feeds: Sequence[Feed], shapes: tuple[Any, ...]) -> _Recording:
        device = self._step.device
        inputs = [{name: x.to(device, copy=True) for name, x in feed.items()} for feed in feeds]
        # What the last iteration left need not lie beside the recording's own.
        self._step.clear()
        self._step.updater.updates = []
        try:
            left, replay = self._graphs.record(lambda: self._run(inputs))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise SolverError(
                f"{self._step.net.plan.source}: an iteration cannot be recorded as a CUDA graph "
                f"({reason[0]}); --capture off trains without"
            ) from error
        return _Recording(shapes, inputs, replay, left)

    def _replay(self, recording: _Recording, feeds: Sequence[Feed]) -> Passed:
        for inputs, feed in zip(recording.feeds, feeds, strict=True):
            for name, x in inputs.items():
                x.copy_(feed[name], non_blocking=True)
        recording.replay()
        passed, gradients, updates, norm = recording.left
        # An iteration in between, of another shape, has left its own here.
        for blob, gradient in zip(self._step.net.learnable, gradients, strict=True):
            blob.grad = gradient
        self._step.updater.updates, self._step.updater.gradient_norm = updates, norm
        return passed._replace(loss=passed.loss.clone())

    def _uncaptured(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            self._tell(f"Iterations run without a CUDA graph: {why}.")


def _shapes(feeds: Sequence[Feed]) -> tuple[Any, ...]:
    return tuple(
        tuple((name, getattr(x, "shape", None), getattr(x, "dtype", None)) for name, x in f.items())
        for f in feeds
    )


def _in_words(feeds: Sequence[Feed]) -> str:
    shown = (f"{name} {tuple(x.shape)}" for name, x in feeds[0].items())
    return f"{', '.join(shown)}; {len(feeds)} a step"


def _unfit(feeds: Sequence[Feed]) -> str | None:
    """Why these inputs, given by hand, cannot be copied to where a recording reads."""
    for feed in feeds:
        for name, x in feed.items():
            if not isinstance(x, Tensor):
                return f'input "{name}" is given as an array, not as a tensor'
            if x.requires_grad:
                return f'input "{name}" takes a gradient'
    return None


def obstacle(net: CaffeNet) -> str | None:
    """Why a pass of `net` is more than work for the device; names the layer."""
    for key, own in net.keyed_modules():
        if own.layer.needs_host:
            return f'layer "{key}" ({own.layer.type}) {own.layer.needs_host}'
        if net.module_of(key) is not own or "forward" in own.__dict__:
            return f'another module stands in the place of layer "{key}"'
        if _calls_hooks(own):
            return f'layer "{key}" carries a hook'
    for place, entry in enumerate(net.plan.learnables):
        if net.store.is_made(place):
            return f'a parameter of layer "{entry.layer}" is computed anew each time'
        if _has_hook(net.store[place]):
            return f'a parameter of layer "{entry.layer}" carries a hook'
    return None if net.is_plain() else "torch has a hook for every module"


def _calls_hooks(module: LayerModule) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _has_hook(blob: Tensor) -> bool:
    return bool(blob._backward_hooks or getattr(blob, "_post_accumulate_grad_hooks", None))
