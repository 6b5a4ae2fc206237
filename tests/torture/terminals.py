"""Terminals that go away, disks that fill up, kills at random moments, two of a command at once.

What is promised: a training whose terminal or logs fail goes on to its end; a kill at any moment
leaves whole snapshots and databases or none, and a resumed run is bit-equal to the one that never
stopped; of two writers one is refused.
"""

from __future__ import annotations

import fcntl
import math
import os
import pty
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from converters.records.lmdb_reader import LmdbReader
from tests.torture.child import ROOT, Ended, Tally, run, wrong

_TRAIN = ("gmnet_pt.train", "solver.prototxt", "--device", "cpu")
_BUILD = ("converters", "lmdb", "digits")
_LAST = "s/t_iter_400"
_NET = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true } data_param { source: "lmdb/digits_train" batch_size: 16 } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
  inner_product_param { num_output: 32 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "drop" type: "Dropout" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }
"""
_SOLVER = (
    'train_net: "net.prototxt" base_lr: 0.001 momentum: 0.9 lr_policy: "fixed" max_iter: 400 '
    'snapshot: 50 snapshot_prefix: "s/t" display: 10 random_seed: 1'
)


def tallies(scale: float, part: int = 0) -> Iterator[Tally]:
    """The attacks; at scale 1 some 500 trials. Each part has other moments."""
    rng = random.Random(11 + part)

    def times(number: int) -> range:
        return range(math.ceil(number * scale))

    with TemporaryDirectory() as scratch:
        start = Path(scratch, "start")
        start.mkdir()
        (start / "net.prototxt").write_text(_NET, encoding="utf-8")
        (start / "solver.prototxt").write_text(_SOLVER, encoding="utf-8")
        require(run(_BUILD, start, 300))
        whole = Path(scratch, "whole")
        shutil.copytree(start, whole)
        begun = time.monotonic()
        require(run(_TRAIN, whole, 300))
        took = time.monotonic() - begun
        digests = _digests(whole)

        def attack(what: str, number: int, trial: Callable[[Path], tuple[str, str]]) -> Tally:
            """`trial` gets a fresh folder and returns what went wrong, or "", and how it ended."""
            failures, ends = [], Counter[str]()
            for index in times(number):
                folder = Path(scratch, "trial")
                shutil.copytree(start, folder)
                reason, end = trial(folder)
                shutil.rmtree(folder)
                ends["failed" if reason else end] += 1
                if reason:
                    failures.append(f"{what} {index}: {reason}")
            return Tally(what, sum(ends.values()), tuple(failures), ends)

        yield attack("terminal gone in training", 40, lambda at: _dead_terminal(at, rng))
        yield attack("logs on a full disk", 20, lambda at: _full_logs(at, rng, digests))
        yield attack("files that may not grow", 40, lambda at: _short_files(at, rng))
        if _small_disk(start, "size=1m", ["true"])[0] == 0:
            yield attack("a small disk", 40, lambda at: _little_room(at, rng))
        yield attack(
            "kill in training, resumed", 120, lambda at: _killed_training(at, rng, took, digests)
        )
        yield attack("kill in building", 100, lambda at: _killed_build(at, rng))
        yield attack("SIGTERM in building", 50, lambda at: _ended_build(at, rng))
        yield attack("Ctrl-C at any moment", 60, lambda at: _interrupted(at, rng))
        yield attack("two builds at once", 30, _two_builds)
        yield attack("two trainings at once", 20, lambda at: _two_trainings(at, rng, digests))


def require(ended: Ended) -> None:
    """What the attacks need must work by itself."""
    if ended.status != 0:
        raise RuntimeError(ended.text)


def _start(folder: Path, arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        **options,
    )


def _end(process: subprocess.Popen[bytes], seconds: float = 120) -> Ended:
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Ended(None, "")
    return Ended(process.returncode, (text or b"").decode(errors="replace"))


def _digests(folder: Path) -> tuple[str, ...]:
    """Of what a finished run leaves that a resumed one has to repeat to the bit.

    Not the displayed mean of losses, which begins anew at a resumption, as Caffe's.
    """
    files = (folder / f"{_LAST}.{kind}" for kind in ("caffemodel", "solverstate"))
    with np.load(folder / f"{_LAST}.state.npz") as arrays:
        kept = sorted((n, arrays[n].tobytes()) for n in arrays.files if n != "smoothed_loss")
    return tuple(
        sha256(data).hexdigest() for data in (*map(Path.read_bytes, files), repr(kept).encode())
    )


def _snapshots(folder: Path) -> list[Path]:
    found = folder.glob("s/t_iter_*.solverstate")
    return sorted(found, key=lambda path: int(path.stem.rsplit("_", 1)[1]))


def _resumed(folder: Path, digests: tuple[str, ...]) -> str:
    """Go on from the newest snapshot; what is wrong with the end, or ""."""
    saved = _snapshots(folder)
    begin = ["--snapshot", str(saved[-1].relative_to(folder))] if saved else []
    ended = run([*_TRAIN, *begin], folder, 300)
    if reason := wrong(ended, (0,)):
        return f"resuming {begin}: {reason}"
    if left := list(folder.rglob("*.partial")) + list(folder.rglob(".*.lock")):
        return f"left behind: {left[0].name}"
    return "" if _digests(folder) == digests else f"resumed {begin} to other files"


# What a run is told with ---------------------------------------------------------------------


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _dead_terminal(folder: Path, rng: random.Random) -> tuple[str, str]:
    """The terminal goes away at some display: a snapshot more than are due, and the run's end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    log = rng.choice(["caffe", "bar"])
    arguments = [*_TRAIN, "--log", log, "--set", "display=1", "--set", "max_iter=600"]
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    process = _start(folder, arguments, preexec_fn=_own_terminal, **streams)
    os.close(slave)
    seen, enough = 0, rng.randrange(1, 20_000)
    record = folder / "s" / "train.jsonl"
    with suppress(OSError):  # it was faster
        while seen < enough or not (record.exists() and '"Display"' in record.read_text()):
            seen += len(os.read(master, 256))
    os.close(master)
    ended = _end(process)
    if reason := wrong(ended, (0,)):
        return reason, ""
    names = {path.name for path in _snapshots(folder)}
    if not {f"t_iter_{n}.solverstate" for n in range(50, 601, 50)} <= names:
        return f"snapshots are missing: {sorted(names)}", ""
    told = (folder / "s" / "train.log").read_text().count("stderr: cannot be written")
    if told > 1:
        return f"{told} notes about the terminal", ""
    return "", "one snapshot more" if len(names) == 13 else "as many snapshots"


