"""The training loop: Caffe's Solver on a torch net.

Caffe's order within an iteration: test, iter_size × (forward, backward), display, update, snapshot.
Neighbours: `solver_file` (what to train), `nets` and `batches`, `step`, `updates` and `lr_policy`
(an iteration), `testing`, `run_state` and `snapshot` (files). Source: Caffe solver.cpp.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from converters.errors import SolverError
from converters.memory import keep_freed
from converters.net.caffe_net import CaffeNet, lay_out
from converters.net.choice import Weights
from converters.proto import caffe_pb2 as pb
from converters.reporting import SILENT, Reporter
from gmnet_pt.log.events import (
    Advance,
    Clip,
    Display,
    Evaluation,
    Event,
    Finetune,
    Message,
    MultiStep,
    Resume,
    Scores,
    Snapshot,
    Speed,
    Start,
    Stop,
)
from gmnet_pt.solver import layout as layouts
from gmnet_pt.solver import not_finite, solver_file, testing
from gmnet_pt.solver import snapshot as snapshots
from gmnet_pt.solver.batches import Batches
from gmnet_pt.solver.capture import CapturedStep, CudaGraphs, Graphs
from gmnet_pt.solver.choices import AUTO, Request
from gmnet_pt.solver.compiled import CompiledLoss
from gmnet_pt.solver.debug_info import show_forward_backward
from gmnet_pt.solver.detection import Precisions
from gmnet_pt.solver.device import choose_device
from gmnet_pt.solver.lr_policy import Plateau, rate_policy
from gmnet_pt.solver.nets import FedNet
from gmnet_pt.solver.precision import named_precision
from gmnet_pt.solver.processes import LostProcessError, current
from gmnet_pt.solver.random_numbers import RandomNumbers
from gmnet_pt.solver.resident import DataMemory
from gmnet_pt.solver.run_state import NetState, OwnState, RunState, on_host
from gmnet_pt.solver.scores import SmoothedLoss, list_outputs
from gmnet_pt.solver.solver_file import SolverChoice
from gmnet_pt.solver.step import Feed, Passed, TrainingStep
from gmnet_pt.solver.updates import Updater

_REQUESTS = list(Request)
"""Of what several processes are asked for, the later is done by all."""


def no_request() -> Request:
    """Nobody asks for anything."""
    return Request.NONE


class Solver:
    """Trains the net of a solver file as Caffe would; `with` closes its readers.

    Args:
        path: a solver file, a net with a solver.prototxt beside it, or a whole `SolverChoice`.
        weights: caffemodels to start from, by layer name, instead of the file's `weights`.
        snapshot: a .solverstate to continue from; no weights are read but its own.
        device: "cpu", "cuda", "cuda:1"; None follows solver_mode and device_id.
        show: is given the events of the run (`gmnet_pt.log.events`).
        settings: the other fields of `SolverChoice`.

    Raises:
        CaffeError: anything wrong in the files, one line each.
    """

    def __init__(
        self,
        path: str | Path | SolverChoice,
        weights: Weights = None,
        snapshot: str | Path | None = None,
        device: str | torch.device | None = None,
        show: Callable[[Event], None] = lambda event: None,
        **settings: Any,
    ) -> None:
        if isinstance(path, SolverChoice):
            if settings or (weights, snapshot, device) != (None, None, None):
                raise TypeError("a SolverChoice says all: change it with dataclasses.replace")
            choice = path
        else:
            choice = SolverChoice(path, weights, snapshot, device, **settings)
        self.choice, self.show = choice, show
        self.param, self.path = pb.SolverParameter(), choice.file.path
        self.param.CopyFrom(choice.file.param)
        source = str(self.path)
        self._rate = rate_policy(self.param, source)
        self.precision = named_precision(choice.precision)
        self.device, message = choose_device(self.param, choice.device)
        show(message)
        if self.device.type == "cpu":
            keep_freed()
        for note in choice.file.notes:
            show(Message(note))
        self.iter = 0
        self.current_step = 0
        self.plateau = Plateau() if self.param.lr_policy == "plateau" else None
        self.processes = current()
        self._seed = self._common_seed()
        own = None if self._seed is None else self._seed + self.processes.rank
        self.random = RandomNumbers(own, self.device)
        resumed = None if choice.snapshot is None else snapshots.read(Path(choice.snapshot))
        with self.random.entered():
            self._fed = self._build_nets(fill=resumed is None)
        self.net, *self.test_nets = (fed.net for fed in self._fed)
        self.processes.lead(blob for fed in self._fed for blob in fed.net.learnable)
        learnables = self.net.plan.learnables
        self.updater = Updater(
            self.net.learnable,
            [entry.lr_mult for entry in learnables],
            [entry.decay_mult for entry in learnables],
            self.param,
            source,
        )
        self.training = TrainingStep(self.net, self.updater, self.device, self.precision)
        if choice.compile:
            self._tell("The loss runs through torch.compile: the first iterations take long.")
            self._compile()
        # What the step is given, filled anew each iteration: the device need not wait for them.
        self._rate_now = torch.zeros((), device=self.device)
        self._iteration_now = torch.zeros((), dtype=torch.float64, device=self.device)
        self._captured: CapturedStep | None = None
        if choice.capture and self.device.type == "cuda":
            if self.plateau is not None:
                show(Message("Iterations run without a CUDA graph: the rate follows the loss."))
            elif self.processes.count == 1:
                self._capture(CudaGraphs(self.device))
            else:
                show(Message("Iterations run without a CUDA graph: several processes average."))
        self._begin_window(0.0)
        self._stop = self._debug_train = False
        self._requests = no_request
        self._last_feed: Feed | None = None
        self.layout: str | None = None
        if choice.layout != AUTO:
            self._lay_out(choice.layout)
        self.last_snapshot: Path | None = None
        if resumed is not None:
            self.load(resumed, str(choice.snapshot))
            self.last_snapshot = Path(str(choice.snapshot))
            show(Resume(str(choice.snapshot)))
            if resumed.type is None:
                show(Message(_caffes_own(self.last_snapshot), severity="W"))

    # One iteration -------------------------------------------------------------------------------

    def step(self, n: int | Feed = 1, inputs: Feed | None = None) -> Tensor:
        """`n` iterations on the net's data layers; or one on `inputs`, given here or as `n`.

        Each pass of iter_size takes the inputs, an array or tensor by name. Returns the loss before
        the last update, averaged over iter_size: a 0-d tensor on the device.

        Raises:
            SolverError: `n` is no number from 1 on, or not 1 beside inputs; the loss is not finite
                (on a CPU).
        """
        if isinstance(n, Mapping):
            n, inputs = (1, n) if inputs is None else (2, n)
        if not isinstance(n, int) or n < 1 or (inputs is not None and n != 1):
            raise SolverError(
                f"{self.path}: step takes a number from 1 on, or inputs for one step: a mapping of "
                "names to arrays"
            )
        for _ in range(n):
            loss, _ = self._accumulate(inputs)
            if self.plateau is not None:
                self._smoothed.add(loss)
            self._update()
        return loss

    def _compile(self, backend: str = "inductor") -> None:
        """Let torch.compile make one program of the loss, and another of its gradient."""
        self.training.loss = CompiledLoss(self.net, self._tell, backend)

    def _capture(self, graphs: Graphs) -> None:
        """Let `graphs` record an iteration, and run it from there."""
        self._captured = CapturedStep(
            self.training,
            self._rate_now,
            self._iteration_now,
            graphs,
            self.param.debug_info,
            self._tell,
        )

    def _tell(self, line: str) -> None:
        self.show(Message(line))

    def _accumulate(self, inputs: Feed | None, debug: bool = False) -> Passed:
        """Forward and backward; a captured iteration has its update behind it too."""
        self._due = self._rate(self.iter, self.current_step)
        self._rate_now.fill_(self._due.rate)
        self._iteration_now.fill_(self.iter)
        feeds: Iterable[Feed] = (self._train_feed(inputs) for _ in range(self.param.iter_size))
        passed = None
        if self._captured is not None and not debug:
            feeds = list(feeds)
            with self.random.entered():
                passed = self._captured(feeds)
        self._updated = passed is not None
        if passed is None:
            with self.random.entered():
                passed = self.training.accumulate(feeds, self._show_pass if debug else None)
            passed = passed._replace(loss=self.processes.average(passed.loss, self.net.learnable))
        # A device is not made to wait for this; there the loss is looked at where it is displayed.
        if self.device.type == "cpu":
            self._require_finite(passed.loss)
        return passed

    def _train_feed(self, inputs: Feed | None) -> Feed:
        self._last_feed = feed = self._fed[0].next() if inputs is None else inputs
        if self.layout is None:
            # Layer by layer: two formats would have to be compiled.
            plain = TrainingStep(self.net, self.updater, self.device, self.precision)
            run = partial(plain.forward_backward, feed)
            chosen = layouts.choose(self.net, self.device, run)
            self._lay_out(chosen.name)
            self.show(Message(f"Memory layout: {chosen.name} ({chosen.reason})."))
        return feed

    def _lay_out(self, name: str) -> None:
        """Keep nets and history in the memory format of a name, whose values stay."""
        self.layout = name
        for net in (self.net, *self.test_nets):
            net.lay_out(layouts.layout(name))
        lay_out(self.updater.history, layouts.layout(name))

    def _show_pass(self, feed: Feed) -> Passed:
        with self.precision.arithmetic(self.device):
            return Passed(*show_forward_backward(self.net, feed, self.show))

    def _update(self) -> None:
        step = self.current_step
        if self.plateau is not None:
            self._follow_loss()
        self.current_step = self._due.current_step
        if self.current_step != step and self.param.lr_policy != "step":  # Caffe tells of no step
            self.show(MultiStep(self.iter, self.current_step))
        if not self._updated:
            self.training.update(self._rate_now, self._iteration_now)
        norm = self.updater.gradient_norm
        if norm is not None and self.device.type == "cpu" and norm > self.param.clip_gradients:
            self.show(Clip(float(norm), self.param.clip_gradients))
        self.iter += 1

    def _follow_loss(self) -> None:
        """The rate of lr_policy "plateau", which is known once the loss is."""
        assert self.plateau is not None
        loss = float(self._smoothed.value)
        self.plateau, step = self.plateau.after(self.param, self.iter, self.current_step, loss)
        self._due = self._rate(self.iter, step)
        self._rate_now.fill_(self._due.rate)

    def _require_finite(self, loss: Tensor) -> None:
        if math.isfinite(loss) or self._last_feed is None:
            return
        with self.random.entered(), self.precision.arithmetic(self.device):
            place = not_finite.first_not_finite(self.net, self._last_feed)
        places = self.processes.gather(place)
        raise self._not_finite(not_finite.in_loss(places, float(loss), self.iter))

    def _not_finite(self, found: str) -> SolverError:
        return self._ended(found, "; try a smaller base_lr, or clip_gradients")

    def _ended(self, found: str, way_out: str = "") -> SolverError:
        last = self.last_snapshot
        kept = f"the last good snapshot is {last}" if last else "there is no snapshot yet"
        return SolverError(f"{self.path}: {found}; {kept}{way_out}")

    # Data ----------------------------------------------------------------------------------------

    def _common_seed(self) -> int | None:
        """random_seed; without one, processes agree on any."""
        if self.param.random_seed >= 0:
            return self.param.random_seed
        return self.processes.gather(secrets.randbits(31))[0] if self.processes.count > 1 else None

    def batches(self, net: CaffeNet) -> list[Batches]:
        """The readers of the data layers of one of the run's nets, opened on first use."""
        return next(fed for fed in self._fed if fed.net is net).batches

    def close(self) -> None:
        """Close the readers; whatever is read later begins at the first record."""
        for fed in self._fed:
            fed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    # The whole run -------------------------------------------------------------------------------

    def check_data(self, reporter: Reporter = SILENT) -> None:
        """Look for the files that the data layers name, those of the test nets included.

        Raises:
            DataError: some are absent: one error for all of a layer, before hours are spent.
            SolverError: the data have another shape than was given.
        """
        for fed in self._fed if self.processes.leads else ():
            for one in fed.batches:
                one.check(reporter)
        given = self.choice.input_shapes or {}
        read = {name: shape for one in self._fed[0].batches for name, shape in one.shapes.items()}
        for name, shape in read.items():
            if name in given and tuple(given[name]) != shape:
                raise SolverError(
                    f'{self.path}: input shape {tuple(given[name])} of "{name}", but its data have '
                    f"{shape}: change the data layer, or leave the shape out"
                )

    def solve(
        self, requests: Callable[[], Request] = no_request, reporter: Reporter = SILENT
    ) -> bool:
        """Train to max_iter with tests, display and snapshots; False if `requests` stopped it.

        `reporter` hears how far the search for the data's files is, where they are many.

        Raises:
            SolverError: the run was resumed from a snapshot beyond max_iter.
            DataError: files that the data name are absent.
            OutputError: a snapshot is due some time and its folder cannot be made or written, or
                another process trains into the same prefix.
            CaffeError: damaged data, a loss or parameters that are not finite.
        """
        if self.iter > self.param.max_iter:
            raise SolverError(
                f"{self.last_snapshot or self.path}: is at iteration {self.iter}, beyond max_iter "
                f"{self.param.max_iter}: nothing is left to train; give a larger one (--max-iter)"
            )
        self.check_data(reporter)
        try:
            if not (self.param.snapshot or self.param.snapshot_after_train):
                return self._solve(requests)
            with snapshots.sole_writer(self.param.snapshot_prefix):
                if self.processes.leads:
                    snapshots.check_folder(self.param.snapshot_prefix)
                return self._solve(requests)
        except LostProcessError as error:
            raise self._ended(str(error)) from error

    def _solve(self, requests: Callable[[], Request]) -> bool:
        data = self._fed[0].data()
        self.show(
            Start(
                self.net.name,
                self.param.lr_policy,
                self.iter,
                self.param.max_iter,
                data.name,
                data.records,
                data.items * self.param.iter_size * self.processes.count,
            )
        )
        self._stop = self._debug_train = False
        self._requests = lambda: _REQUESTS[self.processes.largest(_REQUESTS.index(requests()))]
        # A rate that follows the loss goes on with a snapshot's window: bit for bit the same run.
        if self.plateau is None:
            self._begin_window(0.0)
        else:
            self._begin_window(float(self._smoothed.value), self._smoothed.window())
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

    def _begin_window(self, loss: float, window: Sequence[float] = ()) -> None:
        """Start the smoothed loss and the clock; `loss` is shown until there is another.

        With a `window` it goes on from there, and `loss` is its mean.
        """
        start = torch.full((), loss, device=self.device)
        self._smoothed = SmoothedLoss(self.param.average_loss, start)
        if window:
            self._smoothed.restore(window)
        self._shown_at, self._shown_iter = time.monotonic(), self.iter

    def _iterate(self) -> None:
        param = self.param
        due = param.test_interval and self.iter % param.test_interval == 0
        if due and (self.iter > 0 or param.test_initialization):
            self.test()
            if self._stop:
                return
        display = bool(param.display) and self.iter % param.display == 0
        self._debug_train = display and param.debug_info
        loss, outputs = self._accumulate(None, self._debug_train)
        self._smoothed.add(loss)
        if display:
            self._display(outputs)
        self._update()
        self.show(Advance(self.iter, lambda: float(self._smoothed.value)))
        request = self._requests()
        if (param.snapshot and self.iter % param.snapshot == 0) or request is Request.SNAPSHOT:
            self._snapshot_if_sound()
        self._stop = request is Request.STOP

    def _display(self, outputs: Mapping[str, Tensor]) -> None:
        self._require_finite(self._smoothed.value)
        now = time.monotonic()
        rate, _ = self._rate(self.iter, self.current_step)
        speed = Speed(now - self._shown_at, self.iter - self._shown_iter, self.param.display)
        shown = tuple(list_outputs(self.net, outputs))
        self.show(Display(self.iter, float(self._smoothed.value), shown, rate, speed))
        self._shown_at, self._shown_iter = now, self.iter

    def _final_display(self) -> None:
        if self.param.display and self.iter % self.param.display == 0:
            loss = self._forward(self._fed[0], self._debug_train).loss
            self._smoothed.add(self.processes.average(loss, ()))
            self.show(Display(self.iter, float(self._smoothed.value)))

    def test(self) -> list[dict[str, Tensor]]:
        """Mean outputs of each test net over its test_iter batches, by blob name.

        With eval_type "detection" the mean average precisions of the detections in them.
        """
        # Statistics are each process's own; those of the first count, as in its snapshots.
        learned = zip(self.net.plan.learnables, self.net.learnable, strict=True)
        self.processes.lead(blob for entry, blob in learned if not entry.spec.trained)
        results = []
        for index, (fed, count) in enumerate(zip(self._fed[1:], self.param.test_iter)):
            self.show(Evaluation(self.iter, index))
            run = partial(self._forward, fed, self.param.debug_info)
            turns = fed.turns(count, self.processes)
            begun = testing.begun(fed.net, self.param)
            means = testing.run_passes(begun, turns, run, self._may_test)
            if means is None:
                self.show(Message("Test interrupted."))
                break
            means = means.over(self.processes) if fed.share.of > 1 else means
            scores = means.outputs()
            if isinstance(means, Precisions) and self.param.show_per_class_result:
                for line in means.lines():
                    self.show(Message(line))
            loss_shown = means.loss() if self.param.test_compute_loss else None
            self.show(Scores(self.iter, index, tuple(list_outputs(fed.net, scores)), loss_shown))
            results.append(scores)
        return results

    def _may_test(self) -> bool:
        """Answer requests between two batches of a test; False where it is to end."""
        request = self._requests()
        if request is Request.SNAPSHOT:
            self._snapshot_if_sound()
        self._stop = request is Request.STOP
        return not self._stop

    def _forward(self, fed: FedNet, debug: bool) -> Passed:
        feed, show = fed.next(), self.show if debug else None
        with self.random.entered():
            return testing.forward(fed.net, feed, self.device, self.precision, show)

    # State and files -----------------------------------------------------------------------------

    def state(self) -> RunState:
        """Where the run stands, parameters aside: a copy that training does not change.

        Of several processes all call it, and all get what all have.
        """
        own = OwnState(self.random.state(), tuple(fed.state() for fed in self._fed))
        first, *others = self.processes.gather(own)
        return RunState(
            self.iter,
            self.current_step,
            tuple(map(on_host, self.updater.history)),
            type=self.param.type,
            random=first.random,
            nets=first.nets,
            smoothed_loss=float(self._smoothed.value),
            layout=self.layout,
            others=tuple(others),
            plateau=self.plateau,
            window=tuple(self._smoothed.window()) if self.plateau is not None else (),
        )

    def load(self, state: RunState, source: str = "state") -> None:
        """Go on from `state`, with the weights that it names; without a name, those of now.

        Nets that it does not know begin afresh. `source` names it in errors.

        Raises:
            SolverError, WeightsError: it is of another solver type or net, or another number of
                processes.
        """
        if state.type not in (None, self.param.type):
            raise SolverError(
                f'{source}: was written by solver type "{state.type}", not "{self.param.type}"'
            )
        wrote, now = 1 + len(state.others), self.processes.count
        if state.type is not None and wrote != now:
            raise SolverError(
                f"{source}: was written by {wrote} process{'es' * (wrote > 1)}, not {now}: each "
                "has records and random numbers of its own; resume it with as many, or remove its "
                ".state.npz to go on as Caffe does"
            )
        own = state.own(self.processes.rank if state.others else 0)
        self.updater.load_history([x.to(self.device) for x in state.history], source)
        if state.learned_net:
            self.net.load_weights(state.learned_net, strict=True)
        if state.layout is not None and self.choice.layout == AUTO:
            self._lay_out(state.layout)
        self.iter, self.current_step = state.iteration, state.current_step
        if self.plateau is not None:
            self.plateau = state.plateau or Plateau()
        self._begin_window(state.smoothed_loss or 0.0, state.window if self.plateau else ())
        unknown = [NetState()] * (len(self._fed) - len(own.nets))
        try:
            self.random.restore(own.random)
            for fed, known in zip(self._fed, [*own.nets, *unknown]):
                fed.load(known)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise SolverError(
                f"{source}: does not belong to this net ({error}); without its .state.npz it is "
                "resumed as Caffe does"
            ) from error

    def snapshot(self) -> Path:
        """Write PREFIX_iter_N.caffemodel, .state.npz and .solverstate; returns the last.

        Raises:
            OutputError: a file cannot be written, or another process trains into the same prefix;
                earlier snapshots are untouched.
        """
        param = self.param
        hdf5 = param.snapshot_format == pb.SolverParameter.HDF5
        files = snapshots.snapshot_files(param.snapshot_prefix, self.iter, hdf5)
        diffs = self.updater.updates if param.snapshot_diff else None
        state = self.state()
        if self.processes.leads:
            with snapshots.sole_writer(param.snapshot_prefix):
                snapshots.write(state, self.net, files, diffs)
        self.processes.largest(0)  # the others wait until it is there
        self.last_snapshot = files.state
        # Not before: whatever happens to a line, the files are there.
        self.show(Snapshot(str(files.model), str(files.state)))
        return self.last_snapshot

    def _snapshot_if_sound(self) -> None:
        """A snapshot, unless loss or parameters are not finite: the last good one stays the last.

        Raises:
            SolverError: they are not.
        """
        self._require_finite(self._smoothed.value)
        if found := not_finite.in_parameters(self.net, self.iter - 1):
            raise self._not_finite(found)
        self.snapshot()

    def _just_saved(self) -> bool:
        return bool(self.param.snapshot) and self.iter % self.param.snapshot == 0

    def _build_nets(self, fill: bool) -> list[FedNet]:
        """The train net, then the test nets on its blobs, with the weights to start from.

        Without `fill` the train net's blobs are left for a snapshot's.
        """
        files = solver_file.weights(self.param, self.path)
        for file in files:
            self.show(Finetune(file))
        shapes = {name: tuple(x) for name, x in (self.choice.input_shapes or {}).items()}
        python = self.choice.allow_python_layers
        choice = replace(
            solver_file.train_net(self.param, self.path),
            weights=files,
            strict=self.choice.strict,
            input_shapes=shapes,
            allow_python_layers=python,
            may_write=self.processes.leads,
        )
        memory = DataMemory(self.choice.data_memory, self.device)
        records = self.processes.records
        train = FedNet(choice, self.device, self._seed, None, fill, records, memory)
        for line in train.report.lines() if files else ():
            self.show(Message(line, "net.cpp:746"))
        tests = (
            replace(
                net,
                weights=files,
                allow_python_layers=python,
                may_write=self.processes.leads,
            )
            for net in solver_file.test_nets(self.param, self.path)
        )
        share = self.processes.batches
        return [
            train,
            *(
                FedNet(net, self.device, self._seed, train.net, True, share, memory)
                for net in tests
            ),
        ]


def _caffes_own(snapshot: Path) -> str:
    """What a resumption without our file is."""
    ours = snapshots.ours_beside(snapshot)
    return (
        f"{ours} is {'empty' if ours.exists() else 'absent'}: resumed as Caffe does, data from "
        "the first record and with new random numbers; not bit-equal to a run that never stopped"
    )
