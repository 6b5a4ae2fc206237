"""`python -m converters show LMDB OUT`: a contact sheet, a row of records for each class.

OUT is a .png or a .jpg.

With `--net` the images are what that net's data layer would hand to it in TEST, brought back to
0 … 255 for the eye.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.command_line.suffix import form_of
from converters.datasets.registry import dataset_of
from converters.environment import Environment
from converters.errors import DataError
from converters.prototxt.text import read_net
from converters.readers.transform import Transform
from converters.records.datum import decode_datum
from converters.records.images import Pixels, opencv, picture_of, write_picture
from converters.records.lmdb_reader import LmdbReader, key_text

FORMS = (".png", ".jpg", ".jpeg")
_GAP = 2
_SMALLEST = 56  # pixels: smaller images are enlarged by a whole factor
_LABEL_WIDTH = 40
_MOST_CLASSES = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("lmdb", type=Path, metavar="LMDB")
    parser.add_argument("out", type=Path, metavar="OUT", help=f"a {', '.join(FORMS)} file")
    parser.add_argument("--net", metavar="NET", help="apply this net's TEST transformation")
    parser.add_argument("--columns", type=int, default=10, metavar="N", help="records a class (10)")
    parser.add_argument(
        "--order",
        choices=("rgb", "bgr"),
        help="channel order of the records (default: the data set's; BGR as imageset's if unknown)",
    )


def run(args: argparse.Namespace) -> int:
    """Draw the sheet and say what it shows."""
    form = form_of(args.out, FORMS)
    if args.columns < 1:
        raise DataError(f"--columns {args.columns}: at least 1 is needed")
    transform = read_transform(args.net, args.lmdb) if args.net else None
    rows = _choose(args.lmdb, args.columns, transform.color if transform else None)
    if transform is not None:
        nothing_random = np.random.default_rng(0)
        rows = {label: list(transform(images, nothing_random)) for label, images in rows.items()}
    order = args.order or _order(args.lmdb)
    write_picture(args.out, contact_sheet(rows, order == "rgb"), form)
    shown = sum(len(images) for images in rows.values())
    print(f"{args.out}: {shown} records, {len(rows)} classes, a row each (classes {_names(rows)})")
    return 0


def _choose(path: Path, columns: int, color: bool | None) -> dict[int, list[NDArray[Any]]]:
    """The first `columns` images (C, H, W) of each class, by class."""
    rows: dict[int, list[NDArray[Any]]] = {}
    with LmdbReader(path) as reader:
        for position, value in enumerate(islice(reader.values(), len(reader))):
            try:
                datum = decode_datum(value)
                images = rows.setdefault(datum.label, [])
                if len(images) < columns:
                    images.append(datum.image(color).copy())
            except DataError as error:
                raise DataError(
                    f"{path}: record {key_text(reader.keys[position])!r} {error}"
                ) from error
            if len(rows) > _MOST_CLASSES:
                raise DataError(f"{path}: more than {_MOST_CLASSES} classes do not fit on a sheet")
    return dict(sorted(rows.items()))


def _order(path: Path) -> str:
    dataset = dataset_of(path)
    return "rgb" if dataset is not None and dataset.order == "RGB" else "bgr"


def contact_sheet(rows: dict[int, list[NDArray[Any]]], rgb: bool) -> Pixels:
    """One picture (H, W, 3) in OpenCV's order: a row of images for each class, its number before.

    Values beyond bytes are spread over 0 … 255 together. `rgb` says the channels' order.
    """
    cv2 = opencv("drawing a contact sheet")
    flat = [image for images in rows.values() for image in images]
    low = min(float(image.min()) for image in flat)
    high = max(float(image.max()) for image in flat)
    if all(image.dtype == np.uint8 for image in flat):
        low, high = 0.0, 255.0
    tile_height = max(image.shape[1] for image in flat)
    tile_width = max(image.shape[2] for image in flat)
    factor = max(1, -(-_SMALLEST // tile_height))
    step_y, step_x = tile_height * factor + _GAP, tile_width * factor + _GAP
    columns = max(len(images) for images in rows.values())
    sheet = np.full((len(rows) * step_y + _GAP, _LABEL_WIDTH + columns * step_x, 3), 255, np.uint8)
    for row, (label, images) in enumerate(rows.items()):
        top = _GAP + row * step_y
        place = (4, top + step_y // 2 + 4)
        cv2.putText(sheet, str(label), place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0))
        for column, image in enumerate(images):
            picture = picture_of((image - low) * (255 / ((high - low) or 1)), rgb)
            picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
            left = _LABEL_WIDTH + column * step_x
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def _names(rows: dict[int, list[NDArray[Any]]]) -> str:
    labels = list(rows)
    whole = labels == list(range(labels[0], labels[-1] + 1))
    return f"{labels[0]} to {labels[-1]}" if whole else ", ".join(str(label) for label in labels)


def read_transform(net_file: str, database: Path) -> Transform:
    """The TEST transformation of the layer that reads `database`; else of the last Data layer.

    Mirroring is left out: it is random, and changes nothing for the eye.

    Raises:
        DataError: the net has no Data layer, or its mean file cannot be read.
    """
    layers = [layer for layer in read_net(net_file).layer if layer.type == "Data"]
    if not layers:
        raise DataError(f"{net_file}: has no Data layer, so it transforms nothing")
    name = database.resolve().name
    layer = next((one for one in layers if Path(one.data_param.source).name == name), layers[-1])
    layer.transform_param.mirror = False

    def fail(message: str) -> DataError:
        return DataError(f'{net_file}: layer "{layer.name}": {message}')

    environment = Environment(net_file, "TEST", str(Path(net_file).parent))
    return Transform(layer.transform_param, "TEST", fail, environment.find)
