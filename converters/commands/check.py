"""`python -m converters check FOLDER`: every prototxt below a folder, loads or why not.

A net is built in each phase (and state of stages) that it defines, run forward and, in TRAIN,
backward; no layer writes the file that it names. A phase without a data layer is skipped. A solver
is read. A data layer whose files are absent gets its shapes from `--input-shape`, or else guessed
ones (`converters.net.guesses`). Big batches are cut to two items. All of it is done in a child
process with limits of time and memory: whatever a net does, the next one's turn comes.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from converters.command_line.apart import Apart, ChildError
from converters.command_line.net_options import add_python_option, add_stage_option, parse_shapes
from converters.command_line.program import positive
from converters.command_line.progress import progress, show
from converters.errors import CaffeError, DataError, NetError, SolverError
from converters.layers import LAYERS
from converters.layers.registry import Shape
from converters.memory import free_memory, limit_growth
from converters.net.choice import NetChoice
from converters.net.failures import explained
from converters.net.guesses import boxes_of, is_source, plan_guessing, without_python
from converters.net.plan import NetPlan
from converters.proto import caffe_pb2 as pb
from converters.prototxt.kind import is_solver
from converters.prototxt.net_rules import filter_net
from converters.prototxt.strangers import unfilled_strings
from converters.prototxt.text import read_net, read_solver, read_text
from converters.reporting import readable

if TYPE_CHECKING:
    import torch

_SECONDS = 300
_GIB = 1 << 30
_SHARE = 0.9
"""Of the free memory that a net may take by default."""
_COMBINATIONS = 64


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("folder", help="searched for .prototxt and .pt files; or one such file")
    parser.add_argument("--input-shape", action="append", default=[], metavar="BLOB=N,C,H,W")
    parser.add_argument("--shapes-only", action="store_true", help="plan shapes, compute nothing")
    add_stage_option(parser)
    parser.add_argument(
        "--seconds",
        type=positive,
        default=_SECONDS,
        metavar="N",
        help=f"the longest that a state of a net may take; default: {_SECONDS}",
    )
    parser.add_argument(
        "--memory",
        type=positive,
        metavar="GIB",
        help=f"the most memory that a net may take; default: {_SHARE:g} of what is free",
    )
    add_python_option(parser)
    parser.add_argument(
        "--skip-python-layers",
        action="store_true",
        help="guess what Python layers give, and check the layers around them, whatever else is "
        "said",
    )


def run(args: argparse.Namespace) -> int:
    """Print a line per state of a net and per solver; the status is 1 if any did not load."""
    folder = Path(args.folder)
    files = _files(folder)
    counts: Counter[str] = Counter()
    with Apart(_work, args.seconds) as child:
        for path in progress(files, "checking", len(files), "files"):
            for line in _lines(path, child, args):
                counts[line.kind] += 1
                counts["states"] += line.is_state
                name = path.relative_to(folder) if path != folder else path
                show(f"{line.kind:4} {readable(f'{name}: {line.text}')}")
    skipped = f", {counts[_SKIP]} skipped" if counts[_SKIP] else ""
    print(f"{len(files)} files, {counts['states']} states, {counts[_FAIL]} failures{skipped}")
    return 1 if counts[_FAIL] or not files else 0


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder")
    return sorted(folder.rglob("*.prototxt")) + sorted(folder.rglob("*.pt"))


# What is told of a file ---------------------------------------------------------------------------

RULES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid", "plateau")
"""What a solver's type and lr_policy can be; `gmnet_pt.solver` has what they mean."""

_OK, _FAIL, _SKIP, _NOTE = "ok", "FAIL", "skip", "note"


class _Line(NamedTuple):
    """What came of a state of a net, or of a whole file; notes come before it."""

    kind: str
    text: str
    is_state: bool = True


class _Begun(NamedTuple):
    """A state whose line comes next, unless the child ends."""

    state: str


class _Job(NamedTuple):
    """A file, and how many of its states are done with: a child that ended came as far."""

    path: Path
    args: argparse.Namespace
    memory: int | None
    done: int = 0


def _lines(
    path: Path, child: Apart[_Job, _Line | _Begun], args: argparse.Namespace
) -> Iterator[_Line]:
    """The lines of a file, whatever becomes of the child."""
    free = free_memory()
    memory = _GIB * args.memory if args.memory else free and int(_SHARE * free)
    done = 0
    while True:
        state = ""
        try:
            for told in child(_Job(path, args, memory, done)):
                if isinstance(told, _Begun):
                    state = f"{told.state}: "
                else:
                    done += told.is_state
                    yield told
            return
        except ChildError as error:
            yield _Line(_FAIL, f"{state}{error}", bool(state))
            if not state:
                return
            done += 1


