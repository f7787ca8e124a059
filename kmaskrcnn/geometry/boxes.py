"""Arithmetic on boxes: `"xyxy"`, absolute pixels, float32, any number of leading axes.

boxes   (..., 4)  x1, y1, x2, y2; pixel i spans [i, i + 1)
deltas  (..., 4)  dx, dy, dw, dh; divided by the box variance

| Box rule | From | To | Whose weights know it |
|---|---|---|---|
| `"edges"` | its first pixel's near edge | its last pixel's far edge | ours, torchvision's, Detectron2's |
| `"pixels"` | its first pixel | its last pixel: sides one pixel shorter | matterport's |

The rule is for boxes while they are moved, clipped and suppressed; `shorten` and `lengthen` lead in and out.
"""

import math

from keras import ops

# A box may grow by at most this factor in one refinement, or exp() of a wild prediction becomes infinite
# (the bound of Detectron, kept by torchvision and Detectron2).
MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def area(boxes):
    """Area of boxes: `(..., 4)` -> `(...)`; 0 for a box without extent."""
    width = ops.maximum(boxes[..., 2] - boxes[..., 0], 0.0)
    height = ops.maximum(boxes[..., 3] - boxes[..., 1], 0.0)
    return width * height


def pairwise_intersection(boxes, others):
    """Area that each box shares with each other box: `(..., N, 4)` and `(..., M, 4)` -> `(..., N, M)`."""
    boxes, others = boxes[..., :, None, :], others[..., None, :, :]
    width = ops.minimum(boxes[..., 2], others[..., 2]) - ops.maximum(boxes[..., 0], others[..., 0])
    height = ops.minimum(boxes[..., 3], others[..., 3]) - ops.maximum(boxes[..., 1], others[..., 1])
    return ops.maximum(width, 0.0) * ops.maximum(height, 0.0)


def pairwise_iou(boxes, others):
    """Intersection over union: `(..., N, 4)` and `(..., M, 4)` -> `(..., N, M)` in [0, 1].

    A box without area has IoU 0 with every box, also with itself, so padding never matches.
    """
    shared = pairwise_intersection(boxes, others)
    union = area(boxes)[..., :, None] + area(others)[..., None, :] - shared
    return ops.where(union > 0.0, shared / ops.maximum(union, 1e-8), 0.0)


def pairwise_coverage(boxes, others):
    """Share of each box that lies within each other box: `(..., N, 4)` and `(..., M, 4)` -> `(..., N, M)`.

    Crowds are matched by it: a box inside a crowd is as good as the crowd, however much larger that is.
    """
    shared = pairwise_intersection(boxes, others)
    return shared / ops.maximum(area(boxes)[..., :, None], 1e-8)


def clip_boxes(boxes, image_sizes):
    """Clip boxes to their pictures.

    Args:
        boxes: `(B, ..., 4)` float.
        image_sizes: `(B, 2)` height and width of each picture within its padded image.
    """
    sizes = ops.cast(image_sizes, boxes.dtype)
    limits = ops.stack([sizes[:, 1], sizes[:, 0], sizes[:, 1], sizes[:, 0]], axis=-1)
    for _ in range(len(boxes.shape) - 2):
        limits = limits[:, None]
    return ops.clip(boxes, 0.0, limits)


def shorten(boxes, rule):
    """Boxes as a rule measures them, see the head of this file: `(..., 4)` float -> `(..., 4)`."""
    if rule == "edges":
        return boxes
    return boxes - ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0], boxes.dtype)


def lengthen(boxes, rule):
    """The inverse of `shorten`; boxes without extent, such as padding, stay as they are."""
    if rule == "edges":
        return boxes
    exists = ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1, keepdims=True)
    return ops.where(
        exists, boxes + ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0], boxes.dtype), boxes
    )


def clip_boxes_by_rule(boxes, image_sizes, rule):
    """`clip_boxes` for boxes that `shorten` gave."""
    return clip_boxes(boxes, image_sizes if rule == "edges" else image_sizes - 1)


def encode_deltas(boxes, targets, variance):
    """The deltas that move `boxes` onto `targets` (Fast R-CNN, section 2.3; R-CNN, appendix C).

    Args:
        boxes, targets: `(..., 4)` float. A box or target without extent gives deltas 0, never NaN.
        variance: four numbers; deltas are divided by them so that they are of the order of 1.

    Returns:
        `(..., 4)` deltas.
    """
    x, y, width, height = _centre_form(boxes)
    target_x, target_y, target_width, target_height = _centre_form(targets)
    valid = (width > 0) & (height > 0) & (target_width > 0) & (target_height > 0)

    def safe(length):
        return ops.where(valid, length, 1.0)

    deltas = ops.stack(
        [
            (target_x - x) / safe(width),
            (target_y - y) / safe(height),
            ops.log(safe(target_width) / safe(width)),
            ops.log(safe(target_height) / safe(height)),
        ],
        axis=-1,
    )
    deltas = deltas / ops.convert_to_tensor(variance, deltas.dtype)
    return ops.where(valid[..., None], deltas, 0.0)


def decode_deltas(boxes, deltas, variance):
    """Move boxes by deltas: the inverse of `encode_deltas`.

    Args:
        boxes: `(..., 4)` float, broadcast against `deltas`.
        deltas: `(..., 4)` float.
        variance: the four numbers that the deltas were divided by.

    Returns:
        `(..., 4)` boxes, not clipped to any picture.
    """
    boxes, deltas = ops.convert_to_tensor(boxes), ops.convert_to_tensor(deltas)
    x, y, width, height = _centre_form(boxes)
    deltas = deltas * ops.convert_to_tensor(variance, deltas.dtype)
    x = x + deltas[..., 0] * width
    y = y + deltas[..., 1] * height
    half_width = 0.5 * width * ops.exp(ops.minimum(deltas[..., 2], MAX_LOG_SCALE))
    half_height = 0.5 * height * ops.exp(ops.minimum(deltas[..., 3], MAX_LOG_SCALE))
    return ops.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def _centre_form(boxes):
    """Split boxes into centre x, centre y, width and height."""
    width = boxes[..., 2] - boxes[..., 0]
    height = boxes[..., 3] - boxes[..., 1]
    return boxes[..., 0] + 0.5 * width, boxes[..., 1] + 0.5 * height, width, height
