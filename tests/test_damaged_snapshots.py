"""Snapshots that are mixtures, and files of snapshots and weights with damage of every kind."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bad_input import Folder

from converters.errors import CaffeError, OutputError, SolverError, WeightsError
from converters.formats import hdf5
from converters.formats.caffemodel import read_caffemodel
from converters.formats.hdf5 import created_hdf5
from converters.formats.solverstate import SolverState, read_solverstate, write_solverstate
from converters.proto import caffe_pb2 as pb
from gmnet_pt import Solver
from gmnet_pt.log.events import Event, Message

h5py = pytest.importorskip("h5py")

FORMATS = ["", "snapshot_format: HDF5"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def train(folder: Folder, extra: str = "", **options: Any) -> Path:
    """Two iterations into out/s; the snapshot."""
    folder.write_solver("SGD", "out/s", f"snapshot: 2 {extra}", 2)
    solver = Solver("solver.prototxt", device="cpu", **options)
    solver.solve()
    assert solver.last_snapshot is not None
    return solver.last_snapshot


def resume(snapshot: Path, show: Callable[[Event], None] = lambda event: None) -> Solver:
    with Solver("solver.prototxt", device="cpu", snapshot=snapshot, show=show) as solver:
        solver.step()
        return solver


# Mixtures ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("extra", FORMATS, ids=["binary", "hdf5"])
@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_two_renames_leaves_no_mixture(
    renames: int, extra: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = train(folder, extra)
    replace, done = os.replace, []

    def killed(source: Path, target: Path) -> None:
        if len(done) == renames:
            raise Killed
        done.append(replace(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            train(folder, extra, overrides=["random_seed=2"])
    assert len(done) == renames
    assert not state.exists()
    with pytest.raises(SolverError, match="there is no such snapshot"):
        resume(state)


@pytest.mark.parametrize("extra", FORMATS, ids=["binary", "hdf5"])
@pytest.mark.parametrize("foreign", ["caffemodel", "solverstate", "state.npz"])
def test_files_of_two_runs_are_no_snapshot(foreign: str, extra: str, folder: Folder) -> None:
    end = ".h5" if extra and foreign != "state.npz" else ""
    state = train(folder, extra)
    file = folder.path / f"out/s_iter_2.{foreign}{end}"
    before = file.read_bytes()
    train(folder, extra, overrides=["random_seed=2"])
    assert file.read_bytes() != before
    file.write_bytes(before)
    with pytest.raises(SolverError) as raised:
        resume(state)
    words = str(raised.value)
    named = [f"s_iter_2.{foreign}{end}", "s_iter_2.state.npz", "not of one snapshot", "remove"]
    assert all(word in words for word in named), words
    (folder.path / "out/s_iter_2.state.npz").unlink()
    assert resume(state).iter == 3


def test_a_copied_snapshot_takes_the_weights_beside_it(folder: Folder) -> None:
    state = train(folder)
    os.rename("out", "kept")
    train(folder, overrides=["random_seed=2"])
    assert resume(Path("kept") / state.name).iter == 3


@pytest.mark.parametrize("left", [None, b""], ids=["absent", "empty"])
def test_a_resumption_without_our_file_says_that_it_is_not_bit_equal(
    left: bytes | None, folder: Folder
) -> None:
    state = train(folder)
    ours = folder.path / "out/s_iter_2.state.npz"
    ours.unlink()
    if left is not None:
        ours.write_bytes(left)
    events: list[Event] = []
    resume(state, events.append)
    (said,) = [e.text for e in events if isinstance(e, Message) and e.severity == "W"]
    assert "not bit-equal" in said
    assert f"s_iter_2.state.npz is {'absent' if left is None else 'empty'}" in said


def test_a_whole_snapshot_says_nothing(folder: Folder) -> None:
    events: list[Event] = []
    resume(train(folder), events.append)
    assert not [e for e in events if isinstance(e, Message) and e.severity == "W"]


# HDF5 files are built in memory ------------------------------------------------------------------


def test_hdf5_files_are_written_by_us_and_not_by_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library ends the process when a disk is full; an error of ours does not."""

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    drivers = []
    opened = h5py.File

    def file(*args: Any, **options: Any) -> Any:
        drivers.append((options.get("driver"), options.get("backing_store")))
        return opened(*args, **options)

    monkeypatch.setattr(h5py, "File", file)
    with created_hdf5(tmp_path / "a.h5") as made:
        made["x"] = np.arange(3.0)
    assert drivers == [("core", False)]
    with opened(tmp_path / "a.h5") as made:
        assert list(made["x"]) == [0, 1, 2]
    monkeypatch.setattr(hdf5, "open", full, raising=False)
    with (
        pytest.raises(OutputError, match=r"b\.h5: the disk is full"),
        created_hdf5(tmp_path / "b.h5") as made,
    ):
        made["x"] = np.arange(3.0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


# .state.npz --------------------------------------------------------------------------------------


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def npy(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def header(shape: str, dtype: str = "'<f4'") -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


POSITION = "data/0/0/position"


def arrays(path: Path) -> dict[str, bytes]:
    with np.load(path) as file:
        return {name: npy(file[name]) for name in file}


def patched(data: bytes, local: int, central: int, value: int) -> bytes:
    """A two-byte number of the first member set, in its local and in its central header."""
    changed = bytearray(data)
    changed[local : local + 2] = struct.pack("<H", value)
    at = changed.index(b"PK\x01\x02") + central
    changed[at : at + 2] = struct.pack("<H", value)
    return bytes(changed)


CASES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    **{
        f"position {value!r}": lambda a, v=value: npz(a | {POSITION: npy(v)})
        for value in (-1, np.inf, np.nan, True, "x", 1e30, [1, 2], 1j, 2**63, np.int64(-(2**62)))
    },
    **{
        f"{key} -1": lambda a, k=key: npz(a | {f"data/0/0/{k}": npy(-1)})
        for key in ("batch", "epoch", "seed")
    },
    "position behind the data": lambda a: npz(a | {POSITION: npy(65)}),
    "no position": lambda a: npz({k: v for k, v in a.items() if k != POSITION}),
    "random of floats": lambda a: npz(a | {"random/cpu": npy(np.zeros(5056))}),
    "random of text": lambda a: npz(a | {"random/cpu": npy("no")}),
    "random of zeros": lambda a: npz(a | {"random/cpu": npy(np.zeros(5056, np.uint8))}),
    "random too short": lambda a: npz(a | {"random/cpu": npy(np.zeros(3, np.uint8))}),
    "no type": lambda a: npz({k: v for k, v in a.items() if k != "type"}),
    "type of a number": lambda a: npz(a | {"type": npy(3)}),
    "another type": lambda a: npz(a | {"type": npy("Adam")}),
    "loss of text": lambda a: npz(a | {"smoothed_loss": npy("x")}),
    "an eleventh thousand of nets": lambda a: npz(a | {"data/99999/0/position": npy(0)}),
    "a net of 400 digits": lambda a: npz(a | {f"data/{'9' * 400}/0/position": npy(0)}),
    "a net with a name": lambda a: npz(a | {"hidden/x/0/h": npy(0.5)}),
    "objects": lambda a: npz(a | {"smoothed_loss": header("()", "'|O'") + bytes(8)}),
    "8 TB": lambda a: npz(a | {"random/cpu": header(f"({2**43},)")}),
    "a negative shape": lambda a: npz(a | {"random/cpu": header("(-5,)")}),
    "a deep header": lambda a: npz(a | {"random/cpu": header("(" * 3000 + ")" * 3000)}),
    "no header": lambda a: npz(a | {"type": b"nothing"}),
    "version 9": lambda a: npz(a | {"type": b"\x93NUMPY\x09\x00" + bytes(70)}),
    "deflated": lambda a: npz(a, zipfile.ZIP_DEFLATED),
    "an npy": lambda a: a["random/cpu"],
    "text": lambda a: b"hello",
    "a cut": lambda a: npz(a)[:-30],
    **{f"method {m}": lambda a, m=m: patched(npz(a), 8, 10, m) for m in (1, 8, 12, 14, 99)},
    "encrypted": lambda a: patched(npz(a), 6, 8, 1),
    "a flipped value": lambda a: npz(a).replace("SGD".encode("utf-32-le"), bytes(12)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_state_npz_is_one_error(name: str, folder: Folder) -> None:
    state = train(folder)
    ours = folder.path / "out/s_iter_2.state.npz"
    before = ours.read_bytes()
    ours.write_bytes(CASES[name](arrays(ours)))
    assert ours.read_bytes() != before
    with pytest.raises(SolverError, match=r"s_iter_2\.(state\.npz|solverstate)\b.*"):
        resume(state)


def test_an_untouched_state_npz_survives_being_packed_anew(folder: Folder) -> None:
    state = train(folder)
    ours = folder.path / "out/s_iter_2.state.npz"
    ours.write_bytes(npz(arrays(ours)))
    assert resume(state).iter == 3


# Solver states -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".h5"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"iter": -5}, "iter is -5"),
        ({"iter": 2**62}, f"iter is {2**62}"),
        ({"current_step": -7}, "current_step is -7"),
        ({"learned_net": "x" * 5000}, "learned_net has 5000 characters"),
        ({"learned_net": "x" * 4000}, "neither there nor beside"),
        ({"learned_net": "a\0b"}, "neither there nor beside"),
        ({"learned_net": ""}, "neither there nor beside"),
    ],
)
def test_a_solverstate_with_impossible_numbers_is_one_error(
    change: dict[str, Any], says: str, suffix: str, folder: Folder
) -> None:
    train(folder)
    path = folder.path / f"x.solverstate{suffix}"
    if suffix:
        write_solverstate(path, SolverState(2, 0, "w", []))
        with h5py.File(path, "a") as file:
            for name, value in change.items():
                del file[name]
                raw = isinstance(value, str)
                file[name] = np.bytes_(value.encode()) if raw else value
    else:
        fields = {"iter": 2, "current_step": 0, "learned_net": "w"} | change
        big = fields["iter"] > 2**31
        message = pb.SolverState(**fields | {"iter": 1 if big else fields["iter"]})
        data = message.SerializeToString()
        varint = b"\x08" + bytes([0x80] * 8) + b"\x40"
        path.write_bytes(varint + data[2:] if big else data)
    with pytest.raises(SolverError, match=says) as raised:
        resume(path)
    assert len(str(raised.value)) < 1000


# Weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dims",
    [[-1], [-1, -1], [2**62, 4], [2**32, 2**32], [2**31], [1] * 33, [1] * 100, [0, 2**62], [2**40]],
    ids=str,
)
def test_dims_that_no_blob_has(dims: list[int], tmp_path: Path) -> None:
    net = pb.NetParameter()
    net.layer.add(name="fc").blobs.add(data=[1], shape=pb.BlobShape(dim=dims))
    (tmp_path / "m").write_bytes(net.SerializeToString())
    with pytest.raises(WeightsError, match=r'/m: layer "fc": blob 0: '):
        read_caffemodel(tmp_path / "m")


