"""Snapshots: PREFIX_iter_N.caffemodel, then .state.npz, then .solverstate.

The first and last are Caffe's. The middle one is ours: solver type, random generators, the data
position and layers' hidden state, so that a resumed run is the run that never stopped, bit for bit.
A snapshot exists when its .solverstate does. What is in them is a `RunState`.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from converters.errors import OutputError, SolverError
from converters.formats.locks import only_writer
from converters.formats.solverstate import SolverState, read_solverstate, write_solverstate
from converters.formats.whole_files import output_error, written_beside
from converters.net.caffe_net import CaffeNet
from converters.net.saving import save_caffemodel
from gmnet_pt.solver.run_state import NetState, RunState


class SnapshotFiles(NamedTuple):
    """The three files of a snapshot."""

    model: Path
    ours: Path
    state: Path


def snapshot_files(prefix: str, iteration: int, hdf5: bool = False) -> SnapshotFiles:
    """The files' names, which are Caffe's; `hdf5`: the format of model and state."""
    stem, suffix = f"{prefix}_iter_{iteration}", ".h5" if hdf5 else ""
    names = (f"{stem}.caffemodel{suffix}", f"{stem}.state.npz", f"{stem}.solverstate{suffix}")
    return SnapshotFiles(*map(Path, names))


@contextmanager
def sole_writer(prefix: str) -> Iterator[None]:
    """Keep other processes from writing snapshots of `prefix` in the block.

    One process may take it again inside; of several that train one net, the first writes.

    Raises:
        OutputError: another process holds it.
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if together and torch.distributed.get_rank() != 0:
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
    probe = Path(f"{prefix}.{os.getpid()}.probe")
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
    save_caffemodel(net, files.model, diffs)
    with written_beside(files.ours) as partial, open(partial, "wb") as file:
        np.savez(file, **_arrays(state))
    history = [tensor.numpy() for tensor in state.history]
    numbers = (state.iteration, state.current_step)
    write_solverstate(files.state, SolverState(*numbers, str(files.model), history))
    return files.state


def _arrays(state: RunState) -> dict[str, Any]:
    """What Caffe's two files have no place for, by name."""
    arrays: dict[str, Any] = {"type": np.array(state.type)}
    if state.smoothed_loss is not None:
        arrays["smoothed_loss"] = np.array(state.smoothed_loss)
    arrays |= {f"random/{name}": tensor.numpy() for name, tensor in state.random.items()}
    for number, net in enumerate(state.nets):
        arrays |= {f"hidden/{number}/{name}": x.numpy() for name, x in net.hidden.items()}
        for place, position in enumerate(net.readers or ()):
            for key, value in position.items():
                arrays[f"data/{number}/{place}/{key}"] = np.asarray(value)
    return arrays


def read(path: Path) -> RunState:
    """The state in a snapshot: ours, or Caffe's own; `learned_net` is where its weights are.

    Raises:
        SolverError: no snapshot there, or a damaged or foreign one, or its weights are absent.
    """
    if not path.exists():
        raise SolverError(f"{path}: there is no such snapshot (a .solverstate is wanted)")
    state = read_solverstate(path)
    history = tuple(torch.from_numpy(np.array(blob)) for blob in state.history)
    weights = str(_learned_net(state.learned_net, path))
    ours = path.with_name(re.sub(r"\.solverstate(\.h5)?$", "", path.name) + ".state.npz")
    rest = _read_ours(ours) if ours.exists() else {}
    return RunState(state.iter, state.current_step, history, weights, **rest)


def _learned_net(name: str, state: Path) -> Path:
    """The weights that a state names: from the working directory, then beside the state."""
    for candidate in (Path(name), state.parent / name, state.parent / Path(name).name):
        if name and candidate.is_file():
            return candidate
    raise SolverError(
        f"{state}: its weights {name!r} are neither there nor beside it ({state.parent})"
    )


def _read_ours(path: Path) -> dict[str, Any]:
    """The fields of a RunState that our file has."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        loss = arrays.get("smoothed_loss")
        numbers = {int(key.split("/")[1]) for key in arrays if key.startswith(("data/", "hidden/"))}
        return {
            "type": str(arrays["type"]),
            "random": _tensors(arrays, "random/"),
            "nets": tuple(
                NetState(_readers(arrays, f"data/{number}/"), _tensors(arrays, f"hidden/{number}/"))
                for number in range(max(numbers, default=-1) + 1)
            ),
            "smoothed_loss": None if loss is None else float(loss),
        }
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise SolverError(
            f"{path}: is damaged ({error}); remove it to resume as Caffe does"
        ) from error


def _below(arrays: Mapping[str, np.ndarray], start: str) -> Iterable[tuple[str, np.ndarray]]:
    return [(key[len(start) :], value) for key, value in arrays.items() if key.startswith(start)]


def _tensors(arrays: Mapping[str, np.ndarray], start: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in _below(arrays, start)}


def _readers(arrays: Mapping[str, np.ndarray], start: str) -> tuple[Mapping[str, int], ...] | None:
    found: dict[int, dict[str, int]] = {}
    for key, value in _below(arrays, start):
        place, name = key.split("/")
        found.setdefault(int(place), {})[name] = int(value)
    return tuple(found[place] for place in sorted(found)) or None
