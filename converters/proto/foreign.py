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
        types=(
            "AnnotatedData DetectionEvaluate DetectionOutput MultiBoxLoss Normalize Permute "
            "PriorBox SmoothL1Loss VideoData"
        ),
    ),
    Fork(
        "Faster R-CNN's and R-FCN's",
        types=(
            "BoxAnnotatorOHEM PSROIPooling ROIPooling SmoothL1Loss SmoothL1LossOHEM "
            "SoftmaxWithLossOHEM"
        ),
    ),
    Fork(
        "DeepLab's and PSPNet's",
        types=(
            "AdaptiveBiasChannel BiasChannel BN DenseCRF DomainTransform ImageSegData Interp "
            "MatRead MatWrite SegAccuracy UniqueLabel"
        ),
    ),
    Fork(
        "SegNet's",
        types="BN DenseImageData Upsample",
    ),
    Fork(
        "MobileNet's",
        types="ConvolutionDepthwise DepthwiseConvolution ReLU6",
    ),
    Fork(
        "MobileNet-YOLO's",
        types=(
            "AnnotatedData DepthwiseConvolution DetectionEvaluate DetectionOutput MultiBoxLoss "
            "Normalize Permute PriorBox RegionLoss ReLU6 Reorg SegmentationEvaluate Upsample "
            "YoloDetectionOutput YoloSeg Yolov3 Yolov3DetectionOutput"
        ),
    ),
    Fork(
        "TSN's",
        types="BatchReduction BN Gather ROIPooling Scatter SegData VideoData",
    ),
    Fork(
        "NVIDIA's",
        types=(
            "AnnotatedData DetectionEvaluate DetectionOutput DetectNetTransformation L1Loss "
            "MultiBoxLoss Normalize Permute PriorBox SmoothL1Loss VideoData"
        ),
    ),
    Fork(
        "happynear's",
        types=(
            "BatchContrastiveLoss BN CenterLoss ChannelScale ConfidencePenaltyLoss EltwiseAffine "
            "FCNData FeatureDecayLoss Flip FocalLoss GeneralContrastiveLoss GeneralTripletLoss "
            "Hotspot InfimumLoss InnerDistance Insanity LabelSpecificAdd LabelSpecificAffine "
            "LabelSpecificHardMargin LabelSpecificMargin LabelSpecificRescale "
            "LargeMarginInnerProduct Local MarginInnerProduct MIL MILData NCA Noise Normalize "
            "OrdinalRegressionLoss Pairwise Permute PredictBox Proposal PSROIPooling Resize "
            "ROIPooling SmoothL1Loss SoftContrastiveLoss SoftTruncation SubRegion TripletLoss "
            "Truncation"
        ),
    ),
    Fork(
        "SENet's",
        types="Axpy",
    ),
    Fork(
        "ShuffleNet's",
        types="ShuffleChannel",
    ),
    Fork(
        "FlowNet's",
        types=(
            "Accum BlackAugmentation ChannelNorm Correlation CustomData DataAugmentation "
            "Downsample FLOWriter FlowAugmentation FlowWarp GenerateAugmentationParameters "
            "ImgReader L1Loss LpqLoss Mean Resample"
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
        types="Convolution3D NdConvolution NdPooling Pooling3D",
        fields={
            "LayerParameter": "convolution3d_param pooling3d_param",
        },
    ),
    Fork(
        "Mask R-CNN's",
        types="ROIAlign",
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
        types="CTCGreedyDecoder CTCLoss CtcLoss Lstm Reverse Transpose WarpCTC WarpCTCLoss",
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
    "Axpy": "Scale with axis: 0 and both bottoms, a as (N, C), then Eltwise",
    "BN": "BatchNorm, then Scale with bias_term: true",
    "ConvolutionDepthwise": "Convolution with group: the number of channels",
    "DepthwiseConvolution": "Convolution with group: the number of channels",
    "L1Loss": "Eltwise with coeff: 1 coeff: -1, then Reduction with operation: ASUM, weighted",
    "Lstm": "LSTM, which takes T×N×… and a bottom of continuation marks",
    "Mish": "BNLL, TanH and Eltwise with operation: PROD",
    "ReLU6": "Clip with min: 0 max: 6",
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
