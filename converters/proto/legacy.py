"""The layer types of Caffe's old files: V0 names and V1 enum values, and what they are today.

Both prototxt files (`converters.prototxt.upgrade`) and weight files (`converters.formats.
caffemodel`) hold them. Source: Caffe util/upgrade_proto.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

from converters.proto import caffe_pb2 as pb

# A V0 layer that pads what the next one reads; it has no blobs, and the upgrade removes it.
PADDING = "padding"

# V1 enum name -> V2 type.
V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
    # Of forks: FCN's branch, MobileNet-YOLO, happynear.
    "CROP": "Crop",
    "RELU6": "ReLU6",
    "LOCAL": "Local",
    "BN": "BN",
    "NORMALIZE": "Normalize",
    "INSANITY": "Insanity",
    "TRIPLET_LOSS": "TripletLoss",
    "ROIPOOLING": "ROIPooling",
    "BATCH_NORM": "BatchNorm",
    "ELTWISE_AFFINE": "EltwiseAffine",
}


class V0Type(NamedTuple):
    """What a V0 type name became: a V1 enum name and the message that holds its settings."""

    v1: str
    settings: str = ""


V0_TYPES = {
    "accuracy": V0Type("ACCURACY"),
    "bnll": V0Type("BNLL"),
    "concat": V0Type("CONCAT", "concat_param"),
    "conv": V0Type("CONVOLUTION", "convolution_param"),
    "data": V0Type("DATA", "data_param"),
    "dropout": V0Type("DROPOUT", "dropout_param"),
    "euclidean_loss": V0Type("EUCLIDEAN_LOSS"),
    "flatten": V0Type("FLATTEN"),
    "hdf5_data": V0Type("HDF5_DATA", "hdf5_data_param"),
    "hdf5_output": V0Type("HDF5_OUTPUT", "hdf5_output_param"),
    "im2col": V0Type("IM2COL"),
    "images": V0Type("IMAGE_DATA", "image_data_param"),
    "infogain_loss": V0Type("INFOGAIN_LOSS", "infogain_loss_param"),
    "innerproduct": V0Type("INNER_PRODUCT", "inner_product_param"),
    "lrn": V0Type("LRN", "lrn_param"),
    "multinomial_logistic_loss": V0Type("MULTINOMIAL_LOGISTIC_LOSS"),
    "pool": V0Type("POOLING", "pooling_param"),
    "relu": V0Type("RELU"),
    "sigmoid": V0Type("SIGMOID"),
    "softmax": V0Type("SOFTMAX"),
    "softmax_loss": V0Type("SOFTMAX_LOSS"),
    "split": V0Type("SPLIT"),
    "tanh": V0Type("TANH"),
    "window_data": V0Type("WINDOW_DATA", "window_data_param"),
}


def v1_type(number: int) -> str | None:
    """The V2 type of a V1 enum value, None if there is no such value."""
    names = pb.V1LayerParameter.LayerType
    return V1_TYPES[names.Name(number)] if number in names.values() else None


def v0_type(name: str) -> str | None:
    """The V2 type of a V0 type name, None if there is no such type."""
    return V1_TYPES[V0_TYPES[name].v1] if name in V0_TYPES else None
