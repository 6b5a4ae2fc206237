"""Feature maps of single images, as in the paper's Figures 3 and 4, with numbers beside them.

`FIGURES` says what a figure shows; `maps_of_data` and `maps_of_images` run a net, an image at a
time, so that an image's maps do not depend on its neighbours; `draw_maps` is the picture and
`lines` the numbers. `python -m gmnet_pt.features … --figure N` is the command around them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converters.errors import NetError, ShapeError
from converters.net.caffe_net import CaffeNet
from converters.net.plan import NetPlan
from converters.readers.reader import READERS
from converters.records.images import Pixels, opencv
from gmnet_pt.image_input import ImageInput, image_input
from gmnet_pt.net_command import OpenNet, opened_data
from gmnet_pt.solver.batches import next_feed
from gmnet_pt.solver.precision import FP32

FIGURES: Mapping[int, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        3: (
            ("end of BU_s", "bu_s/"),
            ("end of BU_f", "bu_f/"),
            ("adaption unit after them", "au/"),
            ("last convolution", "bu_e/"),
        ),
        4: (("adaption unit after BU_m", "bu_m/au/"),),
    }
)
"""The rows of the paper's figures: what each shows, and how the names of its blobs begin."""

MOST_MAPS = 64
"""Maps of a blob that a picture shows: the first ones."""

PAGE = 224
GAP = 2
SMALLEST = 48  # pixels: smaller maps are enlarged by a whole factor
CAPTION = 20

_MARGIN = 8
_SMALLEST_PICTURE = 112
_COLUMNS = 16
_WIDEST = 1200  # pixels: larger maps stand in fewer columns


class MapRow(NamedTuple):
    """A blob of one image: all its maps (C, H, W), the share of values that are 0, their mean."""

    about: str
    blob: str
    maps: NDArray[np.float32]
    zeros: float
    mean: float

    @property
    def numbers(self) -> str:
        """The numbers as they are printed: `zeros 71.3%, mean 0.123`."""
        return f"zeros {self.zeros:.1%}, mean {self.mean:.3g}"


class ImageMaps(NamedTuple):
    """One image: what it is called, what the net saw (H, W, 3) BGR, and a figure's rows for it."""

    name: str
    picture: Pixels
    rows: tuple[MapRow, ...]

    def lines(self) -> list[str]:
        """A line a row: image, blob, CxHxW, and the row's numbers."""
        return [
            f"{self.name}, {row.blob}, {'x'.join(map(str, row.maps.shape))}, {row.numbers}"
            for row in self.rows
        ]


def figure_fits(net: CaffeNet | NetPlan, figure: int) -> bool:
    """Whether the net has all blobs of a figure: 3 for nets of two paths, 4 for baselines."""
    return all(blob is not None for blob in _last_blobs(_plan(net), figure).values())


def figure_blobs(net: CaffeNet | NetPlan, figure: int) -> dict[str, str]:
    """The blob of each row: the last that the net makes of those whose names begin as it says.

    Raises:
        NetError: the net lacks one.
    """
    plan = _plan(net)
    found = _last_blobs(plan, figure)
    missing = [row for row in FIGURES[figure] if found[row[0]] is None]
    if missing:
        about, prefix = missing[0]
        fitting = [str(other) for other in FIGURES if figure_fits(plan, other)]
        advice = f"figure {' or '.join(fitting)} fits it" if fitting else "no figure fits it"
        raise NetError(
            f'{plan.source}: has no blob "{prefix}…" ({about}) for figure {figure}; {advice}, '
            "and --blobs takes any names"
        )
    return {about: blob for about, blob in found.items() if blob is not None}


def _plan(net: CaffeNet | NetPlan) -> NetPlan:
    return net if isinstance(net, NetPlan) else net.plan


