"""`gmnet`: one command for all, Caffe's command lines, its tools by their names, completion."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import GOLDEN
from test_bad_input import Folder, write_database

from converters import __main__ as files
from converters import load_net
from converters.command_line.parser import CommandParser
from converters.errors import NetError, PrototxtError
from converters.nearest import known_names
from converters.version import __version__
from gmnet_pt import caffe_tools, demo, feature_maps
from gmnet_pt.__main__ import main
from gmnet_pt.commands import COMMANDS
from gmnet_pt.log.events import Output, Scores
from gmnet_pt.log.run_record import record_line
from gmnet_pt.options import features as features_options

ROOT = Path(__file__).parents[1]
RUN = GOLDEN / "training" / "lenet_sgd_inv"
NET, WEIGHTS = str(RUN / "net.prototxt"), str(RUN / "snap_iter_100.caffemodel")
WANTED = (
    {"train", "test", "time", "classify", "features", "plot", "draw", "summary", "layers"}
    | {"check", "lmdb", "imageset", "mean", "verify", "show", "upgrade", "generate", "audit"}
    | {"report", "reproduce", "demo"}
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def failed(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The status and stderr of a command line that ends in an error, argparse's own included."""
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    return status, capsys.readouterr().err


# ---------------------------------------------------------------- help


