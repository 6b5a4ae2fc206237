"""`gmnet train`, `python -m gmnet_pt.train`: train a net; `gmnet_pt.options.train` has the options.

SIGINT and SIGTERM stop between two iterations, after a snapshot; a second SIGINT ends at once.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TextIO

from converters.command_line.net_options import parse_shapes
from converters.command_line.parser import CommandParser
from converters.command_line.program import run_program
from converters.command_line.progress import TerminalReporter
from converters.net.failures import explained
from converters.prototxt.text import to_text
from converters.raw_text import file_name
from gmnet_pt.log.events import Event, Message
from gmnet_pt.log.open_log import Logs, open_log
from gmnet_pt.log.provenance import describe_run
from gmnet_pt.log.training_log import TrainingLog
from gmnet_pt.net_command import use_threads
from gmnet_pt.options import train as options
from gmnet_pt.solver.choices import Request
from gmnet_pt.solver.device import as_run, choose_device
from gmnet_pt.solver.processes import Processes, joined, own_device
from gmnet_pt.solver.snapshot import newest, sole_writer
from gmnet_pt.solver.solver import Solver
from gmnet_pt.solver.solver_file import SolverChoice


class Signals:
    """Turns signals into requests that the solver answers between two iterations.

    SIGTERM stops; SIGINT and SIGHUP do what they are told to. A second SIGINT interrupts at once.
    """

    def __init__(self, on_interrupt: Request, on_hangup: Request) -> None:
        self._effects = {
            signal.SIGINT: on_interrupt,
            signal.SIGHUP: on_hangup,
            signal.SIGTERM: Request.STOP,
        }
        self._pending = Request.NONE
        self.received: int | None = None
        for number in self._effects:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == number:
            raise KeyboardInterrupt
        effect = self._effects[signal.Signals(number)]
        if effect is Request.STOP:
            self.received = number
        if effect is not Request.NONE and self._pending is not Request.STOP:
            self._pending = effect

    def __call__(self) -> Request:
        """The request since the last call."""
        pending, self._pending = self._pending, Request.NONE
        return pending


def solver_choice(args: argparse.Namespace) -> SolverChoice:
    """The run that the command line asks for, on the device of this process."""
    overrides = list(args.set)
    if args.max_iter is not None:
        overrides.append(f"max_iter={args.max_iter}")
    choice = SolverChoice(
        args.path,
        weights=args.weights,
        snapshot=args.snapshot,
        device=args.device,
        solver=args.solver,
        overrides=overrides,
        epochs=args.epochs,
        input_shapes=parse_shapes(args.input_shape),
        level=args.level,
        stages=args.stage,
        strict=args.strict,
        precision=args.precision,
        compile=args.compile,
        capture=args.capture == "on",
        layout=args.layout,
        data_memory=args.data_memory,
        allow_python_layers=args.allow_python_layers,
    )
    device = own_device(choice.file.param, args.device)
    return choice if device == args.device else replace(choice, device=device)


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit status. The log holds whatever went wrong once it has a folder."""
    signals = Signals(Request(args.sigint_effect), Request(args.sighup_effect))
    with joined() as processes:
        return explained(partial(_train, args, signals, processes))


def _train(args: argparse.Namespace, signals: Signals, processes: Processes) -> int:
    use_threads(args.threads)
    choice = solver_choice(args)
    param = choice.file.param
    prefix = file_name(param.snapshot_prefix)
    folder = Path(prefix).parent
    with sole_writer(prefix):  # before the log: it would be written into the other's
        notes: list[str] = []
        if args.resume:
            choice = _resumed(choice, prefix, processes, notes)
        with (
            open_log(args.log, folder, args.tensorboard, _continues(choice, folder))
            if processes.leads
            else Logs([]) as log,
            _warnings_told(log.show),
        ):
            device, _ = choose_device(param, choice.device)
            log.show(describe_run(to_text(as_run(param, device)), str(device), args.precision))
            if args.precision != "fp32":
                notes.append(f"Precision {args.precision}: faster, and no longer Caffe's numbers.")
            if processes.count > 1:
                notes.append(f"{processes.count} processes: gradients are averaged over them.")
            for note in notes:
                log.show(Message(note))
            with Solver(choice, show=log.show) as solver:
                try:
                    finished = solver.solve(signals, TerminalReporter())
                except KeyboardInterrupt:
                    _tell_how_to_resume(log, args, solver)
                    raise
                if not finished:
                    _tell_how_to_resume(log, args, solver)
    if finished:
        return 0
    return 128 + (processes.largest(signals.received or 0) or signal.SIGINT)


def _resumed(
    choice: SolverChoice, prefix: str, processes: Processes, notes: list[str]
) -> SolverChoice:
    """The run from the newest whole snapshot of `prefix`; from its beginning where there is none.

    All processes take what the first finds. `notes` gets what there is to say.
    """
    found, told = processes.gather((newest(prefix, notes.append), tuple(notes)))[0]
    notes[:] = told
    if found is None:
        notes.append(f"--resume: {prefix} has no whole snapshot; the run starts anew.")
        return choice
    return replace(choice, snapshot=found, weights=None)


def _continues(choice: SolverChoice, folder: Path) -> bool:
    """Whether the run goes on with one whose logs lie in `folder`."""
    if choice.snapshot is None:
        return False
    return Path(choice.snapshot).parent.resolve() == folder.resolve()


@contextmanager
def _warnings_told(show: Callable[[Event], None]) -> Iterator[None]:
    """Have what libraries warn of in the logs, and not glued to a bar."""

    def told(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        show(Message(f"{category.__name__}: {message}", f"{Path(filename).name}:{lineno}", "W"))

    with warnings.catch_warnings():
        warnings.showwarning = told
        yield


def _tell_how_to_resume(log: TrainingLog, args: argparse.Namespace, solver: Solver) -> None:
    if solver.last_snapshot is not None:
        command = resuming_command(args, solver.last_snapshot, solver.processes.count)
        log.show(Message(f"To go on: {command}"))


def resuming_command(args: argparse.Namespace, snapshot: Path, processes: int = 1) -> str:
    """The command line that goes on from `snapshot` with all other options as they were given."""
    parser = CommandParser()
    options.configure(parser)
    words: list[str] = []
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if value == action.default or action.dest in ("weights", "snapshot", "resume"):
            continue
        flag = next((name for name in action.option_strings if name.startswith("--")), None)
        for one in value if isinstance(value, list) else [value]:
            words += [] if flag is None else [flag]
            words += [] if one is True else [str(one)]
    words += ["--snapshot", str(snapshot)]
    if processes > 1:
        start = f"torchrun --nproc-per-node {processes} -m gmnet_pt.train --"
    else:
        by_script = Path(sys.argv[0]).name == "gmnet"
        start = "gmnet train" if by_script else "python -m gmnet_pt.train"
    return f"{start} {shlex.join(words)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and train."""
    return run_program(
        "gmnet_pt.train", options.__doc__, options.configure, run, argv, options.EXIT_STATUS
    )


if __name__ == "__main__":
    sys.exit(main())