def _full_logs(folder: Path, rng: random.Random, digests: tuple[str, ...]) -> tuple[str, str]:
    """Some of terminal, log and record take nothing: the run is the same, to the bit."""
    (folder / "s").mkdir()
    full = [name for name in ("train.log", "train.jsonl", "stderr") if rng.random() < 0.7]
    for name in set(full) - {"stderr"}:
        (folder / "s" / name).symlink_to("/dev/full")
    with open("/dev/full" if "stderr" in full else os.devnull, "wb") as stderr:
        process = _start(folder, _TRAIN, stdout=subprocess.PIPE, stderr=stderr)
        ended = _end(process)
    if reason := wrong(ended, (0,)):
        return reason, ""
    if _digests(folder) != digests:
        return "another result", ""
    return "", f"{len(full)} of 3 full"


def _short_files(folder: Path, rng: random.Random) -> tuple[str, str]:
    """No file may grow beyond a limit: an error or none, and what is there is whole."""
    limit = rng.choice([0, 1, 100, 1000, 5_000, 30_000, 60_000, 200_000, 10_000_000])

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = _end(_start(folder, _TRAIN, preexec_fn=bound))
    if reason := wrong(ended, (0, 1)):
        return f"limit {limit}: {reason}", ""
    if "disk is full" in ended.text:
        return f"limit {limit}: is called a full disk", ""
    for state in _snapshots(folder)[-1:]:
        again = run([*_TRAIN, "--snapshot", str(state.relative_to(folder))], folder, 300)
        if reason := wrong(again, (0,)):
            return f"limit {limit}, then resumed: {reason}", ""
    if list(folder.rglob("*.partial")):
        return f"limit {limit}: a .partial is left", ""
    return "", "done" if ended.status == 0 else "refused"


