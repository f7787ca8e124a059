"""Which layers a configuration asks for: one function a layer of `MaskRCNN`."""

from kmaskrcnn.backends import uses_tensorflow
from kmaskrcnn.config import MaskRCNNConfig, fit_to_channels
from kmaskrcnn.layers.backbones import backbone_normalisation, build_backbone, build_stage5
from kmaskrcnn.layers.cascade import RelabelLayer
from kmaskrcnn.layers.convolution import ConvNorm
from kmaskrcnn.layers.detection import DetectionLayer
from kmaskrcnn.layers.fpn import FeaturePyramid, SingleLevel
from kmaskrcnn.layers.heads import BoxHead, MaskHead, MLPMaskHead
from kmaskrcnn.layers.keypoint_head import KeypointHead
from kmaskrcnn.layers.mask_targets import MaskTargetLayer
from kmaskrcnn.layers.normalizer import ImageNormalizer
from kmaskrcnn.layers.point_rend import CoarseMaskHead, PointHead
from kmaskrcnn.layers.roi_align import RoIAlign
from kmaskrcnn.layers.roi_crop import RoICrop
from kmaskrcnn.layers.roi_pool import RoIPool, RoIWarp
from kmaskrcnn.layers.rpn import AnchorGenerator, ProposalLayer, RPNHead
from kmaskrcnn.layers.targets import DetectionTargetLayer, RPNTargetLayer


def make_normalizer(c: MaskRCNNConfig):
    """The statistics of the configuration, or those that its backbone was trained with."""
    mean, std = (
        fit_to_channels(values, c.in_channels) for values in backbone_normalisation(c.backbone)
    )
    divisor = c.size_divisor if uses_tensorflow(c.portable) else None
    return ImageNormalizer(
        c.pixel_mean or mean, c.pixel_std or std, divisor, c.padding, name="normalizer"
    )


def make_backbone(c: MaskRCNNConfig):
    """A model from the image to C2 ... C5, or to C4 where the fifth stage is a head."""
    return build_backbone(
        c.backbone,
        stride_in_1x1=c.stride_in_1x1,
        stem_pool=c.stem_pool,
        in_channels=c.in_channels,
        norm=c.norm,
        norm_epsilon=c.norm_epsilon,
        c5_dilation=2 if c.pyramid == "dc5" else 1,
        last_stage="C4" if c.pyramid == "c4" else "C5",
    )


def make_stage5(c: MaskRCNNConfig):
    """The fifth stage that a C4 model passes every region through; None for the others."""
    if c.pyramid != "c4":
        return None
    return build_stage5(
        c.backbone, stride_in_1x1=c.stride_in_1x1, norm=c.norm, norm_epsilon=c.norm_epsilon
    )


def make_pyramid(c: MaskRCNNConfig):
    """C2 ... C5 -> P2 ... P6, or one stage as it is."""
    if c.pyramid != "fpn":
        return SingleLevel("C4" if c.pyramid == "c4" else "C5", name="single_level")
    return FeaturePyramid(c.fpn_channels, norm=c.fpn_norm, norm_epsilon=c.norm_epsilon, name="fpn")


def make_anchors(c: MaskRCNNConfig):
    """One scale a level; all of them where there is one level."""
    scales = c.anchor_scales if c.pyramid == "fpn" else (c.anchor_scales,)
    return AnchorGenerator(scales, c.anchor_aspect_ratios, c.anchor_rule, name="anchors")


def make_rpn_head(c: MaskRCNNConfig):
    """One head for all levels."""
    scales = 1 if c.pyramid == "fpn" else len(c.anchor_scales)
    anchors_per_cell = scales * len(c.anchor_aspect_ratios)
    return RPNHead(anchors_per_cell, c.rpn_channels, c.rpn_convs, name="rpn_head")


def make_proposals(c: MaskRCNNConfig):
    """From the RPN's answers to regions."""
    return ProposalLayer(
        pre_nms_topk=c.rpn_pre_nms_topk,
        post_nms_topk=c.rpn_post_nms_topk,
        pre_nms_topk_train=c.rpn_pre_nms_topk_train,
        post_nms_topk_train=c.rpn_post_nms_topk_train,
        nms_threshold=c.rpn_nms_threshold,
        min_box_size=c.rpn_min_box_size,
        box_variance=c.rpn_box_variance,
        box_rule=c.box_rule,
        joint_levels=c.rpn_joint_levels,
        portable=c.portable,
        name="proposals",
    )


def choose_convolutions(c: MaskRCNNConfig, layers):
    """Tell all convolutions, those of a given backbone too, how to be computed."""
    for layer in layers:
        if isinstance(layer, ConvNorm):
            layer.implementation = "direct" if c.portable else c.convolution


def roi_align_of(c: MaskRCNNConfig):
    """The implementation of RoIAlign."""
    return "gather" if c.portable else c.roi_align


