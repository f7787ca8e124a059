"""Picture files whose pixels are numbers: of an object, of a class, or of a palette's colour."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from kmaskrcnn.data.faults import Rejected
from kmaskrcnn.data.pictures import is_whole

# Pillow's names: bits, bytes, palette, 32 and 16 bits.
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


def read_indices(path, shape=None):
    """The pixels of a file as the numbers that it stores; a palette's colours are not looked at.

    Args:
        path: path of a PNG or any other lossless picture.
        shape: `(height, width)` that it must have, or `None` to accept any.

    Returns:
        `(height, width)` int32.

    Raises:
        Rejected: if the file is missing, cut off, no picture, of another size, or has colours.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Rejected("missing file", f"the file cannot be read: {error.strerror}") from error
    return decode_indices(data, shape)


def decode_indices(data, shape=None):
    """As `read_indices`, of a file's bytes."""
    if not is_whole(data):
        raise Rejected("truncated file", "the file is cut off: its end marker is missing")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            mode, pixels = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Rejected("not a picture", f"the file cannot be decoded: {error}") from error
    if mode not in _INDEX_MODES:
        accepted = "gray of 8 or 16 bits or a palette"
        raise Rejected("not a picture", f"the file must be {accepted}, got Pillow's mode {mode!r}")
    if shape is not None and pixels.shape != tuple(shape):
        wanted = f"height {shape[0]} and width {shape[1]}"
        found = f"{pixels.shape[0]} and {pixels.shape[1]}"
        raise Rejected("size mismatch", f"{wanted} are the picture's, the file has {found}")
    return pixels.astype(np.int32)
