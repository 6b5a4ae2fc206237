"""The training loop: Caffe's Solver on a torch net.

Caffe's order within an iteration: test, iter_size × (forward, backward), display, update, snapshot.
Neighbours: `solver_file` (what to train), `updates` (the six rules), `lr_policy`, `batches` (data),
`snapshot` (files), `log`. Source: Caffe solver.cpp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from converters.environment import find_file
from converters.errors import SolverError
from converters.net.caffe_net import CaffeNet, build_net
from converters.net.choice import NetChoice, weight_files
from converters.net.layerwise import total_loss
from converters.net.weights import LoadReport
from converters.proto import caffe_pb2 as pb
from gmnet_pt.log.events import (
    Advance,
    Clip,
    Display,
    Evaluation,
    Event,
    Finetune,
    Message,
    MultiStep,
    Scores,
    Speed,
    Start,
    Stop,
)
from gmnet_pt.solver import snapshot as snapshots
from gmnet_pt.solver import solver_file
from gmnet_pt.solver.batches import Batches, next_feed, open_net_batches
from gmnet_pt.solver.debug_info import outputs as outputs_of
from gmnet_pt.solver.debug_info import show_forward, show_forward_backward
from gmnet_pt.solver.device import device_message, named_device, solver_device
from gmnet_pt.solver.lr_policy import rate_policy
from gmnet_pt.solver.scores import Means, list_outputs
from gmnet_pt.solver.updates import Updater


class Request(Enum):
    """What a signal asks of a running solver."""

    NONE = "none"
    SNAPSHOT = "snapshot"
    STOP = "stop"


class Precision(NamedTuple):
    """How a step computes: autocast's type (None is plain fp32), and whether TF32 may be used."""

    autocast: torch.dtype | None
    tf32: bool


PRECISIONS = {
    "fp32": Precision(None, False),
    "tf32": Precision(None, True),
    "bf16": Precision(torch.bfloat16, True),
}


