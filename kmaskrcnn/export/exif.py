"""Which way up a picture is: the EXIF orientation of an encoded JPEG or PNG, read inside a TensorFlow graph.

    JPEG   segments of marker (2 bytes), length (2, counted from itself on), payload; EXIF's begins with "Exif\\0\\0"
    PNG    chunks of length (4 bytes), type (4), payload, checksum (4); EXIF's type is "eXIf"
    EXIF   a TIFF header ("II" or "MM" for the byte order, 42, offset of the first directory), then the directory:
           a count (2 bytes) and entries of tag (2), type (2), count (4), value (4)

Reading beyond the end is an error of the graph; the caller takes it for "no orientation", see `decode.attempt`.

Reference: CIPA DC-008 (Exif 2.32), sections 4.5 and 4.6
"""

import tensorflow as tf

ORIENTATION_TAG = 0x0112
UPRIGHT = 1
EXIF_START = b"\xff\xe1", b"Exif\0\0"  # marker, and what follows the length
JPEG_SCAN = b"\xff\xda"
PNG_END = b"IEND"
MOST_PARTS = 4000  # segments or chunks looked at: a file of 32 MiB may have 8 million, 20 us each


def jpeg_orientation(data):
    """`()` int32, 1 to 8, of an encoded JPEG."""

    def is_exif(at):
        marker, start = EXIF_START
        return (_text(data, at, 2) == marker) & (_text(data, at + 4, 6) == start)

    def searching(at):
        is_segment = (_text(data, at, 1) == b"\xff") & (_text(data, at, 2) != JPEG_SCAN)
        return is_segment & ~is_exif(at)

    at = _walk(searching, lambda at: at + 2 + _number(data, at + 2, 2), start=2)
    return _tiff_orientation(data, is_exif(at), at + 10)


def png_orientation(data):
    """`()` int32, 1 to 8, of an encoded PNG."""

    def searching(at):
        kind = _text(data, at + 4, 4)
        return (kind != b"eXIf") & (kind != PNG_END)

    at = _walk(searching, lambda at: at + 12 + _number(data, at, 4), start=8)
    return _tiff_orientation(data, _text(data, at + 4, 4) == b"eXIf", at + 8)


def turn_upright(picture, orientation):
    """Undo an orientation.

    Args:
        picture: `(H, W, C)` as it is stored.
        orientation: `()` int32, 1 to 8.

    Returns:
        `(H, W, C)` or, for 5 to 8, `(W, H, C)`, as a person should see it.
    """

    def one_of(*values):
        return tf.reduce_any(orientation == tf.constant(values))

    def turn(condition, picture, change):
        return tf.cond(condition, lambda: change(picture), lambda: picture)

    picture = turn(one_of(5, 6, 7, 8), picture, lambda x: tf.transpose(x, (1, 0, 2)))
    picture = turn(one_of(2, 3, 6, 7), picture, lambda x: tf.reverse(x, [1]))
    return turn(one_of(3, 4, 7, 8), picture, lambda x: tf.reverse(x, [0]))


def _walk(searching, step, start):
    """Where the search ends; after too many parts it ends at one that is no EXIF: the picture is upright."""
    start = tf.constant(start, tf.int64)
    return tf.while_loop(
        searching, lambda at: (step(at),), (start,), maximum_iterations=MOST_PARTS
    )[0]


def _tiff_orientation(data, exists, start):
    order = tf.cond(exists, lambda: _text(data, start, 2), lambda: "")
    known = (order == b"II") | (order == b"MM")
    return tf.cond(known, lambda: _read_directory(data, start), lambda: UPRIGHT)


def _read_directory(data, start):
    little = _text(data, start, 2) == b"II"
    directory = start + _number(data, start + 4, 4, little)
    count = _number(data, directory, 2, little)
    entries = tf.io.decode_raw(_text(data, directory + 2, 12 * count), tf.uint8)
    entries = tf.cast(tf.reshape(entries, (-1, 12)), tf.int32)
    entries = tf.where(little, tf.reverse(entries, [1]), entries)
    # Reversed, little-endian numbers read as big-endian ones do, and an entry begins with its value.
    tag, value = tf.cond(little, lambda: (10, 2), lambda: (0, 8))
    is_orientation = _pair(entries, tag) == ORIENTATION_TAG
    found = tf.boolean_mask(_pair(entries, value), is_orientation)
    orientation = tf.concat([found, [UPRIGHT]], axis=0)[0]
    return tf.where((orientation >= 1) & (orientation <= 8), orientation, UPRIGHT)


def _pair(entries, column):
    return 256 * entries[:, column] + entries[:, column + 1]


def _text(data, start, length):
    return tf.strings.substr(data, start, tf.cast(length, tf.int64))


def _number(data, start, length, little=False):
    """An unsigned number of `length` bytes, as int64: a forged length must not turn negative."""
    octets = tf.io.decode_raw(_text(data, start, length), tf.uint8)
    octets = tf.cast(tf.ensure_shape(octets, (length,)), tf.int64)
    octets = tf.where(little, tf.reverse(octets, [0]), octets)
    return tf.reduce_sum(octets * [256**place for place in reversed(range(length))])
