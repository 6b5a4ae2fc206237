"""`gmnet train`, `python -m gmnet_pt.train`: train a net; `gmnet_pt.options.train` has the options.

SIGINT and SIGTERM stop between two iterations, after a snapshot; a second SIGINT ends at once.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from converters.command_line.program import run_program
from converters.net.failures import explained
from converters.prototxt.text import to_text
from converters.raw_text import file_name
from gmnet_pt.log.events import Message
from gmnet_pt.log.open_log import Logs, open_log
from gmnet_pt.log.provenance import describe_run
from gmnet_pt.net_command import use_threads
from gmnet_pt.options import train as options
from gmnet_pt.solver.choices import Request
from gmnet_pt.solver.device import choose_device
from gmnet_pt.solver.processes import Processes, joined, own_device
from gmnet_pt.solver.snapshot import sole_writer
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
    with (
        sole_writer(prefix),  # before the log: it would be written into the other's
        open_log(args.log, Path(prefix).parent, args.tensorboard)
        if processes.leads
        else Logs([]) as log,
    ):
        device, _ = choose_device(param, choice.device)
        log.show(describe_run(to_text(param), str(device), args.precision))
        if args.precision != "fp32":
            log.show(Message(f"Precision {args.precision}: faster, and no longer Caffe's numbers."))
        if processes.count > 1:
            log.show(Message(f"{processes.count} processes: gradients are averaged over them."))
        with Solver(choice, show=log.show) as solver:
            finished = solver.solve(signals)
    if finished:
        return 0
    return 128 + (processes.largest(signals.received or 0) or signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and train."""
    return run_program(
        "gmnet_pt.train", options.__doc__, options.configure, run, argv, options.EXIT_STATUS
    )


if __name__ == "__main__":
    sys.exit(main())
