"""A picture's way into the network, inside a TensorFlow graph: the same pixels as OpenCV gives in training.

H, W and C are the picture's height, width and channels; h, w the height and width that it has in the network.
"""

import tensorflow as tf

COEFFICIENT_BITS = 11  # OpenCV's INTER_LINEAR weighs 8-bit pixels with whole numbers of 1/2048


def network_size(size, min_size, max_size, rule="opencv"):
    """`geometry.resizing.resize_shape` of a tensor.

    Args:
        size: `(2,)` int32, height and width, 1 or more.
        min_size, max_size: wanted length of the short side, greatest length of the long side, pixels.
        rule: a Python string, see the head of geometry/resizing.py.

    Returns:
        `(2,)` int32, height and width once resized.
    """
    sides = tf.cast(size, tf.float64)  # as Python's floats: a half must round the same way
    scale = tf.minimum(min_size / tf.reduce_min(sides), max_size / tf.reduce_max(sides))
    half = 0.0 if rule == "torchvision" else 0.5
    return tf.maximum(1, tf.cast(sides * scale + half, tf.int32))


def resize_pixels(pictures, size, rule="opencv"):
    """`geometry.resizing.resize_pixels` of a tensor.

    Equal to it by OpenCV's rule, up to the rounding of floats by torchvision's. Pillow (Detectron2's rule) rounds to
    bytes between its two passes, here it is done once: a value in a few differs by 1.

    Args:
        pictures: `(B, H, W, C)` uint8.
        size: `(2,)` int32, h and w.
        rule: a Python string, see the head of geometry/resizing.py.

    Returns:
        `(B, h, w, C)` float32.
    """
    if rule == "opencv":
        return tf.cast(resize(pictures, size), tf.float32)
    resized = tf.image.resize(pictures, size, antialias=rule == "detectron2")
    return tf.round(resized) if rule == "detectron2" else resized


def resize(pictures, size):
    """Resize as `cv2.resize(picture, (w, h), interpolation=cv2.INTER_LINEAR)`, to the last bit.

    A float resize rounds differently in one value of eight, enough to move a box by a tenth of a pixel.

    Args:
        pictures: `(..., H, W, C)` uint8.
        size: `(2,)` int32, h and w.

    Returns:
        `(..., h, w, C)` uint8.
    """
    height, width = tf.unstack(tf.shape(pictures)[-3:-1])
    top, bottom, share = _taps(height, size[0])
    share = _weights(share[:, None, None])
    left, right, share_right = _taps(width, size[1])
    share_right = _weights(share_right[:, None])

    def row(index):
        rows = tf.gather(pictures, tf.clip_by_value(index, 0, height - 1), axis=-3)
        rows = tf.cast(rows, tf.int32)
        left_pixels = tf.gather(rows, tf.clip_by_value(left, 0, width - 1), axis=-2)
        right_pixels = tf.gather(rows, tf.clip_by_value(right, 0, width - 1), axis=-2)
        return _shift(left_pixels * share_right[0] + right_pixels * share_right[1], 4)

    # Each product is cut to whole numbers before they are added, as OpenCV does, also where both rows are the edge.
    total = _shift(row(top) * share[0], 16) + _shift(row(bottom) * share[1], 16)
    return tf.cast(_shift(total + 2, 2), tf.uint8)


def pad_to_multiple(pictures, divisor):
    """Zeros at the bottom and right, up to multiples of `divisor`: `(..., H, W, C)` of any dtype."""
    size = tf.shape(pictures)[-3:-1]
    missing = -size % divisor
    ends = tf.concat([tf.zeros(tf.rank(pictures) - 3, tf.int32), missing, [0]], axis=0)
    return tf.pad(pictures, tf.stack([tf.zeros_like(ends), ends], axis=1))


def _taps(old, new):
    """The two pixels between which each new pixel's centre lies, and the second one's share."""
    scale = tf.cast(old, tf.float64) / tf.cast(new, tf.float64)
    position = (tf.cast(tf.range(new), tf.float64) + 0.5) * scale - 0.5
    position = tf.cast(position, tf.float32)
    first = tf.floor(position)
    return tf.cast(first, tf.int32), tf.cast(first, tf.int32) + 1, position - first


def _weights(share):
    """Both pixels' weights as whole numbers."""
    one = 2.0**COEFFICIENT_BITS
    return [tf.cast(tf.round(part * one), tf.int32) for part in (1.0 - share, share)]


def _shift(values, bits):
    return tf.bitwise.right_shift(values, bits)
