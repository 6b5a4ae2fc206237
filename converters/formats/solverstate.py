"""Caffe's solver states: where a run stood and what its update rule remembers.

Binary and HDF5, read and written as Caffe does; `gmnet_pt.solver.solver` makes the snapshot and
`converters.formats.caffemodel` its weights. Source: Caffe solvers/sgd_solver.cpp
(SnapshotSolverStateTo…, RestoreSolverStateFrom…), util/hdf5.cpp.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.errors import SolverError
from converters.formats.blob import FloatArray, decode_blob, encode_blob
from converters.formats.hdf5 import (
    filled_hdf5,
    import_h5py,
    is_group,
    is_hdf5,
    member,
    numbers,
    opened_hdf5,
)
from converters.formats.whole_files import written_beside
from converters.formats.wire import (
    BYTES,
    FIXED32,
    VARINT,
    message_field,
    opened_wire,
    serialized,
    write_chunks,
)
from converters.proto import caffe_pb2 as pb
from converters.raw_text import decoded, encoded, storable

log = logging.getLogger(__name__)

_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP, _MINIMUM_LOSS, _LAST_EVENT = (
    pb.SolverState.DESCRIPTOR.fields_by_name[name].number
    for name in (
        "iter",
        "learned_net",
        "history",
        "current_step",
        "minimum_loss",
        "iter_last_event",
    )
)


_LARGEST = 2**31 - 1
_LONGEST_NAME = 4096  # Linux's PATH_MAX


@dataclass(frozen=True, eq=False)
class SolverState:
    """A snapshot's solver half.

    `history` has an array per learnable parameter in the net's order, and for Adam and AdaDelta a
    second such block. `learned_net` is the weight file's name as the writer knew it. `minimum_loss`
    and `iter_last_event` are SSD's, for lr_policy "plateau"; None where a file has neither.
    """

    iter: int
    current_step: int
    learned_net: str
    history: Sequence[FloatArray]
    minimum_loss: float | None = None
    iter_last_event: int | None = None


def read_solverstate(path: str | Path) -> SolverState:
    """Read a solver state, told binary or HDF5 by its first bytes.

    Raises:
        SolverError: an empty or foreign file, one cut short (with the byte), or numbers that no run
            can have.
    """
    state = _read_hdf5(path) if is_hdf5(path) else _read_binary(path)
    for name, value in (
        ("iter", state.iter),
        ("current_step", state.current_step),
        ("iter_last_event", state.iter_last_event or 0),
    ):
        if not 0 <= value <= _LARGEST:
            raise SolverError(f"{path}: damaged: {name} is {value}, not 0 to {_LARGEST}")
    if len(state.learned_net) > _LONGEST_NAME:
        raise SolverError(
            f"{path}: damaged: learned_net has {len(state.learned_net)} characters, which no file "
            f"name has ({state.learned_net[:40]!r} …)"
        )
    return state


def _read_binary(path: str | Path) -> SolverState:
    found: dict[int, int] = {}
    minimum_loss: float | None = None
    learned_net = ""
    history: list[FloatArray] = []
    with opened_wire(path, "solverstate", SolverError) as file:
        for field in file.fields():
            if field.number in (_ITER, _CURRENT_STEP, _LAST_EVENT) and field.wire == VARINT:
                found[field.number] = field.value
            elif field.number == _MINIMUM_LOSS and field.wire == FIXED32:
                minimum_loss = float(np.frombuffer(file.content[field.start : field.end], "<f4")[0])
            elif field.number == _LEARNED_NET and field.wire == BYTES:
                learned_net = file.text(field)
            elif field.number == _HISTORY and field.wire == BYTES:
                history.append(decode_blob(file, field, f"history {len(history)}").array)
        if _ITER not in found:
            raise file.fail("not a solverstate: it has no iteration (is it a .caffemodel?)")
        if _CURRENT_STEP not in found:
            # Caffe writes this field last, even when it is 0; its first versions had none.
            log.warning("%s: no current_step, taken as 0: an old file, or one cut short", path)
    return SolverState(
        found[_ITER],
        found.get(_CURRENT_STEP, 0),
        learned_net,
        tuple(history),
        minimum_loss,
        found.get(_LAST_EVENT),
    )


def write_solverstate(path: str | Path, state: SolverState) -> None:
    """Write a solver state; HDF5 if `path` ends in .h5, else binary. It is whole or absent.

    Raises:
        OutputError: the file cannot be written.
    """
    with written_beside(path) as partial:
        fill_solverstate(partial, path, state)


def fill_solverstate(partial: Path, path: str | Path, state: SolverState) -> None:
    """As `write_solverstate`, at `partial`: for who moves it to `path` himself.

    Raises:
        OutputError: too little memory, with the name `path`.
        OSError: the file cannot be written.
    """
    if partial.suffix == ".h5":
        _write_hdf5(partial, path, state)
        return
    begin = pb.SolverState(iter=state.iter, learned_net=storable(state.learned_net))
    with open(partial, "wb") as file:
        file.write(serialized(begin))
        for array in state.history:
            write_chunks(file, message_field(_HISTORY, encode_blob(array)))
        end = pb.SolverState(current_step=state.current_step)
        if state.minimum_loss is not None:
            end.minimum_loss = state.minimum_loss
            end.iter_last_event = state.iter_last_event or 0
        file.write(end.SerializeToString())


def _read_hdf5(path: str | Path) -> SolverState:
    with opened_hdf5(path, "solverstate", SolverError) as file:
        if missing := [name for name in ("iter", "current_step", "history") if name not in file]:
            raise SolverError(
                f"{path}: not a solverstate: it lacks {', '.join(missing)} and has "
                f"{', '.join(file) or 'nothing'}"
            )
        history = member(file, "history")
        if not is_group(history):
            raise ValueError("/history is no group")
        return SolverState(
            _number(file, "iter"),
            _number(file, "current_step"),
            _string(file, "learned_net") if "learned_net" in file else "",
            tuple(numbers(member(history, str(i)), SolverError) for i in range(len(history))),
            _value(file, "minimum_loss") if "minimum_loss" in file else None,
            _number(file, "iter_last_event") if "iter_last_event" in file else None,
        )


def _number(file: Any, name: str) -> int:
    """A dataset of one whole number."""
    value = _value(file, name)
    if not value.is_integer():
        raise ValueError(f"/{name} is no whole number")
    return int(value)


def _value(file: Any, name: str) -> float:
    """A dataset of one number."""
    values = numbers(member(file, name), SolverError, "<f8").ravel()
    if values.size != 1:
        raise ValueError(f"/{name} is no whole number")
    return float(values[0])


def _string(file: Any, name: str) -> str:
    """A dataset of one string."""
    item = member(file, name)
    if is_group(item) or item.shape != () or item.dtype.kind not in "SO":
        raise ValueError(f"/{name} is no string")
    text = item[()]
    if not isinstance(text, bytes):
        raise ValueError(f"/{name} is no string")
    return decoded(text)


def _write_hdf5(partial: Path, path: str | Path, state: SolverState) -> None:
    h5py = import_h5py()
    with filled_hdf5(partial, path) as file:
        file.create_dataset("iter", data=np.array([state.iter], dtype="<i4"))
        _write_string(h5py, file, "learned_net", state.learned_net)
        file.create_dataset("current_step", data=np.array([state.current_step], dtype="<i4"))
        if state.minimum_loss is not None:
            event = np.array([state.iter_last_event or 0], dtype="<i4")
            file.create_dataset("iter_last_event", data=event)
            file.create_dataset("minimum_loss", data=np.array([state.minimum_loss], dtype="<f4"))
        history = file.create_group("history")
        for index, array in enumerate(state.history):
            history.create_dataset(str(index), data=np.asarray(array, dtype="<f4"))


def _write_string(h5py: Any, file: Any, name: str, text: str) -> None:
    """A scalar string with its final zero byte, as C programs read it; h5py alone omits that."""
    content = encoded(text) + b"\0"
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(content))
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(content, dtype=f"S{len(content)}"), kind)
