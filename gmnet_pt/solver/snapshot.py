"""Snapshots: PREFIX_iter_N.caffemodel, then .state.npz, then .solverstate.

The first and last are Caffe's. The middle one is ours: solver type, random generators, the data
position and layers' hidden state, of each process where several trained, so that a resumed run is
the run that never stopped, bit for bit; and the digests of the other two, so that files of
different moments are not taken for one snapshot.
A snapshot exists when its .solverstate does. What is in them is a `RunState`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from converters.errors import CaffeError, OutputError, SolverError
from converters.formats.caffemodel import stored_layers
from converters.formats.locks import only_writer
from converters.formats.npz import read_npz
from converters.formats.solverstate import SolverState, fill_solverstate, read_solverstate
from converters.formats.whole_files import output_error, written_beside
from converters.net.caffe_net import CaffeNet
from converters.net.saving import fill_with_net
from converters.raw_text import file_name
from gmnet_pt.solver.layout import LAYOUTS
from gmnet_pt.solver.lr_policy import Plateau
from gmnet_pt.solver.processes import current
from gmnet_pt.solver.run_state import NetState, OwnState, RunState

_MODEL_DIGEST, _STATE_DIGEST = "digest/caffemodel", "digest/solverstate"
_MOST_NETS = 10_000
_LARGEST_POSITION = 2**63 - 1


class SnapshotFiles(NamedTuple):
    """The three files of a snapshot."""

    model: Path
    ours: Path
    state: Path


def snapshot_files(prefix: str, iteration: int, hdf5: bool = False) -> SnapshotFiles:
    """The files' names, which are Caffe's; `hdf5`: the format of model and state."""
    stem, suffix = f"{file_name(prefix)}_iter_{iteration}", ".h5" if hdf5 else ""
    names = (f"{stem}.caffemodel{suffix}", f"{stem}.state.npz", f"{stem}.solverstate{suffix}")
    return SnapshotFiles(*map(Path, names))


@contextmanager
def sole_writer(prefix: str) -> Iterator[None]:
    """Keep other processes from writing snapshots of `prefix` in the block.

    One process may take it again inside; of several that train one net, the first writes.

    Raises:
        OutputError: another process holds it.
    """
    if not current().leads:
        yield
        return
    way_out = "let it end, stop it, or give another prefix: --set snapshot_prefix=PREFIX"
    with only_writer(prefix, "another training", way_out):
        yield


def check_folder(prefix: str) -> None:
    """Make the folder of snapshots and try to write there, before hours are spent.

    Raises:
        OutputError: it cannot be made or written.
    """
    probe = Path(f"{file_name(prefix)}.{os.getpid()}.probe")
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"snapshot_prefix {prefix!r}: {output_error(probe, error)}") from error


def write(
    state: RunState, net: CaffeNet, files: SnapshotFiles, diffs: Sequence[Tensor] | None = None
) -> Path:
    """Write a snapshot of `net` in `state`, and return the path of its .solverstate.

    Args:
        diffs: what to write as the learnable blobs' diffs (Caffe's snapshot_diff).

    Raises:
        OutputError: a file cannot be written; earlier snapshots are untouched.
    """
    history = [tensor.numpy() for tensor in state.history]
    caffe = SolverState(
        state.iteration,
        state.current_step,
        str(files.model),
        history,
        None if state.plateau is None else state.plateau.minimum_loss,
        None if state.plateau is None else state.plateau.last_event,
    )
    # All are written before the first is moved: a kill leaves the old ones, or no .solverstate.
    with (
        written_beside(files.state) as state_part,
        written_beside(files.ours) as ours_part,
        written_beside(files.model) as model_part,
    ):
        with _named(files.model):
            fill_with_net(net, model_part, files.model, diffs)
            model_digest = _kept_digest(model_part)
        with _named(files.state):
            fill_solverstate(state_part, files.state, caffe)
            state_digest = _kept_digest(state_part)
        arrays = _arrays(state)
        arrays |= {_MODEL_DIGEST: np.array(model_digest), _STATE_DIGEST: np.array(state_digest)}
        with _named(files.ours), open(ours_part, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        with _named(files.state):
            files.state.unlink(missing_ok=True)
    return files.state


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the block are about `path`."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def _kept_digest(path: Path) -> str:
    """The digest of a file that is on the disk now."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _arrays(state: RunState) -> dict[str, Any]:
    """What Caffe's two files have no place for, by name."""
    arrays: dict[str, Any] = {"type": np.array(state.type)}
    if state.smoothed_loss is not None:
        arrays["smoothed_loss"] = np.array(state.smoothed_loss)
    if state.layout is not None:
        arrays["layout"] = np.array(state.layout)
    if state.window:
        arrays["window"] = np.array(state.window)
    arrays |= _own_arrays(state.own(0))
    for rank, own in enumerate(state.others, 1):
        arrays |= {f"process/{rank}/{key}": value for key, value in _own_arrays(own).items()}
    return arrays


