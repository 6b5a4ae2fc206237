"""What an output may be named: files, links, devices, pipes, folders, sockets; and its errors."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from converters.errors import CaffeError, OutputError
from converters.formats import whole_files
from converters.formats.caffemodel import write_caffemodel
from converters.formats.locks import only_writer
from converters.formats.solverstate import SolverState, write_solverstate
from converters.formats.whole_files import is_about_space, output_error, written_beside
from converters.proto import caffe_pb2 as pb
from converters.records.images import write_png
from converters.records.lmdb_reader import LmdbReader
from converters.records.lmdb_writer import create_lmdb
from converters.records.mean import write_mean
from gmnet_pt.log.training_log import open_to_append

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def write_text(path: Path) -> None:
    with written_beside(path) as partial:
        partial.write_text("whole")


def write_weights(path: Path) -> None:
    net = pb.NetParameter(layer=[pb.LayerParameter(name="fc", type="InnerProduct")])
    write_caffemodel(path, net, {"fc": [np.zeros((3, 4), np.float32)]})


def write_state(path: Path) -> None:
    write_solverstate(path, SolverState(1, 0, "x.caffemodel", (np.zeros(5, np.float32),)))


def write_mean_image(path: Path) -> None:
    write_mean(path, np.ones((3, 2, 2), np.float32))


def write_picture(path: Path) -> None:
    write_png(path, np.zeros((4, 4), np.uint8))


WRITERS: list[Callable[[Path], None]] = [
    write_text,
    write_weights,
    write_state,
    write_mean_image,
    write_picture,
]
each_writer = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


@pytest.fixture(name="expected")
def expected_fixture(write: Callable[[Path], None], tmp_path: Path) -> bytes:
    """What the writer writes to a plain file."""
    (tmp_path / "plain").mkdir()
    write(tmp_path / "plain" / "file")
    content = (tmp_path / "plain" / "file").read_bytes()
    assert len(content) > 3
    return content


@each_writer
@pytest.mark.parametrize("kind", ["file", "dangling", "chain", "relative"])
def test_a_link_is_written_through(
    write: Callable[[Path], None], kind: str, expected: bytes, tmp_path: Path
) -> None:
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    if kind != "dangling":
        target.parent.mkdir()
        target.write_text("old")
    if kind == "chain":
        (tmp_path / "second").symlink_to(target)
        link.symlink_to(tmp_path / "second")
    elif kind == "relative":
        link.symlink_to(Path("elsewhere") / "target")
    else:
        link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert not target.is_symlink()
    assert target.read_bytes() == expected
    assert os.listdir(target.parent) == ["target"]


@each_writer
def test_a_fifo_is_given_the_bytes(
    write: Callable[[Path], None], expected: bytes, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
    reader.start()
    write(fifo)
    reader.join(30)
    assert got == [expected]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "plain"]


@each_writer
def test_a_device_stays_one(write: Callable[[Path], None], expected: bytes, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    before = os.stat("/dev/null")
    for path in (Path("/dev/null"), tmp_path / "link"):
        write(path)
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_ino, before.st_rdev) == (after.st_ino, after.st_rdev)
    with pytest.raises(OutputError, match="/dev/full: the disk is full"):
        write(Path("/dev/full"))
    assert (tmp_path / "link").is_symlink()


@each_writer
def test_folders_sockets_and_loops_are_refused(
    write: Callable[[Path], None], expected: bytes, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("kept")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    server = socket.socket(socket.AF_UNIX)
    place = os.getcwd()
    os.chdir(tmp_path)  # a socket's path is at most 108 bytes long
    server.bind("socket")
    os.chdir(place)
    with server:
        for name, reason in (
            ("folder", "is a folder"),
            ("full", "is a folder"),
            ("socket", "is a socket"),
            ("loop", "Too many levels of symbolic links"),
        ):
            with pytest.raises(OutputError, match=rf"{name}: .*{reason}"):
                write(tmp_path / name)
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)
    assert (tmp_path / "full" / "kept").read_text() == "kept"


def test_nothing_reaches_a_pipe_or_a_links_target_from_a_block_that_fails(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for path in (tmp_path / "link", Path("/dev/full")):
        with pytest.raises(CaffeError, match="no more"), written_beside(path) as partial:
            partial.write_text("half")
            raise CaffeError("no more")
    assert (tmp_path / "target").read_text() == "old"


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["pipe", "file", "append"])
def test_stdout_by_name_keeps_what_is_printed(name: str, kind: str, tmp_path: Path) -> None:
    """Also where it is a regular file: to replace or rewind it would lose lines."""
    net = 'name: "n" input: "d" input_shape { dim: 1 }'
    (tmp_path / "net.prototxt").write_text(net)
    command = [sys.executable, "-m", "converters", "upgrade", "net.prototxt", name]
    out = tmp_path / "out"
    out.write_bytes(b"before\n" if kind == "append" else b"")
    with open(out, "ab" if kind == "append" else "wb") as file:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE if kind == "pipe" else file,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout if kind == "pipe" else out.read_bytes()
    before, content, told = text.partition(b'name: "n"')
    assert before == (b"before\n" if kind == "append" else b"")
    assert content
    assert told.splitlines()[-1].startswith(f"{name}: net, text, ".encode())


def test_an_output_that_is_the_input_is_refused(tmp_path: Path) -> None:
    old = 'layers { name: "r" type: RELU bottom: "d" top: "r" }'
    old += ' input: "d" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1'
    (tmp_path / "net.prototxt").write_text(old)
    (tmp_path / "same").symlink_to("net.prototxt")
    command = [sys.executable, "-m", "converters", "upgrade", "net.prototxt", "same"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert (done.returncode, done.stderr) == (
        1,
        b"error: same: would replace IN itself; name another OUT\n",
    )
    assert (tmp_path / "net.prototxt").read_text() == old
    assert (tmp_path / "same").is_symlink()


def fill(path: Path, force: bool = False) -> None:
    with create_lmdb(path, force) as writer:
        writer.put(b"0", b"record")


def records(path: Path) -> list[bytes]:
    with LmdbReader(path) as reader:
        return [bytes(value) for _, value in reader]


def test_databases_are_written_through_links(tmp_path: Path) -> None:
    for name in ("dangling", "empty", "database"):
        (tmp_path / name).symlink_to(tmp_path / f"{name}_target")
    (tmp_path / "empty_target").mkdir()
    fill(tmp_path / "database_target")
    for name in ("dangling", "empty"):
        fill(tmp_path / name)
    with pytest.raises(OutputError, match="database: exists; --force replaces it"):
        fill(tmp_path / "database")
    fill(tmp_path / "database", force=True)
    for name in ("dangling", "empty", "database"):
        assert (tmp_path / name).is_symlink()
        assert records(tmp_path / f"{name}_target") == [b"record"]
    # The file inside may be a link, too.
    (tmp_path / "database_target" / "data.mdb").rename(tmp_path / "data")
    (tmp_path / "database_target" / "data.mdb").symlink_to(tmp_path / "data")
    fill(tmp_path / "database", force=True)
    assert (tmp_path / "database_target" / "data.mdb").is_symlink()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("kind", ["device", "fifo", "loop", "file"])
@pytest.mark.parametrize("force", [False, True])
def test_a_database_takes_no_other_ones_place(kind: str, force: bool, tmp_path: Path) -> None:
    path = tmp_path / "db"
    if kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.write_text("kept")
    before = path.lstat()
    with pytest.raises(OutputError, match=r"db: (exists and is no LMDB|.*symbolic links)"):
        fill(path, force)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert os.listdir(tmp_path) == ["db"]


def test_a_log_does_not_wait_for_a_fifos_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.log")
    with pytest.raises(OutputError, match=r"train\.log: cannot be written"):
        open_to_append(tmp_path / "train.log")
    reader = os.open(tmp_path / "train.log", os.O_RDONLY | os.O_NONBLOCK)
    with open_to_append(tmp_path / "train.log") as stream:
        stream.write("a line\n")
    assert os.read(reader, 100) == b"a line\n"
    os.close(reader)


# ---------------------------------------------------------------- errors that are no full disk


def volume(bytes_free: int, files: int, files_free: int) -> SimpleNamespace:
    return SimpleNamespace(f_files=files, f_favail=files_free, f_bavail=bytes_free, f_frsize=1)


@pytest.mark.parametrize(
    ("code", "free", "text"),
    [
        (errno.ENOSPC, volume(0, 100, 50), "the disk is full (0 bytes free)"),
        (errno.ENOSPC, volume(4096, 100, 50), "the disk is full (4096 bytes free)"),
        (errno.ENOSPC, volume(4096, 100, 0), "no inodes left: the file system holds 100 files"),
        (errno.ENOSPC, volume(4096, 0, 0), "the disk is full (4096 bytes free)"),
        (errno.ENOSPC, volume(0, 100, 0), "the disk is full (0 bytes free)"),
        (errno.EDQUOT, volume(4096, 100, 50), "the disk quota is used up"),
        (errno.EROFS, volume(0, 100, 50), "Read-only file system"),
        (errno.EFBIG, volume(0, 100, 50), "File too large"),
        (errno.EIO, volume(0, 100, 50), "Input/output error"),
    ],
)
def test_a_full_disk_is_called_so_and_nothing_else(
    code: int, free: SimpleNamespace, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_files.os, "statvfs", lambda place: free)
    reason = str(output_error(tmp_path / "deep" / "file", OSError(code, os.strerror(code))))
    assert reason.startswith(f"{tmp_path}/deep/file: ")
    assert text in reason
    assert ("the disk is full" in reason) == text.startswith("the disk is full")
    assert is_about_space(reason) == (code in (errno.ENOSPC, errno.EDQUOT))


# ---------------------------------------------------------------- one process at a time


HOLD = """
import sys
from converters.command_line.program import run_guarded
from converters.formats.locks import only_writer
def main():
    with only_writer(sys.argv[1], "another training", "wait"):
        print("held", flush=True)
        sys.stdin.read()
    return 0