def _last_blobs(plan: NetPlan, figure: int) -> dict[str, str | None]:
    return {
        about: max(
            (name for name in plan.values if name.startswith(prefix)),
            key=plan.values.__getitem__,
            default=None,
        )
        for about, prefix in FIGURES[figure]
    }


def maps_of_data(
    opened: OpenNet, figure: int, images: int = 1, reading: ImageInput | None = None
) -> list[ImageMaps]:
    """The maps of the first `images` of the net's own data, or of all where they are fewer.

    `reading` says how the data become pictures again; without it `image_input` does.

    Raises:
        NetError: the figure does not fit the net.
        DataError: the net's data are absent or damaged, or it is a deploy net.
    """
    net, device = opened
    blobs = figure_blobs(net, figure)
    reading = reading or image_input(net.plan)
    if reading.kind not in READERS:
        raise NetError(
            f"{net.plan.source}: its data layer ({reading.kind}) brings no images; give some "
            "(--image)"
        )
    found: list[ImageMaps] = []
    with opened_data(net) as batches:
        wanted = min(images, batches[0].items or images)
        while len(found) < wanted:
            batch = next_feed(batches, device)
            for item in range(min(len(batch[reading.blob]), wanted - len(found))):
                feed = {name: blob[item : item + 1] for name, blob in batch.items()}
                name = f"{reading.source}[{len(found)}]"
                found.append(_image_maps(opened, blobs, reading, name, feed))
    return found


def maps_of_images(
    opened: OpenNet, figure: int, files: Sequence[Path], reading: ImageInput | None = None
) -> list[ImageMaps]:
    """The maps of image files, read as `reading` says; without it as `image_input` does.

    Raises:
        NetError: the figure does not fit the net, or its data are no images.
        DataError: a file is absent or no image.
    """
    net, device = opened
    blobs = figure_blobs(net, figure)
    reading = reading or image_input(net.plan)
    others = {
        name: torch.zeros((1, *shape[1:]), device=device)
        for name, shape in net.plan.input_shapes().items()
    }
    found = []
    for path in files:
        feed = {**others, reading.blob: torch.from_numpy(reading.read(path)).to(device)}
        found.append(_image_maps(opened, blobs, reading, str(path), feed))
    return found


def _image_maps(
    opened: OpenNet,
    blobs: Mapping[str, str],
    reading: ImageInput,
    name: str,
    feed: Mapping[str, Tensor],
) -> ImageMaps:
    """The maps of the one image in `feed`."""
    net, device = opened
    with torch.no_grad(), FP32.arithmetic(device):
        found = net(feed, blobs=list(blobs.values()))
    data = feed[reading.blob].float().cpu().numpy()
    rows = (
        _map_row(about, blob, found[blob].float().cpu().numpy()) for about, blob in blobs.items()
    )
    return ImageMaps(name, reading.picture(data.reshape(four_sizes(data.shape))), tuple(rows))


def _map_row(about: str, blob: str, values: NDArray[np.float32]) -> MapRow:
    maps = values.reshape(four_sizes(values.shape))[0]
    zeros = float((maps == 0).mean())
    return MapRow(about, blob, maps, zeros, float(maps.mean(dtype=np.float64)))


