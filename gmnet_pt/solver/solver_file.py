"""The solver file: which one, overriding its fields, and the train and test nets that it names.

`gmnet_pt.solver.solver` runs what is decided here. Source: Caffe solver.cpp, InitTrainNet,
InitTestNets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf import text_format

from converters.environment import find_file
from converters.errors import SolverError
from converters.nearest import known_names
from converters.net import solver_nets
from converters.net.choice import NetChoice, Weights, weight_files
from converters.net.solver_nets import test_nets as test_nets
from converters.proto import caffe_pb2 as pb
from converters.proto.foreign import SOLVER_WITHOUT_EFFECT
from converters.proto.forks import foreign
from converters.prototxt.kind import is_deploy, is_solver
from converters.prototxt.text import read_solver, read_text
from converters.raw_text import file_name, storable
from gmnet_pt.solver.epochs import scale_to_epochs
from gmnet_pt.solver.processes import current

if TYPE_CHECKING:
    import torch


FORKS = ("eval_type", "ap_version", "show_per_class_result", "plateau_winsize")
"""Fields of forks that the solver honours."""
EVALUATIONS = ("classification", "detection")
AVERAGE_PRECISIONS = ("11point", "MaxIntegral", "Integral")
"""The entries of `gmnet_pt.solver.detection.CURVES`, which is not here: it imports torch."""


class SolverFile(NamedTuple):
    """A solver with all settings applied, the file it was read from, and what to say of it."""

    param: pb.SolverParameter
    path: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SolverChoice:
    """Which run: everything that decides what a `Solver` does, made by the command line or by hand.

    Args:
        path: a solver file, or a net, which takes `solver` or the solver.prototxt beside it.
        weights: caffemodels to start from, by layer name, instead of the file's `weights`; with
            `strict` a layer that none of them has is an error.
        snapshot: a .solverstate to continue from; no weights are read but its own.
        device: "cpu", "cuda", "cuda:1"; None follows solver_mode and device_id.
        overrides: FIELD=VALUE settings of the solver file.
        epochs: rounds of the training data, which set max_iter and move the steps of the rate
            (`gmnet_pt.solver.epochs`).
        level, stages: added to the file's train_state.
        precision: "fp32", "tf32" or "bf16".
        compile: the loss goes through torch.compile, which takes time and a compiler at first.
        capture: on a GPU, an iteration is recorded as a CUDA graph where that can be.
        layout: "contiguous", "channels_last", or "auto": what a snapshot says, else what is faster.
        data_memory: bytes of the device for records of Data layers, which stay there where they
            fit; None is half of a GPU's free memory, and nothing on a CPU.
        input_shapes: shapes of data layers' tops whose files are absent (`step` needs inputs then).
    """

    path: str | Path
    weights: Weights = None
    snapshot: str | Path | None = None
    device: str | torch.device | None = None
    solver: str | Path | None = None
    overrides: Sequence[str] = ()
    epochs: int | None = None
    level: int | None = None
    stages: Sequence[str] = ()
    strict: bool = False
    precision: str = "fp32"
    compile: bool = False
    capture: bool = True
    layout: str = "auto"
    data_memory: int | None = None
    input_shapes: Mapping[str, Sequence[int]] | None = None
    allow_python_layers: bool = False

    @cached_property
    def file(self) -> SolverFile:
        """The solver that all this amounts to, read once.

        Raises:
            CaffeError: no such file, or fields that contradict each other or this choice.
        """
        param, path, _ = read_solver_or_net(self.path, self.solver, self.overrides)
        check(param, str(path))
        choose_state(param, self.level, self.stages)
        choose_weights(param, self.weights, self.snapshot)
        if self.epochs is None:
            return SolverFile(param, path)
        source, processes = str(path), current().count
        set_here = [one for one in self.overrides if one.partition("=")[0].strip() == "max_iter"]
        if set_here:
            raise SolverError(f"{source}: --epochs sets max_iter, and so does {set_here[0]}")
        net = train_net(param, path)
        return SolverFile(
            param, path, (scale_to_epochs(param, self.epochs, net, processes, source),)
        )


def read_solver_or_net(
    path: str | Path, solver: str | Path | None = None, overrides: Iterable[str] = ()
) -> SolverFile:
    """The solver to run for `path`, a solver or a net file, and the file it was read from.

    A net takes `solver`, or the solver.prototxt beside it, whose net it replaces. `overrides` are
    FIELD=VALUE, values in prototxt syntax (quotes may be left out).

    Raises:
        PrototxtError, SolverError: the file is neither, has no net, or an override does not fit.
    """
    path = Path(path)
    if is_solver(read_text(path)):
        if solver is not None:
            raise SolverError(f"{path}: is a solver already; --solver goes with a net")
        message = read_solver(path)
        override(message, overrides, str(path))
        return SolverFile(_with_prefix(message, path), path)
    beside = Path(solver) if solver is not None else path.with_name("solver.prototxt")
    if not beside.exists():
        refuse_deploy(NetChoice(str(path), phase="TRAIN"))
        raise SolverError(f"{path}: is a net; there is no solver {beside} (give one with --solver)")
    message = read_solver(beside)
    for name in ("net_param", "train_net", "train_net_param", "test_net", "test_net_param"):
        message.ClearField(name)
    message.net = storable(str(path))
    override(message, overrides, str(beside))
    return SolverFile(_with_prefix(message, beside), beside)


def _with_prefix(message: pb.SolverParameter, path: Path) -> pb.SolverParameter:
    """Caffe's default for snapshot_prefix: the solver's own path, or its name in a given folder."""
    if not message.HasField("snapshot_prefix"):
        message.snapshot_prefix = storable(str(path.with_suffix("")))
    elif Path(file_name(message.snapshot_prefix)).is_dir():
        message.snapshot_prefix = storable(str(Path(message.snapshot_prefix) / path.stem))
    return message


def override(message: pb.SolverParameter, settings: Iterable[str], source: str) -> None:
    """Set fields given as FIELD=VALUE; a repeated field takes comma-separated values.

    Raises:
        SolverError: an unknown field (with the nearest), a value of another type, or several
            fields.
    """
    for setting in settings:
        name, equals, value = setting.partition("=")
        field = message.DESCRIPTOR.fields_by_name.get(name.strip())
        if not equals or field is None:
            names = [f.name for f in message.DESCRIPTOR.fields]
            reason = "there is no such field" if equals else "it is not FIELD=VALUE"
            near = known_names(name.strip(), names, "the nearest are" if equals else "there are")
            raise SolverError(f"{source}: cannot set {setting!r}: {reason}{near}")
        message.ClearField(field.name)
        empty = getattr(message, field.name)
        repeated = isinstance(empty, Sequence) and not isinstance(empty, str)
        value = storable(value)
        for one in _values(field.name, value) if repeated else [value]:
            _set(message, field.name, one.strip(), source)


def _values(name: str, value: str) -> list[str]:
    """What to set a repeated field to: commas within quotes and braces separate nothing."""
    for text in (value, f"[{value}]") if value.strip() else ():
        with suppress(text_format.ParseError):
            text_format.Parse(f"{name}: {text}", pb.SolverParameter())
            return [text]
    return value.split(",")


def _set(message: pb.SolverParameter, name: str, value: str, source: str) -> None:
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    for text in (value, quoted):
        try:
            found = text_format.Parse(f"{name}: {text}", pb.SolverParameter())
        except text_format.ParseError as error:
            reason = str(error).split(" : ", 1)[-1]
            continue
        names = [field.name for field, _ in found.ListFields()]
        if len(names) > 1:
            raise SolverError(
                f"{source}: cannot set {name} to {value!r}: a setting sets one field, this one "
                f"sets {', '.join(names)}; give each its own"
            )
        message.MergeFrom(found)
        return
    raise SolverError(f"{source}: cannot set {name} to {value!r}: {reason}")


def check(solver: pb.SolverParameter, source: str) -> None:
    """Refuse what Caffe refuses, and contradictions that it would pass over in silence.

    Raises:
        SolverError: names the fields.
    """
    by_fork: dict[str, list[str]] = {}
    for unknown in foreign(solver, {*FORKS, *SOLVER_WITHOUT_EFFECT}, deep=False):
        by_fork.setdefault(unknown.fork, []).append(unknown.path)
    if by_fork:
        told = [
            f"{', '.join(paths)} {'are settings' if len(paths) > 1 else 'is a setting'} of the "
            f"fork {fork} that no solver here knows"
            for fork, paths in by_fork.items()
        ]
        raise SolverError(f"{source}: {'; '.join(told)}; remove it to train without")
    given = [n for n in ("net", "net_param", "train_net", "train_net_param") if solver.HasField(n)]
    if not given:
        raise SolverError(
            f"{source}: names no net; give one of net, net_param, train_net, train_net_param"
        )
    if len(given) > 1:
        raise SolverError(f"{source}: names more than one net to train: {', '.join(given)}")
    tests = len(solver.test_net) + len(solver.test_net_param)
    generic = solver.HasField("net") or solver.HasField("net_param")
    if len(solver.test_iter) < tests or (not generic and len(solver.test_iter) != tests):
        raise SolverError(
            f"{source}: has {len(solver.test_iter)} test_iter for {tests} test nets; "
            "give one for each"
        )
    if solver.test_state and len(solver.test_state) != len(solver.test_iter):
        raise SolverError(
            f"{source}: has {len(solver.test_state)} test_state for {len(solver.test_iter)} test "
            "nets; give none, or one for each"
        )
    if solver.test_iter and solver.test_interval <= 0:
        raise SolverError(f"{source}: test_interval {solver.test_interval} must be positive")
    if any(count <= 0 for count in solver.test_iter):
        raise SolverError(f"{source}: test_iter {list(solver.test_iter)} must be positive")
    if solver.average_loss < 1:
        raise SolverError(f"{source}: average_loss {solver.average_loss} must be at least 1")
    if solver.iter_size < 1:
        raise SolverError(f"{source}: iter_size {solver.iter_size} must be at least 1")
    if solver.snapshot < 0 or solver.display < 0 or solver.max_iter < 0:
        raise SolverError(f"{source}: snapshot, display and max_iter must not be negative")
    if solver.eval_type not in EVALUATIONS:
        raise SolverError(
            f'{source}: eval_type "{solver.eval_type}" is not one of {", ".join(EVALUATIONS)}'
        )
    if solver.ap_version not in AVERAGE_PRECISIONS:
        raise SolverError(
            f'{source}: ap_version "{solver.ap_version}" is not one of '
            f"{', '.join(AVERAGE_PRECISIONS)}"
        )
    if not math.isfinite(solver.base_lr):
        raise SolverError(f"{source}: base_lr {solver.base_lr} must be finite")


def choose_state(solver: pb.SolverParameter, level: int | None, stages: Sequence[str]) -> None:
    """Add a level and stages from the command line to train_state, as Caffe's tool does."""
    if level is not None:
        solver.train_state.level = level
    if stages:
        solver.train_state.stage.extend(stages)