sys.exit(run_guarded(main))
"""


def holder(prefix: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, prefix],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_lock_keeps_other_processes_out_and_dies_with_its_own(tmp_path: Path) -> None:
    prefix = tmp_path / "new" / "run"
    first = holder(prefix)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with (
        pytest.raises(
            OutputError, match=rf"run: another one writes there \(process {first.pid}\); do this"
        ),
        only_writer(prefix, "another one", "do this"),
    ):
        raise AssertionError
    with only_writer(tmp_path / "new" / "other", "another one", "do this"):
        pass
    first.kill()
    first.communicate()
    with only_writer(prefix, "another one", "do this"):
        with only_writer(prefix, "another one", "do this"):
            pass
        second = holder(prefix)
        _, error = second.communicate(timeout=30)
        assert second.returncode == 1
        assert error.startswith(f"error: {prefix}: another training writes there".encode())
    assert os.listdir(tmp_path / "new") == []
    third = holder(prefix)
    third.communicate(b"", timeout=30)
    assert third.returncode == 0


def test_a_lock_leaves_no_folder_that_nobody_used(tmp_path: Path) -> None:
    with only_writer(tmp_path / "a" / "b" / "run", "another", "wait"):
        assert (tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path) == []
    with only_writer(tmp_path / "a" / "b" / "run", "another", "wait"):
        (tmp_path / "a" / "kept").write_text("")
    assert os.listdir(tmp_path / "a") == ["kept"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_work_goes_on(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with only_writer(tmp_path / "run", "another", "wait"):
        write_text(tmp_path / "file")
        fill(tmp_path / "db")
    assert (tmp_path / "file").read_text() == "whole"
    with only_writer("/proc/no/such/folder/run", "another", "wait"):
        pass
