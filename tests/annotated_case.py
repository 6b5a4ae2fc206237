"""Databases of AnnotatedDatum records for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from oracle import Array

from converters.proto import caffe_pb2 as pb

Box = tuple[int, float, float, float, float]
"""Label, xmin, ymin, xmax, ymax."""


def record(
    image: Array,
    boxes: Sequence[Box],
    typed: bool = True,
    label: int = -1,
    difficult: bool = False,
) -> bytes:
    """A record of raw pixels (C, H, W), a group of one annotation for each box."""
    channels, height, width = image.shape
    message = pb.AnnotatedDatum()
    message.datum.MergeFrom(
        pb.Datum(channels=channels, height=height, width=width, data=image.tobytes(), label=label)
    )
    if typed:
        message.type = pb.AnnotatedDatum.BBOX
    for number, (group, xmin, ymin, xmax, ymax) in enumerate(boxes):
        one = message.annotation_group.add(group_label=group).annotation.add(instance_id=number)
        box = pb.NormalizedBBox(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax, difficult=difficult)
        one.bbox.MergeFrom(box)
    return message.SerializeToString()


def write_database(folder: Path, records: Sequence[bytes]) -> None:
    """An LMDB `db`."""
    import lmdb

    (folder / "db").mkdir(parents=True)
    with lmdb.open(str(folder / "db"), map_size=2**26) as env, env.begin(write=True) as txn:
        for index, value in enumerate(records):
            txn.put(b"%08d" % index, value)


def picture(height: int, width: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width)).astype(np.uint8)
