"""Terminals that go away, streams that take nothing, signals: commands end as they should."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest
from test_bad_input import Folder

from converters.command_line import streams
from converters.command_line.program import run_guarded
from converters.errors import NetError, OutputError
from converters.reporting import Reporter, escaped, readable
from gmnet_pt.log.caffe_log import CaffeLog
from gmnet_pt.log.events import Event, Message, Snapshot, Stop
from gmnet_pt.log.open_log import Logs
from gmnet_pt.log.training_log import TrainingLog
from gmnet_pt.solver.solver import Solver
from gmnet_pt.train import main as train_main

ROOT = Path(__file__).parents[1]
MODULES = [
    "converters",
    "prototxt_gen",
    "gmnet_pt",
    "gmnet_pt.console",
    "gmnet_pt.train",
    "gmnet_pt.test",
    "gmnet_pt.time",
    "gmnet_pt.classify",
    "gmnet_pt.features",
    "gmnet_pt.plot",
    "gmnet_pt.demo",
    "gmnet_pt.reproduce",
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(
    *arguments: str,
    cwd: Path,
    stdout: int | IO[bytes] = subprocess.PIPE,
    environment: Mapping[str, str] = ENVIRONMENT,
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """`python -m` with these arguments."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=dict(environment),
        preexec_fn=before,
        timeout=120,
    )


# ---------------------------------------------------------------- stdout


LISTS = [("prototxt_gen", "list"), ("converters", "--help"), ("gmnet_pt.demo", "--help")]


