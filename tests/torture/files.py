"""Damaged files of every format that a run reads, and kills between the renames of a snapshot.

Damage is seeded. Many files are read in one child (`python -m tests.torture.files` is its other
end), which says what came of each; a signal ends the child, is that file's failure, and the next
child goes on behind it.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.torture.child import ROOT, Tally, run, wrong

FILES, KILLS = 500, 100
_BATCH, _SECONDS_A_FILE, _MEMORY = 50, 60, 6 << 30

NET = """name: "torture"
layer { name: "x" type: "DummyData" top: "x" top: "y"
  dummy_data_param { shape { dim: 4 dim: 6 } shape { dim: 4 } data_filler { type: "gaussian" } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }
layer { name: "fc" type: "InnerProduct" bottom: "bn" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "fc" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.01 lr_policy: "multistep" stepvalue: 3 momentum: 0.9
max_iter: 4 display: 1 snapshot: 2 snapshot_prefix: "s/t" solver_mode: CPU random_seed: %d
snapshot_format: %s
"""
FORMATS = {"BINARYPROTO": "", "HDF5": ".h5"}

_VALUE = re.compile(rb"(?<=: )[^\s{},]+")
_VALUES = (
    *(b"0", b"-1", b"1", b"2147483647", b"2147483648", b"4294967295", b"18446744073709551616"),
    *(b"nan", b"inf", b"-inf", b"1e39", b"-1e-300", b"9" * 400, b"9" * 5000, b"true", b"null"),
    *(b'""', b'"x"', b'"$x$"', b'"\xd6\xd0"', b'"D:\\data"', b"[]", b"{}", b"SGD", b'"' * 3),
)

# By kind of file: what is damaged, in the folder of `prepare`.
KINDS = {
    "caffemodel": "binary/s/t_iter_2.caffemodel",
    "solverstate": "binary/s/t_iter_2.solverstate",
    ".state.npz": "binary/s/t_iter_2.state.npz",
    "HDF5 weights": "hdf5/s/t_iter_2.caffemodel.h5",
    "HDF5 state": "hdf5/s/t_iter_2.solverstate.h5",
    "prototxt": "binary/net.prototxt",
    "solver": "binary/solver.prototxt",
    "train.jsonl": "binary/s/train.jsonl",
    "train.log": "binary/s/train.log",
}


def tallies(scale: float, part: int = 0) -> Iterator[Tally]:
    """The attacks, each with its number of trials times `scale`. Each part has other damage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for kind in KINDS:
            yield _damage(folder, kind, part * FILES, math.ceil(FILES * scale))
        yield _kills(folder, math.ceil(KILLS * scale))


def prepare(folder: Path) -> None:
    """Run a small training in both formats."""
    for form in FORMATS:
        own = folder / {"BINARYPROTO": "binary", "HDF5": "hdf5"}[form]
        own.mkdir()
        (own / "net.prototxt").write_text(NET)
        (own / "solver.prototxt").write_text(SOLVER % (1, form))
        ended = run(["gmnet_pt.train", "solver.prototxt", "--device", "cpu"], own, 300)
        assert ended.status == 0, ended.text


# Damage ------------------------------------------------------------------------------------------


def damaged(content: bytes, seed: int) -> bytes:
    """The content with one to eight wounds: bits, bytes, runs, cuts, insertions; or other values.

    Half of the texts have values in the place of others, which parse more often than not.
    """
    dice = random.Random(seed)
    if seed % 2 and b"\0" not in content:
        values = list(_VALUE.finditer(content))
        for match in sorted(dice.sample(values, dice.choice((1, 1, 2))), key=lambda m: -m.start()):
            content = content[: match.start()] + dice.choice(_VALUES) + content[match.end() :]
        return content
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 8))):
        at, length = dice.randrange(len(data) or 1), dice.choice((1, 2, 4, 8, 64))
        wound = dice.randrange(8)
        if wound == 0 and data:
            data[at] ^= 1 << dice.randrange(8)
        elif wound == 1:
            data[at : at + length] = dice.randbytes(length)
        elif wound == 2:
            data[at : at + length] = dice.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif wound == 3:
            data[at : at + length] = b""
        elif wound == 4:
            data[at:at] = dice.randbytes(length)
        elif wound == 5:
            data[at:at] = data[at : at + length] * dice.choice((1, 100))
        elif wound == 6:
            del data[at:]
        else:
            # Heads decide most: the same again within the first bytes.
            head = dice.randrange(min(len(data), 96) or 1)
            data[head : head + 1] = dice.randbytes(1)
    return bytes(data)


def _damage(folder: Path, kind: str, first: int, trials: int) -> Tally:
    content = (folder / KINDS[kind]).read_bytes()
    ends: Counter[str] = Counter()
    (whole,) = _batch(folder, kind, {0: content})
    failures = [] if whole == "unharmed" else [f"{kind}, whole: {whole}"]
    seed, stop = first, first + trials
    while seed < stop:
        count = min(_BATCH, stop - seed)
        files = {number: damaged(content, number) for number in range(seed, seed + count)}
        for end in _batch(folder, kind, files):
            ends[end.split(":")[0]] += 1
            if end not in ("refused", "unharmed"):
                failures.append(f"{kind}, seed {seed}: {end}")
            seed += 1
    return Tally(f"damaged {kind}", trials, tuple(failures), dict(ends))