def h5(path: Path) -> Any:
    return h5py.File(path, "w")


def _data_is_a_dataset(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file["data"] = np.zeros(3)


def _external_link(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file.create_group("data/fc")["0"] = h5py.ExternalLink(secret, "/data/fc/0")


def _external_data(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file["data"] = h5py.ExternalLink(secret, "/data")


def _soft_link_out(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file["out"] = h5py.ExternalLink(secret, "/data")
        file.create_group("data/fc")["0"] = h5py.SoftLink("/out/fc/0")


def _external_storage(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file.create_dataset("data/fc/0", (3,), "<f4", external=[(str(secret), 0, 12)])


def _virtual(path: Path, secret: Path) -> None:
    with h5(path) as file:
        layout = h5py.VirtualLayout((3,), "<f4")
        layout[:] = h5py.VirtualSource(str(secret), "data/fc/0", (3,))
        file.create_virtual_dataset("data/fc/0", layout)


def _broken_link(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file.create_group("data/fc")["0"] = h5py.SoftLink("/nowhere")


def _looping_link(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file.create_group("data/fc")["0"] = h5py.SoftLink("/data/fc/0")


def _group_in_itself(path: Path, secret: Path) -> None:
    with h5(path) as file:
        group = file.create_group("data/fc")
        group["again"] = file["data"]


def _many_ways(path: Path, secret: Path) -> None:
    with h5(path) as file:
        below = file.create_group("data")
        for _ in range(60):
            group = below.create_group("a")
            below["b"] = group
            below = group


def _no_number(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file["data/fc/-1"] = np.zeros(3)


def _complex(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file["data/fc/0"] = np.zeros(3, np.complex64)


def _text(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file["data/fc/0"] = "hello"


def _reference(path: Path, secret: Path) -> None:
    with h5(path) as file:
        group = file.create_group("data/fc")
        group.create_dataset("0", (3,), h5py.ref_dtype)


def _bomb(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file.create_dataset("data/fc/0", (2**44,), "<f4", chunks=(2**20,), compression="gzip")


def _claim(path: Path, secret: Path) -> None:
    with h5(path) as file:
        file.create_dataset("data/fc/0", (2**44,), "<f4")


@pytest.mark.parametrize(
    "make",
    [
        _data_is_a_dataset,
        _external_link,
        _external_data,
        _soft_link_out,
        _external_storage,
        _virtual,
        _broken_link,
        _looping_link,
        _group_in_itself,
        _many_ways,
        _no_number,
        _complex,
        _text,
        _reference,
        _bomb,
        _claim,
    ],
)
def test_hdf5_weights_come_from_their_own_file_and_are_numbers(
    make: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    secret, path = tmp_path / "secret.h5", tmp_path / "w.caffemodel.h5"
    with h5(secret) as file:
        file["data/fc/0"] = np.ones(3, np.float32)
    make(path, secret)
    with pytest.raises(WeightsError, match=r"w\.caffemodel\.h5: "):
        read_caffemodel(path)


def test_a_soft_link_within_the_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel.h5"
    with h5(path) as file:
        file["data/fc/0"] = np.ones(3, np.float32)
        file["data/fc/1"] = h5py.SoftLink("/data/fc/0")
    (layer,) = read_caffemodel(path).layers
    assert [list(blob) for blob in layer.blobs] == [[1, 1, 1]] * 2


# What is no regular file -------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_caffemodel, read_solverstate])
def test_pipes_and_devices_are_refused_at_once(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, word in ((tmp_path / "pipe", "a pipe"), (Path("/dev/null"), "a device")):
        with pytest.raises(CaffeError, match=f"{path}: cannot be read: it is {word}, no regular"):
            read(path)
