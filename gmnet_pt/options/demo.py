"""`gmnet demo`: train a small GM-Net on scikit-learn's handwritten digits, without any download.

It builds lmdb/digits_train and lmdb/digits_test if they are absent, generates the net and its
solver, trains on the CPU for two minutes, and tells the test accuracy. It takes train's options.
"""

from __future__ import annotations

from converters.command_line.parser import CommandParser
from gmnet_pt.options.train import EXIT_STATUS, configure_run

__all__ = ["EXIT_STATUS", "configure"]


def configure(parser: CommandParser) -> None:
    """Declare what a training takes, with the demo's own defaults."""
    configure_run(parser)
    # A memory format that is fixed: the same numbers on every machine.
    parser.set_defaults(device="cpu", layout="channels_last")
