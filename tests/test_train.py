"""gmnet_pt.train: fine-tuning and its report, states, signals and exit codes."""

from __future__ import annotations

import json
import re
import shlex
import signal
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from test_bad_input import Folder

from converters import load_net, save_caffemodel
from converters.errors import DataError, PrototxtError, SolverError
from converters.formats.caffemodel import read_caffemodel
from converters.net.weights import LoadReport
from converters.proto import caffe_pb2 as pb
from converters.readers import image_list
from converters.reporting import Item, Reporter
from gmnet_pt.log.caffe_log import CaffeLog
from gmnet_pt.log.events import Display, Event, Message, Run
from gmnet_pt.log.run_record import parse_record
from gmnet_pt.solver import device
from gmnet_pt.solver.choices import Request
from gmnet_pt.solver.solver import Solver
from gmnet_pt.train import Signals, main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.chdir(tmp_path)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    yield Folder(tmp_path)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def train(*options: str) -> int:
    return main(["solver.prototxt", "--device", "cpu", "--log", "caffe", *options])


def weights_of(path: str) -> dict[str, list[np.ndarray]]:
    return {layer.name: list(map(np.array, layer.blobs)) for layer in read_caffemodel(path).layers}


def test_fine_tuning_says_what_became_of_every_layer(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = (
        'layer { name: "hidden" type: "InnerProduct" bottom: "data" top: "hidden" '
        'inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }\n'
    )
    folder.write_net('layer { name: "fc"', hidden + 'layer { name: "fc"')
    save_caffemodel(load_net("net.prototxt"), "old.caffemodel")
    old = weights_of("old.caffemodel")
    text = (folder.path / "net.prototxt").read_text()
    new = text.replace('name: "fc"', 'name: "fc_new"').replace("num_output: 3", "num_output: 5")
    (folder.path / "net.prototxt").write_text(new)
    # A rate of 0: what was loaded is still there at the end.
    assert train("--weights", "old.caffemodel", "--set", "base_lr=0") == 0
    lines = [line.split("] ", 1)[-1] for line in capsys.readouterr().err.splitlines()]
    assert "Finetuning from old.caffemodel" in lines
    assert "1 of 2 layers loaded" in lines
    assert "Layers kept at their fillers (in no weights file): fc_new" in lines
    assert "Layers skipped (not in the net): fc" in lines
    found = weights_of("out/s_iter_3.caffemodel")
    np.testing.assert_array_equal(found["hidden"][0], old["hidden"][0])
    assert found["fc_new"][0].shape == (5, 36)
    record = (folder.path / "out" / "train.jsonl").read_text()
    assert "1 of 2 layers loaded" in record


def test_a_shape_mismatch_shows_both(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    save_caffemodel(load_net("net.prototxt"), "old.caffemodel")
    folder.write_net("num_output: 3", "num_output: 5")
    assert train("--weights", "old.caffemodel") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r'layer "fc" blob 0 has shape \(3, 36\), net\.prototxt needs \(5, 36\)', error)


def test_given_weights_replace_the_solvers_own(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    save_caffemodel(load_net("net.prototxt"), "given.caffemodel")
    folder.write_solver(extra='weights: "absent.caffemodel"')
    assert train() == 1
    assert "absent.caffemodel" in capsys.readouterr().err
    assert train("--weights", "given.caffemodel") == 0
    assert train("--snapshot", "out/s_iter_3.solverstate", "--max-iter", "4") == 0


def test_several_weights_with_commas(folder: Folder) -> None:
    for name in ("a", "b"):
        save_caffemodel(load_net("net.prototxt"), f"{name}.caffemodel")
    assert train("--weights", "a.caffemodel,b.caffemodel", "--set", "base_lr=0") == 0
    found, last = weights_of("out/s_iter_3.caffemodel"), weights_of("b.caffemodel")
    np.testing.assert_array_equal(found["fc"][0], last["fc"][0])


def test_layers_of_a_test_net_alone_are_loaded_too(folder: Folder) -> None:
    """As Caffe does: the weights go into every net of the solver."""
    extra = 'layer { name: "again" type: "InnerProduct" bottom: "fc" top: "again" '
    extra += 'inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }'
    text = (folder.path / "net.prototxt").read_text()
    (folder.path / "test.prototxt").write_text(text + extra)
    net = load_net("test.prototxt")
    # No filler makes these.
    for name, value in (("fc", 0.25), ("again", -0.5)):
        net.params[name][0].data.fill_(value)
    save_caffemodel(net, "old.caffemodel")
    folder.write_solver(extra='test_net: "test.prototxt" test_iter: 1 test_interval: 1')
    solver = Solver("solver.prototxt", weights="old.caffemodel", device="cpu")
    (test_net,) = solver.test_nets
    for name, value in (("fc", 0.25), ("again", -0.5)):
        assert (test_net.params[name][0] == value).all()
    assert test_net.params["fc"][0] is solver.net.params["fc"][0]


def test_level_and_stages_choose_layers(folder: Folder) -> None:
    more = 'layer { name: "relu" type: "ReLU" bottom: "data" top: "data" '
    more += 'include { stage: "a" min_level: 2 } }\nlayer { name: "fc"'
    folder.write_net('layer { name: "fc"', more)
    counts = []
    for options in ((), ("--stage", "b,a"), ("--stage", "a", "--level", "2")):
        assert train(*options) == 0
        counts.append(len(read_caffemodel("out/s_iter_3.caffemodel").layers))
    assert counts[0] == counts[1] == counts[2] - 1


def test_signals_become_requests(folder: Folder) -> None:
    signals = Signals(Request.NONE, Request.SNAPSHOT)
    signal.raise_signal(signal.SIGINT)
    assert (signals(), signals.received) == (Request.NONE, None)
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGINT)
    # What has no effect takes no request away, and a stop outranks a snapshot.
    assert (signals(), signals()) == (Request.SNAPSHOT, Request.NONE)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGHUP)
    assert (signals(), signals.received) == (Request.STOP, signal.SIGTERM)


