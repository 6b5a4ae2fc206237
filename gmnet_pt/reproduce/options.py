"""`gmnet reproduce`: train what the paper's tables and figures need, and report it.

Runs are resumed, finished ones are not repeated, and two of these commands at once share the work.
What is not given (`--source`) is missing in the report. Ctrl-C, SIGTERM and SIGHUP stop after a
snapshot.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from converters.command_line.parser import CommandParser
from gmnet_pt.reproduce.budgets import BUDGETS
from gmnet_pt.solver.choices import PRECISION_NAMES

EXIT_STATUS = (
    "exit status: 0 all that could be done is done, or the minutes are over; 1 a run failed, or "
    "another clear error; 2 wrong usage; 130 stopped by SIGINT, 143 by SIGTERM, 129 by SIGHUP"
)


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("--table", type=int, action="append", default=[], metavar="1|2|3", help="repeatable")
    add("--figure", type=int, action="append", default=[], metavar="3|4|5", help="repeatable")
    about = "; ".join(f"{budget.name}: {budget.about}" for budget in BUDGETS.values())
    add("--budget", default="full", metavar="|".join(BUDGETS), help=f"{about} (default: full)")
    add("--datasets", type=_words, metavar="D[,D2]", help="only these data sets")
    add("--seeds", type=_seeds, default=(1,), metavar="N[,N2]", help="a run each (default: 1)")
    add(
        "--source",
        type=_pair,
        action="append",
        default=[],
        metavar="D=PATH",
        help="a data set's archives, to build its databases from; repeatable",
    )
    add(
        "--substitute",
        type=_pair,
        action="append",
        default=[],
        metavar="D=D2",
        help="train on another data set than the paper's, which all labels then say; repeatable",
    )
    add("--device", help="cpu, cuda or cuda:N (default: the GPU if there is one)")
    add("--precision", choices=PRECISION_NAMES, default="fp32", help="fp32 follows Caffe")
    add("--minutes", type=_minutes, metavar="N", help="stop after so many, to go on another time")
    add("--retry", action="store_true", help="try failed runs again")
    add("--repeat", action="store_true", help="also do runs that results/ has from elsewhere")
    instead = parser.add_mutually_exclusive_group().add_argument
    instead("--list", action="store_true", help="show each run's state and the time left alone")
    instead(
        "--report", action="store_true", help="write the report of what is there; train nothing"
    )
    instead(
        "--page",
        type=Path,
        metavar="FILE.md",
        help="write all of results/ into a page between its marks; do nothing else",
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(",")))


def _seeds(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: use whole numbers with commas, as 1,2,3")
    return tuple(dict.fromkeys(map(int, words)))


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return minutes


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r}: use NAME=VALUE")
    return name, value
