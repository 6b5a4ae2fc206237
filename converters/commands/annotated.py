"""`gmnet annotated ROOT LIST OUT --label-map M`: a database of images with boxes.

An AnnotatedData layer reads it, to train a detector.

LIST has lines `IMAGE ANNOTATION`, both names below ROOT: an annotation is a file of VOC's XML, or
of JSON (COCO's, of the whole set, or SSD's, of one image). Or LIST is COCO's JSON itself, whose
images lie below ROOT. The label map gives each name its number; what is crowded in COCO is
difficult. SSD's convert_annoset.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.command_line.database_options import add_backend_option
from converters.command_line.parser import CommandParser
from converters.command_line.progress import TerminalReporter
from converters.commands.imageset import height_by_width, seed
from converters.prototxt.label_map import numbers, read_label_map
from converters.records.annotated_set import convert_annotated
from converters.records.imageset import Settings


def configure(parser: CommandParser) -> None:
    """Describe the command's arguments."""
    add = parser.add_argument
    add("root", metavar="ROOT", help="folder that the names are relative to")
    add("list", type=Path, metavar="LIST", help="lines `IMAGE ANNOTATION`, or COCO's JSON")
    add("out", type=Path, metavar="OUT", help="the LMDB to write")
    labels = "item { name label display_name } for each class, as SSD has it"
    add("--label-map", type=Path, required=True, metavar="M", help=labels)
    add("--resize", type=height_by_width, metavar="HxW", help="bilinear, to this height and width")
    add("--gray", action="store_true", help="one channel instead of BGR")
    stored = parser.add_mutually_exclusive_group().add_argument
    stored("--encoded", action="store_true", help="store compressed images (as without it)")
    stored("--raw", action="store_true", help="store pixels")
    add("--shuffle", type=seed, metavar="SEED", help="order by this seed")
    add("--check-size", action="store_true", help="refuse images of different sizes")
    bad = "leave out boxes that are empty or reach outside their image, which are errors otherwise"
    add("--drop-bad-boxes", action="store_true", help=bad)
    add_backend_option(parser)
    add("--force", action="store_true", help="replace an existing LMDB")


def run(args: argparse.Namespace) -> int:
    """Write the database and say how many records and boxes it has."""
    settings = Settings(args.resize, args.gray, not args.raw, args.shuffle, args.check_size)
    labels = numbers(read_label_map(args.label_map))
    imported = convert_annotated(
        args.root,
        args.list,
        args.out,
        labels,
        settings,
        args.drop_bad_boxes,
        args.force,
        TerminalReporter(),
    )
    left_out = f", {imported.dropped} bad boxes left out" if imported.dropped else ""
    print(f"{args.out}: {imported.records} records, {imported.boxes} boxes{left_out}")
    return 0