def test_the_help_has_every_command_in_a_group_with_an_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert set(COMMANDS) >= WANTED
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert main(["help"]) == 0
    assert capsys.readouterr().out == shown
    for name, command in COMMANDS.items():
        assert f"\n{command.group}:\n" in shown
        assert re.search(rf"\n  {name} +{re.escape(command.summary)}\n +gmnet {name}\b", shown)
    for name in ("convert_imageset", "compute_image_mean", "caffe train", "draw_net.py"):
        assert name in shown
    for name in files.COMMANDS:
        assert COMMANDS[name] is files.COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_examples_options_are_its_commands(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example parses; the help shows it, and the options of `python -m` are the same."""
    command = COMMANDS[name]
    gmnet, first, *words = command.example.split()
    assert (gmnet, first) == ("gmnet", name)
    if "--gpu" not in words:
        command.parser("x").parse_args(words)
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert f"usage: gmnet {name} " in shown
    assert f"example:\n  {command.example}" in shown
    assert "exit status: 0" in shown


def test_nothing_light_imports_torch(tmp_path: Path) -> None:
    """In one child: --help of all, --version, generate and what only reads files."""
    code = (
        "import sys, contextlib\n"
        "from gmnet_pt.__main__ import main\n"
        "from gmnet_pt.commands import COMMANDS\n"
        "lines = [[name, '--help'] for name in COMMANDS] + [['--help'], ['--version']]\n"
        "lines += [['generate', 'bua', '--dataset', 'mnist'], ['generate', 'list'], ['layers']]\n"
        "lines += [['summary', 'prototxt/bua_mnist/deploy.prototxt'], ['train'], ['trian']]\n"
        "for line in lines:\n"
        "    with contextlib.suppress(SystemExit): main(line)\n"
        "    assert 'torch' not in sys.modules, line\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "prototxt" / "bua_mnist" / "solver.prototxt").is_file()
    assert f"\ngmnet {__version__}\n" in done.stdout


def test_python_dash_m_is_the_same_parser() -> None:
    for name in ("train", "test", "time", "classify", "features", "plot", "demo"):
        module = importlib.import_module(f"gmnet_pt.{name}")
        options = importlib.import_module(COMMANDS[name].options or COMMANDS[name].module)
        assert vars(module).get("options", module) is options
    assert tuple(feature_maps.FIGURES) == (3, 4)
    parser = CommandParser()
    features_options.configure(parser)
    assert next(a.choices for a in parser._actions if a.dest == "figure") == (3, 4)


def test_unknown_commands_and_options_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, told = failed(["trian"], capsys)
    assert (status, told.strip()) == (2, "error: gmnet: no command 'trian'; did you mean 'train'?")
    status, told = failed(["train", "s.prototxt", "--wieghts", "w"], capsys)
    assert status == 2
    assert told.endswith("unrecognized arguments: --wieghts w; did you mean --weights?\n")
    assert failed([], capsys)[0] == 2


def test_known_names_are_few() -> None:
    assert known_names("b", ["a", "c"]) == "; known are a, c"
    assert (
        known_names("CONV1", ["conv1", "conv2"]) == "; did you mean 'conv1'? known are conv1, conv2"
    )
    many = [f"layer{number}" for number in range(100)]
    assert known_names("layer5x", many).startswith("; did you mean 'layer5'")
    assert known_names("q", many).count(",") == 7
    assert known_names("q", many).endswith(" and 92 more")
    assert known_names("q", []) == ""


# ---------------------------------------------------------------- Caffe's command lines


FLAGS = {
    "--solver=solver.prototxt --sigint_effect=stop --sighup_effect=snapshot",
    "-solver solver.prototxt -sigint_effect stop -sighup-effect=snapshot",
    "-solver=solver.prototxt --nostrict --tensorboard=false",
    "solver.prototxt",
    "net.prototxt --solver solver.prototxt",
    "net.prototxt -solver=solver.prototxt",
}


@pytest.mark.parametrize("flags", sorted(FLAGS))
def test_caffe_train_trains(flags: str, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--device", "cpu", "--layout", "contiguous", "-max_iter=2"]
    assert main(["train", *flags.split(), *quick]) == 0
    assert "Optimization Done." in capsys.readouterr().err
    assert Path("out/s_iter_2.solverstate").is_file()
    more = "--solver=solver.prototxt --snapshot=out/s_iter_2.solverstate --device cpu --strict=true"
    assert main(["caffe", "train", *more.split()]) == 0
    told = capsys.readouterr().err
    assert "] Iteration 2 (" in told
    assert "] Iteration 0 (" not in told
    assert Path("out/s_iter_3.caffemodel").is_file()


def test_caffe_test_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["-model", NET, f"-weights={WEIGHTS}", "-iterations=1", "--phase=TEST", "--device=cpu"]
    assert main(["test", *line]) == 0
    told = capsys.readouterr().err
    assert told.startswith("note: --phase: no effect here, as in Caffe: test is in phase TEST\n")
    assert re.search(r"\] accuracy = 0\.\d+\n", told)
    line = [f"--model={NET}", "-iterations", "1", "-phase=test", "-device", "cpu", "--log=caffe"]
    assert main(["time", *line, "-logtostderr", "--minloglevel=2", "-v=1"]) == 0
    told = capsys.readouterr().err
    assert "--logtostderr, --minloglevel, -v: no effect here, the log goes to stderr" in told
    assert "Average Forward-Backward:" in told


def test_flags_that_mean_nothing_to_train_are_said_to(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "--solver=none.prototxt --model=net.prototxt -phase TEST --iterations=5 --log_dir=/x"
    status, told = failed(["train", *line.split(), "--alsologtostderr"], capsys)
    assert status == 1
    *notes, error = told.splitlines()
    assert sorted(note.split(":")[1].strip() for note in notes) == [
        "--iterations",
        "--log-dir, --alsologtostderr",
        "--model",
        "--phase",
    ]
    assert error.startswith("error: none.prototxt: cannot be read")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_is_a_device(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    said = failed(["train", "solver.prototxt", "--device", "cuda:1"], capsys)
    assert said == (1, "error: --device cuda:1: there is no such device here (GPUs: 0)\n")
    assert failed(["train", "--solver=solver.prototxt", "--gpu=1"], capsys) == said
    assert failed(["train", "-solver", "solver.prototxt", "-gpu", "1"], capsys) == said
    assert failed(["time", "-model", NET, "-gpu=1"], capsys) == said
    status, told = failed(["train", "solver.prototxt", "--gpu", "0", "--device", "cpu"], capsys)
    assert status == 2
    assert "not allowed with argument" in told
    status, told = failed(["train", "solver.prototxt", "--gpu", "one"], capsys)
    assert status == 2
    assert "use a GPU's number, several as 0,1, or all" in told


@pytest.mark.parametrize(
    ("gpus", "line"),
    [
        (["--gpu=0,1"], "CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc-per-node 2 "),
        (["-gpu", "all"], "torchrun --nproc-per-node gpu "),
    ],
)
def test_several_gpus_are_torchruns(
    gpus: list[str], line: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = failed(["train", "-solver=solver.prototxt", *gpus, "--weights", "a b"], capsys)
    assert status == 1
    assert told.endswith(
        f": {line}-m gmnet_pt.train -- --solver=solver.prototxt --weights 'a b' --device cuda\n"
    )
    status, told = failed(["time", NET, *gpus], capsys)
    assert status == 1
    assert "runs on one GPU" in told


def test_a_net_or_solver_is_needed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give a solver, or a net" in failed(["train"], capsys)[1]
    assert "NET --model is required" in failed(["time"], capsys)[1]
    assert "not allowed with argument NET" in failed(["time", NET, "--model", NET], capsys)[1]


# ---------------------------------------------------------------- Caffe's tools


def test_every_tool_leads_to_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for name, tool in caffe_tools.TOOLS.items():
        assert tool.use.startswith(f"gmnet {tool.command} ")
        assert tool.command in COMMANDS
        assert caffe_tools.find_tool(f"./build/tools/{name}") == name
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert f"usage: gmnet {tool.command}" in capsys.readouterr().out
        if tool.translate is None:
            status, told = failed([name, "a"], capsys)
            assert (status, told.count("\n")) == (2, 1)
            assert told.startswith(f"error: {name}: here it is `{tool.use}`")


def test_arguments_of_tools_come_in_our_order(tmp_path: Path) -> None:
    def ours(name: str, line: str) -> str | None:
        translate = caffe_tools.TOOLS[name].translate
        assert translate is not None
        words = translate(line.split())
        if words is None:
            return None
        assert vars(COMMANDS[caffe_tools.TOOLS[name].command].parser("x").parse_args(words))
        return " ".join(words)

    features = "n.prototxt --weights w.caffemodel --blobs fc7,prob --out a,b --iterations 10"
    words = "w.caffemodel n.prototxt fc7,prob a,b 10 lmdb"
    assert ours("extract_features", words) == f"{features} --device cpu"
    assert ours("extract_features", f"{words} GPU 2") == f"{features} --gpu 2"
    assert ours("extract_features", f"{words} GPU DEVICE_ID=1") == f"{features} --gpu 1"
    assert ours("extract_features", words.replace("lmdb", "leveldb")) is None
    assert ours("extract_features", "w.caffemodel") is None
    line = "d.prototxt w.caffemodel m.binaryproto l.txt cat.jpg"
    turned = "d.prototxt w.caffemodel --mean m.binaryproto --labels l.txt cat.jpg"
    assert ours("classification", line) == turned
    assert ours("classification", "d.prototxt") is None
    assert ours("plot_training_log.py", "6 out.png a.log b.log") == "a.log b.log out.png"
    assert ours("plot_training_log.py", "out.png a.log") is None
    assert ours("finetune_net", "s.prototxt w.caffemodel") == "s.prototxt --weights w.caffemodel"
    shuffled = "--shuffle=1 --resize_height=8 root list out"
    assert ours("convert_imageset", "--noshuffle root list out") == "root list out"
    with pytest.raises(SystemExit):  # one of two sides
        ours("convert_imageset", shuffled)


def test_convert_imageset_and_compute_image_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2 = pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        cv2.imwrite(f"{number}.png", np.full((6, 5, 3), 10 * number, np.uint8))
    Path("list.txt").write_text("0.png 0\n1.png 1\n2.png 2\n")
    line = "-resize_height=4 --resize_width 8 -shuffle -backend lmdb ./ list.txt db"
    assert main(["convert_imageset", *line.split()]) == 0
    assert capsys.readouterr().out == "db: 3 records\n"
    assert main(["compute_image_mean", "-backend=lmdb", "db", "mean.binaryproto"]) == 0
    assert "mean of 3 images, channel means 10.0000, 10.0000, 10.0000" in capsys.readouterr().out
    assert main(["mean", "db"]) == 0
    assert capsys.readouterr().out.startswith("db: mean of 3 images")
    assert main(["verify", "db"]) == 0
    assert "shape: 3×4×8 (3)" in capsys.readouterr().out
    told = failed(["convert_imageset", "-backend=leveldb", "./", "list.txt", "db2"], capsys)[1]
    assert "error: --backend leveldb: databases are LMDB here; use --backend lmdb\n" in told
    told = failed(["imageset", "./", "list.txt", "db2", "--resize-width=4"], capsys)[1]
    assert "both of --resize-height and --resize-width" in told


# ---------------------------------------------------------------- completion, the demo


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("gmnet tr", {"train"}, {"time"}),
        ("gmnet train --sigint", {"--sigint-effect"}, {"--logtostderr"}),
        ("gmnet train x.prototxt --precision ", {"fp32", "bf16"}, set()),
        ("gmnet generate ", {"bua", "list"}, set()),
        ("gmnet lmdb ", {"mnist"}, set()),
    ],
)
def test_a_shell_completes(line: str, wanted: set[str], unwanted: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    code = "import sys; from gmnet_pt.__main__ import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    found = {word.strip() for word in answer.read_text().splitlines()}
    assert wanted <= found
    assert not unwanted & found


def test_the_demo_is_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the two minutes: the databases are there, and the training leaves a record alone."""
    monkeypatch.chdir(tmp_path)
    Path("lmdb").mkdir()
    for name in ("train", "test"):
        write_database(Path("lmdb") / f"digits_{name}", [(1, 28, 28)] * 2)

    def train(args: object) -> int:
        asked = vars(args)
        assert asked["path"] == f"prototxt/{demo.FOLDER}/net.prototxt"
        assert (asked["device"], asked["layout"], asked["max_iter"]) == ("cpu", "channels_last", 5)
        record = Path("runs") / demo.FOLDER / "train.jsonl"
        record.parent.mkdir(parents=True)
        record.write_text(record_line(Scores(5, 0, (Output("accuracy", 0.99),))) + "\n")
        return 0

    monkeypatch.setattr("gmnet_pt.train.run", train)
    assert main(["demo", "--max-iter", "5"]) == 0
    shown = capsys.readouterr().out
    assert "bua, reading text: 112,634 parameters" in shown
    assert "Test accuracy 99.00% after 5 iterations." in shown
    assert Path(f"prototxt/{demo.FOLDER}/solver.prototxt").is_file()


# ---------------------------------------------------------------- names that are not quite right


@pytest.mark.parametrize("phase", ["test", "Test", "TEST"])
def test_a_phase_in_small_letters(phase: str) -> None:
    assert load_net(NET, phase=phase).phase == "TEST"


@pytest.mark.parametrize("phase", ["testing", "", None, 1])
def test_another_phase_is_our_error(phase: str) -> None:
    with pytest.raises(NetError, match=f"phase {phase!r} is neither 'TRAIN' nor 'TEST'"):
        load_net(NET, phase=phase)


def test_a_text_is_no_path() -> None:
    text = Path(NET).read_text()
    for given in (text, 'name: "LeNet"', "layer { }"):
        with pytest.raises(PrototxtError) as caught:
            load_net(given)
        told = str(caught.value)
        assert "is a prototxt's text, not the name of a file" in told
        assert "parse_net" in told
        assert "\n" not in told
        assert len(told) < 200


def test_upgrade_does_not_replace_its_input(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("net.prototxt").read_text()
    for name in ("net.prototxt", "./net.prototxt"):
        status, told = failed(["upgrade", "net.prototxt", name], capsys)
        assert status == 1
        assert told == f"error: {name}: would replace IN itself; name another OUT\n"
    assert Path("net.prototxt").read_text() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train model=bua", "no variable model is read here; did you mean MODEL?"),
        ("lmdb Dataset=mnist", "no variable Dataset is read here; did you mean DATASET?"),
        ("help NET=x", "no variable NET is read here; there are MODEL DATASET"),
    ],
)
def test_make_reads_no_other_variables(words: str, told: str) -> None:
    done = subprocess.run(
        ["make", *words.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


# ---------------------------------------------------------------- what a first hour met


def test_a_wrong_usage_is_told_in_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train"], ["test", NET], ["train", "s", "--epochs", "0"], ["draw", NET]):
        status, error = failed(words, capsys)
        usage, told = error.splitlines()
        assert status == 2 and told.startswith(f"gmnet {words[0]}: error: ")
        assert usage.startswith(f"usage: gmnet {words[0]} ") and "--" not in usage.partition(";")[0]
        assert usage.endswith(f"; gmnet {words[0]} --help tells the options")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["caffe"], "error: caffe: one of its commands is wanted; here are train, test, time"),
        (["caffe", "tset"], "error: caffe: no command 'tset'; did you mean 'test'?"),
        (["caffe", "device_query"], "caffe: no command 'device_query'; here are train, test, time"),
        (["layers", "Convolution"], "Convolution: is a layer type; `gmnet layers | grep"),
    ],
)
def test_a_word_that_is_none_is_told(
    words: list[str], told: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = failed(words, capsys)
    assert status > 0 and told in error
    assert not (folder.path / words[-1]).exists()


def test_an_empty_flag_is_none_as_to_gflags(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """`caffe train --solver=$S --snapshot=$X --gpu=$G` of a script whose X and G are not set."""
    words = ["train", "--solver=s.prototxt", "--snapshot=", "--weights=", "--gpu="]
    assert failed(words, capsys) == (
        1,
        "error: s.prototxt: cannot be read: No such file or directory\n",
    )
    status, error = failed(["train", "--solver="], capsys)
    assert status == 2 and "give a solver" in error


def test_flags_of_draw_net_that_mean_nothing_are_told(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["draw_net.py", NET, "net.dot", "--rankdir=LR", "--phase", "TEST"]) == 0
    assert "note: --rankdir: no effect here" in capsys.readouterr().err