# What the child does ------------------------------------------------------------------------------


def _work(job: _Job) -> Iterator[_Line | _Begun]:
    """What there is to tell of a file; runs in the child."""
    notes: list[str] = []
    log = logging.getLogger()
    handler = _Collected(notes)
    log.addHandler(handler)
    try:
        limit_growth(job.memory)
        for line in _check(job):
            for note in dict.fromkeys(notes):
                yield _Line(_NOTE, note.removeprefix(f"{job.path}: "), False)
            notes.clear()
            yield line
    finally:
        log.removeHandler(handler)


class _Collected(logging.Handler):
    """Keeps warnings as text."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.append(record.getMessage())


def _check(job: _Job) -> Iterator[_Line | _Begun]:
    try:
        text = read_text(job.path)
        if place := unfilled_strings(text):
            line = text.count("\n", 0, place.offset) + 1
            yield _Line(_NOTE, f"line {line}: {place.words}", False)
        if is_solver(text):
            solver = read_solver(job.path)
            _check_solver(solver)
            yield _Line(_OK, f"solver, type {solver.type}, net {_nets_of(solver)}", False)
            return
        net = read_net(job.path)
        if not net.layer:
            raise NetError("has no layer")
        states = _states(net, job.args.stage)
    except CaffeError as error:
        yield _Line(_FAIL, str(error), False)
        return
    whole = any(_has_source(_filtered(net, state)) for state in states)
    for state in states[job.done :]:
        if whole and not _has_source(_filtered(net, state)):
            yield _Line(_SKIP, f"skipped: no data layer in {state}")
            continue
        yield _Begun(str(state))
        try:
            yield _Line(_OK, f"{state}: {_tried(net, state, job)}")
        except CaffeError as error:
            hint = "" if whole else "; no layer of the file brings data: is it part of a net?"
            yield _Line(_FAIL, f"{state}: {error}{hint}")


def _tried(net: pb.NetParameter, state: _State, job: _Job) -> str:
    """What `_check_state` says; an error of this program's own fails the state alone."""
    try:
        return explained(partial(_check_state, net, state, job))
    except CaffeError:
        raise
    except Exception as error:
        raise NetError(f"{type(error).__name__}: {error}") from error


def _check_solver(solver: pb.SolverParameter) -> None:
    """Refuse a solver of no known rule or rate policy."""
    for name, known in (("type", RULES), ("lr_policy", POLICIES)):
        value = getattr(solver, name)
        if solver.HasField(name) and value not in known:
            raise SolverError(f'{name} "{value}" is unknown (one of: {", ".join(known)})')


def _nets_of(solver: pb.SolverParameter) -> str:
    names = [solver.net, solver.train_net, *solver.test_net]
    inline = solver.HasField("net_param") or solver.HasField("train_net_param")
    return ", ".join(name for name in names if name) or ("inline" if inline else "none named")


class _State(NamedTuple):
    """A phase, and the stages of its state."""

    phase: str
    stages: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.stages:
            return self.phase
        *most, last = self.stages
        plural = f"s {', '.join(most)} and" if most else ""
        return f"{self.phase} with stage{plural} {last}"


def _states(net: pb.NetParameter, stages: Sequence[str]) -> list[_State]:
    """The states a net names in its rules; TEST alone for one without losses or rules.

    A phase whose rules name stages has a state for each rule, with all that the rule names, and
    none without a stage. With `stages` there is that one state of each phase.
    """
    rules = [rule for layer in net.layer for rule in (*layer.include, *layer.exclude)]
    trains = any(layer.type in LAYERS and LAYERS[layer.type].is_loss for layer in net.layer)
    phased = any(rule.HasField("phase") for rule in rules)
    phases = ("TRAIN", "TEST") if trains or phased else ("TEST",)
    if stages:
        return [_State(phase, tuple(stages)) for phase in phases]
    states = []
    for phase in phases:
        own = [r for r in rules if r.HasField("phase") and r.phase == pb.Phase.Value(phase)]
        states += [_State(phase, named) for named in _named(own)] or [_State(phase)]
    plain = _named([rule for rule in rules if not rule.HasField("phase")])
    states += [_State(phase, named) for phase in phases for named in plain]
    order = [stage for named in _named(rules) for stage in named]
    found: dict[_State, None] = {}
    for state in states:
        whole = _completed(net, state, states)
        ordered = tuple(sorted(whole.stages, key=order.index))
        found[_State(state.phase, ordered)] = None
    return list(found)


