"""The losses of Mask R-CNN (section 3): L = L_cls + L_box + L_mask for regions, and two for the RPN; their variants.

All of them are sums over what was drawn, divided by how many were drawn, so that a picture without objects, or a batch
without positives, gives a finite loss and never NaN.

    A anchors of an image, S of them drawn; R regions drawn of each image, all B images in one list; N positive regions
"""

from keras import ops

from kmaskrcnn.geometry.boxes import decode_deltas
from kmaskrcnn.geometry.overlap_losses import overlap_loss


def smooth_l1(errors, beta):
    """Quadratic within `beta`, linear beyond (Fast R-CNN, equation 3); `beta` 0 is L1."""
    size = ops.abs(errors)
    if beta == 0:
        return size
    return ops.where(size < beta, 0.5 * ops.square(size) / beta, size - 0.5 * beta)


def binary_crossentropy(logits, targets):
    """Cross-entropy of sigmoids, elementwise; its value and its slope are exact for logits of any size."""
    # Built of maximum(logits, 0) and abs(logits), its slope at 0 would be half a unit off: both have a corner there.
    of_object, of_background = ops.softplus(-logits), ops.softplus(logits)
    return ops.multiply(of_object, targets) + ops.multiply(of_background, 1.0 - targets)


def _mean(values, weights, count=None):
    """Sum of weighted values over `count`, the number of weights that are not 0 if left out; 0 of nothing."""
    count = ops.sum(weights) if count is None else count
    # where, not multiplication alone: 0 * inf would be NaN
    return ops.sum(ops.where(weights > 0, values * weights, 0.0)) / ops.maximum(count, 1.0)


def rpn_class_loss(rpn_logits, indices, labels):
    """Is each drawn anchor an object?

    Args:
        rpn_logits: `(B, A)`.
        indices: `(B, S)` int32, the drawn anchors.
        labels: `(B, S)` int32: 1 object, 0 background, -1 nothing drawn.
    """
    logits = ops.take_along_axis(rpn_logits, indices, axis=1)
    losses = binary_crossentropy(logits, ops.cast(labels == 1, logits.dtype))
    return _mean(losses, ops.cast(labels >= 0, logits.dtype))


def rpn_box_loss(rpn_deltas, indices, labels, deltas, beta):
    """Where does each positive anchor's object lie? Per anchor drawn, positive or not.

    Args:
        rpn_deltas: `(B, A, 4)`.
        indices, labels: `(B, S)`, as for `rpn_class_loss`.
        deltas: `(B, S, 4)` targets.
        beta: of `smooth_l1`.
    """
    predicted = ops.take_along_axis(rpn_deltas, indices[..., None], axis=1)
    losses = ops.sum(smooth_l1(predicted - deltas, beta), axis=-1)
    drawn = ops.sum(ops.cast(labels >= 0, losses.dtype))
    return _mean(losses, ops.cast(labels == 1, losses.dtype), drawn)


def box_class_loss(class_logits, labels):
    """Which class is each region? Softmax over K classes and the background.

    Args:
        class_logits: `(B * R, K + 1)`.
        labels: `(B * R,)` int32, 0 ... K; -1 where there is no region.
    """
    log_probabilities = ops.log_softmax(class_logits, axis=-1)
    losses = -ops.take_along_axis(log_probabilities, ops.maximum(labels, 0)[:, None], axis=1)[:, 0]
    return _mean(losses, ops.cast(labels >= 0, losses.dtype))


def box_loss(box_deltas, labels, deltas, beta, num_classes):
    """Where exactly does each positive region's object lie? Only the true class's box counts; per region drawn.

    Args:
        box_deltas: `(B * R, Q, 4)`, Q = K, or 1 where all classes share a region's box.
        labels: `(B * R,)` int32.
        deltas: `(B * R, 4)` targets.
        beta: of `smooth_l1`.
        num_classes: K.
    """
    losses = ops.sum(smooth_l1(_own_deltas(box_deltas, labels) - deltas, beta), axis=-1)
    return _mean_of_regions(losses, labels, num_classes)


