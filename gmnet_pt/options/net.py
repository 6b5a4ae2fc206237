"""The options that commands on a net share: which file, which device, how many threads.

Caffe's own are among them: `--model` for the net and `--gpu` for the device. Source: Caffe
tools/caffe.cpp.
"""

from __future__ import annotations

import argparse
import shlex
from functools import partial

from converters.command_line.net_options import add_python_option
from converters.command_line.parser import CommandParser
from converters.command_line.program import positive
from converters.errors import SolverError

ALL = "all"


def add_net(parser: CommandParser, about: str) -> None:
    """Declare the net, in first place or as Caffe's --model."""
    net = parser.add_mutually_exclusive_group(required=True)
    net.add_argument("net", metavar="NET", nargs="?", default=argparse.SUPPRESS, help=about)
    net.add_argument("--model", dest="net", metavar="NET", help="the same, as Caffe has it")


def add_options(parser: CommandParser) -> None:
    """Declare where the net runs, and what it may run."""
    add_device_options(parser, "default: the GPU if there is one")
    add_threads_option(parser)
    add_python_option(parser)


def add_device_options(parser: CommandParser, otherwise: str, trains: bool = False) -> None:
    """Declare --device and Caffe's --gpu; only what `trains` runs on several."""
    add = parser.add_mutually_exclusive_group().add_argument
    add("--device", help=f"cpu, cuda or cuda:N; {otherwise}")
    about = "as --device cuda:N; several, or all, are several processes" if trains else "cuda:N"
    add("--gpu", dest="gpus", type=_gpus, metavar="N", help=about)
    parser.afterwards(partial(_choose_gpu, parser, trains))


def _gpus(text: str) -> str:
    if text != ALL and not all(number.isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: use a GPU's number, several as 0,1, or {ALL}")
    return text


def _choose_gpu(parser: CommandParser, trains: bool, args: argparse.Namespace) -> None:
    """Make a --device of --gpu.

    Raises:
        SolverError: it names several; the line that runs as many processes, where there can be.
    """
    gpus = args.gpus
    del args.gpus
    if gpus is None:
        return
    if gpus.isdecimal():
        args.device = f"cuda:{int(gpus)}"
        return
    if not trains:
        raise SolverError(f"--gpu {gpus}: runs on one GPU, as with --gpu 0; only train on several")
    number = "gpu" if gpus == ALL else str(len(gpus.split(",")))
    visible = "" if gpus == ALL else f"CUDA_VISIBLE_DEVICES={gpus} "
    rest = shlex.join(["--", *_without_gpu(parser.given), "--device", "cuda"])
    raise SolverError(
        f"--gpu {gpus}: several GPUs are a process each, which torchrun starts: "
        f"{visible}torchrun --nproc-per-node {number} -m gmnet_pt.train {rest}"
    )


def _without_gpu(arguments: list[str]) -> list[str]:
    kept, words = [], iter(arguments)
    for word in words:
        if word == "--gpu":
            next(words)
        elif not word.startswith("--gpu="):
            kept.append(word)
    return kept


def add_threads_option(parser: argparse.ArgumentParser) -> None:
    """Declare --threads."""
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads to compute with (default: one a core)",
    )
