"""From an image file to a net's data blob, and from the data blob back to a picture.

`gmnet_pt.classify` reads images with it, `gmnet_pt.feature_maps` goes both ways.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.datasets.registry import dataset_of
from converters.errors import DataError, NetError
from converters.formats.input_files import require_regular_file
from converters.layers import Layer
from converters.layers.registry import Shape
from converters.net.choice import NetChoice
from converters.net.plan import NetPlan
from converters.proto import caffe_pb2 as pb
from converters.readers import open_reader
from converters.readers.transform import Transform
from converters.records.images import Pixels, decode, opencv, picture_of, planes
from converters.records.mean import read_mean

_DATABASES = ("Data", "ImageData")


def read_image(path: Path, color: bool | None = None) -> NDArray[Any]:
    """An image as OpenCV reads it: BGR or gray of 8 bits with `color`, else all its channels.

    Raises:
        DataError: there is no such file, or it is no image.
        MissingExtraError: OpenCV is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    image = decode(data, color)
    if image is None:
        raise DataError(f"{path}: not an image that OpenCV can decode ({len(data)} bytes)")
    return image


def read_channel_means(mean: str | None, channels: int) -> NDArray[np.float32]:
    """The mean of each channel: of a mean image, or as given with commas; zeros without.

    A mean image is a .binaryproto, or a .npy (C, H, W) as pycaffe's; a .npy may be (C,) too.

    Raises:
        DataError: the file cannot be read, or there are more or fewer than `channels`.
    """
    if mean is None:
        return np.zeros(channels, np.float32)
    try:
        means = np.array([float(value) for value in mean.split(",")], np.float32)
    except ValueError:
        image = _read_npy(Path(mean)) if Path(mean).suffix == ".npy" else read_mean(mean)
        means = image.reshape(len(image), -1).mean(axis=1, dtype=np.float64).astype(np.float32)
    if len(means) != channels:
        raise DataError(f"--mean {mean}: has {len(means)} channels, the net's input {channels}")
    return means