def _named(rules: Sequence[pb.NetStateRule]) -> list[tuple[str, ...]]:
    """The sets of stages that rules name."""
    return list(dict.fromkeys(tuple(dict.fromkeys(rule.stage)) for rule in rules if rule.stage))


def _completed(net: pb.NetParameter, state: _State, states: Sequence[_State]) -> _State:
    """The state, or the smallest with further stages if layers lack a bottom in it alone."""
    others = sorted({stage for one in states for stage in one.stages} - set(state.stages))
    if not state.stages or not others or _is_wired(net, state):
        return state
    tried = (
        _State(state.phase, (*state.stages, *further))
        for size in range(1, len(others) + 1)
        for further in combinations(others, size)
    )
    return next((one for one, _ in zip(tried, range(_COMBINATIONS)) if _is_wired(net, one)), state)


def _is_wired(net: pb.NetParameter, state: _State) -> bool:
    """Whether each bottom is the top of an earlier layer, and no top is made twice."""
    tops: set[str] = set()
    for layer in _filtered(net, state):
        fresh = set(layer.top) - set(layer.bottom)
        if not tops.issuperset(layer.bottom) or fresh & tops:
            return False
        tops |= fresh
    return True


def _filtered(net: pb.NetParameter, state: _State) -> Sequence[pb.LayerParameter]:
    try:
        return filter_net(net, state.phase, 0, state.stages).layer
    except CaffeError:  # told when the state is planned
        return net.layer


def _has_source(layers: Sequence[pb.LayerParameter]) -> bool:
    return any(is_source(layer) for layer in layers)


def _check_state(net: pb.NetParameter, state: _State, job: _Job) -> str:
    args = job.args
    choice = NetChoice(
        str(job.path),
        net,
        state.phase,
        stages=state.stages,
        allow_python_layers=args.allow_python_layers and not args.skip_python_layers,
        may_write=False,
    )
    if args.skip_python_layers:
        choice = replace(choice, message=without_python(choice.filtered()))
    plan, _ = plan_guessing(choice, parse_shapes(args.input_shape), not args.shapes_only)
    shapes = plan.input_shapes()
    inputs = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if not args.shapes_only:
        if "torch" not in sys.modules:
            limit_growth(None)
            import torch  # noqa: F401

            limit_growth(job.memory)
        _compute(plan)
    known = {value: shape for one in plan.layers for value, shape in zip(one.tops, one.top_shapes)}
    outputs = ", ".join(f"{name} {known[value]}" for name, value in plan.outputs.items())
    return f"{len(plan.layers)} layers, {inputs or 'no inputs'} → {outputs or 'no outputs'}"


def _compute(plan: NetPlan) -> None:
    """Run the net forward and, in TRAIN, backward.

    Raises:
        DataError: an output or a gradient is not finite.
    """
    import torch

    from converters.net.caffe_net import CaffeNet

    torch.manual_seed(0)
    built = CaffeNet(plan)
    built.initialize([])
    for entry, blob in zip(plan.learnables, built.learnable, strict=True):
        if entry.spec.neutral is not None:
            # Statistics of nothing would scale by 316 in TEST, layer after layer.
            blob.fill_(entry.spec.neutral)
    whole = plan.exact_inputs()
    feed = {name: _values(shape, name in whole) for name, shape in plan.input_shapes().items()}
    training = plan.phase == "TRAIN"
    with torch.set_grad_enabled(training):
        loss, outputs = built.loss(feed)
    if training and loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
        for name, blobs in built.params.items():
            for index, blob in enumerate(blobs):
                if blob.grad is not None and not bool(torch.isfinite(blob.grad).all()):
                    raise DataError(f'the gradient of layer "{name}" blob {index} is not finite')
    for name, output in outputs.items():
        if not bool(torch.isfinite(output).all()):
            raise DataError(f'output "{name}" is not finite')


def _values(shape: Shape, whole: bool) -> torch.Tensor:
    """Small noise for images, a box of class 1 in each for SSD's, zeros (a valid label) else."""
    import torch

    if whole and shape == boxes_of(shape[2:3]):
        box = torch.tensor([0, 1, 0, 0.25, 0.25, 0.75, 0.75, 0])
        boxes = box.repeat(shape[2], 1)
        boxes[:, 0] = torch.arange(shape[2])
        return boxes.reshape(shape)
    is_image = not whole and math.prod(shape) > shape[0]
    return torch.randn(shape) * 0.1 if is_image else torch.zeros(shape)
