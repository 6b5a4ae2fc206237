"""`python -m converters check FOLDER`: every prototxt below a folder, loads or why not.

A net is built in each phase (and stage) that it defines, run forward and, in TRAIN, backward; no
layer writes the file that it names. A solver is read. A data layer whose files are absent gets its
shape from `--input-shape`, or else the first of some usual ones that the net takes. Big batches are
cut to two items.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from converters.command_line.net_options import add_python_option, parse_shapes
from converters.command_line.progress import progress
from converters.environment import Environment
from converters.errors import CaffeError, DataError, ShapeError
from converters.layers import LAYERS, make_layer
from converters.layers.registry import Shape
from converters.net.choice import NetChoice
from converters.net.failures import explained
from converters.net.plan import NetPlan, plan_net
from converters.proto import caffe_pb2 as pb
from converters.prototxt.kind import is_solver
from converters.prototxt.text import read_net, read_solver, read_text
from converters.reporting import readable

if TYPE_CHECKING:
    import torch

BATCH = 2
USUAL = ((3, 224, 224), (3, 32, 32), (1, 28, 28), (2, 28, 28))
"""Channels, height and width that absent images are taken to have; a crop_size wins."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("folder")
    parser.add_argument("--input-shape", action="append", default=[], metavar="BLOB=N,C,H,W")
    parser.add_argument("--shapes-only", action="store_true", help="plan shapes, compute nothing")
    add_python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line per file; the status is 1 if any did not load."""
    if not Path(args.folder).is_dir():
        raise DataError(f"{args.folder}: is no folder")
    files = sorted(Path(args.folder).rglob("*.prototxt")) + sorted(Path(args.folder).rglob("*.pt"))
    failed = 0
    for path in progress(files, "checking", len(files), "files"):
        for line, good in _check(path, args):
            failed += not good
            shown = readable(f"{path.relative_to(args.folder)}: {line}")
            print(f"{'ok  ' if good else 'FAIL'} {shown}", flush=True)
    print(f"{len(files)} files, {failed} failures")
    return 1 if failed or not files else 0


def _check(path: Path, args: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    try:
        if is_solver(read_text(path)):
            solver = read_solver(path)
            yield f"solver, type {solver.type}, net {_nets_of(solver)}", True
            return
        net = read_net(path)
        for state in _states(net):
            try:
                found = explained(partial(_check_state, net, state, path, args))
                yield f"{state}: {found}", True
            except CaffeError as error:
                yield f"{state}: {error}", False
    except CaffeError as error:
        yield str(error), False


def _nets_of(solver: pb.SolverParameter) -> str:
    names = [solver.net, solver.train_net, *solver.test_net]
    return ", ".join(name for name in names if name) or "inline"


class _State(NamedTuple):
    """A phase, and a stage if layers ask for one."""

    phase: str
    stages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.phase + "".join(f" with stage {stage}" for stage in self.stages)


def _states(net: pb.NetParameter) -> list[_State]:
    """The states a net names in its rules; TEST alone for one without losses or rules.

    A phase whose rules name stages has a state for each, and none without a stage.
    """
    rules = [rule for layer in net.layer for rule in (*layer.include, *layer.exclude)]
    trains = any(layer.type in LAYERS and LAYERS[layer.type].is_loss for layer in net.layer)
    phased = any(rule.HasField("phase") for rule in rules)
    states = []
    for phase in ("TRAIN", "TEST") if trains or phased else ("TEST",):
        own = [rule for rule in rules if rule.phase == pb.Phase.Value(phase)]
        stages = dict.fromkeys(s for rule in own if rule.HasField("phase") for s in rule.stage)
        states += [_State(phase, (stage,)) for stage in stages] or [_State(phase)]
    stages = dict.fromkeys(s for rule in rules if not rule.HasField("phase") for s in rule.stage)
    return states + [_State("TEST", (stage,)) for stage in stages]


def _check_state(net: pb.NetParameter, state: _State, path: Path, args: argparse.Namespace) -> str:
    plan = _plan(net, state, path, args)
    shapes = plan.input_shapes()
    inputs = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if not args.shapes_only:
        _compute(plan)
    known = {value: shape for one in plan.layers for value, shape in zip(one.tops, one.top_shapes)}
    outputs = ", ".join(f"{name} {known[value]}" for name, value in plan.outputs.items())
    return f"{len(plan.layers)} layers, {inputs or 'no inputs'} → {outputs or 'no outputs'}"


def _plan(net: pb.NetParameter, state: _State, path: Path, args: argparse.Namespace) -> NetPlan:
    """The net with the first shapes of its data that fit.

    Raises:
        CaffeError: none fits; the error of the first.
    """
    given = parse_shapes(args.input_shape)
    choice = NetChoice(
        str(path),
        net,
        state.phase,
        stages=state.stages,
        allow_python_layers=args.allow_python_layers,
        may_write=False,
    )
    first: CaffeError | None = None
    for image in USUAL:
        shapes: dict[str, Shape] = {}
        for layer in choice.filtered().layer:
            shapes.update(_shapes(layer, choice.environment, given, image))
        try:
            return plan_net(replace(choice, input_shapes=shapes))
        except ShapeError as error:
            first = first or error
        except CaffeError as error:
            raise first or error from None
    assert first is not None
    raise first


def _shapes(
    layer: pb.LayerParameter, environment: Environment, given: dict[str, Shape], image: Shape
) -> dict[str, Shape]:
    """Shapes for a data layer's tops: the given ones, the file's, or `image` where it is absent."""
    cls = LAYERS.get(layer.type)
    if cls is None or layer.bottom:
        return {}
    named = {top: given[top] for top in layer.top if top in given}
    if named or layer.type == "Input" or not cls.is_data:
        return named
    try:
        shapes = make_layer(layer, environment).reshape([])
    except CaffeError:
        crop = layer.transform_param.crop_size
        size = (crop, crop) if crop else image[1:]
        shapes = [(BATCH, image[0], *size)] + [(BATCH,)] * (len(layer.top) - 1)
    return {top: (min(s[0], BATCH), *s[1:]) if s else s for top, s in zip(layer.top, shapes)}


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
    feed = {name: _values(shape) for name, shape in plan.input_shapes().items()}
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


def _values(shape: Shape) -> torch.Tensor:
    """Small noise for images, zeros (a valid label) for the rest."""
    import torch

    return torch.randn(shape) * 0.1 if math.prod(shape) > shape[0] else torch.zeros(shape)