def four_sizes(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """A blob's num, channels, height and width as Caffe sees them: absent axes are 1.

    Raises:
        ShapeError: more than four axes.
    """
    if len(shape) > 4:
        raise ShapeError(f"a blob of shape {tuple(shape)} has more than four axes; use .npz")
    num, channels, height, width = (*shape, 1, 1, 1, 1)[:4]
    return num, channels, height, width


# The picture -------------------------------------------------------------------------------------


def draw_maps(images: Sequence[ImageMaps]) -> Pixels:
    """A picture (H, W, 3): below each other each image, its rows of maps beside it.

    A row's maps share one gray scale, black for 0 (or the least value below it) and white for the
    largest, which the caption tells.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    lefts = [_under(Path(image.name).name, _enlarged(image.picture)) for image in images]
    rights = [_stacked([_under(*_captioned(row)) for row in image.rows]) for image in images]
    # One column for all pictures, so that all maps begin at one place.
    width = max(left.shape[1] for left in lefts)
    return _stacked(
        [
            _beside(_padded(left, left.shape[0], width), right)
            for left, right in zip(lefts, rights, strict=True)
        ]
    )


def _captioned(row: MapRow) -> tuple[str, Pixels]:
    """A row's caption, and the square of its maps."""
    shown = row.maps[:MOST_MAPS]
    count, (height, width) = len(row.maps), row.maps.shape[1:]
    number = f"{count}" if len(shown) == count else f"{len(shown)} of {count}"
    finite = shown[np.isfinite(shown)]
    low, high = (min(0.0, finite.min()), finite.max()) if finite.size else (0.0, 0.0)
    columns = min(_COLUMNS, max(1, _WIDEST // (width + GAP)))
    caption = f"{row.about}: {row.blob}, {number} maps {height}x{width}, {row.numbers}"
    return f"{caption}, white = {high:.3g}", tile(shown, columns, low)


def _enlarged(picture: Pixels) -> Pixels:
    factor = max(1, -(-_SMALLEST_PICTURE // max(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _under(caption: str, picture: Pixels) -> Pixels:
    """A picture, gray or (H, W, 3), as (H, W, 3) below its caption, wide enough for both."""
    cv2 = opencv("drawing feature maps")
    # putText draws question marks for anything else, one a byte.
    text = caption.encode("ascii", "replace").decode()
    font = (cv2.FONT_HERSHEY_SIMPLEX, 0.45)
    (wide, _), _ = cv2.getTextSize(text, *font, 1)
    three = picture if picture.ndim == 3 else picture[..., np.newaxis].repeat(3, axis=2)
    strip = np.full((CAPTION, max(three.shape[1], wide), 3), PAGE, np.uint8)
    cv2.putText(strip, text, (0, 14), *font, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, _padded(three, three.shape[0], strip.shape[1])])


def _padded(picture: Pixels, height: int, width: int) -> Pixels:
    room = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, room, constant_values=PAGE)


def _beside(left: Pixels, right: Pixels) -> Pixels:
    height = max(left.shape[0], right.shape[0])
    gap = np.full((height, _MARGIN, 3), PAGE, np.uint8)
    parts = [_padded(part, height, part.shape[1]) for part in (left, right)]
    return np.concatenate([gap, parts[0], gap, parts[1], gap], axis=1)


def _stacked(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures below each other, a margin below each."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate(
        [_padded(picture, picture.shape[0] + _MARGIN, width) for picture in pictures]
    )


def tile(
    image: NDArray[np.float32], columns: int | None = None, low: float | None = None
) -> Pixels:
    """The maps (C, H, W) of one image as gray tiles, row by row, white the largest value of all.

    Black is `low`, or the least value of all; a value that is not finite is black. Without
    `columns` the tiles make a square.
    """
    finite = image[np.isfinite(image)]
    least, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    low = least if low is None else low
    gray = (np.nan_to_num(image, nan=low, posinf=low, neginf=low) - low) * (
        255 / ((high - low) or 1)
    )
    factor = max(1, -(-SMALLEST // max(image.shape[1:])))
    maps = np.rint(gray).astype(np.uint8).repeat(factor, axis=1).repeat(factor, axis=2)
    columns = min(len(maps), columns or math.ceil(math.sqrt(len(maps))))
    lines = math.ceil(len(maps) / columns)
    step_y, step_x = maps.shape[1] + GAP, maps.shape[2] + GAP
    square = np.full((lines * step_y - GAP, columns * step_x - GAP), PAGE, np.uint8)
    for place, one in enumerate(maps):
        top, left = place // columns * step_y, place % columns * step_x
        square[top : top + one.shape[0], left : left + one.shape[1]] = one
    return square
