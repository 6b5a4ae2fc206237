"""Layers whose tops come from outside the net (files, callers, fillers), and HDF5Output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from converters.formats.hdf5 import created_hdf5
from converters.layers.registry import BlobSpec, Count, Family, Layer, LayerState, Shape
from converters.proto import caffe_pb2 as pb
from converters.raw_text import file_name

if TYPE_CHECKING:
    from torch import Tensor

register = Family("#d9d9d9")

TRANSFORM = "transform_param"
COLOR = dict.fromkeys(
    ["transform_param.force_color", "transform_param.force_gray"],
    "for compressed records of a Data layer alone",
)
PREFETCH = "batches are prepared ahead in any case"


class _Source(Layer):
    """A layer without bottoms whose tops the caller gives, or `gmnet_pt.solver.batches` reads."""

    bottoms = Count(0, 0)
    tops = Count(1, None)
    is_data = True


@register("Input", "input_param")
class Input(_Source):
    """Tops of given shapes, one for all or one each. Source: Caffe layers/input_layer.cpp."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shapes = [tuple(shape.dim) for shape in self.param.input_param.shape]
        tops = len(self.param.top)
        if len(shapes) not in (0, 1, tops):
            raise self.error(f"has {len(shapes)} shapes for {tops} tops; give one, or one per top")
        if not shapes:
            raise self.error("has no shape: give input_param { shape { dim: … } } or input shapes")
        return shapes * tops if len(shapes) == 1 else shapes