def _small_disk(folder: Path, options: str, command: Sequence[str]) -> Ended:
    """Run `command` with a file system of its own under `s`; status 1 where that may not be."""
    (folder / "s").mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o {options} tmpfs s && exec "$@"'
    try:
        process = subprocess.Popen(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except FileNotFoundError:
        return Ended(1, "no unshare here")
    return _end(process)


def _little_room(folder: Path, rng: random.Random) -> tuple[str, str]:
    """Too few bytes or too few inodes, and the error says which."""
    few_inodes = rng.random() < 0.4
    size, inodes = (64 << 20, rng.randrange(2, 14)) if few_inodes else (rng.randrange(120_000), 0)
    options = f"size={max(size, 4096)},nr_inodes={inodes}"
    ended = _small_disk(folder, options, [sys.executable, "-m", *_TRAIN])
    if reason := wrong(ended, (0, 1)):
        return f"{options}: {reason}", ""
    full, none_left = "the disk is full" in ended.text, "no inodes left" in ended.text
    if (full and few_inodes) or (none_left and not few_inodes):
        return f"{options}: {ended.text.strip().splitlines()[-1][-160:]}", ""
    if ended.status == 0:
        return "", "done"
    return "", "inodes named" if none_left else "bytes named" if full else "refused"


# Kills and signals ---------------------------------------------------------------------------


def _killed_training(
    folder: Path, rng: random.Random, took: float, digests: tuple[str, ...]
) -> tuple[str, str]:
    process = _start(folder, _TRAIN)
    record = folder / "s" / "train.jsonl"
    deadline = time.monotonic() + 60
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # imports are no part of it
    time.sleep(rng.uniform(0, took / 2))
    process.kill()
    process.communicate()
    saved = len(_snapshots(folder))
    return _resumed(folder, digests), "before a snapshot" if not saved else "after snapshots"


def _killed_build(folder: Path, rng: random.Random) -> tuple[str, str]:
    shutil.rmtree(folder / "lmdb")
    process = _start(folder, _BUILD)
    _wait_for_output(folder, process)
    time.sleep(rng.uniform(0, 0.3))
    process.kill()
    process.communicate()
    databases = [path for path in folder.glob("lmdb/digits_*") if path.is_dir()]
    for path in databases:
        with LmdbReader(path) as reader:
            if len(list(reader)) != {"digits_train": 1437, "digits_test": 360}[path.name]:
                return f"{path.name} is not whole", ""
    again = run(_BUILD, folder, 120)
    # "exists" where the killed one was done.
    if reason := wrong(again, (0, 1) if len(databases) == 2 else (0,)):
        return f"built again: {reason}", ""
    if left := [path for path in folder.rglob(".*") if path.suffix == ".partial"]:
        return f"left behind: {left[0].name}", ""
    return "", f"{len(databases)} of 2 databases"


def _wait_for_output(folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and not (folder / "lmdb").exists():
        if time.monotonic() > deadline:
            return
        time.sleep(0.002)


def _ended_build(folder: Path, rng: random.Random) -> tuple[str, str]:
    shutil.rmtree(folder / "lmdb")
    process = _start(folder, _BUILD)
    _wait_for_output(folder, process)
    time.sleep(rng.uniform(0, 0.3))
    process.send_signal(rng.choice([signal.SIGTERM, signal.SIGHUP]))
    ended = _end(process)
    if reason := wrong(ended, (0, 143, 129)):
        return reason, ""
    if left := list(folder.glob("lmdb/.*")):
        return f"left behind: {left[0].name}", ""
    return "", "done" if ended.status == 0 else "ended"


def _interrupted(folder: Path, rng: random.Random) -> tuple[str, str]:
    command = rng.choice(
        [
            _TRAIN,
            ("gmnet_pt.time", "net.prototxt", "--device", "cpu", "--iterations", "20"),
            ("gmnet_pt.reproduce", "--list"),
            ("converters", "verify", "lmdb/digits_train"),
            ("converters", "check", "."),
            ("converters", "mean", "lmdb/digits_train", "mean.binaryproto"),
            ("prototxt_gen", "audit"),
        ]
    )
    process = _start(folder, command, start_new_session=True)
    time.sleep(rng.uniform(0.2, 3))
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    ended = _end(process)
    if "Traceback" in ended.text and str(ROOT) not in ended.text:
        return "", "in Python's own start"  # before a line of ours ran
    if reason := wrong(ended, (0, 130)):
        return f"{' '.join(command)}: {reason}", ""
    return "", "interrupted" if ended.status == 130 else "done"


# Two at once ---------------------------------------------------------------------------------


def _two_builds(folder: Path) -> tuple[str, str]:
    shutil.rmtree(folder / "lmdb")
    processes = [_start(folder, _BUILD) for _ in range(2)]
    ended = [_end(process) for process in processes]
    for one in ended:
        if reason := wrong(one, (0, 1)):
            return reason, ""
    if sorted(one.status or 0 for one in ended) != [0, 1]:
        return f"ended with {[one.status for one in ended]}", ""
    said = next(one.text for one in ended if one.status == 1)
    if "another build writes there" not in said and "exists; --force replaces it" not in said:
        return f"the loser said: {said[-160:]}", ""
    with LmdbReader(folder / "lmdb" / "digits_train") as reader:
        if len(list(reader)) != 1437:
            return "the database is not whole", ""
    if left := list(folder.glob("lmdb/.*")):
        return f"left behind: {left[0].name}", ""
    return "", "told of the other" if "another build" in said else "told that it exists"


def _two_trainings(folder: Path, rng: random.Random, digests: tuple[str, ...]) -> tuple[str, str]:
    first = _start(folder, _TRAIN)
    time.sleep(rng.uniform(0, 1))
    second = _start(folder, _TRAIN)
    ended = [_end(first), _end(second)]
    for one in ended:
        if reason := wrong(one, (0, 1)):
            return reason, ""
    if _digests(folder) != digests:
        return "another result", ""
    refused = [one for one in ended if one.status == 1]
    if any("another training writes there" not in one.text for one in refused):
        return f"the loser said: {refused[0].text[-160:]}", ""
    return "", "one refused" if len(refused) == 1 else "one after the other"