class Solver:
    """Trains the net of a solver file as Caffe would.

    Args:
        path: a solver file, or a net with a solver.prototxt beside it.
        weights: caffemodels to start from, by layer name, instead of the file's `weights`.
        snapshot: a .solverstate to continue from; no weights are read but its own.
        device: "cpu", "cuda", "cuda:1"; None follows solver_mode and device_id.
        overrides: FIELD=VALUE settings of the solver file.
        level, stages: added to the file's train_state.
        input_shapes: shapes of data layers' tops whose files are absent (`step` needs inputs then).

    Raises:
        CaffeError: anything wrong in the files, one line each.
    """

    def __init__(
        self,
        path: str | Path,
        weights: str | Path | Sequence[str | Path] | None = None,
        snapshot: str | Path | None = None,
        device: str | torch.device | None = None,
        solver: str | Path | None = None,
        overrides: Sequence[str] = (),
        level: int | None = None,
        stages: Sequence[str] = (),
        strict: bool = False,
        precision: str = "fp32",
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        allow_python_layers: bool = False,
        show: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.param, self.path = solver_file.read_solver_or_net(path, solver, overrides)
        source = str(self.path)
        solver_file.check(self.param, source)
        solver_file.choose_state(self.param, level, stages)
        solver_file.choose_weights(self.param, weights, snapshot)
        self._rate = rate_policy(self.param, source)
        self.show = show
        self.precision = _precision(precision)
        self.device = self._choose_device(device)
        if self.param.random_seed >= 0:
            torch.manual_seed(self.param.random_seed)
        self.iter = 0
        self.current_step = 0
        self._python = allow_python_layers
        self.net = self._build(solver_file.train_net(self.param, self.path), input_shapes)
        self.test_nets = [self._build(net) for net in solver_file.test_nets(self.param, self.path)]
        self.load_report = self._load_weights(strict)
        for test_net in self.test_nets:
            test_net.share(self.net)
        learnables = self.net.plan.learnables
        self.updater = Updater(
            self.net.learnable,
            [entry.lr_mult for entry in learnables],
            [entry.decay_mult for entry in learnables],
            self.param,
            source,
        )
        self._batches: dict[int, list[Batches]] = {}
        self._losses: list[Tensor] = []
        self._start = 0
        self._smoothed = torch.zeros((), device=self.device)
        self._stop = self._debug_train = False
        self._requests: Callable[[], Request] = lambda: Request.NONE
        self._last_feed: Mapping[str, Any] | None = None
        self.last_snapshot: Path | None = None
        self._shown_at, self._shown_iter = time.monotonic(), 0
        snapshots.check_folder(self.param)
        if snapshot is not None:
            snapshots.restore(self, Path(snapshot))

    # One iteration -------------------------------------------------------------------------------

    def step(self, inputs: Mapping[str, Any] | None = None) -> Tensor:
        """One iteration on `inputs` (each pass of iter_size takes them) or the net's data layers.

        Returns the loss before the update, averaged over iter_size: a 0-d tensor on the device.
        """
        loss, _ = self._forward_backward(inputs)
        self._update()
        return loss

    def _forward_backward(
        self, inputs: Mapping[str, Any] | None, debug: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        for parameter in self.net.parameters():
            parameter.grad = None
        total = torch.zeros((), device=self.device)
        for _ in range(self.param.iter_size):
            self._last_feed = feed = self._feed(self.net) if inputs is None else inputs
            if debug:
                with self._arithmetic():
                    loss, outputs = show_forward_backward(self.net, feed, self.show)
            else:
                with self._arithmetic():
                    loss, outputs = self.net.loss(feed)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        total /= self.param.iter_size
        # A device is not made to wait for this; there the loss is looked at where it is displayed.
        if self.device.type == "cpu":
            self._require_finite(total)
        return total, outputs

    def _update(self) -> None:
        step = self.current_step
        self.rate, self.current_step = self._rate(self.iter, step)
        if self.current_step != step:
            self.show(MultiStep(self.iter, self.current_step))
        gradients = [blob.grad for blob in self.net.learnable]
        rate = torch.tensor(self.rate, device=self.device)
        self.updater.step(gradients, rate, self.iter)
        norm = self.updater.gradient_norm
        if norm is not None and self.device.type == "cpu" and norm > self.param.clip_gradients:
            self.show(Clip(float(norm), self.param.clip_gradients))
        self.iter += 1

    def _arithmetic(self) -> torch.autocast:
        chosen = self.precision.autocast
        return torch.autocast(
            self.device.type, dtype=chosen or torch.bfloat16, enabled=chosen is not None
        )

    def _require_finite(self, loss: Tensor) -> None:
        if bool(torch.isfinite(loss)) or self._last_feed is None:
            return
        layer, blob = first_not_finite(self.net, self._last_feed)
        raise self._not_finite(
            f"the loss is {float(loss):g} at iteration {self.iter}; the first blob that is not "
            f'finite is "{blob}" of layer "{layer}"'
        )

    def _not_finite(self, found: str) -> SolverError:
        last = self.last_snapshot
        return SolverError(
            f"{self.path}: {found}; "
            + (f"the last good snapshot is {last}" if last else "there is no snapshot yet")
            + "; try a smaller base_lr, or clip_gradients"
        )

    # Data ----------------------------------------------------------------------------------------

    def batches(self, net: CaffeNet) -> list[Batches]:
        """The readers of a net's data layers, opened on first use."""
        if id(net) not in self._batches:
            seed = self.param.random_seed if self.param.random_seed >= 0 else None
            self._batches[id(net)] = open_net_batches(net, seed)
        return self._batches[id(net)]

    def opened_batches(self, net: CaffeNet) -> list[Batches]:
        """As `batches`, without opening: none if the net has not been fed yet."""
        return self._batches.get(id(net), [])

    def _feed(self, net: CaffeNet) -> dict[str, Tensor]:
        return next_feed(self.batches(net), self.device)

    # The whole run -------------------------------------------------------------------------------

    def solve(self, requests: Callable[[], Request] = lambda: Request.NONE) -> bool:
        """Train to max_iter with tests, display and snapshots; False if `requests` stopped it."""
        self.show(Start(self.net.name, self.param.lr_policy, self.iter, self.param.max_iter))
        self._stop = False
        self._requests = requests
        self._debug_train = False
        self._losses, self._smoothed = [], torch.zeros((), device=self.device)
        self._start, self._shown_at, self._shown_iter = self.iter, time.monotonic(), self.iter
        while self.iter < self.param.max_iter and not self._stop:
            self._iterate()
        if self.param.snapshot_after_train and not self._just_saved():
            self._snapshot_if_sound()
        if self._stop:
            self.show(Stop(early=True))
            return False
        self._final_display()
        if self.param.test_interval and self.iter % self.param.test_interval == 0:
            self.test()
        self.show(Stop())
        return True

    def _iterate(self) -> None:
        param = self.param
        due = param.test_interval and self.iter % param.test_interval == 0
        if due and (self.iter > 0 or param.test_initialization):
            self.test()
            if self._stop:
                return
        display = bool(param.display) and self.iter % param.display == 0
        self._debug_train = display and param.debug_info
        loss, outputs = self._forward_backward(None, self._debug_train)
        self._smooth(loss)
        if display:
            self._display(outputs)
        self._update()
        self.show(Advance(self.iter))
        request = self._requests()
        if (param.snapshot and self.iter % param.snapshot == 0) or request is Request.SNAPSHOT:
            self._snapshot_if_sound()
        self._stop = request is Request.STOP

    def _smooth(self, loss: Tensor) -> None:
        """Caffe's UpdateSmoothedLoss: a running mean, then a window of average_loss values."""
        window = self.param.average_loss
        if len(self._losses) < window:
            self._losses.append(loss)
            size = len(self._losses)
            self._smoothed = (self._smoothed * (size - 1) + loss) / size
        else:
            slot = (self.iter - self._start) % window
            self._smoothed = self._smoothed + (loss - self._losses[slot]) / window
            self._losses[slot] = loss

    def _display(self, outputs: Mapping[str, Tensor]) -> None:
        self._require_finite(self._smoothed)
        now = time.monotonic()
        rate, _ = self._rate(self.iter, self.current_step)
        speed = Speed(now - self._shown_at, self.iter - self._shown_iter, self.param.display)
        shown = tuple(list_outputs(self.net, outputs))
        self.show(Display(self.iter, float(self._smoothed), shown, rate, speed))
        self._shown_at, self._shown_iter = now, self.iter

    def _final_display(self) -> None:
        if self.param.display and self.iter % self.param.display == 0:
            with torch.no_grad(), self._arithmetic():
                loss, _ = self._forward(self.net, self._debug_train)
            self._smooth(loss)
            self.show(Display(self.iter, float(self._smoothed)))

    def test(self) -> list[dict[str, Tensor]]:
        """Mean outputs of each test net over its test_iter batches, by blob name."""
        results = []
        for index, net in enumerate(self.test_nets):
            scores = self._test(index, net)
            if scores is None:
                break
            results.append(scores)
        return results

    def _test(self, index: int, net: CaffeNet) -> dict[str, Tensor] | None:
        self.show(Evaluation(self.iter, index))
        count = self.param.test_iter[index]
        means = Means(net)
        for _ in range(count):
            request = self._requests()
            if request is Request.SNAPSHOT:
                self._snapshot_if_sound()
            if request is Request.STOP:
                self._stop = True
                self.show(Message("Test interrupted."))
                return None
            with torch.no_grad(), self._arithmetic():
                means.add(*self._forward(net, self.param.debug_info))
        scores = means.outputs()
        loss_shown = means.loss() if self.param.test_compute_loss else None
        self.show(Scores(self.iter, index, tuple(list_outputs(net, scores)), loss_shown))
        return scores

    def _forward(self, net: CaffeNet, debug: bool) -> tuple[Tensor, dict[str, Tensor]]:
        feed = self._feed(net)
        if not debug:
            return net.loss(feed)
        ran = show_forward(net, feed, self.show)
        return total_loss(ran), outputs_of(net, ran)

    # Files ---------------------------------------------------------------------------------------

    def snapshot(self) -> Path:
        """Write PREFIX_iter_N.caffemodel, .state.npz and .solverstate; returns the last."""
        self.last_snapshot = snapshots.save(self)
        return self.last_snapshot

    def _snapshot_if_sound(self) -> None:
        """A snapshot, unless loss or parameters are not finite: the last good one stays the last.

        Raises:
            SolverError: they are not.
        """
        self._require_finite(self._smoothed)
        for entry, blob in zip(self.net.plan.learnables, self.net.learnable, strict=True):
            if not bool(torch.isfinite(blob).all()):
                raise self._not_finite(
                    f"after iteration {self.iter - 1} parameter blob {entry.place} of layer "
                    f'"{entry.layer}" is not finite'
                )
        self.snapshot()

    def _just_saved(self) -> bool:
        return bool(self.param.snapshot) and self.iter % self.param.snapshot == 0

    def _build(
        self, choice: NetChoice, shapes: Mapping[str, Sequence[int]] | None = None
    ) -> CaffeNet:
        given = {name: tuple(shape) for name, shape in (shapes or {}).items()}
        choice = replace(choice, input_shapes=given, allow_python_layers=self._python)
        return build_net(choice).to(self.device)

    def _choose_device(self, wanted: str | torch.device | None) -> torch.device:
        if wanted is not None:
            device = named_device(wanted)
        else:
            device = solver_device(self.param)
        asked = wanted is None and self.param.solver_mode == pb.SolverParameter.GPU
        self.show(device_message(device, missing=asked))
        return device

    def _load_weights(self, strict: bool) -> LoadReport | None:
        named = [name for entry in self.param.weights for name in weight_files(entry)]
        files = [find_file(name, self.path.parent) for name in named]
        if not files:
            return None
        for file in files:
            self.show(Finetune(str(file)))
        for test_net in self.test_nets:
            if test_net.params.keys() - self.net.params.keys():
                test_net.initialize(files, refill=False)
        report = self.net.initialize(files, strict, refill=False)
        for line in report.lines():
            self.show(Message(line, "net.cpp:746"))
        return report


def first_not_finite(net: CaffeNet, feed: Mapping[str, Any]) -> tuple[str, str]:
    """The first layer, in Caffe's order, with a top (or blob) that is not finite, and its name."""
    for name, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            if not bool(torch.isfinite(blob).all()):
                return name, f"parameter blob {index}"
    with torch.no_grad():
        blobs_by_name = net(feed, blobs="all")
    for position in net.plan.layers:
        for name in position.top_names:
            if name in blobs_by_name and not bool(torch.isfinite(blobs_by_name[name]).all()):
                return position.name, name
    return "?", "the loss itself"


def _precision(name: str) -> Precision:
    if name not in PRECISIONS:
        raise SolverError(f"--precision {name}: one of {', '.join(PRECISIONS)}")
    torch.backends.cuda.matmul.allow_tf32 = PRECISIONS[name].tf32
    torch.backends.cudnn.allow_tf32 = PRECISIONS[name].tf32
    return PRECISIONS[name]
