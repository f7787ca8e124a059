"""Anchors: the boxes that the region proposal network starts from (Faster R-CNN, section 3.1.1; FPN, section 4.1)."""

import math

import numpy as np
from keras import ops


def base_anchors(scale: float, aspect_ratios: tuple[float, ...]) -> np.ndarray:
    """The anchors around the origin: `(R, 4)` float32 xyxy.

    Args:
        scale: side of the square anchor, in pixels; every ratio keeps its area.
        aspect_ratios: height / width.
    """
    sides = [(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for ratio in aspect_ratios]
    return np.array([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides], "float32")


def anchor_grid(height, width, stride, base: np.ndarray):
    """Repeat the base anchors over a feature map.

    Anchors of cell (i, j) lie around its corner (j, i) x stride, offset 0, where Detectron2 and torchvision put
    them: published weights depend on it.

    Args:
        height, width: the feature map's size, integers or scalar tensors.
        stride: pixels a cell, or two numbers: vertical and horizontal.
        base: `(R, 4)` anchors around the origin.

    Returns:
        `(height * width * R, 4)` float32 xyxy; rows run over y, then x, then the base anchors.
    """
    stride_y, stride_x = stride if isinstance(stride, tuple) else (stride, stride)
    y = ops.cast(ops.arange(height), "float32") * stride_y
    x = ops.cast(ops.arange(width), "float32") * stride_x
    y, x = ops.meshgrid(y, x, indexing="ij")
    centres = ops.stack([x, y, x, y], axis=-1)  # (height, width, 4)
    return ops.reshape(centres[:, :, None, :] + base, (-1, 4))
