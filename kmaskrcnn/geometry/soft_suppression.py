"""Soft-NMS: a box that overlaps a better one of its class loses score instead of its place.

boxes   (B, N, Q, 4)  Q is 1 (all classes share their boxes) or K (every class has its own)
scores  (B, N, K)     probabilities
"""

from keras import ops

from kmaskrcnn.geometry.boxes import pairwise_iou


def soft_nms(boxes, scores, *, method, iou_threshold, sigma, max_total, score_threshold=0.0):
    """Take the best box, lower the scores of its class's other boxes by their overlap with it, and again.

    Within a class scores fall from turn to turn, so taking the best of all classes each time gives every class's own
    Soft-NMS, already in the order of scores.

    Args:
        boxes: `(B, N, Q, 4)` float32 xyxy, Q = 1 or K.
        scores: `(B, N, K)` float32.
        method: `"soft_linear"` (times 1 - IoU, above `iou_threshold`) or `"soft_gaussian"` (times exp(-IoU^2 / sigma)).
        iou_threshold: of `"soft_linear"`.
        sigma: of `"soft_gaussian"`.
        max_total: D, boxes taken.
        score_threshold: taking ends when no lowered score is greater; 0 or more.

    Returns:
        As `class_nms`: `boxes (B, D, 4)`, `scores (B, D)`, the lowered ones, `labels (B, D)` int32 and `count (B,)`
        int32; padded with zeros (label -1).

    Raises:
        ValueError: on another `method`.

    Reference:
        [Soft-NMS](https://arxiv.org/abs/1704.04503), equations 1 and 3
    """
    if method not in ("soft_linear", "soft_gaussian"):
        accepted = "'soft_linear' and 'soft_gaussian'"
        raise ValueError(f"method: got {method!r}, accepted are {accepted}")
    batch, (num_boxes, num_classes) = ops.shape(scores)[0], scores.shape[1:]
    numbers = ops.arange(num_boxes * num_classes, dtype="int32")
    places = ops.arange(max_total, dtype="int32")

    def keep_share(iou):
        if method == "soft_gaussian":
            return ops.exp(-ops.square(iou) / sigma)
        return ops.where(iou > iou_threshold, 1.0 - iou, 1.0)

    def take_best(turn, left, taken, taken_scores):
        flat = ops.reshape(left, (-1, num_boxes * num_classes))
        best = ops.cast(ops.argmax(flat, axis=1), "int32")  # (B,)
        here = places == turn
        taken = ops.where(here, best[:, None], taken)
        taken_scores = ops.where(here, ops.max(flat, axis=1)[:, None], taken_scores)
        flat = ops.where(numbers == best[:, None], 0.0, flat)
        label = best % num_classes
        others = _of_class(boxes, label)  # (B, N, 4)
        box = ops.take_along_axis(others, (best // num_classes)[:, None, None], axis=1)
        share = keep_share(pairwise_iou(box, others)[:, 0])  # (B, N)
        same = ops.arange(num_classes) == label[:, None]  # (B, K)
        share = ops.where(same[:, None, :], share[..., None], 1.0)
        return (
            turn + 1,
            ops.reshape(flat, (-1, num_boxes, num_classes)) * share,
            taken,
            taken_scores,
        )

    start = (
        ops.convert_to_tensor(0, "int32"),
        ops.where(scores > score_threshold, scores, 0.0),  # also drops NaN
        ops.zeros((batch, max_total), "int32"),
        ops.zeros((batch, max_total), scores.dtype),
    )
    *_, taken, taken_scores = ops.while_loop(lambda turn, *_: turn < max_total, take_best, start)
    return _gather(boxes, num_classes, taken, taken_scores, score_threshold)


def _of_class(boxes, label):
    """Each picture's boxes for one class: `(B, N, Q, 4)` and `(B,)` -> `(B, N, 4)`."""
    if boxes.shape[2] == 1:
        return boxes[:, :, 0]
    return ops.take_along_axis(boxes, label[:, None, None, None], axis=2)[:, :, 0]


def _gather(boxes, num_classes, taken, scores, score_threshold):
    """The taken boxes with their classes, padding where the score is too low."""
    kept = scores > score_threshold
    place, label = taken // num_classes, taken % num_classes
    own = place * boxes.shape[2] + (label if boxes.shape[2] > 1 else 0)
    flat = ops.reshape(boxes, (-1, boxes.shape[1] * boxes.shape[2], 4))
    found = ops.take_along_axis(flat, own[..., None], axis=1)
    return (
        ops.where(kept[..., None], found, 0.0),
        ops.where(kept, scores, 0.0),
        ops.where(kept, label, -1),
        ops.sum(ops.cast(kept, "int32"), axis=1),
    )