@pytest.mark.parametrize("arguments", LISTS, ids=" ".join)
def test_a_stdout_that_takes_nothing_is_one_error(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with open("/dev/full", "wb") as full:
        done = run(*arguments, cwd=tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"error: stdout: cannot be written: No space left on device\n"
    done = run(*arguments, cwd=tmp_path, before=lambda: os.close(1))
    assert done.returncode == 1
    assert done.stderr == b"error: stdout: cannot be written: Bad file descriptor\n"


@pytest.mark.parametrize("arguments", [("prototxt_gen", "list"), ("converters", "layers")])
def test_a_reader_that_has_seen_enough_ends_it_quietly(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        done = run(*arguments, cwd=tmp_path, stdout=pipe)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_character_that_stdout_lacks_is_replaced(tmp_path: Path) -> None:
    """The summary of a net has ×; in the second surroundings ASCII is all that there is."""
    net = 'input: "d\u00e9" input_shape { dim: 1 dim: 2 }\n'
    net += 'layer { name: "\u4e2d" type: "ReLU" bottom: "d\u00e9" top: "r" }'
    (tmp_path / "net.prototxt").write_text(net, encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for extra in ({"PYTHONIOENCODING": "ascii"}, plain, {"PYTHONIOENCODING": "latin-1:strict"}):
        done = run(
            "converters", "summary", "net.prototxt", cwd=tmp_path, environment=ENVIRONMENT | extra
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\\u4e2d" in done.stdout


def test_a_file_opened_later_does_not_become_stdout(tmp_path: Path) -> None:
    """With stdout and stderr closed a file would get their numbers, and what libraries print."""

    def close() -> None:
        for number in (0, 1, 2):
            os.close(number)

    script = "from converters.command_line import starting; starting.begin()\n"
    script += "with open('file', 'w') as file: file.write(str(file.fileno()))"
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, preexec_fn=close).returncode == 0
    assert (tmp_path / "file").read_text() == "3"


def test_what_stderr_cannot_take_does_not_end_a_command(tmp_path: Path) -> None:
    """Notes go nowhere; the result is there."""
    command = [sys.executable, "-m", "prototxt_gen", "bua", "--dataset", "digits", "--out", "made"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, stderr=full)
    assert done.returncode == 0


def test_a_shielded_stream_drops_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        monkeypatch.setattr(sys, "__stderr__", full)
        with streams.shielded():
            shown = sys.stderr
            assert streams.failure(shown) is None
            print("x" * 100_000, file=shown)
            failed = streams.failure(shown)
            assert failed is not None
            assert failed.strerror == "No space left on device"
        assert sys.stderr is full
        assert streams.failure(full) is None


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\n b\t c", "a b c"),
        ("\x9b31m \u202e \x07", "\\x9b31m \\u202e \\x07"),
        ("n\u00e4me \u4e2d", "n\u00e4me \u4e2d"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert readable(text) == shown


@pytest.mark.parametrize("one", ["x", "\x1b", "\u202e "])
def test_a_long_error_keeps_its_place_and_its_reason(one: str) -> None:
    text = readable(f"net.prototxt: layer {one * 1_000_000}: is unknown")
    assert len(text) <= 2000
    assert text.startswith("net.prototxt: layer ")
    assert " … " in text
    assert text.endswith(": is unknown")


def test_an_error_is_one_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise NetError('net: layer "\x1b[31m": ' + "y" * 5000)

    assert run_guarded(fail) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: net: layer "\\x1b[31m": y')
    assert len(line) < 2100


def test_log_lines_show_control_characters_escaped(tmp_path: Path) -> None:
    stream = io.StringIO()
    CaffeLog(stream).show(Message("\x1b[31m" + "z" * 5000 + "\nnext\tone"))
    first, second = stream.getvalue().splitlines()
    assert "] \\x1b[31mzzz" in first
    assert len(first) == 2000
    assert second == "next\tone"
    with CaffeLog(tmp_path / "train.log") as log:
        log.show(Message("\x1b" + "z" * 5000))
    assert "\\x1b" + "z" * 5000 in (tmp_path / "train.log").read_text()
    assert escaped("a\nb", keep="\n") == "a\nb"


# ---------------------------------------------------------------- the logs of a run


class Kept(TrainingLog):
    """Keeps what it is shown, or fails from event number `limit` on."""

    def __init__(self, error: Exception | None = None, limit: int = 0) -> None:
        self.seen: list[Event] = []
        self.error, self.limit, self.closed = error, limit, 0

    def show(self, event: Event) -> None:
        if self.error is not None and len(self.seen) >= self.limit:
            raise self.error
        self.seen.append(event)

    def close(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OutputError("stderr: cannot be written: Input/output error"),
        OSError(5, "Input/output error"),
        BrokenPipeError(32, "Broken pipe"),
        ValueError("I/O operation on closed file"),
        UnicodeEncodeError("ascii", "×", 0, 1, "ordinal not in range"),
        RuntimeError("a writer's thread ended"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_log_that_fails_is_left_out_with_one_note(error: Exception) -> None:
    bad, good, also = Kept(error, limit=1), Kept(), Kept()
    with Logs([bad], [good, also]) as logs:
        for _ in range(3):
            logs.show(Stop())
    assert bad.seen == [Stop()]
    assert bad.closed == 1
    for log in (good, also):
        notes = [event for event in log.seen if isinstance(event, Message)]
        assert [note.severity for note in notes] == ["W"]
        assert str(error).strip()[:8] in notes[0].text
        assert log.seen.count(Stop()) == 3
        assert log.closed == 1


def test_a_run_whose_logs_all_fail_goes_on() -> None:
    with Logs([Kept(OSError("no"))], [Kept(OutputError("neither")), Kept(OSError("nor"))]) as logs:
        logs.show(Stop())
        logs.show(Stop())
    with pytest.raises(NetError), Logs([], [Kept(OSError("no"))]):
        raise NetError("an error is not hidden by a log's")


def test_a_snapshot_is_there_before_it_is_told(folder: Folder) -> None:
    told = []

    def show(event: Event) -> None:
        if isinstance(event, Snapshot):
            told.append(Path(event.state).is_file() and Path(event.model).is_file())

    with Solver("solver.prototxt", device="cpu", show=show) as solver:
        solver.solve()
    assert told
    assert all(told)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


# ---------------------------------------------------------------- a terminal that goes away


def own_terminal() -> None:
    """In the child: its stdin is the terminal that controls it."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("log", ["caffe", "bar"])
def test_training_goes_on_when_its_terminal_is_gone(folder: Folder, log: str) -> None:
    """The terminal's end is SIGHUP, and every later line EIO: a snapshot at once, then the rest."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # a bar has a width
    settings = ["max_iter=1000", "snapshot=1000", "display=1", "snapshot_prefix=out/s"]
    command = [sys.executable, "-m", "gmnet_pt.train", "solver.prototxt", "--device", "cpu"]
    options = ["--log", log, *(word for one in settings for word in ("--set", one))]
    process = subprocess.Popen(
        [*command, *options],
        cwd=folder.path,
        env=ENVIRONMENT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=own_terminal,
    )
    os.close(slave)
    record = folder.path / "out" / "train.jsonl"
    read_until(master, lambda seen: record.exists() and '"Display"' in record.read_text())
    os.close(master)
    assert process.wait(120) == 0
    saved = sorted(path.name for path in folder.path.glob("out/*.solverstate"))
    assert len(saved) == 2, saved
    assert "s_iter_1000.solverstate" in saved
    lines = (folder.path / "out" / "train.log").read_text().splitlines()
    assert sum("stderr: cannot be written: Input/output error" in line for line in lines) == 1
    assert lines[-1].endswith("] Optimization Done.")


def read_until(master: int, seen_enough: Callable[[bytes], bool]) -> None:
    """Read the terminal until `seen_enough`."""
    seen = b""
    for _ in range(100_000):
        seen += os.read(master, 4096)
        if seen_enough(seen):
            return


class Screen:
    """A pseudo-terminal of a width, and what was written to it."""

    def __init__(self, columns: int) -> None:
        self.master, self.slave = pty.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
        self.written = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the other end was closed
            while data := os.read(self.master, 4096):
                self.written += data

    def lines(self) -> list[list[str]]:
        """The lines, each as what stood in it in turn."""
        os.close(self.slave)
        self._reader.join()
        os.close(self.master)
        text = self.written.decode().replace("\r\n", "\n")
        return [line.split("\r") for line in text.split("\n")]


@pytest.mark.parametrize(("columns", "encoding"), [(80, "utf-8"), (200, "utf-8"), (80, "ascii")])
def test_a_training_in_a_terminal(
    columns: int, encoding: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line has the bar's states or a word of news, whole, and nothing of the other."""
    screen = Screen(columns)
    extra = "test_iter: 2 test_interval: 50 snapshot: 100"
    folder.write_solver(prefix="out/s", max_iter=150, extra=extra)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    check = Solver.check_data

    def warning(self: Solver, reporter: Reporter) -> None:
        check(self, reporter)
        warnings.warn("a library's word", UserWarning, stacklevel=1)

    monkeypatch.setattr(Solver, "check_data", warning)
    with open(
        screen.slave, "w", encoding=encoding, errors="backslashreplace", closefd=False
    ) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        try:
            assert train_main(["solver.prototxt", "--device", "cpu"]) == 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    lines = screen.lines()
    shown = [state for line in lines for state in line if state.strip()]
    bars = [state for state in shown if state.startswith("small: ")]
    news = [state for state in shown if state not in bars]
    assert all(len(state) <= columns - 3 for state in bars)
    for bar in bars:
        match = re.fullmatch(r"small: +\d+%\|(.*)\| \d+/150(?: \[.*\])? *", bar)
        assert match is not None, bar
        assert len(match[1]) >= 12
        assert encoding != "ascii" or set(match[1]) <= set(" #0123456789")
    assert "150/150" in bars[-1] and "test loss=" in bars[-1] and "loss=" in bars[-1]
    assert any(" left" in bar for bar in bars)
    assert ("iter/s" in bars[-1]) == (columns == 200)
    for wanted in (
        "Use CPU.",
        "UserWarning: a library's word",
        "snapshot: out/s_iter_100.caffemodel, out/s_iter_100.solverstate",
        "done",
    ):
        assert news.count(wanted) == 1, news
    assert sum(one.startswith("iteration 50, test: loss ") for one in news) == 1
    # The bar's last state stays, in a line of its own.
    assert any(line[-1].startswith("small: 100%") for line in lines)


def test_ctrl_c_in_a_terminal_saves_and_says_how_to_go_on(folder: Folder) -> None:
    """As typed there; the ^C that the terminal shows is the end of a line of the bar."""
    screen = Screen(80)
    folder.write_solver(prefix="out/s", max_iter=10**9)
    command = [sys.executable, "-m", "gmnet_pt.train", "solver.prototxt", "--device", "cpu"]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), screen.slave)
    process = subprocess.Popen(
        command, cwd=folder.path, env=ENVIRONMENT, preexec_fn=own_terminal, **streams
    )
    deadline = time.monotonic() + 100
    while b"loss=" not in screen.written:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.write(screen.master, b"\x03")
    assert process.wait(100) == 130
    lines = screen.lines()
    *_, told, end = (line[-1] for line in lines)
    assert end == ""
    (state,) = (path.relative_to(folder.path) for path in folder.path.glob("out/*.solverstate"))
    assert told == (
        f"To go on: python -m gmnet_pt.train solver.prototxt --device cpu --snapshot {state}"
    )
    words = [line[-1] for line in lines]
    assert "stopped early" in words
    assert all(len(state) <= 80 - 3 + len("^C") for line in lines[:-2] for state in line)


@pytest.mark.long
def test_full_disks_under_the_logs_do_not_end_a_training(folder: Folder) -> None:
    (folder.path / "out").mkdir()
    (folder.path / "out" / "train.log").symlink_to("/dev/full")
    command = [sys.executable, "-m", "gmnet_pt.train", "solver.prototxt", "--device", "cpu"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=folder.path, env=ENVIRONMENT, stderr=full)
    assert done.returncode == 0
    assert list(folder.path.glob("out/*.solverstate"))
    record = (folder.path / "out" / "train.jsonl").read_text()
    assert record.count("nothing more is written there") == 2
    (folder.path / "out" / "train.jsonl").unlink()
    (folder.path / "out" / "train.jsonl").symlink_to("/dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=folder.path, env=ENVIRONMENT, stderr=full)
    assert done.returncode == 0


# ---------------------------------------------------------------- two trainings


def test_a_second_training_into_one_prefix_is_refused(folder: Folder) -> None:
    """Before it writes a byte, and only while the first one lives."""
    command = [sys.executable, "-m", "gmnet_pt.train", "solver.prototxt", "--device", "cpu"]
    options = ["--set", "snapshot_prefix=out/s", "--set", "max_iter=1000000", "--set", "display=1"]
    first = subprocess.Popen(
        [*command, *options], cwd=folder.path, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    log, record = folder.path / "out" / "train.log", folder.path / "out" / "train.jsonl"
    deadline = time.monotonic() + 60
    while not (record.exists() and '"Display"' in record.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)
    before = log.read_bytes()
    second = subprocess.run([*command, *options], cwd=folder.path, env=ENVIRONMENT, stderr=-1)
    assert second.returncode == 1
    assert second.stderr.decode() == (
        f"error: out/s: another training writes there (process {first.pid}); let it end, stop it, "
        "or give another prefix: --set snapshot_prefix=PREFIX\n"
    )
    assert log.read_bytes() == before
    with Solver("solver.prototxt", device="cpu", overrides=["snapshot_prefix=out/s"]) as solver:
        solver.step(1)  # takes no lock
        for refused in (solver.solve, solver.snapshot):
            with pytest.raises(OutputError, match="another training writes there"):
                refused()
    first.kill()
    first.wait()
    with Solver("solver.prototxt", device="cpu", overrides=["snapshot_prefix=out/s"]) as solver:
        assert solver.solve()
        assert solver.snapshot().is_file()


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("module", MODULES)
def test_ctrl_c_during_imports_is_one_word(module: str, tmp_path: Path) -> None:
    """The first module that any of them imports after its first lines waits for the signal here."""
    (tmp_path / "argparse.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, b"interrupted\n")


@pytest.mark.parametrize("module", MODULES)
def test_a_deleted_working_directory_is_one_word(module: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f'cd "{gone}" && rmdir "{gone}" && exec "{sys.executable}" -m {module} --help'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the working directory cannot be used")
    assert done.stderr.count("\n") == 1


BUILD = """
import sys, time
from converters.command_line.program import run_guarded
from converters.records.lmdb_writer import create_lmdb
def main():
    with create_lmdb("made/db") as writer:
        for number in range(10**8):
            writer.put(b"%012d" % number, b"record")
            if number == 5000:
                print("begun", flush=True)
    return 0
sys.exit(run_guarded(main))
"""


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [
        (signal.SIGTERM, 143, b"terminated\n"),
        (signal.SIGHUP, 129, b"terminated\n"),
        (signal.SIGINT, 130, b"interrupted\n"),
    ],
)
def test_a_build_that_is_ended_leaves_nothing(
    number: signal.Signals, status: int, word: bytes, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (status, word)
    assert [path.name for path in tmp_path.rglob("*") if path.name != "made"] == []
