"""SSD's data layer: images with boxes."""

from __future__ import annotations

from converters.layers.data import TRANSFORM, Data
from converters.layers.registry import Family

register = Family("#d9d9d9")


@register("AnnotatedData", "data_param", "annotated_data_param", TRANSFORM)
class AnnotatedData(Data):
    """Batches of AnnotatedDatum records from an LMDB: images, and boxes (1, 1, M, 8).

    `converters.readers.annotated` reads them. Source: weiliu89/caffe ssd
    layers/annotated_data_layer.cpp.
    """

    origin = "SSD"
    of_forks = (
        *Data.of_forks,
        "transform_param.resize_param",
        "transform_param.emit_constraint",
        "transform_param.crop_h",
        "transform_param.crop_w",
        "transform_param.distort_param",
        "transform_param.expand_param",
    )
    ignored = {
        **Data.ignored,
        "annotated_data_param.label_map_file": "labels are numbers in the records; SSD's layer "
        "does not read it either",
    }
    refused = {}
    differences = (
        "between its random changes an image is not compressed to JPEG again; records of raw "
        "pixels are resized and distorted too; a mean image is cut and mirrored with its image; "
        "resize_param.prob has no effect in either"
    )
