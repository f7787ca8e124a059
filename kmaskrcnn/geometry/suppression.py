"""Non-maximum suppression: of boxes that overlap too much, keep the one with the best score.

    boxes   (B, N, Q, 4)  Q is 1 (all classes share their boxes) or K (every class has its own)
    scores  (B, N, K)     probabilities; suppression runs within each class alone; 0 or NaN is never kept

Two implementations agree: TensorFlow's kernel, and one in `keras.ops` that XLA, JAX and ONNX can compile.
"""

from keras import ops

from kmaskrcnn.backends import uses_tensorflow
from kmaskrcnn.geometry.boxes import pairwise_iou

# The matrix version compares so many boxes of a class at most, its best: as many as the RPN proposes of a level.
MATRIX_CANDIDATES = 1000


def class_nms(
    boxes, scores, *, iou_threshold, max_per_class, max_total, score_threshold=0.0, portable=False
):
    """Suppress within each class, then keep the best of all classes.

    Args:
        boxes: `(B, N, Q, 4)` float32 xyxy, Q = 1 or K.
        scores: `(B, N, K)` float32.
        iou_threshold: a box is dropped if its IoU with a better one is greater.
        max_per_class: boxes kept of each class before the classes are joined.
        max_total: boxes kept of each picture, D.
        score_threshold: a box is dropped unless its score is greater; 0 or more.
        portable: avoid the TensorFlow kernel, also where it exists.

    Returns:
        `boxes (B, D, 4)`, `scores (B, D)`, `labels (B, D)` int32 and `count (B,)` int32; ordered by score, and padded
        with zeros (label -1).
    """
    if uses_tensorflow(portable):
        return _tensorflow_nms(
            boxes, scores, iou_threshold, max_per_class, max_total, score_threshold
        )
    return _matrix_nms(boxes, scores, iou_threshold, max_per_class, max_total, score_threshold)


def _tensorflow_nms(boxes, scores, iou_threshold, max_per_class, max_total, score_threshold):
    import tensorflow as tf

    # The kernel takes yxyx boxes, but IoU does not care which axis is called x. It fills gaps with boxes of score -1,
    # which would win against lower scores: hence probabilities.
    boxes, scores, labels, count = tf.image.combined_non_max_suppression(
        boxes,
        tf.where(tf.math.is_nan(scores), 0.0, scores),
        max_output_size_per_class=max_per_class,
        max_total_size=max_total,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        clip_boxes=False,
    )
    kept = tf.range(max_total)[None] < count[:, None]
    return boxes, scores, tf.where(kept, tf.cast(labels, tf.int32), -1), count


def _matrix_nms(boxes, scores, iou_threshold, max_per_class, max_total, score_threshold):
    num_boxes, num_classes = scores.shape[1], scores.shape[2]
    candidates = min(num_boxes, MATRIX_CANDIDATES)
    scores = ops.where(scores > score_threshold, scores, 0.0)  # also drops NaN
    scores, order = ops.top_k(ops.transpose(scores, (0, 2, 1)), candidates)  # (B, K, N)
    boxes = ops.transpose(boxes, (0, 2, 1, 3))  # (B, Q, N, 4)
    if boxes.shape[1] != num_classes:
        boxes = ops.repeat(boxes, num_classes, axis=1)
    boxes = ops.take_along_axis(boxes, order[..., None], axis=2)
    keep = suppress(boxes, iou_threshold, scores > 0.0)
    keep = keep & (ops.cumsum(ops.cast(keep, "int32"), axis=2) <= max_per_class)
    # All classes join in one list, best first.
    scores = ops.reshape(ops.where(keep, scores, 0.0), (-1, num_classes * candidates))
    boxes = ops.reshape(boxes, (-1, num_classes * candidates, 4))
    scores, best = ops.top_k(scores, min(max_total, num_classes * candidates))
    kept = scores > 0.0
    boxes = ops.where(kept[..., None], ops.take_along_axis(boxes, best[..., None], axis=1), 0.0)
    labels = ops.where(kept, ops.cast(best // candidates, "int32"), -1)
    count = ops.sum(ops.cast(kept, "int32"), axis=1)
    boxes, scores = _pad_to(boxes, max_total, 0.0), _pad_to(scores, max_total, 0.0)
    return boxes, scores, _pad_to(labels, max_total, -1), count


def suppress(boxes, iou_threshold, valid):
    """Greedy suppression as a fixed point: a box stays unless a better one *that stays* overlaps it.

    Each round settles at least the next box in order, and in practice nearly all settle in a few rounds.

    Args:
        boxes: `(..., N, 4)`, best first.
        iou_threshold: a box is dropped if its IoU with a better, kept one is greater.
        valid: `(..., N)` bool, False for padding.

    Returns:
        `(..., N)` bool, whether each box is kept.
    """
    better = ops.triu(ops.ones((boxes.shape[-2],) * 2, "bool"), 1)  # [i, j]: i comes before j
    overlaps = ops.cast((pairwise_iou(boxes, boxes) > iou_threshold) & better, "float32")

    def one_round(keep, _):
        covered = ops.matmul(ops.cast(keep, "float32")[..., None, :], overlaps)[..., 0, :]
        return valid & (covered == 0.0), keep

    def changes(keep, previous):
        return ops.any(keep != previous)

    return ops.while_loop(changes, one_round, (valid, ops.zeros_like(valid)))[0]


def _pad_to(values, size, fill):
    """Pad axis 1 of `values` to `size`."""
    missing = size - values.shape[1]
    widths = [[0, 0], [0, missing]] + [[0, 0]] * (len(values.shape) - 2)
    return ops.pad(values, widths, constant_values=fill) if missing else values
