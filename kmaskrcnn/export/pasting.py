"""Masks from their boxes' frames into the picture, inside a TensorFlow graph: `geometry.masks.paste_masks`.

N masks of M x M cells; H and W the picture's height and width.
"""

import tensorflow as tf


def paste_masks(masks, boxes, size, threshold=0.5, rule="half_pixel"):
    """Place masks in the picture; needs N x H x W bytes.

    Args:
        masks: `(N, M, M)` float32 probabilities.
        boxes: `(N, 4)` float32 xyxy in the picture's pixels.
        size: `(2,)` int32, H and W.
        threshold: a pixel belongs to the object from this probability on.
        rule: `"half_pixel"`, `"torchvision"` or `"matterport"`, see `geometry.masks.paste_windows`.

    Returns:
        `(N, H, W)` uint8, 1 where the object is. A box without area has an empty mask.

    Reference: Mask R-CNN, section 3.1; sampled at pixel centres, with zeros around the mask.
    """
    window_of = _whole_pixel_window if rule == "torchvision" else _window
    if rule == "matterport":
        boxes = tf.round(boxes)  # halves to even numbers, as NumPy does

    def paste(one):
        window, top, left = window_of(*one, size, threshold)
        bottom, right = tf.unstack(size - [top, left] - tf.shape(window))
        return tf.pad(tf.cast(window, tf.uint8), tf.stack([[top, bottom], [left, right]]))

    def paste_all():
        signature = tf.TensorSpec((None, None), tf.uint8)
        # One at a time: each takes as much memory as the picture.
        return tf.map_fn(
            paste, (masks, boxes), fn_output_signature=signature, parallel_iterations=1
        )

    nothing = tf.zeros((0, size[0], size[1]), tf.uint8)
    return tf.cond(tf.shape(masks)[0] > 0, paste_all, lambda: nothing)


def _window(mask, box, size, threshold):
    """The part of the picture that a box reaches, bool, and its first row and column."""
    cells = tf.pad(mask, [[1, 2], [1, 2]])
    top, below, share_below = _neighbours(box[1], box[3], mask.shape[0], size[0])
    left, right, share_right = _neighbours(box[0], box[2], mask.shape[1], size[1])
    # Bilinear sampling is separable: rows first, then columns.
    rows = _blend(cells, below, share_below[:, None], axis=0)
    return _blend(rows, right, share_right[None], axis=1) >= threshold, top, left


def _whole_pixel_window(mask, box, size, threshold):
    """The same by torchvision's rule: a cell of zeros around mask and box, the box cut to whole pixels."""
    grown = (mask.shape[0] + 2) / mask.shape[0]
    half, centre = (box[2:] - box[:2]) * 0.5 * grown, (box[2:] + box[:2]) * 0.5
    first = tf.cast(centre - half, tf.int32)[::-1]  # row, column
    extent = tf.maximum(tf.cast(centre + half, tf.int32)[::-1] - first + 1, 1)
    window = tf.image.resize(tf.pad(mask, [[1, 1], [1, 1]])[..., None], extent)[..., 0]
    top, left = tf.unstack(tf.maximum(first, 0))
    skipped, end = tf.maximum(-first, 0), size - first
    window = window[skipped[0] : end[0], skipped[1] : end[1]]
    return window >= threshold, top, left


def _blend(cells, after, share, axis):
    before = tf.gather(cells, after - 1, axis=axis)
    return before + share * (tf.gather(cells, after, axis=axis) - before)


def _neighbours(start, end, cells, pixels):
    """Where the pixels that a box reaches sample cells framed by one zero before and two after.

    Returns:
        First pixel, `(P,)` int32 the cell after each of the P samples, and `(P,)` its share of the sample.
    """
    # As in NumPy: a large picture's coordinates use up float32.
    start, end = tf.cast(start, tf.float64), tf.cast(end, tf.float64)
    cell = (end - start) / cells
    # Half a cell outside the box a sample still blends with zero; beyond that nothing is left.
    first = tf.floor(start - 0.5 * cell - 0.5) + 1
    last = tf.math.ceil(end + 0.5 * cell - 0.5)
    first, last = (tf.clip_by_value(tf.cast(x, tf.int32), 0, pixels) for x in (first, last))
    last = tf.where(cell > 0, last, first)
    # The centre of cell i of the box stands at i + 1 in the frame.
    position = (tf.cast(tf.range(first, last), tf.float64) + 0.5 - start) / cell + 0.5
    before = tf.cast(position, tf.int32)
    return first, before + 1, tf.cast(position - tf.cast(before, tf.float64), tf.float32)