class FileSource(_Source):
    """A data layer that reads files: its tops' shapes are those of the first record."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        # Imported late: whoever gives shapes, as the generator does, needs no database.
        from converters.readers import open_reader

        return open_reader(self.param, self.environment, seed=0).shapes()


@register("Data", "data_param", TRANSFORM)
class Data(FileSource):
    """Batches of Datum records from an LMDB, in key order. Source: layers/data_layer.cpp."""

    tops = Count(1, 2)
    of_forks: ClassVar[tuple[str, ...]] = ("data_param.shuffle",)
    ignored = {
        "data_param.rand_skip": "Caffe's Data layer does not read it",
        "data_param.prefetch": PREFETCH,
        "data_param.scale": "moved to transform_param in old files; Data does not read it",
        "data_param.mean_file": "moved to transform_param in old files; Data does not read it",
        "data_param.crop_size": "moved to transform_param in old files; Data does not read it",
        "data_param.mirror": "moved to transform_param in old files; Data does not read it",
        "data_param.force_encoded_color": "Caffe's Data layer does not read it",
        "data_param.backend": "the database itself tells what it is",
    }
    refused = {"a LevelDB database": "its images make an LMDB (`converters imageset`)"}


@register("ImageData", "image_data_param", TRANSFORM)
class ImageData(FileSource):
    """Batches of images named by a list file. Source: Caffe layers/image_data_layer.cpp."""

    tops = Count(2, 2)
    ignored = {
        "image_data_param.scale": "moved to transform_param in old files; not read",
        "image_data_param.mean_file": "moved to transform_param in old files; not read",
        "image_data_param.crop_size": "moved to transform_param in old files; not read",
        "image_data_param.mirror": "moved to transform_param in old files; not read",
        **COLOR,
    }


@register("WindowData", "window_data_param", TRANSFORM)
class WindowData(FileSource):
    """Batches of image windows, background and foreground. Source: layers/window_data_layer.cpp."""

    tops = Count(2, 2)
    ignored = {
        "window_data_param.mean_file": "moved to transform_param in old files; not read",
        "window_data_param.crop_size": "moved to transform_param in old files; not read",
        "window_data_param.mirror": "moved to transform_param in old files; not read",
        "transform_param.scale": "WindowData reads window_data_param.scale",
        "transform_param.force_color": "windows are always read in colour",
        "transform_param.force_gray": "windows are always read in colour",
    }
    differences = (
        "an image that cannot be read, or a window outside its image, is an error; Caffe goes on "
        "with a batch of zeros, or aborts"
    )


@register("HDF5Data", "hdf5_data_param")
class HDF5Data(FileSource):
    """Rows of HDF5 datasets named like the tops. Source: Caffe layers/hdf5_data_layer.cpp."""

    refused = {"transform_param": "HDF5 data are taken as they are (Caffe stops too)"}


@register("MemoryData", "memory_data_param", TRANSFORM)
class MemoryData(_Source):
    """Batches of arrays that the caller adds. Source: Caffe layers/memory_data_layer.cpp."""

    tops = Count(2, 2)
    ignored = COLOR

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.memory_data_param
        shape = (param.batch_size, param.channels, param.height, param.width)
        if min(shape) < 1:
            raise self.error(
                f"batch_size, channels, height and width must be positive, got {shape}"
            )
        return [shape, (param.batch_size,)]


@register("DummyData", "dummy_data_param")
class DummyData(Layer):
    """Tops made by fillers: a constant once, anything else anew each forward.

    Source: Caffe layers/dummy_data_layer.cpp.
    """

    bottoms = Count(0, 0)
    tops = Count(1, None)

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        param, tops = self.param.dummy_data_param, len(self.param.top)
        legacy = [list(getattr(param, name)) for name in ("num", "channels", "height", "width")]
        if any(legacy) and param.shape:
            raise self.error("give shape, or num, channels, height and width, not both")
        if param.shape:
            shapes = [tuple(shape.dim) for shape in param.shape]
        else:
            if any(len(values) not in (1, tops) for values in legacy):
                raise self.error(
                    f"num, channels, height and width are each needed once, or once for each of "
                    f"the {tops} tops (got {', '.join(str(len(values)) for values in legacy)})"
                )
            shapes = [
                tuple(values[top if len(values) > 1 else 0] for values in legacy)
                for top in range(tops)
            ]
        if len(shapes) not in (1, tops):
            raise self.error(f"has {len(shapes)} shapes for {tops} tops; give one, or one per top")
        if len(param.data_filler) not in (0, 1, tops):
            raise self.error(
                f"has {len(param.data_filler)} data_filler for {tops} tops; give none, one, or "
                "one per top"
            )
        self.shapes = shapes * tops if len(shapes) == 1 else shapes
        fillers = list(param.data_filler) or [pb.FillerParameter()]
        self.fillers = fillers * tops if len(fillers) == 1 else fillers
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(self.shapes)

    def state_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        # An anchor that knows the net's device and dtype.
        return {"anchor": ()}

    def forward(self, state: LayerState, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        from converters.layers.fillers import fill

        anchor = state.state["anchor"]
        place = f'{self.environment.source}: layer "{self.name}"'
        tops = tuple(
            fill(anchor.new_empty(shape), filler, place)
            for shape, filler in zip(self.shapes, self.fillers)
        )
        return tops[0] if len(tops) == 1 else tops


@register("HDF5Output", "hdf5_output_param")
class HDF5Output(Layer):
    """Write bottoms `data` and `label` of the last forward to an HDF5 file.

    Source: Caffe layers/hdf5_output_layer.cpp: the file holds the newest batch. Where a net is
    only tried or measured (`Environment.may_write`) nothing is written.
    """

    bottoms = Count(2, 2)
    tops = Count(0, 0)
    needs_host = "writes a file in each pass"
    has_effects = True
    differences = (
        "`check`, `time`, `features` and `classify` write nothing; training, `gmnet_pt.test` and a "
        "net of `load_net` do"
    )

    def setup(self, bottoms: Sequence[Shape]) -> Sequence[BlobSpec]:
        if not self.param.hdf5_output_param.file_name:
            raise self.error("needs hdf5_output_param { file_name: … }")
        return ()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if bottoms[0][:1] != bottoms[1][:1]:
            raise self.shape_error(
                f"{self.bottom_name(0)} {bottoms[0]} and {self.bottom_name(1)} {bottoms[1]} "
                "must have equally many items"
            )
        return []

    def forward(self, state: LayerState, *bottoms: Tensor) -> tuple[Tensor, ...]:
        if not self.environment.may_write:
            return ()
        with created_hdf5(file_name(self.param.hdf5_output_param.file_name)) as file:
            for name, x in zip(("data", "label"), bottoms):
                file[name] = x.detach().cpu().numpy().reshape(_four_axes(tuple(x.shape)))
        return ()


def _four_axes(shape: Shape) -> Shape:
    """Caffe's num, channels, height, width of a blob with fewer axes."""
    if len(shape) <= 4:
        return shape + (1,) * (4 - len(shape))
    return (shape[0], math.prod(shape[1:]))
