"""Losses of boxes by their overlap: what IoU leaves out, a gradient for boxes that do not touch, the others add.

    iou     1 - IoU
    giou    1 - IoU + share of the enclosing box that neither box covers
    diou    1 - IoU + (distance of the centres / diagonal of the enclosing box)^2
    ciou    diou + a term for the aspect ratio

boxes, targets   (..., 4)   xyxy pixels, with x2 > x1 and y2 > y1
"""

import math

from keras import ops

from kmaskrcnn.geometry.boxes import area

EPSILON = 1e-7


def overlap_loss(boxes, targets, kind):
    """The loss of each box against its target: `(..., 4)` twice -> `(...)`, 0 where they are equal.

    Args:
        boxes, targets: `(..., 4)` float32 xyxy.
        kind: `"iou"`, `"giou"`, `"diou"` or `"ciou"`.

    Raises:
        ValueError: on another `kind`.

    Reference:
        [Generalized Intersection over Union](https://arxiv.org/abs/1902.09630) and
        [Distance-IoU Loss](https://arxiv.org/abs/1911.08287), also for CIoU
    """
    shared = area(
        ops.concatenate(
            [
                ops.maximum(boxes[..., :2], targets[..., :2]),
                ops.minimum(boxes[..., 2:], targets[..., 2:]),
            ],
            axis=-1,
        )
    )
    union = area(boxes) + area(targets) - shared
    iou = shared / (union + EPSILON)
    if kind == "iou":
        return 1.0 - iou
    low = ops.minimum(boxes[..., :2], targets[..., :2])
    high = ops.maximum(boxes[..., 2:], targets[..., 2:])  # of the enclosing box
    if kind == "giou":
        enclosing = ops.prod(high - low, axis=-1)
        # Flat boxes in one line enclose no area; EPSILON alone would leave them a slope of 1e8.
        share = ops.where(enclosing > 0.0, (enclosing - union) / (enclosing + EPSILON), 0.0)
        return 1.0 - iou + share
    diagonal = ops.sum(ops.square(high - low), axis=-1) + EPSILON
    apart = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2
    loss = 1.0 - iou + ops.sum(ops.square(apart), axis=-1) / diagonal
    if kind == "diou":
        return loss
    if kind == "ciou":
        return loss + _aspect_term(boxes, targets, iou)
    raise ValueError(f"kind: got {kind!r}, accepted are 'iou', 'giou', 'diou' and 'ciou'")


def _aspect_term(boxes, targets, iou):
    """How far the aspect ratios differ, weighted the more the better the boxes overlap."""
    angles = [
        ops.arctan2(box[..., 2] - box[..., 0], box[..., 3] - box[..., 1])
        for box in (targets, boxes)
    ]
    difference = 4.0 / math.pi**2 * ops.square(angles[0] - angles[1])
    weight = difference / (1.0 - iou + difference + EPSILON)
    return ops.stop_gradient(weight) * difference
