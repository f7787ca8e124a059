"""matterport's Mask R-CNN (`mask_rcnn_coco.h5`): its names, its layers where they are made otherwise, its rules.

| There | Here |
|---|---|
| pictures less their mean, black around them | `pixel_mean`, `padding="black"` |
| stride in the 1x1, max pool padded by Keras's "same" | `stride_in_1x1`, `stem_pool="same"` |
| convolutions with a bias before the norm | the bias goes into the norm's mean, see `convert.py` |
| objectness by a softmax of two | a sigmoid of their difference: `rewrite` |
| deltas dy, dx, dh, dw | dx, dy, dw, dh: `rewrite` |
| box head of convolutions 7x7 and 1x1, each with a batch norm | dense layers that hold their norm: `rewrite` |
| ratios width / height | `anchor_aspect_ratios`, height / width |
| boxes as shares of the last pixel's number | `box_rule="pixels"` |
| the best 6000 anchors of all levels, one suppression | `rpn_joint_levels` |
| `crop_and_resize` for RoIAlign, levels by `round` | `roi_pooling="crop"` |
| a region is of its best class, from .7 on; suppression at .3 | `best_class_only`, `score_threshold`, `nms_threshold` |
| masks into boxes of whole pixels | `paste_rule="matterport"` |

What is not equal:

- It lays a picture into the middle of its square of 1024 x 1024 and lets proposals reach all of the square; here a
  picture lies in the corner, and proposals in the picture. Only pictures that fill the square give equal outputs.
- Its resize (scikit-image's) darkens the outermost pixels, cuts to bytes, and never shrinks a picture of at most 1024.
- It rounds boxes to whole pixels of the original picture; ours stay as they are, and differ by less than a pixel where
  the picture was resized. Regions without area are dropped here; a box grows 62 times at most.
- With `portable=True` the suppression sees the best 1000 anchors instead of 6000.

Reference: [matterport/Mask_RCNN](https://github.com/matterport/Mask_RCNN), version 2.1
"""

import string

import numpy as np

from kmaskrcnn.weights.tables import Origin

EPSILON = 1e-3  # Keras's default, of all its norms

SETTINGS = {
    "min_size": 800,
    "max_size": 1024,
    "size_divisor": 1024,
    "pixel_mean": (123.7, 116.8, 103.9),
    "pixel_std": (1.0, 1.0, 1.0),
    "padding": "black",
    "stride_in_1x1": True,
    "stem_pool": "same",
    "norm": "frozen_batch_norm",
    "norm_epsilon": EPSILON,
    "head_norm": "frozen_batch_norm",
    "anchor_aspect_ratios": (2.0, 1.0, 0.5),
    "rpn_channels": 512,
    "rpn_box_variance": (0.1, 0.1, 0.2, 0.2),
    "rpn_min_box_size": 0.0,
    "rpn_joint_levels": True,
    "rpn_pre_nms_topk_train": 6000,
    "rpn_pre_nms_topk": 6000,
    "rpn_post_nms_topk_train": 2000,
    "rpn_post_nms_topk": 1000,
    "rois_per_image": 200,
    "roi_positive_fraction": 0.33,
    "roi_pooling": "crop",
    "box_rule": "pixels",
    "smooth_l1_beta": 1.0,
    "paste_rule": "matterport",
    "score_threshold": 0.7,
    "nms_threshold": 0.3,
    "best_class_only": True,
}

# Blocks are lettered, and so are the convolutions of a block.
_BLOCKS = [
    (rf"{kind}(\d){letter}_branch{branch}", f"C{{+0}}_block{number}_{ours}{norm}")
    for number, letter in enumerate(string.ascii_lowercase[:23], start=1)
    for branch, ours in (("1", "shortcut"), ("2a", "conv1"), ("2b", "conv2"), ("2c", "conv3"))
    for kind, norm in (("res", ""), ("bn", "/norm"))
]

TABLE = (
    (r"conv1", "stem"),
    (r"bn_conv1", "stem/norm"),
    *_BLOCKS,
    (r"fpn_c(\d)p\d", "fpn/lateral_C{+0}"),
    (r"fpn_p(\d)", "fpn/output_P{+0}"),
    (r"rpn_conv_shared", "rpn_head/conv1"),
    (r"rpn_class_raw", "rpn_head/logits"),
    (r"rpn_bbox_pred", "rpn_head/deltas"),
    (r"mrcnn_class_conv(\d)", "box_head/dense{+0}"),
    (r"mrcnn_class_bn(\d)", "box_head/dense{+0}/norm"),
    (r"mrcnn_class_logits", "box_head/class_logits"),
    (r"mrcnn_bbox_fc", "box_head/box_deltas"),
    (r"mrcnn_mask_conv(\d)", "mask_head/conv{+0}"),
    (r"mrcnn_mask_bn(\d)", "mask_head/conv{+0}/norm"),
    (r"mrcnn_mask_deconv", "mask_head/upsample"),
    (r"mrcnn_mask", "mask_head/logits"),
)


def rewrite(translated):
    """Changes the RPN's and the box head's weights, in place, to what the same layers hold here.

    Arrays of other shapes than matterport's are left alone: whatever receives them names them.

    Args:
        translated: `{path: array}`.
    """
    for path, array in translated.items():
        if array.ndim == 0 or array.shape[-1] % 2 or array.dtype.kind != "f":
            continue
        if path.startswith("rpn_head/logits/"):
            translated[path] = array[..., 1::2] - array[..., ::2]  # object less background
        elif path.startswith(("rpn_head/deltas/", "box_head/box_deltas/")):
            order = np.arange(array.shape[-1]) ^ 1  # dy, dx, dh, dw -> dx, dy, dw, dh
            translated[path] = array[..., order]
    for name in ("box_head/dense1", "box_head/dense2"):
        _fold(translated, name)


def _fold(translated, name):
    """A convolution over a whole map, and the norm behind it, as one dense layer."""
    parts = ("gamma", "beta", "moving_mean", "moving_variance")
    paths = [f"{name}/kernel", f"{name}/bias", *(f"{name}/norm/{part}" for part in parts)]
    arrays = [translated.get(path) for path in paths]
    if any(array is None or array.dtype.kind != "f" for array in arrays) or arrays[0].ndim != 4:
        return
    kernel, bias, gamma, beta, mean, variance = arrays
    if any(array.shape != kernel.shape[3:] for array in arrays[1:]):
        return
    scale = gamma / np.sqrt(variance + EPSILON)
    translated[paths[0]] = kernel.reshape(-1, kernel.shape[3]) * scale
    translated[paths[1]] = (bias - mean) * scale + beta
    for path in paths[2:]:
        del translated[path]


ORIGIN = Origin(
    "matterport",
    TABLE,
    renames=((r"^(?:.*/)?([^/]+)/([^/:]+)(?::0)?$", r"\1.\2"),),  # group/layer/kernel:0
    ignored=(r"anchors\..*",),
    layout="keras",
    background_first=True,
    rewrite=rewrite,
)
