"""Bad input through the command line: one clear line, a non-zero exit, nothing half-written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
import pytest

from converters.records.datum import encode_datum

NET = """
name: "small"
layer {{ name: "data" type: "Data" top: "data" top: "label"
  data_param {{ source: "{db}" batch_size: 4 backend: LMDB }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }}
"""
SOLVER = """
net: "net.prototxt" type: "{type}" base_lr: 0.01 lr_policy: "fixed" max_iter: {max_iter}
display: 1 snapshot_prefix: "{prefix}" solver_mode: CPU random_seed: 1
"""


def write_database(path: Path, shapes: list[tuple[int, int, int]]) -> None:
    path.mkdir()
    with lmdb.open(str(path), map_size=2**24) as env, env.begin(write=True) as txn:
        for index, shape in enumerate(shapes):
            image = np.full(shape, index % 251, np.uint8)
            txn.put(b"%08d" % index, bytes(encode_datum(image, index % 3)))
    (path / "lock.mdb").unlink(missing_ok=True)


class Folder:
    """A small run that works; each case breaks one thing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        write_database(path / "db", [(1, 6, 6)] * 64)
        self.write_net()
        self.write_solver()

    def write_net(self, old: str = "", new: str = "") -> None:
        text = NET.format(db="db")
        assert not old or old in text
        (self.path / "net.prototxt").write_text(text.replace(old, new) if old else text)

    def write_solver(
        self, kind: str = "SGD", prefix: str = "out/s", extra: str = "", max_iter: int = 3
    ) -> None:
        text = SOLVER.format(type=kind, prefix=prefix, max_iter=max_iter) + extra
        (self.path / "solver.prototxt").write_text(text)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        root = str(Path(__file__).parent.parent)
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )


TRAIN = ("gmnet_pt.train", "solver.prototxt", "--device", "cpu")


class Case(NamedTuple):
    """What to break, the command, and what the one line must say."""

    name: str
    break_it: Callable[[Folder], None]
    says: str
    command: tuple[str, ...] = TRAIN


def _truncate(folder: Folder) -> None:
    file = folder.path / "db" / "data.mdb"
    os.truncate(file, os.path.getsize(file) * 6 // 10)


def _odd_record(folder: Folder) -> None:
    shutil.rmtree(folder.path / "db")
    write_database(folder.path / "db", [(1, 6, 6)] * 6 + [(1, 5, 6)] + [(1, 6, 6)] * 9)


def _foreign_weights(folder: Folder) -> None:
    golden = Path(__file__).parent / "golden" / "solvers" / "sgd_plain" / "init.caffemodel"
    shutil.copy(golden, folder.path / "other.caffemodel")


def _snapshot_of_adam(folder: Folder) -> None:
    folder.write_solver("Adam", "adam/s")
    done = folder.run(*TRAIN)
    assert done.returncode == 0, done.stderr
    folder.write_solver("SGD")


def _file_in_the_way(folder: Folder) -> None:
    (folder.path / "file").write_text("")
    folder.write_solver(prefix="file/below/s")


CASES = [
    Case(
        "syntax error",
        lambda f: f.write_net('type: "InnerProduct"', 'type: "InnerProduct" }}'),
        r"net\.prototxt:\d+:\d+: ",
    ),
    Case(
        "unknown layer type",
        lambda f: f.write_net('"InnerProduct"', '"InnerProdukt"'),
        r'net\.prototxt: layer "fc": unknown layer type "InnerProdukt"',
    ),
    Case(
        "unknown field",
        lambda f: f.write_net("num_output: 3", "num_outputs: 3"),
        r"net\.prototxt:\d+:\d+: .*num_outputs",
    ),
    Case(
        "missing bottom",
        lambda f: f.write_net('bottom: "fc"', 'bottom: "ip"'),
        r'layer "loss".*"ip"',
    ),
    Case(
        "shape mismatch",
        lambda f: f.write_net('bottom: "fc" bottom: "label"', 'bottom: "fc" bottom: "data"'),
        r'layer "loss".*\(4, 1, 6, 6\)',
    ),
    Case(
        "missing LMDB",
        lambda f: shutil.rmtree(f.path / "db"),
        r"db.*(not exist|no such|absent|missing)",
    ),
    Case("truncated LMDB", _truncate, r"db.*(truncated|cut)"),
    Case("record of another shape", _odd_record, r"db.*00000006"),
    Case(
        "caffemodel of another net",
        _foreign_weights,
        r'other\.caffemodel: layer "fc" blob 0 has shape \(3, 64\).*\(3, 36\)',
        (*TRAIN, "--weights", "other.caffemodel"),
    ),
    Case(
        "solver without a net",
        lambda f: (f.path / "solver.prototxt").write_text('base_lr: 1 lr_policy: "fixed"') and None,
        r"solver\.prototxt: names no net",
    ),
    Case(
        "snapshot of another solver type",
        _snapshot_of_adam,
        r"(Adam|history).*",
        (*TRAIN, "--snapshot", "adam/s_iter_3.solverstate"),
    ),
    Case("unwritable folder", _file_in_the_way, r"file"),
    Case("unknown setting", lambda f: None, r"base_lrr", (*TRAIN, "--set", "base_lrr=1")),
    Case("no such device", lambda f: None, r"--device tpu", (*TRAIN[:2], "--device", "tpu")),
    Case("no such file", lambda f: None, r"none\.prototxt", ("gmnet_pt.train", "none.prototxt")),
    Case(
        "summary of an unknown layer",
        lambda f: f.write_net('"InnerProduct"', '"Inner"'),
        r'unknown layer type "Inner"',
        ("converters", "summary", "net.prototxt"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    case.break_it(folder)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    done = folder.run(*case.command)
    assert done.returncode not in (0, 2), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert re.search(case.says, errors[0]), errors[0]
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    # A log of the attempt may stay; no snapshot, database or partial file may.
    assert {path.suffix for path in made} <= {".log", ".jsonl"}, made


def test_the_unbroken_run_works(tmp_path: Path) -> None:
    done = Folder(tmp_path).run(*TRAIN)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "s_iter_3.solverstate").exists()
