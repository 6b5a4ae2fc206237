"""Several processes that train one net: two on the CPU, started as torchrun starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from test_bad_input import Folder
from test_resume import EVERYTHING, NET, assert_same, blobs, random_folder

from converters.command_line.program import run_guarded
from converters.environment import Environment
from converters.errors import SolverError
from converters.prototxt.text import parse_net
from converters.readers import ALL, Reader, Share, open_reader
from converters.records.datum import encode_datum, encode_floats
from converters.records.lmdb_writer import create_lmdb
from gmnet_pt import Solver
from gmnet_pt.log.events import Event, Scores
from gmnet_pt.log.run_record import parse_record
from gmnet_pt.solver.processes import Processes, _join, joined
from gmnet_pt.train import main

# A server that has imported everything forks the processes: starting one takes no time then.
START = multiprocessing.get_context("forkserver")
START.set_forkserver_preload(["gmnet_pt.train", "test_distributed"])
PLAIN = """
name: "plain"
layer { name: "data" type: "Data" top: "data" top: "label"
  transform_param { scale: 0.01 }
  data_param { source: "db" batch_size: BATCH backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""


class Ended(NamedTuple):
    """What became of the processes: exit statuses and stderrs, in their order."""

    statuses: list[int | None]
    told: list[str]


class Pair:
    """Two processes, or `count`, that do `action(*arguments)` in a folder."""

    def __init__(
        self, path: Path, action: Callable[..., object], *arguments: object, count: int = 2
    ) -> None:
        self._logs = [path / f"stderr-{rank}" for rank in range(count)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.processes: list[BaseProcess] = [
            START.Process(
                target=as_process, args=(rank, count, port, str(path), str(log), action, arguments)
            )
            for rank, log in enumerate(self._logs)
        ]
        for process in self.processes:
            process.start()

    def wait(self) -> Ended:
        """Wait until both have ended."""
        for process in self.processes:
            process.join(60)
            if process.exitcode is None:
                process.kill()
                process.join()
        return Ended(
            [process.exitcode for process in self.processes],
            [log.read_text() for log in self._logs],
        )


def as_process(
    rank: int,
    count: int,
    port: str,
    folder: str,
    log: str,
    action: Callable[..., object],
    arguments: object,
) -> None:
    """What a process does: it looks as if torchrun had started it."""
    with open(log, "w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 2)
    os.chdir(folder)
    torch.set_num_threads(1)
    told = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
    os.environ.update(
        told, WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler
        )
    status = action(*arguments)  # type: ignore[misc]
    sys.exit(status if isinstance(status, int) else 0)


def train(*options: str) -> int:
    return main(["solver.prototxt", "--device", "cpu", "--log", "caffe", *options])


def pair(folder: Folder, *options: str) -> Ended:
    return Pair(folder.path, train, *options).wait()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return random_folder(tmp_path)


def write_plain(folder: Folder, batch: int) -> None:
    (folder.path / "net.prototxt").write_text(PLAIN.replace("BATCH", str(batch)))


def scores(path: Path) -> list[Event]:
    return [e for e in parse_record((path / "train.jsonl").read_text()) if isinstance(e, Scores)]


# As one process with all their batches ----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("SGD", "momentum: 0.9 weight_decay: 0.01"),
        ("Nesterov", "momentum: 0.9 iter_size: 2 clip_gradients: 0.1 average_loss: 3"),
        ("Adam", "momentum: 0.9 debug_info: true"),
    ],
)
def test_equal_to_one_process_with_the_doubled_batch(kind: str, extra: str, folder: Folder) -> None:
    """64 records in batches of 5 and 10: the rounds of the data end within a batch."""
    write_plain(folder, 5)
    folder.write_solver(kind, "two/s", extra, 12)
    ended = pair(folder)
    assert ended.statuses == [0, 0], ended.told
    write_plain(folder, 10)
    folder.write_solver(kind, "one/s", extra, 12)
    assert train() == 0
    two, one = (folder.path / name / "s_iter_12.caffemodel" for name in ("two", "one"))
    for a, b in zip(blobs(two), blobs(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    losses = [
        [
            event.loss
            for event in parse_record((path.parent / "train.jsonl").read_text())
            if type(event).__name__ == "Display"
        ]
        for path in (two, one)
    ]
    assert len(losses[0]) == 13
    np.testing.assert_allclose(*losses, rtol=1e-5)
    # The first alone speaks and writes, as a single process would.
    assert ended.told[1] == ""
    assert "2 processes: gradients are averaged over them." in ended.told[0]
    assert ("[Backward] All net params" in ended.told[0]) == ("debug_info" in extra)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_scores_equal_those_of_one_process(count: int, folder: Folder) -> None:
    """Test after test, on data that goes on: 64 records in batches of 5."""
    extra = f"test_iter: {count} test_interval: 1 test_compute_loss: true"
    folder.write_solver("SGD", "two/s", f"{extra} weights: 'init.caffemodel'", 5)
    write_plain(folder, 5)
    from converters import load_net, save_caffemodel

    save_caffemodel(load_net("net.prototxt"), "init.caffemodel")
    # A rate of 0: the nets stay the same, whatever the batches were.
    assert pair(folder, "--set", "base_lr=0").statuses == [0, 0]
    folder.write_solver("SGD", "one/s", f"{extra} weights: 'init.caffemodel'", 5)
    assert train("--set", "base_lr=0") == 0
    found, wanted = (scores(folder.path / name) for name in ("two", "one"))
    assert len(found) == len(wanted) == 6
    assert len({event.outputs for event in wanted}) > 3  # type: ignore[attr-defined]
    for a, b in zip(found, wanted):
        assert isinstance(a, Scores) and isinstance(b, Scores)
        assert a.test_loss == pytest.approx(b.test_loss, abs=1e-6)
        assert [x.value for x in a.outputs] == pytest.approx([x.value for x in b.outputs], abs=1e-6)


def states_of(folder: str) -> None:
    """In both processes: a run in the library, whose blobs and scores go to a file each."""
    with joined() as processes, Solver("solver.prototxt", device="cpu") as solver:
        solver.step(2)
        results = solver.test()
        values = {str(place): blob for place, blob in enumerate(solver.net.learnable)}
        values |= {name: x for result in results for name, x in result.items()}
        random = torch.get_rng_state()
        with solver.random.entered():
            drawn = torch.rand(3)
        assert torch.equal(torch.get_rng_state(), random)
        np.savez(
            Path(folder, f"{processes.rank}.npz"),
            drawn=drawn,
            **{name: x.detach().numpy() for name, x in values.items()},
        )


@pytest.mark.parametrize("seed", ["random_seed: 1", ""], ids=["seed", "no seed"])
def test_all_have_the_same_parameters(seed: str, folder: Folder) -> None:
    """Other fillers, other dropout, other batches; a test net that is of one piece."""
    (folder.path / "net.prototxt").write_text(EVERYTHING)
    folder.write_solver("SGD", "out/s", "test_iter: 3 test_interval: 9")
    path = folder.path / "solver.prototxt"
    path.write_text(path.read_text().replace("random_seed: 1", seed))
    ended = Pair(folder.path, states_of, str(folder.path)).wait()
    assert ended.statuses == [0, 0], ended.told
    one, other = (dict(np.load(folder.path / f"{rank}.npz")) for rank in range(2))
    assert not np.array_equal(one.pop("drawn"), other.pop("drawn"))
    assert {"loss", "sum"} < one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_scores_are_those_of_the_first_ones_statistics(folder: Folder) -> None:
    """BatchNorm's statistics differ between processes; crops and mirrors are the test's own."""
    folder.write_solver("SGD", "out/s", "test_iter: 3 test_interval: 9")
    ended = Pair(folder.path, states_of, str(folder.path)).wait()
    assert ended.statuses == [0, 0], ended.told
    both = [np.load(folder.path / f"{rank}.npz") for rank in range(2)]
    with Solver("solver.prototxt", device="cpu") as alone, torch.no_grad():
        for place, blob in enumerate(alone.net.learnable):
            blob.copy_(torch.from_numpy(both[0][str(place)]))
        (wanted,) = alone.test()
    for found in both:
        assert float(found["loss"]) == pytest.approx(float(wanted["loss"]), abs=1e-6)


# Files ------------------------------------------------------------------------------------------


def test_resume_equals_never_having_stopped(folder: Folder) -> None:
    """Dropout, crops, mirrors, BatchNorm, data and test positions of each process."""
    (folder.path / "net.prototxt").write_text(EVERYTHING)
    extra = "momentum: 0.9 snapshot: 5 test_iter: 3 test_interval: 2"
    folder.write_solver("SGD", "whole/s", extra, 12)
    assert pair(folder).statuses == [0, 0]
    folder.write_solver("SGD", "parts/s", extra, 12)
    ended = pair(folder, "--snapshot", "whole/s_iter_5.solverstate")
    assert ended.statuses == [0, 0], ended.told
    whole, parts = (folder.path / name for name in ("whole", "parts"))
    assert_same(whole / "s_iter_12.caffemodel", parts / "s_iter_12.caffemodel")
    assert scores(whole)[3:] == scores(parts)
    arrays = [dict(np.load(path / "s_iter_12.state.npz")) for path in (whole, parts)]
    assert arrays[0].keys() == arrays[1].keys()
    for name, values in arrays[0].items():
        if not name.startswith("digest/"):
            np.testing.assert_array_equal(values, arrays[1][name], err_msg=name)
    assert {"process/1/random/cpu", "process/1/data/0/0/position"} < arrays[0].keys()


def test_another_number_of_processes_is_refused(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write_solver("SGD", "two/s")
    assert pair(folder).statuses == [0, 0]
    assert train("--snapshot", "two/s_iter_3.solverstate") == 1
    assert (
        "two/s_iter_3.solverstate: was written by 2 processes, not 1: each has records and random "
        "numbers of its own; resume it with as many, or remove its .state.npz"
    ) in capsys.readouterr().err
    folder.write_solver("SGD", "one/s")
    assert train() == 0
    ended = pair(folder, "--snapshot", "one/s_iter_3.solverstate")
    assert ended.statuses == [1, 1]
    errors = [line for text in ended.told for line in text.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert "was written by 1 process, not 2" in errors[0]
    # Without our file the rest is Caffe's, for any number.
    (folder.path / "one" / "s_iter_3.state.npz").unlink()
    ended = pair(folder, "--snapshot", "one/s_iter_3.solverstate", "--max-iter", "5")
    assert ended.statuses == [0, 0], ended.told


def test_processes_that_a_snapshot_lacks(folder: Folder) -> None:
    folder.write_solver("SGD", "two/s")
    assert pair(folder).statuses == [0, 0]
    path = folder.path / "two" / "s_iter_3.state.npz"
    arrays = dict(np.load(path))
    for name in [name for name in arrays if name.startswith("process/1/")]:
        arrays[name.replace("process/1/", "process/2/")] = arrays.pop(name)
    np.savez(path, **arrays)
    with pytest.raises(SolverError, match=r"it holds processes \[2\], not all from 1 on"):
        Solver("solver.prototxt", snapshot="two/s_iter_3.solverstate", device="cpu")


# Ends -------------------------------------------------------------------------------------------


def wait_for(path: Path, pattern: str) -> Path:
    for _ in range(1200):
        if found := sorted(path.glob(pattern)):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"{pattern} never appeared")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_stops_all(number: signal.Signals, folder: Folder) -> None:
    folder.write_solver("SGD", "out/s", "snapshot: 20", 1_000_000)
    both = Pair(folder.path, train)
    wait_for(folder.path, "out/s_iter_20.solverstate")
    os.kill(int(both.processes[1].pid or 0), number)
    ended = both.wait()
    assert ended.statuses == [128 + number] * 2, ended.told
    last = max(int(state.stem.rsplit("_", 1)[1]) for state in folder.path.glob("out/*.solverstate"))
    ended = pair(
        folder, "--snapshot", f"out/s_iter_{last}.solverstate", "--max-iter", str(last + 1)
    )
    assert ended.statuses == [0, 0], ended.told


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run(rank: int, folder: Folder) -> None:
    folder.write_solver("SGD", "out/s", "snapshot: 20", 1_000_000)
    both = Pair(folder.path, train)
    wait_for(folder.path, "out/s_iter_40.solverstate")  # the one before is known to all
    both.processes[rank].kill()
    ended = both.wait()
    assert ended.statuses[rank] == -signal.SIGKILL
    assert ended.statuses[1 - rank] == 1
    (line,) = [x for x in ended.told[1 - rank].splitlines() if x.startswith("error: ")]
    assert line.startswith(f"error: process {1 - rank}: solver.prototxt: another process of this")
    assert "was killed, or is out of reach" in line
    assert "the last good snapshot is out/s_iter_" in line
    state = line.split("snapshot is ")[1].split(";")[0]
    last = int(Path(state).stem.rsplit("_", 1)[1])
    ended = pair(folder, "--snapshot", state, "--max-iter", str(last + 1))
    assert ended.statuses == [0, 0], ended.told


def test_a_loss_that_is_not_finite_in_one_ends_all(folder: Folder) -> None:
    """Record 13 is the second process's, in its second batch of 5."""
    images = np.random.default_rng(0).random((64, 1, 6, 6)).astype(np.float32)
    images[13] = np.nan
    write_records(folder, [encode_floats(image) for image in images])
    write_plain(folder, 5)
    folder.write_solver("SGD", "out/s", "snapshot: 1", 9)
    ended = pair(folder)
    assert ended.statuses == [1, 1]
    (line,) = errors(ended)
    assert "the loss is nan at iteration 1; the first blob that is not finite is " in line
    assert '"data" of layer "data" in process 1; the last good snapshot is out/s_iter_1.' in line
    assert "is not finite" in (folder.path / "out" / "train.log").read_text()


def test_an_error_of_one_is_told_once_and_in_the_log(folder: Folder) -> None:
    record = encode_datum(np.zeros((1, 6, 6), np.uint8), 1)
    write_records(folder, [record] * 13 + [b"\xff\xff\xff"] + [record] * 50)
    write_plain(folder, 5)
    folder.write_solver("SGD", "out/s", "", 9)
    ended = pair(folder)
    assert ended.statuses == [1, 1]
    assert ended.told[0].count("error: ") == 0
    (line,) = errors(ended)
    assert line.startswith("error: process 1: net.prototxt: layer")
    assert "record '00000013'" in line
    last = (folder.path / "out" / "train.log").read_text().splitlines()[-1]
    assert "process 1: net.prototxt: layer" in last


def test_an_error_of_all_is_told_once(folder: Folder) -> None:
    (folder.path / "net.prototxt").write_text('layer { name: "x" type: "Nothing" }')
    ended = pair(folder)
    assert ended.statuses == [1, 1]
    (line,) = errors(ended)
    assert "Nothing" in line


def fails_in_turn() -> int:
    """Each with an error of its own, process 1 a second behind process 0."""

    def run() -> int:
        with joined() as processes:
            time.sleep(processes.rank)
            raise SolverError("broken")

    return run_guarded(run)


def test_an_error_is_told_once_however_late_the_others_fail(tmp_path: Path) -> None:
    ended = Pair(tmp_path, fails_in_turn).wait()
    assert ended.statuses == [1, 1]
    assert errors(ended) == ["error: process 0: broken"]


def test_each_process_has_a_gpu_of_its_own(folder: Folder) -> None:
    for device, says in (
        ("cuda:0", "2 processes run here, each on a GPU of its own: give --device cuda, or"),
        ("cuda", "2 processes on "),
    ):
        if device == "cuda" and torch.cuda.device_count() >= 2:
            continue
        ended = pair(folder, "--device", device)
        assert ended.statuses == [1, 1]
        (line,) = errors(ended)
        assert says in line


def errors(ended: Ended) -> list[str]:
    return [line for text in ended.told for line in text.splitlines() if "error: " in line]


def write_records(folder: Folder, records: list[bytes]) -> None:
    with create_lmdb(folder.path / "db", force=True) as writer:
        for number, record in enumerate(records):
            writer.put(b"%08d" % number, record)


@pytest.mark.long
def test_under_torchrun_a_killed_process_ends_the_run(folder: Folder) -> None:
    """The real thing, once: its own store, its own signals to those that are left."""
    folder.write_solver("SGD", "out/s", "snapshot: 20", 1_000_000)
    launcher = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "gmnet_pt.train"),
            *("solver.prototxt", "--device", "cpu"),
        ],
        cwd=folder.path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(folder.path, "out/s_iter_20.solverstate")
    for process in children(launcher.pid):
        if "RANK=1" in (Path("/proc") / str(process) / "environ").read_text().split("\0"):
            os.kill(process, signal.SIGKILL)
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    (line,) = [x for x in told.splitlines() if x.startswith("error: ")]
    assert line.startswith("error: process 0: solver.prototxt: another process of this run was")


def children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(number) for number in text.split()]


def average_on_a_gpu() -> None:
    """A group of one, asked as if it were two: what each kind of tensor travels by."""
    processes = replace(_join(), count=2)
    blob = torch.ones(3, device="cuda", requires_grad=True)
    blob.grad = torch.full_like(blob, 4.0)
    loss = processes.average(torch.tensor(6.0, device="cuda"), [blob])
    assert float(loss) == 3 and blob.grad.tolist() == [2, 2, 2]
    processes.lead([blob, torch.ones(2)])
    assert processes.largest(5) == 5
    torch.distributed.destroy_process_group()


@pytest.mark.gpu
def test_gradients_of_a_gpu_are_averaged_there(tmp_path: Path) -> None:
    ended = Pair(tmp_path, average_on_a_gpu, count=1).wait()
    assert ended.statuses == [0], ended.told


@pytest.mark.gpu
def test_two_gpus_equal_one(folder: Folder) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    write_plain(folder, 5)
    folder.write_solver("SGD", "two/s", "momentum: 0.9", 12)
    ended = Pair(folder.path, main, ["solver.prototxt", "--device", "cuda"]).wait()
    assert ended.statuses == [0, 0], ended.told
    write_plain(folder, 10)
    folder.write_solver("SGD", "one/s", "momentum: 0.9", 12)
    assert train() == 0
    two, one = (folder.path / name / "s_iter_12.caffemodel" for name in ("two", "one"))
    for a, b in zip(blobs(two), blobs(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


# Shares of the data -----------------------------------------------------------------------------

LISTED = """layer {{ name: "d" type: "ImageData" top: "data" top: "label"
  image_data_param {{ source: "list" batch_size: {batch} shuffle: true }} }}"""
ROWS = """layer {{ name: "d" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "list" batch_size: {batch} shuffle: true }} }}"""
RECORDS = """layer {{ name: "d" type: "Data" top: "data" top: "label"
  data_param {{ source: "db" batch_size: {batch} backend: LMDB }} }}"""


def write_listed(folder: Path) -> None:
    import cv2

    for number in range(11):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((2, 2, 3), number, np.uint8))
    (folder / "list").write_text("".join(f"{n}.png {n}\n" for n in range(11)))


def write_rows(folder: Path) -> None:
    import h5py

    for name, first, last in (("a", 0, 3), ("b", 3, 4), ("c", 4, 11)):
        with h5py.File(folder / name, "w") as file:
            file["data"] = np.arange(first, last, dtype=np.float32)
            file["label"] = np.arange(first, last, dtype=np.float32)
    (folder / "list").write_text("a\nb\nc\n")


def write_database(folder: Path) -> None:
    with create_lmdb(folder / "db") as writer:
        for number in range(11):
            image = np.full((1, 2, 2), number, np.uint8)
            writer.put(b"%08d" % number, encode_datum(image, number))


@pytest.mark.parametrize(
    "share", [Share(of=3), Share(of=3, whole=True)], ids=["records", "batches"]
)
@pytest.mark.parametrize(
    ("text", "write"),
    [(LISTED, write_listed), (ROWS, write_rows), (RECORDS, write_database)],
    ids=["ImageData", "HDF5Data", "Data"],
)
def test_shares_are_together_what_one_reader_reads(
    text: str, write: Callable[[Path], None], share: Share, tmp_path: Path
) -> None:
    """Eleven items, batches of 2, three readers: round after round, resumed in between."""
    write(tmp_path)

    def reader(share: Share, batch: int) -> Reader:
        layer = parse_net(text.format(batch=batch)).layer[0]
        return open_reader(layer, Environment("net", "TRAIN", str(tmp_path)), 5, share)

    def labels(one: Reader) -> list[int]:
        return [int(label) for label in one.next()["label"]]

    whole = reader(ALL, 1)
    order = [labels(whole)[0] for _ in range(2 * 3 * 12)]
    assert len({tuple(order[i : i + 11]) for i in (0, 11, 22)}) == (
        1 if write is write_database else 3
    )
    for place in range(3):
        own = reader(share._replace(place=place), 2)
        found: list[int] = []
        for turn in range(12):
            if turn % 4 == 3:
                state, own = own.state(), reader(share._replace(place=place), 2)
                own.restore(state)
            found += labels(own)
        if share.whole:
            wanted = [x for at in range(2 * place, len(order), 6) for x in order[at : at + 2]]
        else:
            wanted = order[place::3]
        assert found == wanted


def test_shares_draw_other_crops_and_one_draws_those_of_all(tmp_path: Path) -> None:
    folder = random_folder(tmp_path)
    layer = parse_net(NET).layer[0]
    environment = Environment("net", "TRAIN", str(folder.path))
    one = open_reader(layer, environment, 5)
    batches = [one.next()["data"] for _ in range(6)]
    for place in range(3):
        dealt = open_reader(layer, environment, 5, Share(place, 3, whole=True))
        np.testing.assert_array_equal(dealt.next()["data"], batches[place])
        np.testing.assert_array_equal(dealt.next()["data"], batches[place + 3])
    numbers = [open_reader(layer, environment, 5, Share(p, 3)).random(0).random() for p in range(3)]
    assert len(set(numbers)) == 3


def test_alone_nothing_is_asked_of_anybody() -> None:
    alone = Processes()
    assert (alone.largest(3), alone.total(4), alone.gather("x")) == (3, 4, ["x"])
    loss = torch.tensor(1.0)
    assert alone.average(loss, ()) is loss
    with joined() as processes:
        assert processes.count == 1