def test_a_second_interrupt_ends_at_once(folder: Folder) -> None:
    Signals(Request.STOP, Request.SNAPSHOT)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def log_lines() -> list[str]:
    return [line.split("] ", 1)[-1] for line in Path("out/train.log").read_text().splitlines()]


def test_an_error_while_building_leaves_a_log_of_it(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was said before the error, and the error itself, in train.log and train.jsonl."""
    save_caffemodel(load_net("net.prototxt"), "old.caffemodel")
    folder.write_net("num_output: 3", "num_output: 5")
    assert train("--weights", "old.caffemodel") == 1
    shown = capsys.readouterr().err.splitlines()
    (error,) = [line.removeprefix("error: ") for line in shown if line.startswith("error: ")]
    assert 'layer "fc" blob 0 has shape' in error
    lines = log_lines()
    assert {"Use CPU.", "Finetuning from old.caffemodel"} < set(lines)
    assert lines[-1] == error
    assert Path("out/train.log").read_text().splitlines()[-1].startswith("E")
    events = parse_record(Path("out/train.jsonl").read_text())
    assert isinstance(events[0], Run)
    assert events[-1] == Message(error, severity="E")


def test_an_error_in_the_run_is_in_the_log_too(folder: Folder) -> None:
    rates = ("base_lr=1", "lr_policy=step", "gamma=3e38", "stepsize=2")
    assert train(*(part for setting in rates for part in ("--set", setting))) == 1
    assert "is not finite" in log_lines()[-1]


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "exit status: 0 trained to max_iter; 1 a clear error" in words
    assert "130 stopped early by SIGINT, 143 by SIGTERM, 129 by SIGHUP" in words


# Epochs, resuming, shapes -------------------------------------------------------------------------


def solver_text() -> pb.SolverParameter:
    """The solver of the newest run, as its record has it."""
    runs = [e for e in parse_record(Path("out/train.jsonl").read_text()) if isinstance(e, Run)]
    return text_format.Parse(runs[-1].solver, pb.SolverParameter())


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("lr_policy=fixed", {}),
        ("lr_policy=multistep gamma=0.5 stepvalue=15,30 max_iter=40", {"stepvalue": [12, 24]}),
        ("lr_policy=step gamma=0.5 stepsize=10 max_iter=40", {"stepsize": 8}),
        ("lr_policy=sigmoid gamma=0.5 stepsize=10 max_iter=40", {"stepsize": 8}),
        ("lr_policy=inv gamma=0.5 power=1 stepsize=10", {"stepsize": 10}),
    ],
    ids=["fixed", "multistep", "step", "sigmoid", "inv"],
)
def test_epochs_set_max_iter_and_move_the_steps(
    policy: str, wanted: dict[str, object], folder: Folder
) -> None:
    """64 records, 4 a batch and 2 batches an iteration: 8 iterations an epoch."""
    folder.write_solver(max_iter=40)
    path = folder.path / "solver.prototxt"
    settings = [one.split("=") for one in policy.split() if not one.startswith("max_iter")]
    lines = [f"{name}: {v!r}" for name, value in settings for v in _values(value)]
    text = path.read_text().replace('lr_policy: "fixed"', "\n".join(lines).replace("'", '"'))
    path.write_text(text + "iter_size: 2")
    assert train("--epochs", "4") == 0
    found = solver_text()
    assert found.max_iter == 32
    for name, value in wanted.items():
        assert np.array_equal(getattr(found, name), value), name
    assert Path("out/s_iter_32.solverstate").exists()
    (told,) = [line for line in log_lines() if line.startswith("4 epochs of the 64 records")]
    assert 'layer "data", 8 an iteration: max_iter 32' in told


def _values(text: str) -> list[object]:
    return [text if not re.match(r"[\d.]+$", one) else json.loads(one) for one in text.split(",")]


def test_an_epoch_that_is_not_full_is_rounded_up(folder: Folder) -> None:
    folder.write_net("batch_size: 4", "batch_size: 7")
    assert train("--epochs", "1", "--set", "display=0") == 0
    assert solver_text().max_iter == 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--max-iter", "9"), "--epochs sets max_iter, and so does max_iter=9"),
        (("--set", "max_iter=9"), "--epochs sets max_iter, and so does max_iter=9"),
    ],
)
def test_epochs_and_max_iter_contradict(
    options: tuple[str, ...], says: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--epochs", "2", *options) == 1
    assert says in capsys.readouterr().err


def test_data_without_a_count_has_no_epochs(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    dummy = (
        'type: "DummyData" top: "data" top: "label" dummy_data_param { num: 4 num: 4 channels: 1'
    )
    dummy += " channels: 1 height: 6 height: 1 width: 6 width: 1 } }"
    text = (folder.path / "net.prototxt").read_text()
    text = re.sub(r'type: "Data".*\n.*backend: LMDB \} \}', dummy, text)
    (folder.path / "net.prototxt").write_text(text)
    assert train("--epochs", "2") == 1
    assert "--epochs needs a data layer that tells how many records" in capsys.readouterr().err
    assert train() == 0  # without them it trains, and needs no file


def test_resume_takes_the_newest_whole_snapshot(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest in time: an older run went further. Damaged ones are passed over with a line."""
    folder.write_solver(extra="snapshot: 2", max_iter=6)
    assert train("--resume", "--max-iter", "8") == 0
    assert "--resume: out/s has no whole snapshot; the run starts anew." in log_lines()
    assert train() == 0
    assert train("--resume", "--max-iter", "9") == 0
    lines = log_lines()
    assert "Resuming from out/s_iter_6.solverstate" in lines
    # That run goes on in its log; the one before it has its own.
    assert sum("Starting Optimization" in line for line in lines) == 2
    assert Path("out/train.log.1").exists() and not Path("out/train.log.2").exists()
    model = Path("out/s_iter_9.caffemodel")
    model.write_bytes(model.read_bytes()[:-3])
    capsys.readouterr()
    save_caffemodel(load_net("net.prototxt"), "w.caffemodel")
    assert train("--resume", "--weights", "w.caffemodel", "--max-iter", "12") == 0
    shown = capsys.readouterr().err
    assert "passed over: out/s_iter_9.solverstate: its files are not of one snapshot" in shown
    assert "Resuming from out/s_iter_8.solverstate" in shown and "Finetuning" not in shown
    for path in Path("out").glob("*.state.npz"):
        path.unlink()
    Path("out/s_iter_12.caffemodel").write_bytes(b"\x00\x01\x02")
    assert train("--resume", "--max-iter", "14") == 0
    shown = capsys.readouterr().err
    assert "passed over: out/s_iter_12.caffemodel: " in shown
    assert "Resuming from out/s_iter_9" not in shown


def test_a_resumed_run_is_the_run_that_never_stopped(folder: Folder) -> None:
    folder.write_solver(prefix="whole/s", max_iter=9)
    assert train() == 0
    folder.write_solver(max_iter=9)
    assert train("--max-iter", "4") == 0
    assert train("--resume") == 0
    whole, parts = weights_of("whole/s_iter_9.caffemodel"), weights_of("out/s_iter_9.caffemodel")
    for name, blobs in whole.items():
        for one, other in zip(blobs, parts[name], strict=True):
            np.testing.assert_array_equal(one, other)
    assert train("--resume") == 0  # at its end already: nothing to do, and no error


def test_a_snapshot_beyond_max_iter_is_an_error(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train() == 0
    for option in (("--snapshot", "out/s_iter_3.solverstate"), ("--resume",)):
        assert train(*option, "--max-iter", "2") == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: out/s_iter_3.solverstate: is at iteration 3, beyond max_it")
    assert sorted(Path("out").glob("*.solverstate")) == [Path("out/s_iter_3.solverstate")]


def test_resume_and_snapshot_contradict(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        train("--resume", "--snapshot", "x.solverstate")
    assert raised.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_logs_go_with_the_snapshots_prefix(folder: Folder) -> None:
    """A run that goes on from another folder's snapshot is no part of what its own folder has."""
    assert train() == 0
    elsewhere = ("--set", "snapshot_prefix=new/s", "--max-iter", "5")
    for _ in range(2):
        assert train("--snapshot", "out/s_iter_3.solverstate", *elsewhere) == 0
    found = sorted(path.name for path in Path("new").glob("train*"))
    assert found == ["train.jsonl", "train.jsonl.1", "train.log", "train.log.1"]
    assert len(list(Path("out").glob("train*"))) == 2


def test_an_interrupt_prints_the_command_that_goes_on(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The printed words, given back, end as the run that was not interrupted."""
    folder.write_solver(max_iter=10**9)
    show = CaffeLog.show

    def interrupting(self: CaffeLog, event: Event) -> None:
        show(self, event)
        if isinstance(event, Display) and event.iteration == 5 and not self._owned:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(CaffeLog, "show", interrupting)
    options = ("--set", "base_lr=0.5", "--set", "momentum=0.25", "--stage", "a,b", "--threads", "1")
    save_caffemodel(load_net("net.prototxt"), "a b.caffemodel")
    assert train("--weights", "a b.caffemodel", *options, "--layout", "contiguous") == 130
    shown = capsys.readouterr().err
    (command,) = re.findall(r"To go on: (.*)", shown)
    assert command in "".join(log_lines())
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "gmnet_pt.train", "solver.prototxt"]
    assert "--weights" not in words
    assert words[-2:] == ["--snapshot", "out/s_iter_6.solverstate"]
    monkeypatch.setattr(CaffeLog, "show", show)
    assert main([*words[3:], "--max-iter", "8"]) == 0
    assert "Resuming from out/s_iter_6.solverstate" in capsys.readouterr().err
    found = solver_text()
    assert (found.base_lr, found.momentum) == (0.5, 0.25)
    assert list(found.train_state.stage) == ["a", "b"]


def test_a_shape_that_the_data_have_not_is_an_error(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--input-shape", "data=4,1,6,6") == 0
    assert train("--input-shape", "data=2,1,6,6") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'input shape (2, 1, 6, 6) of "data", but its data have (4, 1, 6, 6)' in error
    assert train("--input-shape", "data=4,x") == 1
    assert "--input-shape data=4,x: use BLOB=N,C,H,W" in capsys.readouterr().err


# What is missing, and what is something else -----------------------------------------------------


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("lmdb/digits_train", "`make lmdb DATASET=digits` makes it"),
        ("lmdb/cifar10_test", "`make lmdb DATASET=cifar10` makes it"),
        (
            "examples/mnist/mnist_train_lmdb",
            "`make lmdb DATASET=mnist` makes lmdb/mnist_train, to be named here",
        ),
        ("${ROOT}/mnist_train", "`${ROOT}` in its name is an unfilled place of a template"),
        ("{{ root }}/x", "`{{ root }}` in its name is an unfilled place of a template"),
        ("my data/cats_train", "`gmnet imageset ROOT LIST 'my data/cats_train'` makes it"),
    ],
)
def test_an_absent_database_names_the_line_that_makes_it(
    source: str, says: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write_net('source: "db"', f'source: "{source}"')
    assert train() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"database {source} does not exist" in error and says in error


IMAGES = """layer {{ name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param {{ source: "{list}" batch_size: 2 root_folder: "{root}" is_color: false }} }}"""


def image_net(folder: Folder, root: str, listed: str = "lists/train.txt") -> None:
    """The net of `folder` on 30 images of a list in a folder of its own."""
    images = folder.path / "images"
    images.mkdir()
    (folder.path / "lists").mkdir()
    for number in range(30):
        # Whatever it is called: OpenCV goes by the content.
        (images / f"{number}.png").write_bytes(b"P5 6 6 255\n" + bytes([number]) * 36)
    lines = "".join(f"{number}.png {number % 3}\n" for number in range(30))
    (folder.path / "lists" / "train.txt").write_text(lines)
    text = (folder.path / "net.prototxt").read_text()
    layer = IMAGES.format(list=listed, root=root)
    text = re.sub(r'layer \{ name: "data".*\n.*backend: LMDB \} \}', layer, text)
    (folder.path / "net.prototxt").write_text(text)


def test_absent_images_are_found_before_the_first_iteration(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    image_net(folder, "images/")
    assert train("--epochs", "1") == 0
    assert solver_text().max_iter == 15
    for number in range(11, 22):
        (folder.path / "images" / f"{number}.png").unlink()
    capsys.readouterr()
    assert train("--max-iter", "1") == 1  # which would not have come to any of them
    shown = capsys.readouterr().err
    error = shown.splitlines()[-1]
    assert "11 of the 30 files of lists/train.txt do not exist: images/11.png, images/12" in error
    assert error.endswith("images/18.png and 3 more")
    assert "Starting Optimization" not in shown
    # Of a long list a search tells how far it is.
    heard: list[tuple[str, int | None]] = []

    class Listener(Reporter):
        def progress(
            self, items: Iterable[Item], label: str, total: int | None = None, unit: str = ""
        ) -> Iterator[Item]:
            heard.append((label, total))
            yield from items

    with Solver("solver.prototxt", device="cpu") as solver:
        with pytest.raises(DataError, match="11 of the 30"):
            solver.check_data(Listener())
        assert heard == []
        monkeypatch.setattr(image_list, "_LONG", 29)
        with pytest.raises(DataError, match="11 of the 30"):
            solver.solve(reporter=Listener())
    assert heard == [("looking for the files of lists/train.txt", 30)]


def test_the_rows_of_all_hdf5_files_are_an_epoch(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    h5py = pytest.importorskip("h5py")
    for name, rows in (("a", 5), ("b", 4)):
        with h5py.File(folder.path / f"{name}.h5", "w") as file:
            file["data"] = np.ones((rows, 36), np.float32)
            file["label"] = np.zeros(rows, np.float32)
    (folder.path / "files.txt").write_text("a.h5\nb.h5\n")
    layer = 'layer { name: "rows" type: "HDF5Data" top: "data" top: "label" '
    layer += 'hdf5_data_param { source: "files.txt" batch_size: 2 } }'
    text = (folder.path / "net.prototxt").read_text()
    text = re.sub(r'layer \{ name: "data".*\n.*backend: LMDB \} \}', layer, text)
    (folder.path / "net.prototxt").write_text(text)
    assert train("--epochs", "1") == 0
    assert solver_text().max_iter == 5
    assert any('9 records of layer "rows", 2 an iteration' in line for line in log_lines())
    (folder.path / "b.h5").unlink()
    assert train("--max-iter", "1") == 1
    assert "1 of the 2 files of files.txt do not exist: b.h5" in capsys.readouterr().err


def test_a_wrong_root_is_one_error(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    image_net(folder, "pictures/")
    assert train() == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "pictures" in line]
    assert len(errors) == 1 and errors[0].startswith("error: ")
    assert "none of the 30 files of lists/train.txt exists, pictures/0.png to begin" in errors[0]
    assert 'is root_folder "pictures/" right?' in errors[0]


def test_names_in_a_list_are_looked_for_beside_it_too(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    image_net(folder, "")
    for image in (folder.path / "images").iterdir():
        image.rename(folder.path / "lists" / image.name)
    away = tmp_path_factory.mktemp("away")
    monkeypatch.chdir(away)
    assert main([str(folder.path / "solver.prototxt"), "--device", "cpu"]) == 0
    # Inputs beside what names them, outputs from the working directory.
    assert (away / "out" / "s_iter_3.solverstate").exists()
    assert not (folder.path / "out").exists()


DEPLOY = """input: "data" input_shape { dim: 1 dim: 1 dim: 6 dim: 6 }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }"""


def test_each_kind_of_file_is_named_for_what_it_is(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*words: str) -> str:
        assert train_words(*words) == 1
        return capsys.readouterr().err.splitlines()[-1]

    def train_words(*words: str) -> int:
        return main([*words, "--device", "cpu", "--log", "caffe"])

    (folder.path / "deploy.prototxt").write_text(DEPLOY)
    deploy = "no data layer; this looks like a deploy net"
    assert f"deploy.prototxt: {deploy}" in error("deploy.prototxt")
    folder.write_solver(extra="snapshot_after_train: false")
    (folder.path / "alone").mkdir()
    (folder.path / "alone" / "deploy.prototxt").write_text(DEPLOY)
    assert f"alone/deploy.prototxt: {deploy}" in error("alone/deploy.prototxt")
    assert "net.prototxt: is a net where a solver is wanted; `gmnet train net.prototxt" in error(
        "net.prototxt", "--solver", "net.prototxt"
    )
    wanted = (
        "solver.prototxt: is a solver where a net is wanted; its net is net.prototxt: give that"
    )
    with pytest.raises(PrototxtError, match=wanted):
        load_net("solver.prototxt")
    (folder.path / "odd.prototxt").write_text('net_param { name: "x" } base_lr: 1 # net: "y"')
    with pytest.raises(PrototxtError, match=r"is wanted; train with `gmnet train odd\.prototxt`"):
        load_net("odd.prototxt")
    with pytest.raises(SolverError, match=deploy):
        Solver("deploy.prototxt", device="cpu")


def test_inputs_that_nothing_reads_are_no_data_layer(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a loss it is no deploy net, and a step may be given its inputs."""
    loss = 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "l" }'
    text = DEPLOY.replace("\nlayer", ' input: "label" input_shape { dim: 1 }\nlayer', 1)
    (folder.path / "net.prototxt").write_text(text[: text.rindex("layer")] + loss)
    assert train() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "net.prototxt: no data layer: Input reads no files; give its tops (data, label)" in error
    with Solver("solver.prototxt", device="cpu") as solver:
        feed = {"data": np.zeros((1, 1, 6, 6), np.float32), "label": np.zeros(1, np.float32)}
        assert float(solver.step(feed)) == pytest.approx(np.log(3), rel=1e-6)


@pytest.mark.parametrize(
    ("count", "words", "options"),
    [
        (0, "Use CPU. There is no GPU here.", {"solver_mode": 1, "device_id": 3}),
        (2, "Use CPU. There is no GPU 3 here.", {"solver_mode": 1, "device_id": 3}),
        (2, "Use CPU.", {"solver_mode": 0, "device_id": 3}),
        (2, "Use GPU with device ID 1", {"solver_mode": 1, "device_id": 1}),
    ],
)
def test_the_device_line_says_what_runs(
    count: int, words: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    solver = pb.SolverParameter(**options)
    chosen, message = device.choose_device(solver, None)
    assert message.text == words
    shown = device.as_run(solver, chosen)
    assert (shown.solver_mode == pb.SolverParameter.GPU) == (chosen.type == "cuda")
    assert shown.HasField("device_id") == (chosen.type == "cuda")
    assert device.choose_device(solver, "cpu")[1].text == "Use CPU."


def test_the_solver_that_is_shown_names_the_device(folder: Folder) -> None:
    path = folder.path / "solver.prototxt"
    path.write_text(path.read_text().replace("solver_mode: CPU", "solver_mode: GPU device_id: 1"))
    assert train() == 0
    found = solver_text()
    assert found.solver_mode == pb.SolverParameter.CPU and not found.HasField("device_id")


def test_warnings_are_lines_of_the_log(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(self: Solver, reporter: Reporter) -> None:
        warnings.warn("beware", UserWarning, stacklevel=1)

    monkeypatch.setattr(Solver, "check_data", warn)
    assert train() == 0
    assert "UserWarning: beware" in log_lines()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "beware" in line]
    assert line.startswith("W")


def test_many_names_are_cut() -> None:
    names = [f"layer{n}" for n in range(300)]
    lines = LoadReport(("w",), loaded=names).lines()
    assert lines == ["all 300 layers loaded"]
    lines = LoadReport(("w",), loaded=names[:1], filled=names[1:], skipped=names[:8]).lines()
    assert lines[0] == "1 of 300 layers loaded"
    assert lines[1].endswith(": " + ", ".join(names[1:9]) + " and 291 more")
    assert lines[2].endswith(": " + ", ".join(names[:8]))
