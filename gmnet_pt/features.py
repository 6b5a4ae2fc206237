"""`gmnet features`, `python -m gmnet_pt.features`: a net's blobs over its data.

`gmnet_pt.options.features` has the options. Source: Caffe tools/extract_features.cpp.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.command_line.net_options import net_choice
from converters.command_line.program import run_program
from converters.command_line.progress import progress
from converters.command_line.suffix import form_of
from converters.errors import CaffeError, DataError, OutputError, ShapeError
from converters.formats.whole_files import written_beside
from converters.net.caffe_net import CaffeNet
from converters.records.datum import encode_floats
from converters.records.images import Pixels, opencv, write_png
from converters.records.lmdb_writer import check_target, create_lmdb
from gmnet_pt.feature_maps import (
    CAPTION,
    GAP,
    PAGE,
    draw_maps,
    figure_blobs,
    four_sizes,
    maps_of_data,
    maps_of_images,
    tile,
)
from gmnet_pt.image_input import image_input, without_database
from gmnet_pt.log.events import Message
from gmnet_pt.log.open_log import open_log
from gmnet_pt.net_command import OpenNet, open_net, opened_data, use_threads
from gmnet_pt.options import features as options
from gmnet_pt.solver.batches import Batches, next_feed
from gmnet_pt.solver.precision import FP32

FORMS = (".npz", ".png", ".lmdb")

Arrays = Mapping[str, NDArray[np.float32]]


def run(args: argparse.Namespace) -> int:
    """Extract, and say what was written."""
    _check_options(args)
    use_threads(args.threads)
    return _draw_figure(args) if args.figure else _extract_blobs(args)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse the options that what was asked for would not hear."""
    figure, image = args.figure is not None, args.image is not None
    heard = {
        "--image": (figure, "--figure"),
        "--order": (figure, "--figure"),
        "--mean": (image, "--image"),
        "--scale": (image, "--image"),
        "--input-shape": (image, "--image"),
        "--images": (not image, "the net's own data, not with --image"),
        "--iterations": (not figure, "--blobs"),
    }
    for option, (is_heard, wanted) in heard.items():
        if not is_heard and getattr(args, option[2:].replace("-", "_")) not in (None, []):
            raise CaffeError(f"{option} goes with {wanted}")
    if figure and Path(args.out).suffix.lower() != ".png":
        raise OutputError(f"--out {args.out}: a figure is a picture; name a .png")


def _draw_figure(args: argparse.Namespace) -> int:
    """Draw the maps of a figure and print their numbers."""
    opencv("drawing feature maps")
    log = open_log("caffe")
    choice = net_choice(args)
    opened = open_net(without_database(choice) if args.image else choice, args.device, log.show)
    figure_blobs(opened.net, args.figure)
    reading = image_input(opened.net.plan, args.order, args.mean, args.scale)
    if args.image:
        for assumption in reading.assumed:
            log.show(Message(assumption, "features.py:1", "W"))
        images = maps_of_images(opened, args.figure, args.image, reading)
    else:
        images = maps_of_data(opened, args.figure, args.images or 1, reading)
    write_png(Path(args.out), draw_maps(images))
    for image in images:
        print("\n".join(image.lines()))
    print(f"{args.out}: figure {args.figure}, images: {len(images)}")
    return 0


def _extract_blobs(args: argparse.Namespace) -> int:
    """Write the blobs of --blobs in the form of --out."""
    names = [name for name in args.blobs.split(",") if name]
    if not names:
        raise ShapeError(f"--blobs {args.blobs}: name a blob, or several with commas")
    form = _form(args.out)
    targets = _targets(args.out, names) if form == "" else {}
    for target in targets.values():
        check_target(target, args.force)
    opened = open_net(net_choice(args), args.device, open_log("caffe").show)
    opened.net.require_blobs(names)
    iterations, images = args.iterations, args.images or 1
    if form == ".npz":
        names += [name for name in label_names(opened.net) if name not in names]
    if form == ".png":
        iterations = iterations or math.ceil(images / _batch_size(opened.net))
    batches = extract(opened, names, iterations)
    if form == ".npz":
        lines = write_npz(batches, Path(args.out))
    elif form == ".png":
        lines = write_sheet(batches, Path(args.out), images)
    else:
        lines = write_lmdbs(batches, targets, args.force)
    print("\n".join(lines))
    return 0


def _form(out: str) -> str:
    """`.npz`, `.png`, or "" for LMDBs.

    Raises:
        OutputError: another suffix.
    """
    found = {
        "" if not Path(name).suffix else form_of(name, FORMS, ", or as LMDBs without a suffix")
        for name in out.split(",")
    }
    found = {"" if form == ".lmdb" else form for form in found}
    if len(found) > 1:
        raise OutputError(f"--out {out}: LMDBs take a name a blob; a .npz or .png is one for all")
    return found.pop()


def _targets(out: str, names: Sequence[str]) -> dict[str, Path]:
    """Where each blob's LMDB goes."""
    paths = out.split(",")
    if len(paths) == len(names):
        return dict(zip(names, map(Path, paths)))
    if len(paths) == 1:
        return {name: Path(out) / name for name in names}
    raise OutputError(
        f"--out {out}: {len(paths)} names for {len(names)} blobs; give one for each blob, or one "
        "folder for all"
    )


