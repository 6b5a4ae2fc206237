"""`python -m converters check FOLDER`: every prototxt below a folder, loads or why not.

A net is built in each phase it defines, run forward and, in TRAIN, backward; a solver is read. Data
layers whose files are absent get a shape: `--input-shape`, or a batch of 3-channel images of the
crop size. Big batches are cut to two items.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import text_format

from converters.commands.summary import parse_shapes
from converters.errors import CaffeError, DataError
from converters.layers import LAYERS
from converters.layers.registry import Shape
from converters.progress import progress
from converters.proto import caffe_pb2 as pb
from converters.prototxt import read_net, read_solver, read_text

if TYPE_CHECKING:
    import torch

BATCH = 2
SIDE = 224


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("folder")
    parser.add_argument("--input-shape", action="append", default=[], metavar="BLOB=N,C,H,W")
    parser.add_argument("--shapes-only", action="store_true", help="plan shapes, compute nothing")
    parser.add_argument("--allow-python-layers", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Print a line per file; the status is 1 if any did not load."""
    if not Path(args.folder).is_dir():
        raise DataError(f"{args.folder}: is no folder")
    files = sorted(Path(args.folder).rglob("*.prototxt")) + sorted(Path(args.folder).rglob("*.pt"))
    failed = 0
    for path in progress(files, "checking", len(files), "files"):
        for line, good in _check(path, args):
            failed += not good
            print(
                f"{'ok  ' if good else 'FAIL'} {path.relative_to(args.folder)}: {line}", flush=True
            )
    print(f"{len(files)} files, {failed} failures")
    return 1 if failed or not files else 0


def _check(path: Path, args: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    try:
        text = read_text(path)
        try:
            text_format.Parse(text, pb.SolverParameter())
            solver = read_solver(path)
            yield f"solver, type {solver.type}, net {solver.net or solver.train_net}", True
            return
        except text_format.ParseError:
            net = read_net(path)
        for phase in _phases(net):
            try:
                yield _check_phase(net, phase, path, args), True
            except CaffeError as error:
                yield f"{phase}: {error}", False
    except CaffeError as error:
        yield str(error), False


def _phases(net: pb.NetParameter) -> list[str]:
    """The phases a net names in its rules; TEST alone for one without losses or rules."""
    named = {
        pb.Phase.Name(rule.phase)
        for layer in net.layer
        for rule in (*layer.include, *layer.exclude)
        if rule.HasField("phase")
    }
    if named:
        return ["TRAIN", "TEST"]
    trains = any(layer.type in LAYERS and LAYERS[layer.type].is_loss for layer in net.layer)
    return ["TRAIN", "TEST"] if trains else ["TEST"]


def _check_phase(net: pb.NetParameter, phase: str, path: Path, args: argparse.Namespace) -> str:
    import torch

    from converters.graph import build_net
    from converters.net_rules import filter_net
    from converters.plan import plan_net

    small = pb.NetParameter()
    small.CopyFrom(net)
    given = parse_shapes(args.input_shape)
    shapes = {}
    filtered = filter_net(small, phase, source=str(path))
    for layer in filtered.layer:
        shapes.update(_shapes(layer, path, phase, given))
    if args.shapes_only:
        plan = plan_net(
            filtered, phase, str(path), shapes, str(path.parent), args.allow_python_layers
        )
        return f"{phase}: {len(plan.layers)} layers, {_outputs(plan.values, plan)}"
    torch.manual_seed(0)
    built = build_net(
        small, str(path), phase, input_shapes=shapes, allow_python_layers=args.allow_python_layers
    )
    feed = {name: _values(name, shape) for name, shape in built.plan.input_shapes().items()}
    with torch.set_grad_enabled(phase == "TRAIN"):
        loss, outputs = built.loss(feed)
    if phase == "TRAIN" and loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
        for name, blobs in built.params.items():
            for index, blob in enumerate(blobs):
                if blob.grad is not None and not bool(torch.isfinite(blob.grad).all()):
                    raise DataError(f'the gradient of layer "{name}" blob {index} is not finite')
    for name, blob in outputs.items():
        if not bool(torch.isfinite(blob).all()):
            raise DataError(f'output "{name}" is not finite')
    shown = ", ".join(f"{name} {tuple(blob.shape)}" for name, blob in outputs.items())
    return f"{phase}: {len(built.plan.layers)} layers, {shown or 'no outputs'}"


def _outputs(values: dict[str, int], plan: object) -> str:
    return f"{len(values)} blobs"


def _shapes(
    layer: pb.LayerParameter, path: Path, phase: str, given: dict[str, Shape]
) -> dict[str, Shape]:
    """Shapes for a data layer's tops: the given ones, the file's, or a guess where it is absent."""
    from converters.layers.registry import Environment

    cls = LAYERS.get(layer.type)
    if cls is None or not cls.is_data:
        return {}
    named = {top: given[top] for top in layer.top if top in given}
    if named:
        return named
    try:
        shapes = cls(layer, Environment(str(path), phase, str(path.parent))).reshape([])
    except CaffeError:
        crop = layer.transform_param.crop_size or SIDE
        shapes = [(BATCH, 3, crop, crop)] + [(BATCH,)] * (len(layer.top) - 1)
    if layer.type == "Input":
        return {}
    return {top: (min(s[0], BATCH), *s[1:]) if s else s for top, s in zip(layer.top, shapes)}


def _values(name: str, shape: Shape) -> torch.Tensor:
    """Small noise for images, zeros (a valid label) for the rest."""
    import torch

    count = math.prod(shape)
    return torch.randn(shape) * 0.1 if count > shape[0] else torch.zeros(shape)