def _batch(folder: Path, kind: str, files: Mapping[int, bytes]) -> list[str]:
    """How reading each of the files ended; the last is the one that ended the child, if any did."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        batch = Path(name)
        for seed, content in files.items():
            (batch / str(seed)).write_bytes(content)
        status, told = _child(folder, kind, [batch / str(seed) for seed in files])
    ends = [json.loads(line) for line in told.splitlines()]
    if len(ends) < len(files):
        ends.append("no end" if status is None else f"died: status {status}")
    return ends


def _child(folder: Path, kind: str, paths: Sequence[Path]) -> tuple[int | None, str]:
    arguments = [sys.executable, "-m", __spec__.name if __spec__ else "tests.torture.files", kind]
    out = folder / "told"
    try:
        with open(out, "wb") as told:
            done = subprocess.run(
                [*arguments, str(folder), *map(str, paths)],
                cwd=folder / Path(KINDS[kind]).parts[0],
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=told,
                stderr=subprocess.DEVNULL,
                timeout=_SECONDS_A_FILE * 2,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY)),
            )
        status: int | None = done.returncode
    except subprocess.TimeoutExpired:
        status = None
    return status, out.read_text()


# The child's side --------------------------------------------------------------------------------


def _resume(path: Path, suffix: str, end: str) -> None:
    """Resume from a copy of the snapshot in which one file is the damaged one."""
    from gmnet_pt import Solver

    with tempfile.TemporaryDirectory() as name:
        state = Path(name) / f"t_iter_2.solverstate{suffix}"
        for file in Path("s").glob("t_iter_2.*"):
            shutil.copy(file, name)
        if not end.endswith(".npz"):
            # Its digests would refuse the state before anything of it is used.
            (Path(name) / "t_iter_2.state.npz").unlink()
        shutil.copy(path, Path(name) / f"t_iter_2{end}")
        with Solver("solver.prototxt", device="cpu", snapshot=state) as solver:
            solver.step()


def _weights(path: Path) -> None:
    from converters import load_net

    named = path.with_suffix(".caffemodel")
    shutil.copy(path, named)
    load_net("net.prototxt", "TRAIN", weights=named)


def _net(path: Path) -> None:
    from converters.__main__ import COMMANDS
    from converters.command_line.program import run_subcommand

    folder = path.parent / f"{path.name}.folder"
    folder.mkdir()
    shutil.copy(path, folder / "net.prototxt")
    if run_subcommand("converters", "", COMMANDS, ["check", str(folder)]):
        raise _RefusedError


def _solver(path: Path) -> None:
    from gmnet_pt import Solver

    # Few iterations, and outputs beside the damaged file, whatever it says.
    settings = ["max_iter=2", "iter_size=1", f"snapshot_prefix={path}.out", "device_id=0"]
    with Solver(path, device="cpu", overrides=settings) as solver:
        solver.solve()


def _plot(path: Path) -> None:
    from gmnet_pt.plot import curves, read_log

    curves(read_log(path))


class _RefusedError(Exception):
    """A command ended in an error of ours."""


READ: dict[str, Callable[[Path], None]] = {
    "caffemodel": _weights,
    "solverstate": lambda path: _resume(path, "", ".solverstate"),
    ".state.npz": lambda path: _resume(path, "", ".state.npz"),
    "HDF5 weights": _weights,
    "HDF5 state": lambda path: _resume(path, ".h5", ".solverstate.h5"),
    "prototxt": _net,
    "solver": _solver,
    "train.jsonl": _plot,
    "train.log": _plot,
}


def _attempt(kind: str, path: Path) -> str:
    from converters.command_line.program import run_guarded

    def read() -> int:
        try:
            READ[kind](path)
        except _RefusedError:
            return 1
        return 0

    shown, sys.stderr, stdout, sys.stdout = sys.stderr, io.StringIO(), sys.stdout, io.StringIO()
    try:
        return "refused" if run_guarded(read) else "unharmed"
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is the finding)
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        sys.stderr, sys.stdout = shown, stdout


def serve(arguments: Sequence[str]) -> None:
    """Read each file as its kind, and print a JSON line for each."""
    kind, _, *paths = arguments
    told: Any = sys.stdout
    for path in paths:
        told.write(json.dumps(_attempt(kind, Path(path))) + "\n")
        told.flush()


# Kills -------------------------------------------------------------------------------------------

_KILLER = """
import os, sys
number, seed = int(sys.argv[1]), sys.argv[2]
replace, done = os.replace, []
def killed(source, target):
    if str(target).split('_iter_')[-1].startswith('2.'):
        if len(done) == number:
            os.kill(os.getpid(), 9)
        done.append(target)
    replace(source, target)
os.replace = killed
from gmnet_pt import Solver
with Solver('solver.prototxt', device='cpu', overrides=['random_seed=' + seed]) as solver:
    solver.solve()
"""


def _kills(folder: Path, trials: int) -> Tally:
    """A second run into the first one's prefix dies before a rename; then its snapshot is used."""
    ends: Counter[str] = Counter()
    failures = []
    for trial in range(trials):
        form = ("binary", "hdf5")[trial % 2]
        work = folder / "kill"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder / form, work)
        done = subprocess.run(
            [sys.executable, "-c", _KILLER, str(trial // 2 % 3), str(trial + 2)],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
        )
        state = "s/t_iter_2.solverstate" + (".h5" if form == "hdf5" else "")
        ended = run(
            ["gmnet_pt.train", "solver.prototxt", "--device", "cpu", "--snapshot", state], work
        )
        why = wrong(ended, (1,)) if done.returncode == -9 else f"not killed: {done.returncode}"
        ends["failed" if why else "refused"] += 1
        if why:
            failures.append(f"kill {trial}: {why}")
    return Tally("kills between a snapshot's renames", trials, tuple(failures), dict(ends))


if __name__ == "__main__":
    serve(sys.argv[1:])