def label_names(net: CaffeNet) -> list[str]:
    """The second tops of data layers."""
    return [name for layer in net.plan.data_layers for name in layer.param.top[1:2]]


def _batch_size(net: CaffeNet) -> int:
    shapes = list(net.plan.input_shapes().values())
    return shapes[0][0] if shapes and shapes[0] else 1


def extract(
    opened: OpenNet, names: Sequence[str], iterations: int | None
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The blobs `names` of each batch; without `iterations`, of every item of the data once.

    Raises:
        DataError: a data layer's files are absent or damaged, or do not tell how many items they
            have.
        ShapeError: the net has no such blob.
    """
    net, device = opened
    with opened_data(net) as batches:
        size = _batch_size(net)
        items = None if iterations else _items(net, batches)
        count = iterations or math.ceil((items or 0) / size)
        for index in progress(range(count), "features", count, "batches"):
            with torch.no_grad(), FP32.arithmetic(device):
                blobs = net(next_feed(batches, device), blobs=names)
            left = size if items is None else items - index * size
            arrays = {name: blob.float().cpu().numpy() for name, blob in blobs.items()}
            yield {name: _kept(array, size, left) for name, array in arrays.items()}


def _kept(array: NDArray[np.float32], size: int, left: int) -> NDArray[np.float32]:
    """The items of a batch that are not repetitions after the data's end."""
    return array[:left] if array.ndim and len(array) == size else array


def _items(net: CaffeNet, batches: Sequence[Batches]) -> int:
    items = batches[0].items if batches else None
    if items is None:
        raise DataError(
            f"{net.plan.source}: its data does not tell how many items it has; give --iterations"
        )
    return items


def write_lmdbs(
    batches: Iterator[Arrays], targets: Mapping[str, Path], force: bool = False
) -> list[str]:
    """An LMDB a blob, its records numbered with ten digits; each appears whole or not at all.

    Raises:
        OutputError: a target exists or cannot be written.
        ShapeError: a blob has more than four axes.
    """
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(create_lmdb(path, force)) for name, path in targets.items()
        }
        written, sizes = dict.fromkeys(targets, 0), dict[str, str]()
        for arrays in batches:
            for name, writer in writers.items():
                images = arrays[name].reshape(four_sizes(arrays[name].shape))
                keys = range(written[name], written[name] + len(images))
                records = [encode_floats(image) for image in images]
                writer.put_all([b"%010d" % key for key in keys], records)
                written[name] += len(images)
                sizes[name] = "×".join(map(str, images.shape[1:]))
    return [
        f"{path}: {written[name]} records of {sizes[name]}, blob {name}"
        for name, path in targets.items()
    ]


def write_npz(batches: Iterator[Arrays], path: Path) -> list[str]:
    """An array a blob: images first; a blob without items (a loss) has a value a batch.

    Raises:
        OutputError: `path` cannot be written.
    """
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for arrays in batches:
        for name, array in arrays.items():
            parts.setdefault(name, []).append(array)
    whole: dict[str, Any] = {
        name: np.concatenate([np.atleast_1d(array) for array in arrays])
        for name, arrays in parts.items()
    }
    with written_beside(path) as partial, open(partial, "wb") as file:
        np.savez(file, **whole)
    shapes = ", ".join(f"{name} {array.shape}" for name, array in whole.items())
    return [f"{path}: {shapes}"]


def write_sheet(batches: Iterator[Arrays], path: Path, images: int) -> list[str]:
    """A picture: a row a blob under its name, a square of maps for each of the first images.

    Raises:
        OutputError: `path` cannot be written.
        ShapeError: a blob has more than four axes.
        MissingExtraError: OpenCV is not installed.
    """
    opencv("drawing feature maps")
    first: dict[str, list[NDArray[np.float32]]] = {}
    for arrays in batches:
        for name, array in arrays.items():
            maps = array.reshape(four_sizes(array.shape))
            first.setdefault(name, []).extend(islice(maps, images - len(first.get(name, ()))))
    rows = [_row(name, maps) for name, maps in first.items()]
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 0), (0, width - row.shape[1])), constant_values=PAGE) for row in rows
    ]
    write_png(path, np.concatenate(padded))
    return [
        f"{path}: {name}, {len(maps)} images of {len(maps[0])} maps" for name, maps in first.items()
    ]


def _row(name: str, images: Sequence[NDArray[np.float32]]) -> Pixels:
    """The squares of one blob's images (C, H, W) side by side, its name above."""
    squares = [tile(image) for image in images]
    gap = np.full((squares[0].shape[0], 4 * GAP), PAGE, np.uint8)
    pieces = [piece for square in squares for piece in (gap, square)]
    row = np.concatenate([*pieces, gap], axis=1)
    caption = np.full((CAPTION, max(row.shape[1], 10 * len(name))), PAGE, np.uint8)
    cv2 = opencv("drawing feature maps")
    cv2.putText(caption, name, (4 * GAP, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 0, 1, cv2.LINE_AA)
    row = np.pad(row, ((0, 4 * GAP), (0, caption.shape[1] - row.shape[1])), constant_values=PAGE)
    return np.concatenate([caption, row])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and extract."""
    return run_program("gmnet_pt.features", options.__doc__, options.configure, run, argv)


if __name__ == "__main__":
    sys.exit(main())
