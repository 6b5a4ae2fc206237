"""A solver's snapshots: PREFIX_iter_N.caffemodel, then .state.npz, then .solverstate.

The first and last are Caffe's. The middle one is ours: solver type, random generators, the data
position and layers' hidden state, so that a resumed run is the run that never stopped, bit for bit.
A snapshot exists when its .solverstate does.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from converters.errors import OutputError, SolverError
from converters.formats.solverstate import SolverState, read_solverstate, write_solverstate
from converters.formats.whole_files import output_error, written_beside
from converters.net.saving import save_caffemodel
from converters.proto import caffe_pb2 as pb
from gmnet_pt.log import events

if TYPE_CHECKING:
    from converters.net.caffe_net import CaffeNet
    from gmnet_pt.solver.solver import Solver


def check_folder(solver: pb.SolverParameter) -> None:
    """Make the folder of snapshot_prefix and try to write there, before hours are spent.

    Raises:
        OutputError: it cannot be made or written.
    """
    if not solver.HasField("snapshot_prefix"):
        return
    probe = Path(f"{solver.snapshot_prefix}.{os.getpid()}.probe")
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"snapshot_prefix {solver.snapshot_prefix!r}: {output_error(probe, error)}"
        ) from error


def save(solver: Solver) -> Path:
    """Write the solver's snapshot and return the path of its .solverstate.

    Raises:
        OutputError: a file cannot be written; earlier snapshots are untouched.
    """
    suffix = ".h5" if solver.param.snapshot_format == pb.SolverParameter.HDF5 else ""
    stem = f"{solver.param.snapshot_prefix}_iter_{solver.iter}"
    model, state = Path(f"{stem}.caffemodel{suffix}"), Path(f"{stem}.solverstate{suffix}")
    solver.show(events.Snapshot(str(model), str(state)))
    _save_model(solver, model)
    _save_ours(solver, Path(f"{stem}.state.npz"))
    history = [tensor.detach().cpu().numpy() for tensor in solver.updater.history]
    write_solverstate(state, SolverState(solver.iter, solver.current_step, str(model), history))
    return state


def _save_model(solver: Solver, path: Path) -> None:
    # Caffe's diffs after an iteration hold what the update subtracted.
    updates: list[torch.Tensor | None] = list(solver.updater.updates)
    updates = updates or [None] * len(solver.net.learnable)
    save_caffemodel(solver.net, path, updates if solver.param.snapshot_diff else None)


def _save_ours(solver: Solver, path: Path) -> None:
    arrays: dict[str, Any] = {
        "type": np.array(solver.param.type),
        "random/cpu": torch.get_rng_state().numpy(),
    }
    if solver.device.type == "cuda":
        arrays["random/cuda"] = torch.cuda.get_rng_state(solver.device).numpy()
    for number, net in enumerate([solver.net, *solver.test_nets]):
        for name, tensor in _hidden(net).items():
            arrays[f"hidden/{number}/{name}"] = tensor.cpu().numpy()
        for place, reader in enumerate(solver.opened_batches(net)):
            for key, value in reader.state().items():
                arrays[f"data/{number}/{place}/{key}"] = np.asarray(value)
    with written_beside(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def _hidden(net: CaffeNet) -> dict[str, torch.Tensor]:
    return {
        f"{module.layer.name}/{name}": tensor
        for module in net.layer_modules
        for name, tensor in module.state.items()
    }


def restore(solver: Solver, path: Path) -> None:
    """Continue from a snapshot: ours, or Caffe's own (then data starts at record 0, as there).

    Raises:
        SolverError, WeightsError: a damaged or foreign snapshot, or one of another solver or net.
    """
    if not path.exists():
        raise SolverError(f"{path}: there is no such snapshot (a .solverstate is wanted)")
    state = read_solverstate(path)
    ours = path.with_name(re.sub(r"\.solverstate(\.h5)?$", "", path.name) + ".state.npz")
    arrays = _read_ours(ours) if ours.exists() else {}
    kind = str(arrays.get("type", solver.param.type))
    if kind != solver.param.type:
        raise SolverError(f'{path}: was written by solver type "{kind}", not "{solver.param.type}"')
    device = solver.device
    history = [torch.from_numpy(np.array(blob)).to(device) for blob in state.history]
    solver.updater.load_history(history, str(path))
    solver.net.load_weights(_learned_net(state.learned_net, path), strict=True)
    solver.iter, solver.current_step = state.iter, state.current_step
    solver.last_snapshot = path
    solver.show(events.Resume(str(path)))
    if arrays:
        _restore_ours(solver, arrays, ours)


def _learned_net(name: str, state: Path) -> Path:
    """The weights that a state names: from the working directory, then beside the state."""
    for candidate in (Path(name), state.parent / name, state.parent / Path(name).name):
        if name and candidate.is_file():
            return candidate
    raise SolverError(
        f"{state}: its weights {name!r} are neither there nor beside it ({state.parent})"
    )


def _read_ours(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise SolverError(
            f"{path}: is damaged ({error}); remove it to resume as Caffe does"
        ) from error


def _restore_ours(solver: Solver, arrays: dict[str, np.ndarray], path: Path) -> None:
    try:
        torch.set_rng_state(torch.from_numpy(arrays["random/cpu"]))
        if solver.device.type == "cuda" and "random/cuda" in arrays:
            torch.cuda.set_rng_state(torch.from_numpy(arrays["random/cuda"]), solver.device)
        for number, net in enumerate([solver.net, *solver.test_nets]):
            for name, tensor in _hidden(net).items():
                tensor.copy_(torch.from_numpy(arrays[f"hidden/{number}/{name}"]))
            prefix = f"data/{number}/"
            if not any(key.startswith(prefix) for key in arrays):
                continue
            for place, reader in enumerate(solver.batches(net)):
                start = f"{prefix}{place}/"
                reader.restore(
                    {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
                )
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise SolverError(
            f"{path}: does not belong to this net ({error}); remove it to resume as Caffe does"
        ) from error
