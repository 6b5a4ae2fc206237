"""What well-known forks of Caffe add: layer types, fields, enum values. Errors name the fork by it.

Nothing here is parsed or computed. An error asks for a name that the schema or the registry does
not know; what is built one day is no longer asked for. The first forks' fields and values are those
of their caffe.proto, without what lies in messages of their own: such a message is foreign as a
whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Fork(NamedTuple):
    """A fork: whose it is, as words before "fork", and names with blanks between them.

    `fields` go by the message, and `values` by the enum, that they were added to.
    """

    whose: str
    types: str = ""
    fields: Mapping[str, str] = {}
    values: Mapping[str, str] = {}


FORKS = (
    Fork(
        "SSD's",
        types=(
            "AnnotatedData DetectionEvaluate DetectionOutput MultiBoxLoss Normalize Permute "
            "PriorBox SmoothL1Loss VideoData"
        ),
        fields={
            "SolverParameter": "eval_type ap_version show_per_class_result plateau_winsize",
            "SolverState": "minimum_loss iter_last_event",
            "LayerParameter": (
                "annotated_data_param detection_evaluate_param detection_output_param "
                "multibox_loss_param norm_param permute_param prior_box_param video_data_param"
            ),
            "TransformationParameter": (
                "crop_h crop_w resize_param noise_param distort_param expand_param emit_constraint"
            ),
        },
    ),
    Fork(
        "Faster R-CNN's and R-FCN's",
        types=(
            "BoxAnnotatorOHEM PSROIPooling ROIPooling SmoothL1Loss SmoothL1LossOHEM "
            "SoftmaxWithLossOHEM"
        ),
        fields={
            "LayerParameter": (
                "box_annotator_ohem_param psroi_pooling_param roi_pooling_param "
                "smooth_l1_loss_param"
            ),
            "LossParameter": "pre_fixed_normalizer",
            "DropoutParameter": "scale_train",
        },
        values={
            "LossParameter.NormalizationMode": "PRE_FIXED NONE",
        },
    ),
    Fork(
        "DeepLab's and PSPNet's",
        types=(
            "AdaptiveBiasChannel BiasChannel BN DenseCRF DomainTransform ImageSegData Interp "
            "MatRead MatWrite SegAccuracy UniqueLabel"
        ),
        fields={
            "LayerParameter": (
                "adaptive_bias_channel_param bn_param bias_channel_param dense_crf_param "
                "domain_transform_param interp_param mat_read_param mat_write_param "
                "seg_accuracy_param unique_label_param"
            ),
            "TransformationParameter": "scale_factors crop_width crop_height",
            "BatchNormParameter": "update_global_stats",
            "ImageDataParameter": "ignore_label label_type",
        },
    ),
    Fork(
        "SegNet's",
        types="BN DenseImageData Upsample",
        fields={
            "LayerParameter": "bn_param dense_image_data_param upsample_param",
            "LossParameter": "weight_by_label_freqs class_weighting",
            "DropoutParameter": "sample_weights_test",
        },
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
        fields={
            "Datum": "seg_label",
            "SolverParameter": (
                "eval_type ap_version show_per_class_result stagelr stageiter plateau_winsize"
            ),
            "SolverState": "minimum_loss iter_last_event",
            "LayerParameter": (
                "region_loss_param yolov3_param yolo_seg_param annotated_data_param "
                "detection_output_param detection_evaluate_param segmentation_evaluate_param "
                "yolo_detection_output_param yolov3_detection_output_param multibox_loss_param "
                "norm_param permute_param prior_box_param relu6_param reorg_param upsample_param"
            ),
            "TransformationParameter": (
                "crop_h crop_w resize_param noise_param distort_param expand_param emit_constraint "
                "enable_classf_aug min_scaling_factor max_scaling_factor max_rotation_angle "
                "contrast_brightness_adjustment smooth_filtering min_contrast max_contrast "
                "max_brightness_shift max_smooth max_color_shift min_side_min min_side_max "
                "min_side apply_probability debug_params cvt_bgr2rgb"
            ),
            "V1LayerParameter": "relu6_param",
        },
        values={
            "V1LayerParameter.LayerType": "RELU6",
        },
    ),
    Fork(
        "TSN's",
        types="BatchReduction BN Gather ROIPooling Scatter SegData VideoData",
        fields={
            "NetParameter": "mem_param",
            "SolverParameter": "group_id richness",
            "LayerParameter": (
                "bn_param seg_data_param video_data_param roi_pooling_param batch_reduction_param"
            ),
            "TransformationParameter": (
                "fix_crop more_fix_crop multi_scale scale_ratios max_distort is_flow "
                "original_image stride upper_size upper_height upper_width"
            ),
            "ConvolutionParameter": "dilation_h dilation_w",
            "DataParameter": "shuffle",
            "ReductionParameter": "k",
        },
        values={
            "EltwiseParameter.EltwiseOp": "STOCHASTIC_SUM",
            "ReductionParameter.ReductionOp": "TOPK",
        },
    ),
    Fork(
        "NVIDIA's",
        types=(
            "AnnotatedData DetectionEvaluate DetectionOutput DetectNetTransformation L1Loss "
            "MultiBoxLoss Normalize Permute PriorBox SmoothL1Loss VideoData"
        ),
        fields={
            "BlobProto": "raw_data_type raw_diff_type raw_data raw_diff",
            "Datum": "record_id",
            "NetParameter": (
                "default_forward_type default_backward_type default_forward_math "
                "default_backward_math global_grad_scale global_grad_scale_adaptive "
                "default_conv_algos_override reduce_buckets default_cudnn_math_override "
                "eltwise_mem_sharing"
            ),
            "SolverParameter": (
                "eval_type ap_version show_per_class_result rampup_interval rampup_lr min_lr "
                "momentum_policy max_momentum momentum_power larc larc_policy larc_eta larc_turbo "
                "weight_decay_policy weight_decay_power max_weight_decay plateau_winsize "
                "solver_data_type store_blobs_in_old_format test_and_snapshot_last_epochs"
            ),
            "SolverState": "minimum_loss iter_last_event",
            "LayerParameter": (
                "forward_type backward_type forward_math backward_math debug cudnn_math_override "
                "annotated_data_param detection_evaluate_param detection_output_param "
                "multibox_loss_param norm_param permute_param prior_box_param video_data_param "
                "trt_param detectnet_groundtruth_param detectnet_augmentation_param"
            ),
            "TransformationParameter": (
                "img_rand_resize_lower img_rand_resize_upper rand_resize_ratio_lower "
                "rand_resize_ratio_upper vertical_stretch_lower vertical_stretch_upper "
                "horizontal_stretch_lower horizontal_stretch_upper interpolation_algo_down "
                "interpolation_algo_up allow_upscale forward_packing crop_h crop_w "
                "use_gpu_transform random_seed display num_labels resize_param noise_param "
                "distort_param expand_param emit_constraint"
            ),
            "LossParameter": "label_smoothing",
            "BatchNormParameter": "scale_filler bias_filler scale_bias engine",
            "ConvolutionParameter": "cudnn_convolution_algo_seeker conv_algos_override",
            "DataParameter": "threads parser_threads cache shuffle precache",
            "DropoutParameter": "engine random_seed",
            "ELUParameter": "lambda",
            "ImageDataParameter": "short_side threads cache precache dataset_share_per_node",
            "PoolingParameter": "torch_pooling",
        },
        values={
            "SolverParameter.SolverType": "SAG",
        },
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
        fields={
            "FillerParameter": "alpha",
            "SolverParameter": "clamp_weights_lower clamp_weights_upper clip_weights",
            "LayerParameter": (
                "bn_param local_param insanity_param triplet_loss_param roi_pooling_param "
                "eltwise_affine_param sub_region_param noise_param hotspot_param predict_box_param "
                "mil_data_param mil_param fcn_data_param center_loss_param flip_param "
                "inner_distance_param normalize_param general_contrastive_loss_param "
                "soft_contrastive_loss_param general_triplet_loss_param soft_truncation_param "
                "proposal_param psroi_pooling_param pairwise_param smoothl1_param "
                "batch_contrastive_loss_param permute_param truncation_param nca_param "
                "largemargin_inner_product_param label_specific_rescale_param infimum_loss_param "
                "ordinal_regression_loss_param resize_param margin_inner_product_param "
                "feature_decay_loss_param confidence_penalty_loss_param focal_loss_param "
                "label_specific_margin_param channel_scale_param label_specific_affine_param "
                "label_specific_hard_margin_param label_specific_add_param"
            ),
            "TransformationParameter": (
                "crop_h crop_w center_crop erase_ratio scale_min scale_max aspect_min aspect_max"
            ),
            "AccuracyParameter": "min_is_better",
            "BatchNormParameter": "disable_mean disable_variance scale_filler bias_filler engine",
            "ConvolutionParameter": "cudnn_convolution_algo_seeker shape_offset",
            "DropoutParameter": "sqrt_scale",
            "ImageDataParameter": (
                "face_transform max_shear_ratio max_aspect_ratio max_rotate_angle min_random_scale "
                "max_random_scale max_random_shift face_mirror face_point_num balance_class "
                "balance_by label_cut_start label_cut_end"
            ),
            "InnerProductParameter": "normalize",
            "MemoryDataParameter": "transpose",
            "ParameterParameter": "blob_filler",
            "PoolingParameter": "blobs_lr blobs_a_min",
            "ScaleParameter": "min_value max_value",
            "SoftmaxParameter": (
                "hard_ratio class_weight hard_mining_label cutting_point normalize_type "
                "label_smooth_factor"
            ),
            "V1LayerParameter": (
                "bn_param local_param prelu_param insanity_param triplet_loss_param "
                "roi_pooling_param eltwise_affine_param sub_region_param noise_param"
            ),
        },
        values={
            "EltwiseParameter.EltwiseOp": "SORT",
            "PoolingParameter.PoolMethod": "DEF DEF_ALL DEF_ALL2 DEF_ALL3 DEF_ALL4 LOWRES",
            "V1LayerParameter.LayerType": (
                "LOCAL BN NORMALIZE INSANITY TRIPLET_LOSS ROIPOOLING BATCH_NORM ELTWISE_AFFINE"
            ),
        },
    ),
    Fork(
        "SENet's",
        types="Axpy",
    ),
    Fork(
        "ShuffleNet's",
        types="ShuffleChannel",
        fields={
            "LayerParameter": "shuffle_channel_param",
        },
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
                "correlation_param downsample_param flow_warp_param l1_loss_param lpq_loss_param "
                "mean_param reader_param resample_param reshape_every_iter writer_param"
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
        fields={
            "LayerParameter": "roi_align_param",
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
        types="CTCGreedyDecoder CTCLoss CtcLoss Lstm Reverse Transpose WarpCTC WarpCTCLoss",
        fields={
            "LayerParameter": (
                "ctc_decoder_param ctc_greedy_decoder_param ctc_loss_param lstm_param "
                "reverse_param transpose_param warp_ctc_loss_param"
            ),
        },
    ),
    Fork(
        "ENet's",
        types="SpatialDropout",
        fields={
            "LayerParameter": "spatial_dropout_param",
        },
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
    Fork(
        "Intel's",
        fields={
            "SolverParameter": (
                "disabled_update engine local_gw_ratio local_lr_auto warmup_iter warmup_start_lr"
            ),
            "NetParameter": "engine",
            "LayerParameter": "engine mn_activation_param multinode quantization_param",
        },
    ),
    Fork("many a", fields={"PoolingParameter": "ceil_mode"}),
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

_NO_MAP = "no mAP is computed; tests give the net's own scores"
SOLVER_WITHOUT_EFFECT = {
    "ap_version": _NO_MAP,
    "display_sparsity": "it only prints how many weights are zero",
    "eval_type": _NO_MAP,
    "group_id": "it only numbers processes",
    "plateau_winsize": "it is for lr_policy plateau alone",
    "richness": "it only bounds the memory of convolutions",
    "show_per_class_result": _NO_MAP,
    "snapshot_log": "it only writes more files",
    "store_blobs_in_old_format": "it only chooses how snapshots are written",
}
"""Solver fields that change nothing in training: accepted, with these words."""


def forks_with_field(message: str, field: str) -> tuple[str, ...]:
    """Whose forks have `field` in `message`, which goes without its package."""
    return tuple(fork.whose for fork in FORKS if field in fork.fields.get(message, "").split())


def forks_with_value(enum: str, value: str) -> tuple[str, ...]:
    """Whose forks have `value` in `enum`, which goes without its package: Message.Enum."""
    return tuple(fork.whose for fork in FORKS if value in fork.values.get(enum, "").split())


def forks_with_type(layer_type: str) -> tuple[str, ...]:
    """Whose forks have a layer type."""
    return tuple(fork.whose for fork in FORKS if layer_type in fork.types.split())
