"""From an encoded JPEG or PNG to a picture or the reason why there is none, inside a TensorFlow graph.

What OpenCV makes of a file in training comes out here: gray is repeated, transparency dropped, of 16 bits the upper 8
are kept, the EXIF orientation is applied. CMYK differs from it by a rounding of 1 at most.
"""

import tensorflow as tf

from kmaskrcnn.export import exif

JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"

NOT_A_PICTURE = "not a JPEG or PNG picture"
DAMAGED = "the picture is damaged or cut off"


def decode_picture(data, max_pixels):
    """Decode one picture; a bad one is no error of the graph.

    Args:
        data: `()` string, a whole JPEG or PNG file.
        max_pixels: a picture of more pixels is refused before memory is taken for it.

    Returns:
        `(picture, error)`: `(H, W, 3)` uint8 RGB and an empty string, or `(0, 0, 3)` and what is wrong.
    """
    is_jpeg = tf.strings.substr(data, 0, len(JPEG_START)) == JPEG_START
    is_png = tf.strings.substr(data, 0, len(PNG_START)) == PNG_START
    nothing = tf.zeros((0, 0, 3), tf.uint8)
    size = attempt(lambda data: _stored_size(data, is_jpeg), data, tf.zeros((2,), tf.int64))
    # Two 32-bit numbers of a forged header cannot overflow 63 bits.
    is_large = tf.reduce_prod(size) > max_pixels
    picture = tf.cond(
        (is_jpeg | is_png) & ~is_large,
        lambda: attempt(lambda data: _decode(data, is_jpeg), data, nothing),
        lambda: nothing,
    )
    too_large = tf.strings.format(
        "the picture has {} x {} pixels, more than the limit of " + str(max_pixels),
        (size[1], size[0]),
    )
    error = tf.where(tf.size(picture) > 0, "", DAMAGED)
    error = tf.where(is_large, too_large, error)
    return picture, tf.where(is_jpeg | is_png, error, NOT_A_PICTURE)


def attempt(function, value, fallback):
    """`function(value)`, or `fallback` where one of its operations fails: `try` and `except` of a graph.

    Args:
        function: of one tensor, to one tensor.
        value: the tensor.
        fallback: of the dtype and rank that `function` returns.
    """
    results = tf.data.Dataset.from_tensors(value).map(function).ignore_errors()
    results = results.concatenate(tf.data.Dataset.from_tensors(fallback)).take(1)
    return results.with_options(_at_once()).get_single_element()


def _at_once():
    """No tuning of a dataset that is read once: it takes 20 ms, the rest of `attempt` 0.4."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return options


def _stored_size(data, is_jpeg):
    """`(2,)` int64, height and width by the header."""

    def of_jpeg():
        return tf.cast(tf.image.extract_jpeg_shape(data)[:2], tf.int64)

    def of_png():
        octets = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.uint8)
        octets = tf.reshape(tf.cast(octets, tf.int64), (2, 4))
        width, height = tf.unstack(tf.reduce_sum(octets * [1 << 24, 1 << 16, 1 << 8, 1], axis=1))
        return tf.stack([height, width])

    return tf.cond(is_jpeg, of_jpeg, of_png)


def _decode(data, is_jpeg):
    def of_jpeg():
        # The slow, accurate transform is the one that OpenCV and Pillow use.
        picture = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
        return picture, attempt(exif.jpeg_orientation, data, exif.UPRIGHT)

    def of_png():
        picture = tf.io.decode_png(data, channels=3)
        return picture, attempt(exif.png_orientation, data, exif.UPRIGHT)

    return exif.turn_upright(*tf.cond(is_jpeg, of_jpeg, of_png))
