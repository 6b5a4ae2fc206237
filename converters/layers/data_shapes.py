"""The shapes of a data layer's tops, by looking at its first record."""

from __future__ import annotations

from converters.proto import caffe_pb2 as pb
from converters.readers import open_reader


def data_shapes(
    param: pb.LayerParameter, phase: str, source: str, folder: str
) -> list[tuple[int, ...]]:
    """The tops' shapes of a layer that reads files.

    Raises:
        DataError: its files are absent or damaged.
    """
    return open_reader(param, phase, source, folder, seed=0).shapes()
