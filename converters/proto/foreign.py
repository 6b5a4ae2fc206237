"""What forks of Caffe have that is not here, and how Caffe says it: errors take it from this.

Layer types, and fields that the schema lacks (`forks.proto` has the most and knows whose they are).
Nothing here is parsed or computed: an error asks for a name that the registry or the schema does
not know, and what is built one day is no longer asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Fork(NamedTuple):
    """A fork: whose it is, as words before "fork", and names with blanks between them.

    `fields` go by the message that they were added to.
    """

    whose: str
    types: str = ""
    fields: Mapping[str, str] = {}


FORKS = (
    Fork(
        "SSD's",
        types="VideoData",
    ),
    Fork(
        "DeepLab's and PSPNet's",
        types=(
            "AdaptiveBiasChannel BiasChannel DenseCRF DomainTransform MatRead MatWrite UniqueLabel"
        ),
    ),
    Fork(
        "MobileNet-YOLO's",
        types="RegionLoss SegmentationEvaluate YoloDetectionOutput YoloSeg Yolov3",
    ),
    Fork(
        "TSN's",
        types="BatchReduction Gather Scatter SegData VideoData",
    ),
    Fork(
        "NVIDIA's",
        types="DetectNetTransformation VideoData",
    ),
    Fork(
        "happynear's",
        types=(
            "BatchContrastiveLoss ChannelScale ConfidencePenaltyLoss EltwiseAffine FCNData "
            "FeatureDecayLoss FocalLoss GeneralContrastiveLoss GeneralTripletLoss Hotspot "
            "InfimumLoss InnerDistance Insanity LabelSpecificAdd LabelSpecificAffine "
            "LabelSpecificHardMargin LabelSpecificMargin LabelSpecificRescale "
            "LargeMarginInnerProduct Local MIL MILData NCA Noise OrdinalRegressionLoss "
            "Pairwise PredictBox Resize SoftContrastiveLoss SoftTruncation SubRegion "
            "TripletLoss Truncation"
        ),
    ),
    Fork(
        "FlowNet's",
        types=(
            "Accum BlackAugmentation ChannelNorm Correlation CustomData DataAugmentation "
            "Downsample FLOWriter FlowAugmentation FlowWarp GenerateAugmentationParameters "
            "ImgReader LpqLoss Mean Resample"
        ),
        fields={
            "LayerParameter": (
                "accum_param augmentation_param black_augmentation_param coeff_schedule_param "
                "correlation_param downsample_param flow_warp_param lpq_loss_param mean_param "
                "reader_param resample_param reshape_every_iter writer_param"
            ),
        },
    ),
    Fork(
        "CRF-as-RNN's",
        types="MultiStageMeanfield",
        fields={
            "LayerParameter": "multi_stage_meanfield_param",
        },
    ),
    Fork(
        "OpenPose's",
        types="CPMData ImResize Nms",
        fields={
            "LayerParameter": "cpm_transform_param imresize_param nms_param",
        },
    ),
    Fork(
        "C3D's",
        types="Convolution3D Pooling3D",
        fields={
            "LayerParameter": "convolution3d_param pooling3d_param",
        },
    ),
    Fork(
        "Deformable ConvNets'",
        types="DeformableConvolution DeformablePSROIPooling",
        fields={
            "LayerParameter": "deformable_convolution_param",
        },
    ),
    Fork(
        "CRNN's",
        types="CTCGreedyDecoder CTCLoss CtcLoss Lstm WarpCTC WarpCTCLoss",
        fields={
            "LayerParameter": (
                "ctc_decoder_param ctc_greedy_decoder_param ctc_loss_param lstm_param "
                "warp_ctc_loss_param"
            ),
        },
    ),
    Fork(
        "ENet's",
        types="SpatialDropout",
    ),
    Fork(
        "Texas Instruments'",
        types="ImageLabelData ImageLabelListData",
        fields={
            "SolverParameter": (
                "display_sparsity insert_quantization_param quantization_start_iter snapshot_log "
                "sparse_mode sparsity_start_factor sparsity_start_iter sparsity_step_factor "
                "sparsity_step_iter sparsity_target"
            ),
            "LayerParameter": "image_label_data_param",
        },
    ),
)

TYPES_OTHERWISE = {
    "Lstm": "LSTM, which takes T×N×… and a bottom of continuation marks",
    "Mish": "BNLL, TanH and Eltwise with operation: PROD",
}
"""How Caffe's own layers compute what a foreign one does."""

FIELDS_OTHERWISE = {
    "ceil_mode": "round_mode: FLOOR for false, the default for true",
    "scale_bias": "a Scale layer with bias_term: true after this one",
    "dilation_h": "dilation: H dilation: W",
    "dilation_w": "dilation: H dilation: W",
    "crop_h": "crop_size, a square",
    "crop_w": "crop_size, a square",
    "crop_height": "crop_size, a square",
    "crop_width": "crop_size, a square",
    "resize_param": "images are resized when the database is built",
}
"""How Caffe writes what a foreign field says."""

SOLVER_WITHOUT_EFFECT = {
    "display_sparsity": "it only prints how many weights are zero",
    "richness": "it only bounds the memory of convolutions",
    "snapshot_log": "it only writes more files",
}
"""Solver fields that change nothing in training, beside those that the schema calls idle: accepted,
with these words."""


def forks_with_field(message: str, field: str) -> tuple[str, ...]:
    """Whose forks have `field` in `message`, which goes without its package."""
    return tuple(fork.whose for fork in FORKS if field in fork.fields.get(message, "").split())


def forks_with_type(layer_type: str) -> tuple[str, ...]:
    """Whose forks have a layer type."""
    return tuple(fork.whose for fork in FORKS if layer_type in fork.types.split())