def _own_arrays(state: OwnState) -> dict[str, Any]:
    arrays: dict[str, Any] = {f"random/{name}": x.numpy() for name, x in state.random.items()}
    for number, net in enumerate(state.nets):
        arrays |= {f"hidden/{number}/{name}": x.numpy() for name, x in net.hidden.items()}
        for place, position in enumerate(net.readers or ()):
            for key, value in position.items():
                arrays[f"data/{number}/{place}/{key}"] = np.asarray(value)
    return arrays


def newest(prefix: str, tell: Callable[[str], None]) -> Path | None:
    """The snapshot of `prefix` that was written last and is whole; None where there is none.

    The time decides and not the iteration: a shorter run may have followed a longer one. `tell` is
    given a line for each that is passed over.
    """
    stem = Path(file_name(prefix))
    named = re.compile(re.escape(stem.name) + r"_iter_(\d+)\.solverstate(?:\.h5)?")
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in stem.parent.iterdir():
            if match := named.fullmatch(path.name):
                found.append((path.stat().st_mtime_ns, int(match[1]), path))
    for _, _, path in sorted(found, reverse=True):
        try:
            state = read(path)
            if state.type is None:  # Caffe's own: no digest says that the weights are whole
                for _ in stored_layers(state.learned_net):
                    pass
        except CaffeError as error:
            tell(f"passed over: {error}")
        else:
            return path
    return None


def ours_beside(path: Path) -> Path:
    """The .state.npz that belongs to a .solverstate."""
    return path.with_name(re.sub(r"\.solverstate(\.h5)?$", "", path.name) + ".state.npz")


def read(path: Path) -> RunState:
    """The state in a snapshot: ours, or Caffe's own; `learned_net` is where its weights are.

    Caffe's own, whose `type` is None, have no .state.npz beside them, or an empty one.

    Raises:
        SolverError: no snapshot there, a damaged or foreign one, its weights are absent, or its
            files are not of one moment.
    """
    if not os.path.exists(path):
        raise SolverError(f"{path}: there is no such snapshot (a .solverstate is wanted)")
    state = read_solverstate(path)
    history = tuple(torch.from_numpy(np.array(blob)) for blob in state.history)
    ours = ours_beside(path)
    weights = _learned_net(state.learned_net, path)
    arrays = _read_ours(ours)
    if _STATE_DIGEST in arrays:
        weights = _of_one_moment(weights, path, ours, arrays)
    try:
        rest = _fields(arrays) if arrays else {}
    except ValueError as error:
        raise SolverError(
            f"{ours}: is damaged ({error}); remove it to resume as Caffe does"
        ) from error
    plateau = None
    if state.minimum_loss is not None:
        plateau = Plateau(state.minimum_loss, state.iter_last_event or 0)
    return RunState(
        state.iter, state.current_step, history, str(weights[0]), plateau=plateau, **rest
    )


def _learned_net(name: str, state: Path) -> list[Path]:
    """The weights that a state names: from the working directory, then beside the state."""
    name = file_name(name)
    candidates = (Path(name), state.parent / name, state.parent / Path(name).name)
    found = [candidate for candidate in candidates if name and os.path.isfile(candidate)]
    if not found:
        raise SolverError(
            f"{state}: its weights {_shown(name)} are neither there nor beside it ({state.parent})"
        )
    return found


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 200 else f"{name[:200]!r} …"


def _of_one_moment(
    weights: Sequence[Path], state: Path, ours: Path, arrays: Mapping[str, np.ndarray]
) -> list[Path]:
    """Those of the weights that were written together with `state` and `ours`.

    Raises:
        SolverError: there are none, or the state was not.
    """
    right = [path for path in weights if _digest(path) == str(arrays.get(_MODEL_DIGEST))]
    strange = [] if right else [str(weights[0])]
    if _digest(state) != str(arrays[_STATE_DIGEST]):
        strange.append(str(state))
    if strange:
        raise SolverError(
            f"{state}: its files are not of one snapshot: {' and '.join(strange)} "
            f"{'is' if len(strange) == 1 else 'are'} not what {ours} was written with (another run "
            "may have been killed while it saved there); resume from another snapshot, or remove "
            f"{ours} to resume from the rest as Caffe does"
        )
    return right


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SolverError(f"{path}: cannot be read: {error.strerror}") from error