def _read_npy(path: Path) -> NDArray[Any]:
    """An array (C,) or (C, H, W); the first axis of (1, C, H, W) is left out.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    require_regular_file(path, DataError)
    try:
        # Nothing executes what a file contains: no pickle.
        array: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read as a .npy: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DataError(f"{path}: holds no array of numbers")
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim not in (1, 3) or not array.size:
        raise DataError(
            f"{path}: has shape {array.shape}; a mean is (C, H, W), or (C,) with a value a channel"
        )
    found: NDArray[Any] = array
    return found


@dataclass(frozen=True)
class ImageInput:
    """How images become a net's first data blob in TEST, and that blob pictures.

    `shape` is that of an image (C, H, W) before `transform`, `rgb` the order of its channels.
    `source` says where the net's data come from, `assumed` what the net does not tell.
    """

    net: str
    blob: str
    source: str
    kind: str
    shape: Shape
    transform: Transform
    rgb: bool
    assumed: tuple[str, ...] = ()

    def read(self, path: Path) -> NDArray[np.float32]:
        """The data blob (1, C, H, W) of an image file, which is resized to the net's records.

        Raises:
            DataError: the file cannot be read, or does not fit the transformation.
            NetError: the net's data are no images of 1 or 3 channels, or not of a known kind.
        """
        if self.kind not in ("Input", *_DATABASES):
            raise NetError(
                f"{self.net}: images cannot stand in for its {self.kind} layer; "
                f"they can for Input, {' and '.join(_DATABASES)}"
            )
        if len(self.shape) != 3 or self.shape[0] not in (1, 3):
            raise NetError(
                f"{self.net}: an item of its input {self.blob} has shape {self.shape}; "
                "(C, H, W) with 1 or 3 channels is needed for images"
            )
        channels, height, width = self.shape
        pixels = read_image(path, color=channels == 3)
        if pixels.shape[:2] != (height, width):
            pixels = opencv().resize(pixels, (width, height))
        image = planes(pixels)
        # Nothing is random: what would be, mirroring, is left out.
        return self.transform(
            (image[::-1] if self.rgb else image)[np.newaxis], np.random.default_rng(0)
        )

    def picture(self, data: NDArray[np.float32]) -> Pixels:
        """What the net sees, (H, W, 3) BGR, of a data blob (1, C, H, W).

        The transformation is undone; values that are no bytes then are spread over 0 … 255.
        """
        image = self.transform.undo(data)[0]
        low, high = float(image.min()), float(image.max())
        # Half a step: what was a byte comes back rounded.
        if self.kind in ("Input", *_DATABASES) and low > -0.5 and high < 255.5:
            return picture_of(image, self.rgb)
        return picture_of((image - low) * (255 / ((high - low) or 1)), self.rgb)


def image_input(
    plan: NetPlan, order: str | None = None, mean: str | None = None, scale: float | None = None
) -> ImageInput:
    """The way from images to the first data blob of a net.

    Args:
        order: "rgb" or "bgr", the order of a record's channels; without it the data set's, which
            the database's name tells, else BGR as `converters imageset` and ImageData have it.
        mean: a mean file or a value a channel, instead of the net's own (a deploy net has none).
        scale: instead of the net's own.

    Raises:
        NetError: the net has no data layer.
        DataError: a mean file cannot be read or has another number of channels.
    """
    if not plan.data_layers:
        raise NetError(f"{plan.source}: has no data layer, so it sees no images")
    layer = plan.data_layers[0]
    blob = layer.param.top[0]
    shape = plan.input_shapes()[blob][1:]
    transform = _transform(layer, shape, mean, scale)
    database = _database(layer)
    dataset = dataset_of(database) if layer.type == "Data" else None
    if order is None:
        order = "rgb" if dataset is not None and dataset.order == "RGB" else "bgr"
        sure = dataset is not None or layer.type == "ImageData" or shape[:1] != (3,)
    else:
        sure = True
    assumed = [] if sure else ["Channels are taken as BGR (--order rgb for a net of RGB images)."]
    if layer.type == "Input" and mean is None:
        assumed.append("No --mean: nothing is subtracted.")
    return ImageInput(
        plan.source,
        blob,
        database.name,
        layer.type,
        _record_shape(plan, layer, shape, transform),
        transform,
        order == "rgb",
        tuple(assumed),
    )


def _database(layer: Layer) -> Path:
    """Where a layer's records lie; a path of the layer's name where it does not tell."""
    sources = {
        "Data": layer.param.data_param.source,
        "ImageData": layer.param.image_data_param.source,
    }
    return layer.environment.find(sources.get(layer.type, layer.name))


def _transform(layer: Layer, shape: Shape, mean: str | None, scale: float | None) -> Transform:
    """The layer's transformation in TEST, without mirroring: it would hide what the net saw."""
    param = pb.TransformationParameter()
    param.CopyFrom(layer.param.transform_param)
    param.mirror = False
    if mean is not None:
        param.ClearField("mean_file")
        param.mean_value[:] = read_channel_means(mean, shape[0]).tolist()
    if scale is not None:
        param.scale = scale

    def fail(message: str) -> DataError:
        return DataError(f'{layer.environment.source}: layer "{layer.name}": {message}')

    return Transform(param, "TEST", fail, layer.environment.find)


def _record_shape(plan: NetPlan, layer: Layer, shape: Shape, transform: Transform) -> Shape:
    """The shape of records before a crop to `shape`; that of the first where they differ."""
    if not transform.param.crop_size:
        return shape
    if transform.mean is not None:
        return transform.mean.shape
    if layer.type not in _DATABASES or layer.param.top[0] in plan.choice.input_shapes:
        return shape
    whole = pb.LayerParameter()
    whole.CopyFrom(layer.param)
    whole.transform_param.ClearField("crop_size")
    return open_reader(whole, layer.environment, seed=0).shapes()[0][1:]


def without_database(choice: NetChoice) -> NetChoice:
    """The choice, where its database is absent, with an input of the data set's image size.

    The database's name tells the data set. With another name, or with a shape in the choice, the
    choice is returned as it is: building the net then says that the database is absent.
    """
    layer = next((layer for layer in choice.filtered().layer if layer.type == "Data"), None)
    if layer is None or not layer.top or layer.top[0] in choice.input_shapes:
        return choice
    database = choice.environment.find(layer.data_param.source)
    dataset = dataset_of(database)
    if database.exists() or dataset is None:
        return choice
    size = layer.transform_param.crop_size or dataset.size
    shape = (1, dataset.channels, size, size)
    return replace(choice, input_shapes={**choice.input_shapes, layer.top[0]: shape})