def box_overlap_loss(box_deltas, labels, deltas, rois, variance, kind, num_classes):
    """How badly does each positive region's box overlap its object? Otherwise as `box_loss`.

    Args:
        box_deltas, labels, deltas, num_classes: as for `box_loss`.
        rois: `(B * R, 4)` xyxy, what the deltas move.
        variance: what the deltas were divided by.
        kind: `"giou"`, `"diou"` or `"ciou"`, see `overlap_loss`.
    """
    positive = ((labels >= 0) & (labels < num_classes))[:, None]
    # Padding has no extent: the slope of its loss is NaN, which must not reach the deltas.
    predicted = ops.where(positive, _own_deltas(box_deltas, labels), 0.0)
    boxes = decode_deltas(rois, predicted, variance)
    losses = overlap_loss(boxes, decode_deltas(rois, deltas, variance), kind)
    return _mean_of_regions(losses, labels, num_classes)


def _own_deltas(box_deltas, labels):
    """Each region's deltas for its own class: `(B * R, Q, 4)` -> `(B * R, 4)`."""
    own = ops.clip(labels, 0, box_deltas.shape[1] - 1)[:, None, None]
    return ops.take_along_axis(box_deltas, own, axis=1)[:, 0]


def _mean_of_regions(losses, labels, num_classes):
    """Sum over positive regions, per region drawn."""
    positive = ops.cast((labels >= 0) & (labels < num_classes), losses.dtype)
    return _mean(losses, positive, ops.sum(ops.cast(labels >= 0, losses.dtype)))


def mask_loss(mask_logits, labels, masks, num_classes):
    """Which pixels belong to each positive region's object? Only the true class's mask was picked.

    Args:
        mask_logits: `(N, M, M)`, each region's mask for its own class; or `(N, S)`, points of it.
        labels: `(N,)` int32; regions of no class (background, padding) do not count.
        masks: targets of the same shape, 0 to 1.
        num_classes: K.
    """
    losses = binary_crossentropy(mask_logits, masks)
    losses = ops.mean(losses, axis=tuple(range(1, len(losses.shape))))
    return _mean(losses, ops.cast((labels >= 0) & (labels < num_classes), losses.dtype))


def multinomial_mask_loss(mask_logits, labels, masks, num_classes):
    """As `mask_loss`, but classes compete: at each pixel a softmax over K classes and the background.

    Args:
        mask_logits: `(N, M, M, K + 1)`, the background last.
        labels, masks, num_classes: as for `mask_loss`.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 4.2, "Multinomial vs. Independent Masks"
    """
    own = ops.clip(labels, 0, num_classes - 1)[:, None, None]
    answer = ops.where(masks > 0.5, own, num_classes)[..., None]
    right = ops.take_along_axis(mask_logits, answer, axis=-1)[..., 0]
    losses = ops.mean(ops.logsumexp(mask_logits, axis=-1) - right, axis=(1, 2))
    return _mean(losses, ops.cast((labels >= 0) & (labels < num_classes), losses.dtype))


def keypoint_loss(keypoint_logits, labels, cells, num_classes):
    """In which cell of its heatmap is each visible keypoint? A softmax over all cells; per visible keypoint.

    Args:
        keypoint_logits: `(N, m, m, P)`, P keypoints.
        labels: `(N,)` int32; regions of no class (background, padding) do not count.
        cells: `(N, P)` int32, y * m + x; -1 where a keypoint is not visible.
        num_classes: K.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 5
    """
    size, count = keypoint_logits.shape[1:3], keypoint_logits.shape[3]
    logits = ops.reshape(keypoint_logits, (-1, size[0] * size[1], count))
    right = ops.take_along_axis(logits, ops.maximum(cells, 0)[:, None], axis=1)[:, 0]
    visible = (cells >= 0) & ((labels >= 0) & (labels < num_classes))[:, None]
    losses = ops.logsumexp(logits, axis=1) - right
    return _mean(losses, ops.cast(visible, losses.dtype))
