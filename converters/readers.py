"""What data layers read: LMDB records, images by list, HDF5 rows, arrays given by the caller.

A reader has the shapes of its layer's tops and yields batches as arrays. Its whole position is a
few integers: every random choice is drawn from (seed, epoch or batch number), so a restored reader
goes on exactly. `gmnet_pt.batches` turns the batches into tensors.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from converters.datum import Buffer, RecordError, decode_images
from converters.errors import CaffeError, DataError, MissingExtraError
from converters.lmdb import DATA_FILE, LmdbReader, key_text
from converters.proto import caffe_pb2 as pb
from converters.transform import Images, Transform

Arrays = dict[str, NDArray[np.float32]]
Shape = tuple[int, ...]


class Reader:
    """The source of one data layer's tops."""

    ahead = True
    """Whether a batch may be read before it is asked for."""

    def __init__(
        self, param: pb.LayerParameter, phase: str, source: str, folder: str, seed: int | None
    ) -> None:
        self.param = param
        self.source = source
        self.folder = folder
        self.seed = secrets.randbits(32) if seed is None else seed
        self.position = 0
        self.epoch = 0
        self.batch = 0
        self.transform = Transform(param.transform_param, phase, self.fail, self.find)
        self.open()

    def open(self) -> None:
        """Open the files and set `batch_size`."""
        raise NotImplementedError

    def shapes(self) -> list[Shape]:
        """The shapes of the layer's tops."""
        raise NotImplementedError

    def read(self) -> list[NDArray[np.float32]]:
        """The next batch, an array a top."""
        raise NotImplementedError

    def next(self) -> Arrays:
        """The next batch by top name."""
        arrays = self.read()
        self.batch += 1
        return dict(zip(self.param.top, arrays))

    def state(self) -> dict[str, int]:
        """Everything that decides the next batch."""
        return {
            "position": self.position,
            "epoch": self.epoch,
            "batch": self.batch,
            "seed": self.seed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            KeyError, ValueError: a part is missing, or lies behind the data's end.
        """
        self.position, self.epoch = int(state["position"]), int(state["epoch"])
        self.batch, self.seed = int(state["batch"]), int(state["seed"])
        self.reopen()

    def reopen(self) -> None:
        """Called after the position was set from outside."""

    def fail(self, message: str) -> CaffeError:
        """An error about this layer."""
        return DataError(f'{self.source}: layer "{self.param.name}" ({self.param.type}): {message}')

    def find(self, path: str) -> Path:
        """A path of the prototxt: from the working directory, then from the prototxt's folder."""
        direct = Path(path)
        beside = Path(self.folder) / path
        return beside if not direct.exists() and beside.exists() else direct

    def random(self, purpose: int) -> np.random.Generator:
        """The generator of this batch (purpose 0) or this epoch (1)."""
        number = self.epoch if purpose else self.batch
        return np.random.default_rng((self.seed, purpose, number))

    def positive(self, name: str, value: int) -> int:
        """`value` if positive; otherwise the layer's error."""
        if value < 1:
            raise self.fail(f"{name} {value} must be positive")
        return value


ReaderClass = TypeVar("ReaderClass", bound=type[Reader])
READERS: dict[str, type[Reader]] = {}


def _reads(type_name: str) -> Callable[[ReaderClass], ReaderClass]:
    def add(cls: ReaderClass) -> ReaderClass:
        if type_name in READERS:
            raise ValueError(f"two readers for layer type {type_name}")
        READERS[type_name] = cls
        return cls

    return add


def open_reader(
    param: pb.LayerParameter, phase: str, source: str, folder: str, seed: int | None = None
) -> Reader:
    """The reader of a data layer; `source` names the prototxt in errors, `folder` is its folder.

    Raises:
        DataError: the layer's files are absent or damaged, or its fields do not fit them.
    """
    if param.type not in READERS:
        raise DataError(
            f'{source}: layer "{param.name}": {param.type} reads no files; '
            f"give its tops ({', '.join(param.top)}) as inputs"
        )
    return READERS[param.type](param, phase, source, folder, seed)


@_reads("Data")
class DatabaseReader(Reader):
    """Records of an LMDB in key order, wrapping around mid-batch. Source: layers/data_layer.cpp."""

    def open(self) -> None:
        param = self.param.data_param
        self.batch_size = self.positive("batch_size", param.batch_size)
        # A folder of that name without a database hides none beside the prototxt.
        path = self.find(str(Path(param.source) / DATA_FILE)).parent
        path = path if path.exists() else self.find(param.source)
        if not path.exists():
            raise self.fail(
                f"database {param.source} does not exist: build it, or give input shapes"
            )
        try:
            self.records = LmdbReader(path)
        except DataError as error:
            raise self.fail(str(error)) from error
        self._sizes_differ = False
        self.reopen()

    def reopen(self) -> None:
        if self.position >= len(self.records):
            raise ValueError(f"record {self.position} of {len(self.records)}")
        self._values = self.records.values(self.position)

    def shapes(self) -> list[Shape]:
        images, _ = self._decode_each([next(self.records.values())], 0)
        shape = self.transform.shape(images[0].shape)
        return [(self.batch_size, *shape), (self.batch_size,)][: len(self.param.top)]

    def read(self) -> list[NDArray[np.float32]]:
        records = list(islice(self._values, self.batch_size))
        images, labels = self._decode(records)
        data = self.transform(images, self.random(0))
        self.position = (self.position + self.batch_size) % len(self.records)
        return [data, labels.astype(np.float32)]

    def _decode(self, records: Sequence[Buffer]) -> tuple[Images, NDArray[np.int32]]:
        """Images (N, C, H, W) or, where crops make them alike, each of its size; labels (N,)."""
        if not self._sizes_differ:
            try:
                return self.records.decode(records, self.position, self.transform.color)
            except DataError:
                if not self.transform.param.crop_size:
                    raise
                self._sizes_differ = True
        return self._decode_each(records, self.position)

    def _decode_each(
        self, records: Sequence[Buffer], position: int
    ) -> tuple[list[NDArray[Any]], NDArray[np.int32]]:
        try:
            return decode_images(records, self.transform.color)
        except RecordError as error:
            key = self.records.keys[(position + error.index) % len(self.records)]
            raise DataError(
                f"{self.records.path}: record {key_text(key)!r} {error.reason}"
            ) from error


@_reads("ImageData")
class ImageListReader(Reader):
    """Images named in a list of `NAME LABEL` lines. Source: layers/image_data_layer.cpp."""

    def open(self) -> None:
        param = self.param.image_data_param
        self.batch_size = self.positive("batch_size", param.batch_size)
        if (param.new_height == 0) != (param.new_width == 0):
            raise self.fail("give both new_height and new_width, or neither")
        path = self.find(param.source)
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise self.fail(f"list {param.source} cannot be read: {error}") from error
        self.lines = [self._parse(line) for line in lines if line.strip()]
        if not self.lines:
            raise self.fail(f"list {param.source} is empty")
        if param.rand_skip:
            self.position = int(np.random.default_rng(self.seed).integers(param.rand_skip))
            if self.position >= len(self.lines):
                raise self.fail(
                    f"rand_skip {param.rand_skip} may skip all {len(self.lines)} lines of "
                    f"{param.source}"
                )
        self.reopen()

    def _parse(self, line: str) -> tuple[str, int]:
        name, _, label = line.strip().rpartition(" ")
        try:
            return name, int(label)
        except ValueError as error:
            raise self.fail(f"line {line!r} of the list is not `NAME LABEL`") from error

    def reopen(self) -> None:
        count = len(self.lines)
        if self.position >= count:
            raise ValueError(f"line {self.position} of {count}")
        shuffled = self.param.image_data_param.shuffle
        self._order = self.random(1).permutation(count) if shuffled else np.arange(count)

    def shapes(self) -> list[Shape]:
        image = self._image(self.lines[self._order[self.position]][0])
        return [(self.batch_size, *self.transform.shape(image.shape)), (self.batch_size,)]

    def _image(self, name: str) -> NDArray[np.uint8]:
        try:
            import cv2
        except ImportError as error:
            raise MissingExtraError("OpenCV", "images", "ImageData") from error
        from converters.datum import planes

        param = self.param.image_data_param
        # Caffe joins the two strings as they stand.
        path = self.find(param.root_folder + name)
        flag = cv2.IMREAD_COLOR if param.is_color else cv2.IMREAD_GRAYSCALE
        pixels = cv2.imread(str(path), flag) if path.is_file() else None
        if pixels is None:
            raise self.fail(f"image {path} cannot be read")
        if param.new_height:
            pixels = cv2.resize(pixels, (param.new_width, param.new_height))
        return planes(pixels)

    def read(self) -> list[NDArray[np.float32]]:
        images, labels = [], []
        for _ in range(self.batch_size):
            name, label = self.lines[self._order[self.position]]
            images.append(self._image(name))
            labels.append(label)
            self.position += 1
            if self.position == len(self.lines):
                self.position, self.epoch = 0, self.epoch + 1
                self.reopen()
        if not self.transform.param.crop_size and len({image.shape for image in images}) > 1:
            raise self.fail("images of different sizes need new_height and new_width, or crop_size")
        return [self.transform(images, self.random(0)), np.array(labels, np.float32)]


@_reads("HDF5Data")
class Hdf5Reader(Reader):
    """Rows of the datasets named like the tops, file after file. Source: hdf5_data_layer.cpp."""

    def open(self) -> None:
        param = self.param.hdf5_data_param
        self.batch_size = self.positive("batch_size", param.batch_size)
        if self.param.HasField("transform_param"):
            raise self.fail("takes no transform_param")
        path = self.find(param.source)
        try:
            names = path.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise self.fail(f"list {param.source} cannot be read: {error}") from error
        if not names:
            raise self.fail(f"list {param.source} is empty")
        beside = path.parent
        self.files = [p if (p := self.find(name)).exists() else beside / name for name in names]
        # Rows read so far are in `position`; the file's place in its order is `file`.
        self.file = 0
        self._loaded: Path | None = None
        self._reorder()

    def _reorder(self) -> None:
        count = len(self.files)
        shuffled = self.param.hdf5_data_param.shuffle
        self._file_order = self.random(1).permutation(count) if shuffled else np.arange(count)
        self._load()

    def _load(self) -> None:
        try:
            import h5py
        except ImportError as error:
            raise MissingExtraError("h5py", "hdf5", "HDF5Data") from error
        path = self.files[self._file_order[self.file]]
        if path != self._loaded:
            try:
                with h5py.File(path, "r") as file:
                    self.rows = [np.asarray(file[top], np.float32) for top in self.param.top]
            except (OSError, KeyError, ValueError) as error:
                raise self.fail(
                    f"{path}: {error}; it needs datasets {list(self.param.top)}"
                ) from error
            self._loaded = path
        counts = [len(rows) if rows.ndim else 0 for rows in self.rows]
        if len(set(counts)) != 1 or not counts[0]:
            raise self.fail(f"{path}: datasets {list(self.param.top)} have {counts} rows")
        shuffled = self.param.hdf5_data_param.shuffle
        number = self.epoch * len(self.files) + self.file
        generator = np.random.default_rng((self.seed, 2, number))
        self._row_order = generator.permutation(counts[0]) if shuffled else np.arange(counts[0])

    def shapes(self) -> list[Shape]:
        return [(self.batch_size, *rows.shape[1:]) for rows in self.rows]

    def read(self) -> list[NDArray[np.float32]]:
        picked: list[list[NDArray[np.float32]]] = [[] for _ in self.rows]
        for _ in range(self.batch_size):
            if self.position == len(self._row_order):
                self._next_file()
            for rows, chosen in zip(self.rows, picked):
                chosen.append(rows[self._row_order[self.position]])
            self.position += 1
        try:
            return [np.stack(chosen) for chosen in picked]
        except ValueError as error:
            raise self.fail(f"the files' datasets have different shapes: {error}") from error

    def _next_file(self) -> None:
        self.position, self.file = 0, self.file + 1
        if self.file == len(self.files):
            self.file, self.epoch = 0, self.epoch + 1
            self._reorder()
        else:
            self._load()

    def state(self) -> dict[str, int]:
        return {**super().state(), "file": self.file}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.file = int(state["file"])
        super().restore(state)

    def reopen(self) -> None:
        if self.file >= len(self.files):
            raise ValueError(f"file {self.file} of {len(self.files)}")
        self._reorder()
        if self.position > len(self._row_order):
            raise ValueError(f"row {self.position} of {len(self._row_order)}")


@_reads("MemoryData")
class MemoryReader(Reader):
    """Arrays that the caller adds, in turn. Source: Caffe layers/memory_data_layer.cpp."""

    ahead = False

    def open(self) -> None:
        param = self.param.memory_data_param
        self.batch_size = self.positive("batch_size", param.batch_size)
        self.shape = (param.channels, param.height, param.width)
        crop = self.transform.param.crop_size
        if crop and (crop, crop) != self.shape[1:]:
            raise self.fail(f"crop_size {crop} must be height and width, {self.shape[1:]}")
        self._restored = False
        self._data: NDArray[np.float32] | None = None
        self._labels = np.zeros(0, np.float32)

    def reopen(self) -> None:
        self._restored = True

    def shapes(self) -> list[Shape]:
        return [(self.batch_size, *self.shape), (self.batch_size,)]

    def add(self, images: NDArray[Any], labels: NDArray[Any]) -> None:
        """Set the data: images (N, C, H, W), labels (N,); N a multiple of batch_size.

        They are transformed now, and read over and over until the next `add`. The images may be
        larger than the layer says where crop_size is given. After a resumption the same images,
        added again, go on where they were.

        Raises:
            DataError: another shape or number.
        """
        size = "H, W of crop_size or more" if self.transform.param.crop_size else self.shape[1:]
        if (
            images.ndim != 4
            or images.shape[1] != self.shape[0]
            or not (self.transform.param.crop_size or images.shape[2:] == self.shape[1:])
            or np.shape(labels) != images.shape[:1]
        ):
            raise self.fail(
                f"takes images (N, {self.shape[0]}, {size}) and N labels, got shapes "
                f"{images.shape} and {np.shape(labels)}"
            )
        if len(images) % self.batch_size or not len(images):
            raise self.fail(f"{len(images)} images are no multiple of batch_size {self.batch_size}")
        if not self._restored:
            self.position, self.epoch = 0, self.epoch + 1
        elif self.position >= len(images):
            raise self.fail(f"{len(images)} images, but the resumed run was at {self.position}")
        self._restored = False
        self._data = self.transform(images, self.random(1))
        self._labels = np.array(labels, np.float32)

    def read(self) -> list[NDArray[np.float32]]:
        if self._data is None:
            raise self.fail("has no data: call add(images, labels) first")
        batch = slice(self.position, self.position + self.batch_size)
        self.position = batch.stop % len(self._data)
        return [self._data[batch].copy(), self._labels[batch].copy()]
