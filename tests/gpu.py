"""`python -m tests.gpu [PART …] --out FOLDER`: everything that waits for a GPU, in one call.

Each part goes on after a failure and has a time of its own; what children print is in log.txt, the
table in report.txt and report.json. Exit status 1 if anything failed. No part needs a network.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from converters.command_line.table import aligned
from converters.formats.caffemodel import read_caffemodel
from converters.records.datum import encode_datum
from converters.records.lmdb_writer import create_lmdb

ROOT = Path(__file__).parents[1]
MACHINE = """
import platform, torch
print("Python", platform.python_version(), "torch", torch.__version__, "on", DEVICE)
print(torch.cuda.get_device_name() if DEVICE == "cuda" else "a trial of this program itself")
print(float(torch.ones(3, device=DEVICE).sum()))
"""


class Finding(NamedTuple):
    """A line of the table; `good` is None where nothing was promised."""

    what: str
    found: str
    good: bool | None = None


class Done(NamedTuple):
    """How a child ended: status None if its time was up; all that it printed."""

    status: int | None
    seconds: float
    output: str

    @property
    def last(self) -> str:
        """The last line, or that the time was up."""
        lines = self.output.strip().splitlines() or ["(nothing printed)"]
        return f"{lines[-1][:160]}{'' if self.status is not None else ' … its time was up'}"


class Call:
    """One call of this program: its folders, its device, and the time that is left."""

    def __init__(self, out: Path, scratch: Path, args: argparse.Namespace) -> None:
        self.out, self.scratch, self.device = out, scratch, args.device
        self.images, self.width = args.images, args.width
        self._end = time.monotonic() + args.seconds
        self.log = out / "log.txt"

    def child(
        self, limit: float, *arguments: str, environment: dict[str, str] | None = None
    ) -> Done:
        """Run `python -m …` in the scratch folder, for `limit` seconds or what is left."""
        start = time.monotonic()
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        given = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})}
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.scratch,
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=max(1, min(limit, self._end - start)))
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            # Its own children too.
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            status = None
        done = Done(status, time.monotonic() - start, output)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(
                f"$ python {' '.join(arguments)}\n{output}\n[{status}, {done.seconds:.1f} s]\n\n"
            )
        return done


def machine(call: Call) -> Iterator[Finding]:
    """Python, torch, the device."""
    done = call.child(60, "-c", MACHINE.replace("DEVICE", repr(call.device)))
    yield Finding("machine", " ".join(done.output.split("\n")[:2]) or done.last, done.status == 0)


def tests(call: Call) -> Iterator[Finding]:
    """The tests marked gpu: goldens, captured and not, random numbers, waiting, resume, demo."""
    marked = [str(f) for f in sorted(Path(__file__).parent.glob("test_*.py")) if _is_marked(f)]
    options = ("-m", "gpu", "-rf", "--durations=8", "-p", "no:cacheprovider", f"--rootdir={ROOT}")
    done = call.child(210, "-m", "pytest", *options, *marked)
    yield Finding("tests marked gpu", done.last, done.status == 0 and "passed" in done.last)
    failed = [line for line in done.output.splitlines() if line.startswith("FAILED")]
    yield from (Finding("", line[:160], False) for line in failed[:20])


def _is_marked(file: Path) -> bool:
    return "pytest.mark.gpu" in file.read_text(encoding="utf-8")


# Training through the command ---------------------------------------------------------------------


class Trained(NamedTuple):
    """What a run's record says: seconds an iteration without the first ones, a test's, scores."""

    iteration: float
    test: float
    loss: float
    accuracy: float


def train(call: Call, name: str, limit: float, *options: str, batch: int = 64) -> Done:
    """A run of bua on the synthetic CIFAR-10, into runs/NAME of the scratch folder."""
    net = _net(call, batch)
    prefix = f"snapshot_prefix=runs/{name}/bua"
    options = ("--device", call.device, "--log", "caffe", "--set", prefix, *options)
    return call.child(limit, "-m", "gmnet_pt.train", net, *options)


def _set(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def _net(call: Call, batch: int) -> str:
    """The net for batches of this size, generated once, on a data set made once."""
    folder = f"nets{batch}"
    if not (call.scratch / "lmdb").exists():
        _make_cifar(call.scratch / "lmdb", call.images)
    if not (call.scratch / folder).exists():
        chosen = ("bua", "--dataset", "cifar10", "--out", folder, "--batch", str(batch))
        plain = ("--width", str(call.width), "--random-seed", "1")
        mean = ("--moving-average-fraction", "0.9")
        done = call.child(60, "-m", "prototxt_gen", *chosen, *plain, *mean)
        if done.status != 0:
            raise RuntimeError(f"prototxt_gen: {done.last}")
    return str(next((call.scratch / folder).rglob("net.prototxt")))


def _make_cifar(folder: Path, images: int) -> None:
    """Ten classes of 32×32 pictures, each a pattern of its own under noise; a fifth for tests."""
    random = np.random.default_rng(0)
    patterns = random.normal(0, 40, (10, 3, 8, 8)).repeat(4, axis=2).repeat(4, axis=3)
    folder.mkdir()
    for name, count in (("cifar10_train", images), ("cifar10_test", images // 5)):
        labels = random.integers(0, 10, count)
        with create_lmdb(folder / name) as writer:
            for start in range(0, count, 1000):
                some = labels[start : start + 1000]
                noise = random.normal(128, 50, (len(some), 3, 32, 32))
                pixels = (patterns[some] + noise).clip(0, 255).astype(np.uint8)
                for place, (image, label) in enumerate(zip(pixels, some), start):
                    writer.put(b"%08d" % place, encode_datum(image, int(label)))


def _trained(call: Call, name: str) -> Trained:
    """Read a run's train.jsonl; iterations are timed from the first display behind the 100th."""
    lines = (call.scratch / "runs" / name / "train.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    shown = [e for e in events if e["event"] == "Display" and e["speed"] is not None]
    last = len(shown) - 1
    first = min(last - 1, next((i for i, e in enumerate(shown) if e["iteration"] >= 100), 0))
    iterations: int = shown[last]["iteration"] - shown[first]["iteration"]
    test = next(e for e in reversed(events) if e["event"] == "Scores")
    begun = next(e for e in reversed(events) if e["event"] == "Evaluation")
    accuracy = next(o["value"] for o in test["outputs"] if o["name"] == "accuracy")
    return Trained(
        (shown[last]["time"] - shown[first]["time"]) / iterations,
        test["time"] - begun["time"],
        shown[last]["loss"],
        accuracy,
    )


EPOCHS = (
    # precision, batch, further options
    ("fp32", 64, ()),
    ("tf32", 64, ()),
    ("bf16", 64, ()),
    ("bf16", 64, ("--capture", "off")),
    ("bf16", 512, ("--data-memory", "0")),
    ("bf16", 512, ()),
    ("bf16", 512, ("--compile",)),
)


def epochs(call: Call) -> Iterator[Finding]:
    """An epoch of synthetic CIFAR-10 in each precision and some ways; 300 epochs from it."""
    for number, (precision, batch, options) in enumerate(EPOCHS):
        name = f"epoch{number}"
        what = f"an epoch, {' '.join((precision, f'batch {batch}', *options))}"
        rounds = -(-call.images // batch)
        settings = (
            f"max_iter={rounds}",
            f"test_interval={rounds}",
            f"test_iter={call.images // 500}",
            f"display={max(1, rounds // 40)}",
            "snapshot=0",
            "snapshot_after_train=false",
        )
        given = ("--precision", precision, *options, *_set(settings))
        done = train(call, name, 120 if "--compile" in options else 45, *given, batch=batch)
        if done.status != 0:
            yield Finding(what, done.last, False)
            continue
        run = _trained(call, name)
        minutes = 300 * (rounds * run.iteration + run.test) / 60
        good = bool(np.isfinite(run.loss)) and run.accuracy > 0.5
        yield Finding(
            what,
            f"{1000 * run.iteration:.2f} ms an iteration, {batch / run.iteration:,.0f} images/s, "
            f"{done.seconds:.0f} s in all, a test {run.test:.2f} s, loss {run.loss:.3f}, accuracy "
            f"{run.accuracy:.3f}; 300 epochs: {minutes:.1f} min",
            good,
        )


def resume(call: Call) -> Iterator[Finding]:
    """A run of 30 iterations, the same again, and its second half from a snapshot.

    The step between them, as parts of the way that the weights went: a wrong mask or batch is near
    1, and two equal runs differ by the order in which a GPU adds.
    """
    settings = ("base_lr=0.001", "snapshot=15", "max_iter=30", "display=5", "test_interval=1000")
    options = _set(settings)
    states = {"again": None, "resumed": "runs/whole/bua_iter_15.solverstate"}
    for name, state in {"whole": None, **states}.items():
        given = ("--snapshot", state) if state else ()
        done = train(call, name, 60, *options, *given)
        if done.status != 0:
            yield Finding(f"resume: {name} run", done.last, False)
            return
    runs = call.scratch / "runs"
    half, whole = (_weights(runs / "whole" / f"bua_iter_{n}.caffemodel") for n in (15, 30))
    again, resumed = (_weights(runs / name / "bua_iter_30.caffemodel") for name in states)
    way = np.linalg.norm(whole - half)
    apart, due = (float(np.linalg.norm(x - whole) / way) for x in (resumed, again))
    shown = f"resumed and whole run {apart:.1e} of their way apart, two whole runs {due:.1e}"
    yield Finding("resume from a snapshot", shown, apart <= max(0.02, 3 * due) and due < 0.3)


def _weights(file: Path) -> np.ndarray:
    blobs = [blob for layer in read_caffemodel(file).layers for blob in layer.blobs]
    return np.concatenate([np.asarray(blob, np.float64).ravel() for blob in blobs])


def bench(call: Call) -> Iterator[Finding]:
    """Rows of `python -m bench` for this device, the most wanted first, each in its own process."""
    for row in ("bua-64-bf16", "bua-512-bf16", "bua-64-fp32"):
        file = call.out / f"bench-{row}.json"
        given = ("--device", call.device, "--out", str(file), "--budget", "5")
        done = call.child(120, "-m", "bench", f"cuda:{row}", *given)
        lines = [line for line in done.output.splitlines() if line.strip(" |-")]
        measured = [line for line in lines if "training step" in line]
        # A bound is a target here; what could not be measured is a failure.
        yield Finding(
            f"bench, {row}", " ".join((measured or [done.last])[-1].split()), bool(measured)
        )


PARTS: dict[str, Callable[[Call], Iterator[Finding]]] = {
    part.__name__: part for part in (machine, tests, resume, epochs, bench)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; 1 if a finding is not good."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    add("--out", type=Path, default=Path("build/gpu"), help="report and logs go there (build/gpu)")
    add("--seconds", type=float, default=460, help="for all parts together (460)")
    add("--device", default="cuda", help="cuda; cpu tries this program itself")
    add("--width", type=float, default=1.0, help="of the net that is trained (1)")
    add("--images", type=int, default=50_000, help="of the synthetic CIFAR-10 (50,000)")
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, float, Finding]] = []
    with tempfile.TemporaryDirectory(prefix="gpu") as scratch:
        call = Call(args.out.resolve(), Path(scratch), args)
        call.log.write_text("", encoding="utf-8")
        for name in args.parts or PARTS:
            start = time.monotonic()
            print(f"{name} …", flush=True)
            for finding in _guarded(call, PARTS[name]):
                found.append((name, time.monotonic() - start, finding))
                print(f"  {_row(*found[-1])[1:]}", flush=True)
            # Each time: whatever ends this program, what was found is there.
            _write(call.out, found)
    print(f"\n{_table(found)}")
    return 1 if any(finding.good is False for _, _, finding in found) else 0


def _guarded(call: Call, part: Callable[[Call], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a part, an exception of its own among them."""
    try:
        yield from part(call)
    except Exception as error:  # noqa: BLE001 (the other parts are to run)
        yield Finding(part.__name__, f"{type(error).__name__}: {error}", False)


def _row(part: str, seconds: float, finding: Finding) -> tuple[str, str, str, str, str]:
    verdict = {True: "good", False: "FAILED", None: ""}[finding.good]
    return part, f"{seconds:.0f} s", verdict, finding.what, finding.found


def _table(found: Sequence[tuple[str, float, Finding]]) -> str:
    head = ("part", "after", "", "what", "found")
    return "\n".join(aligned([head, *(_row(*one) for one in found)], right={1}, ruled=True))


def _write(out: Path, found: Sequence[tuple[str, float, Finding]]) -> None:
    (out / "report.txt").write_text(_table(found) + "\n", encoding="utf-8")
    rows = [{"part": part, "after": after, **one._asdict()} for part, after, one in found]
    (out / "report.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
