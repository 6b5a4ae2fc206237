"""`gmnet audit`: each variant's parameters, depth and multiply-adds beside the paper's Table 1."""

from __future__ import annotations

import argparse

from converters.command_line.parser import CommandParser
from prototxt_gen.audit import audit


def configure(parser: CommandParser) -> None:
    """There is nothing to choose."""


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    print(audit())
    return 0
