"""Forks' data layers that read images with a label for each pixel."""

from __future__ import annotations

from converters.layers.data import COLOR, TRANSFORM, FileSource
from converters.layers.registry import Count, Family

register = Family("#d9d9d9")

MOVED = {
    f"image_data_param.{name}": "moved to transform_param in old files; not read"
    for name in ("scale", "mean_file", "crop_size", "mirror")
}


@register("ImageSegData", "image_data_param", TRANSFORM)
class ImageSegData(FileSource):
    """Images, their labels, and their height and width as far as the tops have them.

    A line of the list is an image and, by label_type, a file of labels (PIXEL), one label for all
    pixels (IMAGE), or nothing (NONE: ignore_label). One of `scale_factors`, each as likely, scales
    both; what is then smaller than the crop is filled with the mean, and with ignore_label; the
    crop is at random in TRAIN and the middle in TEST. Sources: hszhao/PSPNet
    image_seg_data_layer.cpp, data_transformer.cpp.
    """

    origin = "PSPNet"
    tops = Count(2, 3)
    of_forks = (
        *(f"image_data_param.{name}" for name in ("label_type", "ignore_label")),
        *(f"transform_param.{name}" for name in ("scale_factors", "crop_width", "crop_height")),
    )
    ignored = MOVED | COLOR
    refused = {"transform_param.mean_file": "what is filled up needs mean_value"}
    differences = (
        "where images are filled up and no mean_value is given, with 0; the third top may be left "
        "out"
    )


@register("DenseImageData", "dense_image_data_param", TRANSFORM)
class DenseImageData(FileSource):
    """Images and maps of labels, in pairs of files. Both are resized (labels to the nearest pixel),
    mirrored and cropped alike, at random in both phases; a mean_file has the crop's size. ENet's
    `label_divide_factor` makes labels that many times smaller than images.

    Source: alexgkendall/caffe-segnet dense_image_data_layer.cpp.
    """

    origin = "SegNet"
    tops = Count(2, 2)
    of_forks = ("dense_image_data_param.label_divide_factor",)
    ignored = {
        "dense_image_data_param.mean_file": "the fork reads transform_param's",
        **COLOR,
    }
    refused = {
        f"transform_param.{name}": "it would change images without their labels"
        for name in ("mirror", "crop_size")
    }


@register("ImageLabelmapData", "image_data_param", TRANSFORM)
class ImageLabelmapData(FileSource):
    """Images and edge maps, in pairs of files; an edge is 1 where the file has 128 or more.

    Crops are at random in both phases. Source: s9xie/hed image_labelmap_data_layer.cpp.
    """

    origin = "HED"
    tops = Count(2, 2)
    ignored = MOVED | COLOR
    differences = "RCF's code gives value / 255 in place of 0 and 1"