def choose_weights(
    solver: pb.SolverParameter,
    weights: Weights,
    snapshot: str | Path | None,
) -> None:
    """Leave in `weights` the files to start from: given ones replace the solver's own.

    Raises:
        SolverError: weights and a snapshot are given.
    """
    given = weight_files(weights)
    if given and snapshot is not None:
        raise SolverError(
            f"give weights to start from ({', '.join(given)}) or a snapshot to "
            f"continue from ({snapshot}), not both"
        )
    if given or snapshot is not None:
        solver.ClearField("weights")
        solver.weights.extend(map(storable, given))


def weights(solver: pb.SolverParameter, source: Path) -> tuple[str, ...]:
    """The files to start from, in their order; each may be several with commas, as in Caffe."""
    named = (name for entry in solver.weights for name in weight_files(entry))
    return tuple(str(find_file(name, source.parent)) for name in named)


def train_net(solver: pb.SolverParameter, source: Path) -> NetChoice:
    """`converters.net.solver_nets.train_net`, which must not be a deploy net.

    Raises:
        SolverError: there is no such file, or it is a deploy net.
    """
    net = solver_nets.train_net(solver, source)
    refuse_deploy(net)
    return net


def refuse_deploy(choice: NetChoice) -> None:
    """Say of a deploy net that it is one, and what takes it.

    Raises:
        SolverError: it is.
        PrototxtError, NetError: it cannot be read or filtered.
    """
    if is_deploy(choice.filtered()):
        raise SolverError(
            f"{choice.source}: no data layer; this looks like a deploy net: training takes the net "
            "with the data layers and a loss, `gmnet classify` and `gmnet time` take this one"
        )
