"""Which box answers for which object, and which boxes a step learns from.

ious    (B, N, G)  of N anchors or proposals with G ground-truth objects; -1 where an object must not match
labels  (B, N)     1 positive, 0 negative, -1 ignored
"""

from keras import ops


def match_boxes(ious, positive_threshold, negative_threshold, match_best=False):
    """Match every box to the object that it overlaps most (Faster R-CNN, section 3.1.2).

    Args:
        ious: `(B, N, G)` float32; columns of padding and crowds hold -1.
        positive_threshold: from this IoU on, a box is positive.
        negative_threshold: below this IoU, a box is negative; between the two it is ignored.
        match_best: also call positive, for every object, the boxes that overlap it most (ties included), so that no
            object goes without an anchor.

    Returns:
        `matches (B, N)` int32, the object each box overlaps most, and `labels (B, N)` int32.
    """
    best = ops.max(ious, axis=2)
    matches = ops.cast(ops.argmax(ious, axis=2), "int32")
    labels = ops.where(best >= positive_threshold, 1, ops.where(best < negative_threshold, 0, -1))
    if match_best:
        best_of_object = ops.max(ious, axis=1, keepdims=True)  # (B, 1, G)
        is_best = (ious == best_of_object) & (best_of_object > 0.0)
        labels = ops.where(ops.any(is_best, axis=2), 1, labels)
    return matches, ops.cast(labels, "int32")


def sample_balanced(labels, count, positive_fraction, noise):
    """Draw boxes to learn from: at most a fraction of positives, negatives for the rest.

    Args:
        labels: `(B, N)` int32: 1 positive, 0 negative, -1 never drawn.
        count: S, how many to draw.
        positive_fraction: at most this share of `count` is positive.
        noise: `(B, N)` uniform random numbers in [0, 1), which decide the draw.

    Returns:
        `indices (B, S)` int32 into the N boxes, positives first, and `labels (B, S)` int32, -1 where there were too
        few boxes (the index there means nothing).
    """
    # With `count` boxes that cannot be drawn behind the others, there are always enough to rank.
    widths = [[0, 0], [0, count]]
    labels = ops.pad(ops.cast(labels, "int32"), widths, constant_values=-1)
    noise = ops.pad(noise, widths)
    positive, negative = labels == 1, labels == 0
    # Of the positives, only those with the greatest noise may stay.
    max_positives = int(count * positive_fraction)
    ranked = ops.top_k(ops.where(positive, noise, -1.0), max_positives)[0]
    positive = positive & (noise >= ranked[:, -1:])
    # Rounded, noise + 1 may be 2: the ranges must not touch, and what a box is must not be read from its rank.
    priority = ops.where(positive, noise + 3.0, ops.where(negative, noise + 1.0, 0.0))
    _, indices = ops.top_k(priority, count)
    roles = ops.where(positive, 1, ops.where(negative, 0, -1))
    drawn = ops.take_along_axis(roles, indices, axis=1)
    # Padding is never drawn, but its index must still be one of the N boxes.
    indices = ops.where(drawn >= 0, indices, 0)
    return ops.cast(indices, "int32"), ops.cast(drawn, "int32")
