"""Whose layer is whose: the names in others' files beside the names here, as data.

A table's row is `(theirs, ours)`: a regular expression that fits the whole name of a layer in the file,
and the path of the layer here, in which `{+1}` stands for the number that the expression's next group
found, plus 1. What a layer's tensors are called is in `PARTS`; how they lie is `Origin.layout`.

| Origin | Stored kernel | Classes | First convolution |
|---|---|---|---|
| torchvision | OIHW | background first, with boxes and a mask of its own | RGB |
| Detectron2 | OIHW | as here: background last, without box and mask | BGR |
| Caffe2 (the MSRA trunks that Detectron2 starts from) | OIHW | no heads | BGR |
| keras.applications | HWIO | no heads | BGR |
| matterport (`matterport.py`) | HWIO | background first, with boxes and a mask of its own | RGB |
"""

import dataclasses
import typing


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a file comes from: what its tensors are called and how they lie.

    Args:
        name: for messages.
        table: rows as in the head of this file.
        renames: `(expression, replacement)`, applied to every tensor's name first, in this order.
        ignored: expressions of tensors that have no place here.
        layout: `"torch"` (kernels OIHW, dense `(out, in)` behind maps CHW) or `"keras"`.
        background_first: class 0 is the background, and has boxes and a mask too.
        bgr: the first convolution takes blue first.
        affine_norms: batch norms may come as scale and shift alone.
        rewrite: a function that changes translated weights, `{path: array}`, in place where their layers
            are made otherwise than here.
    """

    name: str
    table: tuple
    renames: tuple = ()
    ignored: tuple = ()
    layout: str = "torch"
    background_first: bool = False
    bgr: bool = False
    affine_norms: bool = False
    rewrite: typing.Callable | None = None


# The last part of a tensor's name -> here; the second word is for normalisations.
PARTS = {
    "weight": ("kernel", "gamma"),
    "bias": ("bias", "beta"),
    "running_mean": (None, "moving_mean"),
    "running_var": (None, "moving_variance"),
    "kernel": ("kernel", None),
    "gamma": (None, "gamma"),
    "beta": (None, "beta"),
    "moving_mean": (None, "moving_mean"),
    "moving_variance": (None, "moving_variance"),
}


def below(prefix, table):
    """The same table for layers whose names begin with `prefix`, an expression."""
    return tuple((prefix + theirs, ours) for theirs, ours in table)


# ---------------------------------------------------------------------------------------------------------------------
# torchvision

TORCHVISION_TRUNK = (
    (r"conv1", "stem"),
    (r"bn1", "stem/norm"),
    (r"layer(\d)\.(\d+)\.conv(\d)", "C{+1}_block{+1}_conv{+0}"),
    (r"layer(\d)\.(\d+)\.bn(\d)", "C{+1}_block{+1}_conv{+0}/norm"),
    (r"layer(\d)\.(\d+)\.downsample\.0", "C{+1}_block{+1}_shortcut"),
    (r"layer(\d)\.(\d+)\.downsample\.1", "C{+1}_block{+1}_shortcut/norm"),
)

# Two names in a row's expression: files written by torchvision before 0.13, and since.
TORCHVISION = Origin(
    "torchvision",
    (
        *below(r"backbone\.body\.", TORCHVISION_TRUNK),
        (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?", "fpn/lateral_C{+2}"),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.1", "fpn/lateral_C{+2}/norm"),
        (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?", "fpn/output_P{+2}"),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.1", "fpn/output_P{+2}/norm"),
        (r"rpn\.head\.conv", "rpn_head/conv1"),
        (r"rpn\.head\.conv\.(\d)\.0", "rpn_head/conv{+1}"),
        (r"rpn\.head\.cls_logits", "rpn_head/logits"),
        (r"rpn\.head\.bbox_pred", "rpn_head/deltas"),
        # The first version's two dense layers ...
        (r"roi_heads\.box_head\.fc6", "box_head/dense1"),
        (r"roi_heads\.box_head\.fc7", "box_head/dense2"),
        # ... and the second's four convolutions, flattening and dense layer.
        (r"roi_heads\.box_head\.([0-3])\.0", "box_head/conv{+1}"),
        (r"roi_heads\.box_head\.([0-3])\.1", "box_head/conv{+1}/norm"),
        (r"roi_heads\.box_head\.5", "box_head/dense1"),
        (r"roi_heads\.box_predictor\.cls_score", "box_head/class_logits"),
        (r"roi_heads\.box_predictor\.bbox_pred", "box_head/box_deltas"),
        (r"roi_heads\.mask_head\.mask_fcn(\d)", "mask_head/conv{+0}"),
        (r"roi_heads\.mask_head\.(\d)\.0", "mask_head/conv{+1}"),
        (r"roi_heads\.mask_head\.(\d)\.1", "mask_head/conv{+1}/norm"),
        (r"roi_heads\.mask_predictor\.conv5_mask", "mask_head/upsample"),
        (r"roi_heads\.mask_predictor\.mask_fcn_logits", "mask_head/logits"),
        # Every second module is a ReLU.
        *((rf"roi_heads\.keypoint_head\.{2 * i}", f"keypoint_head/conv{i + 1}") for i in range(8)),
        (r"roi_heads\.keypoint_predictor\.kps_score_lowres", "keypoint_head/logits"),
    ),
    ignored=(r".*\.num_batches_tracked",),
    background_first=True,
)

TORCHVISION_CLASSIFIER = Origin(
    "torchvision classifier",
    TORCHVISION_TRUNK,
    ignored=(r".*\.num_batches_tracked", r"fc\..*"),
)

# ---------------------------------------------------------------------------------------------------------------------
# Detectron2, and the Caffe2 trunks that its training starts from

DETECTRON2_TRUNK = (
    (r"stem\.conv1", "stem"),
    (r"stem\.conv1\.norm", "stem/norm"),
    (r"res(\d)\.(\d+)\.conv(\d)", "C{+0}_block{+1}_conv{+0}"),
    (r"res(\d)\.(\d+)\.conv(\d)\.norm", "C{+0}_block{+1}_conv{+0}/norm"),
    (r"res(\d)\.(\d+)\.shortcut", "C{+0}_block{+1}_shortcut"),
    (r"res(\d)\.(\d+)\.shortcut\.norm", "C{+0}_block{+1}_shortcut/norm"),
)

DETECTRON2 = Origin(
    "Detectron2",
    (
        *below(r"backbone\.(?:bottom_up\.)?", DETECTRON2_TRUNK),
        *below(r"roi_heads\.", DETECTRON2_TRUNK),  # a C4 model's res5
        (r"backbone\.fpn_lateral(\d)", "fpn/lateral_C{+0}"),
        (r"backbone\.fpn_lateral(\d)\.norm", "fpn/lateral_C{+0}/norm"),
        (r"backbone\.fpn_output(\d)", "fpn/output_P{+0}"),
        (r"backbone\.fpn_output(\d)\.norm", "fpn/output_P{+0}/norm"),
        (r"proposal_generator\.rpn_head\.conv", "rpn_head/conv1"),
        (r"proposal_generator\.rpn_head\.conv\.conv(\d)", "rpn_head/conv{+1}"),
        (r"proposal_generator\.rpn_head\.objectness_logits", "rpn_head/logits"),
        (r"proposal_generator\.rpn_head\.anchor_deltas", "rpn_head/deltas"),
        (r"roi_heads\.box_head\.fc(\d)", "box_head/dense{+0}"),
        (r"roi_heads\.box_head\.conv(\d)", "box_head/conv{+0}"),
        (r"roi_heads\.box_head\.conv(\d)\.norm", "box_head/conv{+0}/norm"),
        (r"roi_heads\.box_predictor\.cls_score", "box_head/class_logits"),
        (r"roi_heads\.box_predictor\.bbox_pred", "box_head/box_deltas"),
        (r"roi_heads\.mask_head\.mask_fcn(\d)", "mask_head/conv{+0}"),
        (r"roi_heads\.mask_head\.mask_fcn(\d)\.norm", "mask_head/conv{+0}/norm"),
        (r"roi_heads\.mask_head\.deconv", "mask_head/upsample"),
        (r"roi_heads\.mask_head\.predictor", "mask_head/logits"),
        (r"roi_heads\.keypoint_head\.conv_fcn(\d)", "keypoint_head/conv{+0}"),
        (r"roi_heads\.keypoint_head\.score_lowres", "keypoint_head/logits"),
    ),
    # What the configuration knows: anchors and the statistics of pictures.
    ignored=(r"pixel_(mean|std)", r"proposal_generator\.anchor_generator\..*"),
    bgr=True,
)

CAFFE2_TRUNK = Origin(
    "Caffe2 trunk",
    DETECTRON2_TRUNK,
    renames=(
        (r"_bn_(s|gamma)$", ".norm.weight"),
        (r"_bn_(b|beta)$", ".norm.bias"),
        (r"_bn_(rm|running_mean)$", ".norm.running_mean"),
        (r"_bn_(riv|running_var)$", ".norm.running_var"),
        (r"_w$", ".weight"),
        (r"_b$", ".bias"),
        (r"^(res_)?conv1\.", "stem.conv1."),
        (r"^(res\d)_(\d+)_branch1\.", r"\1.\2.shortcut."),
        (r"^(res\d)_(\d+)_branch2a\.", r"\1.\2.conv1."),
        (r"^(res\d)_(\d+)_branch2b\.", r"\1.\2.conv2."),
        (r"^(res\d)_(\d+)_branch2c\.", r"\1.\2.conv3."),
    ),
    ignored=(r"(pred|fc1000|linear)\..*",),
    bgr=True,
    affine_norms=True,
)

# ---------------------------------------------------------------------------------------------------------------------
# keras.applications

KERAS_TRUNK = Origin(
    "keras.applications",
    (
        (r"conv1_conv", "stem"),
        (r"conv1_bn", "stem/norm"),
        (r"conv(\d)_block(\d+)_0_conv", "C{+0}_block{+0}_shortcut"),
        (r"conv(\d)_block(\d+)_0_bn", "C{+0}_block{+0}_shortcut/norm"),
        (r"conv(\d)_block(\d+)_(\d)_conv", "C{+0}_block{+0}_conv{+0}"),
        (r"conv(\d)_block(\d+)_(\d)_bn", "C{+0}_block{+0}_conv{+0}/norm"),
    ),
    renames=((r"^(?:.*/)?([^/]+)/([a-z_]+)(?::0)?$", r"\1.\2"),),  # group/layer/kernel:0
    ignored=(r"(predictions|probs)\..*",),
    layout="keras",
    bgr=True,
)

ORIGINS = (TORCHVISION, DETECTRON2, TORCHVISION_CLASSIFIER, CAFFE2_TRUNK, KERAS_TRUNK)
