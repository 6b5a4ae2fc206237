"""`converters.formats.solverstate` against Caffe's own solver states and damaged ones."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from google.protobuf.message import DecodeError

from converters.errors import OutputError, SolverError
from converters.formats.solverstate import SolverState, read_solverstate, write_solverstate
from converters.proto import caffe_pb2 as pb

GOLDEN = Path(__file__).parent / "golden"
STATES = sorted([*GOLDEN.glob("solvers/*/*.solverstate"), *GOLDEN.glob("training/*/*.solverstate")])
HDF5 = sorted(GOLDEN.glob("solvers/*/*.solverstate.h5"))


def test_there_are_golden_files() -> None:
    assert len(STATES) == 2 * 17 + 3 and len(HDF5) == 2


@pytest.mark.parametrize("path", STATES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_binary_states_as_caffe_writes_them(path: Path, tmp_path: Path) -> None:
    message = pb.SolverState.FromString(path.read_bytes())
    state = read_solverstate(path)
    assert (state.iter, state.current_step) == (message.iter, message.current_step)
    assert state.learned_net == message.learned_net == path.with_suffix(".caffemodel").name
    assert [list(array.shape) for array in state.history] == [
        list(blob.shape.dim) for blob in message.history
    ]
    for array, blob in zip(state.history, message.history, strict=True):
        np.testing.assert_array_equal(array.ravel(), np.array(blob.data, "f4"))
    out = tmp_path / "s.solverstate"
    write_solverstate(out, state)
    assert pb.SolverState.FromString(out.read_bytes()) == message
    assert out.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", HDF5, ids=lambda path: path.name)
def test_hdf5_states_as_caffe_writes_them(path: Path, tmp_path: Path) -> None:
    state = read_solverstate(path)
    assert path.name == f"snap_iter_{state.iter}.solverstate.h5"
    assert state.learned_net == f"snap_iter_{state.iter}.caffemodel.h5"
    assert len(state.history) == 8
    out = tmp_path / "s.solverstate.h5"
    write_solverstate(out, state)
    assert tree(out) == tree(path)


def tree(path: Path) -> dict[str, tuple[object, ...]]:
    """Each dataset's type as HDF5 has it (string padding included), shape and bytes."""
    found: dict[str, tuple[object, ...]] = {}

    def visit(name: str, one: h5py.Group | h5py.Dataset) -> None:
        if isinstance(one, h5py.Dataset):
            kind = one.id.get_type()
            found[name] = (kind.encode(), one.shape, one[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize("name", ["s.solverstate", "s.solverstate.h5"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    history = (np.float32(1.5), np.arange(6, dtype="f4").reshape(1, 2, 3), np.empty((0,), "f4"))
    write_solverstate(tmp_path / name, SolverState(7, 2, "runs/é/x.caffemodel", history))
    state = read_solverstate(tmp_path / name)
    assert (state.iter, state.current_step, state.learned_net) == (7, 2, "runs/é/x.caffemodel")
    assert [array.shape for array in state.history] == [(), (1, 2, 3), (0,)]
    for got, wanted in zip(state.history, history, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", ["s.solverstate", "s.solverstate.h5"])
def test_histories_of_more_than_ten_blobs_keep_their_order(name: str, tmp_path: Path) -> None:
    """HDF5 lists its names as text: 0, 1, 10, 11, 2."""
    history = tuple(np.full((2,), index, "f4") for index in range(12))
    write_solverstate(tmp_path / name, SolverState(7, 0, "x", history))
    assert [array[0] for array in read_solverstate(tmp_path / name).history] == [*range(12)]


def test_old_states_with_four_dimensional_history(tmp_path: Path) -> None:
    message = pb.SolverState(iter=3)
    message.history.add(num=1, channels=1, height=2, width=2, data=[1, 2, 3, 4])
    (tmp_path / "s").write_bytes(message.SerializeToString())
    state = read_solverstate(tmp_path / "s")
    assert (state.iter, state.learned_net, state.history[0].shape) == (3, "", (1, 1, 2, 2))


def test_every_cut_is_refused_or_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = STATES[0].read_bytes()
    path = tmp_path / "s"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        caplog.clear()
        try:
            cut = pb.SolverState.FromString(content[:size])
        except DecodeError:
            cut = pb.SolverState()
        if not cut.HasField("iter"):
            with pytest.raises(SolverError, match=rf"^{path}: "):
                read_solverstate(path)
        else:
            # Between two fields: protobuf cannot tell, but Caffe's last field is missing.
            with caplog.at_level(logging.WARNING):
                assert len(read_solverstate(path).history) == len(cut.history)
            assert "no current_step" in caplog.text


def test_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(SolverError, match=r"no iteration \(is it a \.caffemodel\?\)"):
        read_solverstate(STATES[0].with_suffix(".caffemodel"))
    with pytest.raises(SolverError, match="lacks iter, current_step, history and has data"):
        read_solverstate(HDF5[0].with_name("snap_iter_5.caffemodel.h5"))
    with pytest.raises(SolverError, match="cannot be read"):
        read_solverstate(tmp_path / "absent")
    (tmp_path / "s.h5").write_bytes(HDF5[0].read_bytes()[:500])
    with pytest.raises(SolverError, match="cut short"):
        read_solverstate(tmp_path / "s.h5")


def test_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("s", "s.h5"):
        with pytest.raises(OutputError, match=f"{tmp_path}/file/{name}: cannot be written"):
            write_solverstate(tmp_path / "file" / name, SolverState(1, 0, "", ()))
