"""`python -m converters mean LMDB OUT`: Caffe's compute_image_mean."""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.command_line.database_options import add_backend_option
from converters.command_line.progress import progress
from converters.records.lmdb_reader import LmdbReader
from converters.records.mean import mean_of, write_mean


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("lmdb", type=Path, metavar="LMDB")
    parser.add_argument(
        "out", type=Path, metavar="OUT", nargs="?", help="the .binaryproto to write"
    )
    add_backend_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write the mean image and print the channel means."""
    with LmdbReader(args.lmdb) as reader:
        batches = progress(reader.once(), str(args.lmdb), unit="thousand records")
        mean = mean_of(batch.pixels for batch in batches)
    if args.out is not None:
        write_mean(args.out, mean.image())
    channels = ", ".join(f"{value:.4f}" for value in mean.channels())
    print(f"{args.out or args.lmdb}: mean of {mean.count} images, channel means {channels}")
    return 0
