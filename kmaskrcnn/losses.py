"""The five losses of Mask R-CNN (section 3): L = L_cls + L_box + L_mask for regions, and two for the RPN.

All of them are sums over what was drawn, divided by how many were drawn, so that a picture without objects, or a batch
without positives, gives a finite loss and never NaN.

    A anchors of an image, S of them drawn; R regions drawn of each image, all B images in one list; N positive regions
"""

from keras import ops


def smooth_l1(errors, beta):
    """Quadratic within `beta`, linear beyond (Fast R-CNN, equation 3); `beta` 0 is L1."""
    size = ops.abs(errors)
    if beta == 0:
        return size
    return ops.where(size < beta, 0.5 * ops.square(size) / beta, size - 0.5 * beta)


def binary_crossentropy(logits, targets):
    """Cross-entropy of sigmoids, elementwise, stable for logits of any size."""
    return ops.maximum(logits, 0.0) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))


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


def box_loss(box_deltas, labels, deltas, beta):
    """Where exactly does each positive region's object lie? Only the true class's box counts; per region drawn.

    Args:
        box_deltas: `(B * R, K, 4)`.
        labels: `(B * R,)` int32.
        deltas: `(B * R, 4)` targets.
        beta: of `smooth_l1`.
    """
    num_classes = box_deltas.shape[1]
    own = ops.clip(labels, 0, num_classes - 1)[:, None, None]
    predicted = ops.take_along_axis(box_deltas, own, axis=1)[:, 0]
    losses = ops.sum(smooth_l1(predicted - deltas, beta), axis=-1)
    positive = ops.cast((labels >= 0) & (labels < num_classes), losses.dtype)
    return _mean(losses, positive, ops.sum(ops.cast(labels >= 0, losses.dtype)))


def mask_loss(mask_logits, labels, masks, num_classes):
    """Which pixels belong to each positive region's object? Only the true class's mask was picked.

    Args:
        mask_logits: `(N, M, M)`, each region's mask for its own class.
        labels: `(N,)` int32; regions of no class (background, padding) do not count.
        masks: `(N, M, M)` targets, 0 or 1.
        num_classes: K.
    """
    losses = ops.mean(binary_crossentropy(mask_logits, masks), axis=(1, 2))
    return _mean(losses, ops.cast((labels >= 0) & (labels < num_classes), losses.dtype))