def make_roi_layer(c: MaskRCNNConfig, pool_size, name):
    """RoIAlign, or what the paper compares it with."""
    levels = c.roi_levels if c.pyramid == "fpn" else ("P4",)  # there is no other
    if c.roi_pooling == "pool":
        return RoIPool(pool_size, levels=levels, name=name)
    options = {"implementation": roi_align_of(c), "levels": levels, "name": name}
    if c.roi_pooling == "crop":
        return RoICrop(pool_size, **options)
    options |= {"sampling_ratio": c.roi_sampling_ratio, "reduce": c.roi_reduce}
    if c.roi_pooling == "warp":
        return RoIWarp(pool_size, **options)
    return RoIAlign(pool_size, aligned=c.roi_aligned, **options)


def make_box_head(c: MaskRCNNConfig, name="box_head"):
    """Classes and boxes of regions."""
    return BoxHead(
        c.num_classes,
        units=c.box_head_units,
        num_dense=c.box_head_dense,
        num_convs=c.box_head_convs,
        channels=c.fpn_channels,
        norm=c.head_norm,
        norm_epsilon=c.norm_epsilon,
        class_agnostic=c.class_agnostic_boxes,
        average=c.pyramid == "c4",
        name=name,
    )


def count_masks(c: MaskRCNNConfig):
    """How many masks a region has: one for every class or for all of them, and one of the background in a softmax."""
    return (1 if c.class_agnostic_masks else c.num_classes) + (c.mask_activation == "softmax")


def make_mask_head(c: MaskRCNNConfig):
    """As many masks a region as the configuration tells apart."""
    num_masks = count_masks(c)
    if c.mask_head == "point_rend":
        return CoarseMaskHead(num_masks, c.mask_head_channels, c.mask_head_units, name="mask_head")
    if c.mask_head == "mlp":
        return MLPMaskHead(num_masks, c.mask_head_units, name="mask_head")
    return MaskHead(
        num_masks,
        c.mask_head_convs,
        c.mask_head_channels,
        norm=c.head_norm,
        norm_epsilon=c.norm_epsilon,
        name="mask_head",
    )


def make_point_head(c: MaskRCNNConfig):
    """The masks at single points, for PointRend."""
    return PointHead(count_masks(c), c.mask_head_channels, name="point_head")


def make_mask_roi_layer(c: MaskRCNNConfig):
    """As the box head's, but finer; PointRend's looks at the finest level alone, once a cell."""
    if c.mask_head != "point_rend":
        return make_roi_layer(c, c.mask_pool_size, "mask_align")
    options = {"sampling_ratio": 1, "levels": ("P2",), "name": "mask_align"}
    return RoIAlign(c.mask_pool_size, implementation=roi_align_of(c), **options)


def make_keypoint_head(c: MaskRCNNConfig):
    """A heatmap for each of the keypoints that the configuration names.

    Raises:
        ValueError: if it names none.
    """
    if not c.keypoint_names:
        raise ValueError("keypoint_names: got none, accepted with `with_keypoints` is one or more")
    return KeypointHead(
        c.num_keypoints,
        c.keypoint_head_convs,
        c.keypoint_head_channels,
        norm=c.head_norm,
        norm_epsilon=c.norm_epsilon,
        name="keypoint_head",
    )


def make_detection(c: MaskRCNNConfig):
    """From the box head's answers to detections."""
    return DetectionLayer(
        score_threshold=c.score_threshold,
        nms_threshold=c.nms_threshold,
        max_detections=c.max_detections,
        box_variance=c.box_variance,
        box_rule=c.box_rule,
        best_class_only=c.best_class_only,
        suppression=c.suppression,
        soft_nms_sigma=c.soft_nms_sigma,
        portable=c.portable,
        name="detection",
    )


def make_rpn_targets(c: MaskRCNNConfig):
    """The anchors to learn from."""
    return RPNTargetLayer(
        anchors_per_image=c.rpn_anchors_per_image,
        positive_fraction=c.rpn_positive_fraction,
        positive_threshold=c.rpn_positive_threshold,
        negative_threshold=c.rpn_negative_threshold,
        box_variance=c.rpn_box_variance,
        name="rpn_targets",
    )


def make_detection_targets(c: MaskRCNNConfig):
    """The regions to learn from."""
    return DetectionTargetLayer(
        c.num_classes,
        rois_per_image=c.rois_per_image,
        positive_fraction=c.roi_positive_fraction,
        positive_threshold=c.roi_positive_threshold,
        box_variance=c.box_variance,
        box_rule=c.box_rule,
        name="detection_targets",
    )


def make_relabel(c: MaskRCNNConfig, name):
    """What a later stage of a cascade learns from."""
    options = {"positive_threshold": c.roi_positive_threshold, "box_variance": c.box_variance}
    return RelabelLayer(c.num_classes, **options, name=name)


def make_mask_targets(c: MaskRCNNConfig):
    """The masks to learn."""
    size = c.mask_pool_size // 2 if c.mask_head == "point_rend" else c.mask_size
    return MaskTargetLayer(
        size, implementation="gather" if c.portable else "auto", name="mask_targets"
    )