def _read_ours(path: Path) -> Mapping[str, np.ndarray]:
    """What our file has; nothing where it is absent or empty."""
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return {}
    try:
        return read_npz(path, SolverError)
    except SolverError as error:
        raise SolverError(f"{error}; remove it to resume as Caffe does") from error


def _fields(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of a RunState that our file has.

    Raises:
        ValueError: one that no run can have.
    """
    if "type" not in arrays or arrays["type"].dtype.kind != "U" or arrays["type"].shape:
        raise ValueError("it names no solver type")
    of_process: dict[int, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        kind, *parts = key.split("/", 2)
        if kind == "process" and len(parts) == 2:
            of_process.setdefault(_place(key, parts[0]), {})[parts[1]] = value
    if sorted(of_process) != list(range(1, len(of_process) + 1)):
        raise ValueError(f"it holds processes {sorted(of_process)}, not all from 1 on")
    first, *others = map(_own, [arrays, *(of_process[rank] for rank in sorted(of_process))])
    return {
        "type": str(arrays["type"]),
        "random": first.random,
        "nets": first.nets,
        "smoothed_loss": _loss(arrays.get("smoothed_loss")),
        "layout": _layout(arrays.get("layout")),
        "window": _window(arrays.get("window")),
        "others": tuple(others),
    }


def _own(arrays: Mapping[str, np.ndarray]) -> OwnState:
    """What one process has of its own."""
    nets: dict[int, _Net] = {}
    random: dict[str, Tensor] = {}
    for key, value in arrays.items():
        kind, *parts = key.split("/")
        if kind == "random" and len(parts) == 1:
            random[parts[0]] = _tensor(key, value, np.uint8)
        elif kind == "hidden" and len(parts) == 3:
            net = nets.setdefault(_place(key, parts[0]), _Net({}, {}))
            net.hidden["/".join(parts[1:])] = _tensor(key, value, np.floating)
        elif kind == "data" and len(parts) == 3:
            net = nets.setdefault(_place(key, parts[0]), _Net({}, {}))
            net.readers.setdefault(_place(key, parts[1]), {})[parts[2]] = _position(key, value)
    numbers = range(max(nets, default=-1) + 1)
    return OwnState(
        random,
        tuple(nets[number].state() if number in nets else NetState() for number in numbers),
    )


class _Net(NamedTuple):
    """A NetState while its parts are found: readers by place, hidden tensors by name."""

    readers: dict[int, dict[str, int]]
    hidden: dict[str, Tensor]

    def state(self) -> NetState:
        readers = tuple(self.readers[place] for place in sorted(self.readers))
        return NetState(readers or None, self.hidden)


def _place(key: str, text: str) -> int:
    """The number of a net or layer."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < _MOST_NETS):
        raise ValueError(f"{key} names no net or layer")
    return int(text)


def _position(key: str, value: np.ndarray) -> int:
    """A number of a reader's state."""
    if value.dtype.kind not in "iu" or value.shape or not 0 <= int(value) <= _LARGEST_POSITION:
        raise ValueError(f"{key} is {_value(value)}, no whole number from 0 on")
    return int(value)


def _tensor(key: str, value: np.ndarray, kind: type[np.generic]) -> Tensor:
    if not np.issubdtype(value.dtype, kind) or value.dtype.itemsize > 8:
        raise ValueError(f"{key} is {_value(value)}, not of {kind.__name__}")
    # The bytes of the file cannot be written to, and those of another machine may lie reversed.
    return torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))


def _loss(value: np.ndarray | None) -> float | None:
    if value is None:
        return None
    if value.dtype.kind != "f" or value.shape:
        raise ValueError(f"smoothed_loss is {_value(value)}, no number")
    return float(value)


def _window(value: np.ndarray | None) -> tuple[float, ...]:
    """The losses of a mean, and their number; only runs whose rate follows the loss have them."""
    if value is None:
        return ()
    if value.dtype.kind != "f" or value.ndim != 1 or not len(value) or not value[-1] >= 0:
        raise ValueError(f"window is {_value(value)}, no losses and their number")
    return tuple(map(float, value))


def _layout(value: np.ndarray | None) -> str | None:
    """The name of a memory format; files of earlier versions have none."""
    if value is None:
        return None
    if str(value) not in LAYOUTS:
        raise ValueError(f"layout is {_value(value)}, not one of {', '.join(LAYOUTS)}")
    return str(value)


def _value(value: np.ndarray) -> str:
    return f"an array {value.shape} of {value.dtype}" if value.shape else str(value)[:40]
