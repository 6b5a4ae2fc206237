"""The forms in which a net goes out of Caffe, by suffix; each is read back and compared."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from converters.errors import CaffeError, NetError, OutputError, import_extra
from converters.export.comparison import (
    FIXED,
    Difference,
    Free,
    Run,
    free_sizes,
    largest_difference,
    resized,
)
from converters.export.part import Part
from converters.export.source import Module, leave_out, write_module
from converters.formats.safetensors import read_safetensors, write_safetensors
from converters.formats.whole_files import written_beside
from converters.net.caffe_net import CaffeNet

_TRACED = 2
"""The batch with which a net is traced: tracers take 1 for a size that stays."""
_REFUSALS = (
    *(RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError),
    *(AssertionError, NotImplementedError),
)
"""What torch raises at what it cannot trace or translate."""


class Written(NamedTuple):
    """What a form left, how to run it, which sizes are free, and what a user should know."""

    run: Run
    free: Free
    notes: tuple[str, ...] = ()


class Job(NamedTuple):
    """What is to be written to `path`, which will be `out`; `weights` is what will be beside it."""

    net: CaffeNet
    part: Part
    path: Path
    out: Path
    weights: Path


class Report(NamedTuple):
    """An export that is done."""

    part: Part
    free: Free
    difference: Difference
    notes: tuple[str, ...]


def export(net: CaffeNet, part: Part, out: str | Path, form: str) -> Report:
    """Write a part of a net (of phase TEST) in a form, read it back, run it beside the net.

    Raises:
        NetError: layers cannot be exported so; they are named.
        OutputError: it cannot be written, or differs from the net. Nothing is left then.
        MissingExtraError: the form needs a package that is not there.
    """
    final = Path(out)
    try:
        with ExitStack() as stack:
            path = weights = stack.enter_context(written_beside(final))
            if form == ".py":
                weights = stack.enter_context(written_beside(final.with_suffix(".safetensors")))
            stack.enter_context(quiet())
            written = FORMS[form](Job(net, part, path, final, weights))
            difference = largest_difference(net, part, written.free, written.run)
    except OutputError as error:
        text = str(error)
        raise error if text.startswith(str(out)) else OutputError(f"{out}: {text}") from error
    return Report(part, written.free, difference, written.notes)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch and ONNX say of their own work."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        # torch prints the graph that it had when it met what it cannot trace.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


# .safetensors and .py ----------------------------------------------------------------------------


def _safetensors(job: Job) -> Written:
    module = write_module(job.net, job.part, job.out.name, calls=True)
    _write_blobs(module, job.path)
    arrays = read_safetensors(job.path).arrays
    blobs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    run = _running(replace(module, blobs=blobs).build(), job.part)
    return Written(run, free_sizes(job.part))


def _write_blobs(module: Module, path: Path) -> None:
    metadata = {"format": "pt", "statistics": json.dumps(module.statistics)}
    arrays = {name: blob.numpy() for name, blob in module.blobs.items()}
    write_safetensors(path, arrays, metadata)


def _python(job: Job) -> Written:
    if job.out.stem in {"torch", *sys.stdlib_module_names}:
        raise OutputError(f"{job.out}: a module of that name would hide Python's or torch's own")
    module = write_module(job.net, job.part, job.out.with_suffix(".safetensors").name)
    job.path.write_text(module.text, encoding="utf-8")
    _write_blobs(module, job.weights)
    spec = importlib.util.spec_from_file_location(module.name, job.path)
    assert spec is not None and spec.loader is not None
    imported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(imported)
    run = _running(imported.load(job.weights), job.part)
    return Written(run, free_sizes(job.part), module.notes)


def _running(built: nn.Module | Callable[..., Any], part: Part) -> Run:
    """A module that returns one tensor or several, as a `Run`."""

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            outputs = built(*inputs)
        return (outputs,) if isinstance(outputs, Tensor) else outputs

    return run


# .pt2 and .onnx ----------------------------------------------------------------------------------


class _Traced(NamedTuple):
    program: ExportedProgram
    module: Module
    free: Free
    notes: tuple[str, ...]


def _traced(net: CaffeNet, part: Part) -> _Traced:
    """The part as torch.export has it, with a batch of any size if it can be."""
    module = write_module(net, part, "", calls=True)
    built = module.build()
    free, notes = free_sizes(part), module.notes
    if free.names:
        try:
            return _Traced(_trace(built, part, free), module, free, notes)
        except _REFUSALS as error:
            position = module.layer_in(error)
            notes += (f"the batch is fixed{f' by {position.name}' if position else ''}",)
    try:
        return _Traced(_trace(built, part, FIXED), module, FIXED, notes)
    except _REFUSALS as error:
        raise _refused(part, module, error, "torch.export") from error


def _trace(built: nn.Module, part: Part, free: Free) -> ExportedProgram:
    shapes = part.input_shapes()
    inputs = tuple(torch.randn(resized(shapes[name], free, name, _TRACED)) for name in part.inputs)
    known = {name: Dim(name) for name in free.names.values()}
    sizes = tuple(
        {free.axis: known[free.names[name]]} if name in free.names else None for name in part.inputs
    )
    with torch.no_grad():
        return torch.export.export(built, inputs, dynamic_shapes=sizes, strict=False)


def _refused(part: Part, module: Module, error: Exception, what: str) -> CaffeError:
    position = module.layer_in(error)
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    said = re.sub(r"\x1b\[\d*m", "", str(root)).strip().splitlines()
    reason = f"{what} does not take it: {said[0] if said else type(root).__name__}"
    if position is None:
        return NetError(f"{part.plan.source}: {reason}{leave_out(part)}")
    return position.layer.error(f"{reason}{leave_out(part, position)}")


def _pt2(job: Job) -> Written:
    traced = _traced(job.net, job.part)
    torch.export.save(traced.program, job.path)
    run = _running(torch.export.load(job.path).module(), job.part)
    return Written(run, traced.free, traced.notes)


def _onnx(job: Job) -> Written:
    part, purpose = job.part, "exporting to ONNX"
    for package in ("onnx", "onnxscript"):
        import_extra(package, package, "onnx", purpose)
    runtime = import_extra("onnxruntime", "onnxruntime", "onnx", purpose)
    traced = _traced(job.net, part)
    outputs = [f"{name}_out" if name in part.inputs else name for name in part.outputs]
    sizes = tuple(
        {traced.free.axis: traced.free.names[name]} if name in traced.free.names else None
        for name in part.inputs
    )
    try:
        program = torch.onnx.export(
            traced.program,
            dynamic_shapes=sizes,
            input_names=list(part.inputs),
            output_names=outputs,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
    except _REFUSALS as error:
        raise _refused(part, traced.module, error, "torch.onnx") from error
    _name_nodes(program.model.graph, traced.module)
    try:
        program.save(job.path, external_data=False)
    except ValueError as error:
        raise OutputError(f"an ONNX file holds at most 2 GiB: {error}") from error
    session = runtime.InferenceSession(str(job.path), providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        taken = {one.name for one in session.get_inputs()}
        feed = {n: x.numpy() for n, x in zip(part.inputs, inputs) if n in taken}
        return [torch.from_numpy(found) for found in session.run(outputs, feed)]

    return Written(run, traced.free, traced.notes)


def _name_nodes(graph: Iterable[Any], module: Module) -> None:
    """Name each node by its layer, `conv1/Conv`, in the place of where torch traced it."""
    taken: Counter[str] = Counter()
    for node in graph:
        position = module.layer_at(node.metadata_props.pop("pkg.torch.onnx.stack_trace", ""))
        node.metadata_props.clear()
        name = f"{position.key}/{node.op_type}" if position else str(node.op_type)
        taken[name] += 1
        node.name = f"{name}_{taken[name]}" if taken[name] > 1 else name


FORMS: Mapping[str, Callable[[Job], Written]] = {
    ".onnx": _onnx,
    ".pt2": _pt2,
    ".safetensors": _safetensors,
    ".py": _python,
}
"""By suffix: what writes it."""
