"""Picture files: their size without decoding, whether they are whole, and their pixels."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from kmaskrcnn.data.faults import Rejected

EXIF_ORIENTATION = 0x0112
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_EXIF = b"\xff\xe1"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def is_whole(data):
    """Whether an encoded JPEG or PNG has its end.

    Without this check half a JPEG is a sound picture: its decoder fills the lost part with gray.

    Args:
        data: bytes of the file.

    Returns:
        bool; `True` for other formats, whose decoders fail by themselves.
    """
    if data.startswith(_JPEG_START):
        # An embedded thumbnail has an end of its own, but before the picture's scan begins; and
        # what a phone appends, such as a film, may hold any marker.
        header_end = max((end for _, _, end in _jpeg_segments(data)), default=0)
        return data.find(_JPEG_END, header_end) >= 0
    return not data.startswith(_PNG_START) or _PNG_END in data


def _jpeg_segments(data):
    """`(marker, start, end)` of a JPEG's segments up to the first scan's header, which is the last."""
    marker, place = b"", data.find(b"\xff", 2)
    while marker != _JPEG_SCAN and 0 <= place < len(data) - 3:
        marker, end = data[place : place + 2], place + 1
        if marker != b"\xff\xff":  # which only fills
            end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            yield marker, place, end
        place = data.find(b"\xff", end)


def without_orientation(data):
    """An encoded picture that everyone sees as it is stored, with the same pixels.

    Args:
        data: bytes of the file.

    Returns:
        bytes: a JPEG without its EXIF; another kind of picture as PNG; what has no orientation, or
        cannot be read, as it is.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return data
    if orientation == 1:
        return data
    if not data.startswith(_JPEG_START):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return data if pixels is None else cv2.imencode(".png", pixels)[1].tobytes()
    kept = bytearray(data)
    for _, start, end in reversed(list(_jpeg_segments(data))):
        if data.startswith(_EXIF, start) and data.startswith(b"Exif\0", start + 4):
            del kept[start:end]
    return bytes(kept)


def read_picture(path, shape=None):
    """The pixels of a picture file of any kind that OpenCV reads.

    Args:
        path: path of the file.
        shape: `(height, width)` that the dataset declares, or `None` to accept any.

    Returns:
        `(height, width, 3)` uint8, RGB, see `decode_picture`.

    Raises:
        Rejected: a `ValueError` with a `kind`, if the file is missing, cut off, no picture, or of
            another size. The caller knows the picture's name and adds it.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error
    return decode_picture(data, shape)


def decode_picture(data, shape=None):
    """The pixels of an encoded picture of any kind that OpenCV reads.

    Gray, palette, transparent and 16-bit pictures become RGB of 8 bits: gray is repeated, alpha is
    dropped, of 16 bits the upper 8 are kept. The EXIF orientation is applied, unless `shape` says
    that the annotations were made on the picture as it is stored.

    Args:
        data: bytes of the file.
        shape: `(height, width)` that the dataset declares, or `None` to accept any.

    Returns:
        `(height, width, 3)` uint8, RGB.

    Raises:
        Rejected: as `read_picture`.
    """
    if not is_whole(data):
        raise Rejected("truncated file", "the file is cut off: its end marker is missing")
    picture = _decode(data, cv2.IMREAD_COLOR_RGB)
    if shape is None or picture.shape[:2] == tuple(shape):
        return picture
    stored = _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored.shape[:2] != tuple(shape):
        raise _wrong_size(shape, picture.shape[:2])
    return stored


def _unreadable(error):
    # A name that no file can have, with a zero byte in it, is a ValueError.
    reason = getattr(error, "strerror", None) or error
    return Rejected("missing file", f"the file cannot be read: {reason}")


def _decode(data, flags):
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:  # more pixels by its header than OpenCV takes
        raise Rejected("not a picture", f"OpenCV refuses the file: {error.err}") from error
    if picture is None:
        raise Rejected("not a picture", "the file is not a picture that OpenCV can decode")
    return picture


def _wrong_size(declared, found):
    return Rejected(
        "size mismatch",
        f"the dataset declares height {declared[0]} and width {declared[1]}, "
        f"the file has {found[0]} and {found[1]}",
    )


def picture_size(path):
    """`(height, width)` of a picture file as it is looked at, by its header alone.

    Raises:
        Rejected: if the file is missing or its header cannot be read.
    """
    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(EXIF_ORIENTATION) in TRANSPOSED
            height, width = picture.height, picture.width
    except FileNotFoundError as error:
        raise _unreadable(error) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Rejected("not a picture", f"the file's header cannot be read: {error}") from error
    return (width, height) if turned else (height, width)


def write_picture(path, picture):
    """Writes `(height, width, 3)` uint8 RGB as the kind of file that the path's suffix names.

    Raises:
        OSError: if it cannot be written; OpenCV alone would say nothing.
    """
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise OSError(f"{path}: the picture could not be written")


def check_header(path, shape):
    """Checks a picture file by its header and its end, without decoding: about 0.1 ms.

    A format other than JPEG and PNG is decoded, since its end cannot be told.

    Args:
        path: path of the file.
        shape: `(height, width)` that the dataset declares.

    Raises:
        Rejected: as `read_picture`; damage inside a file that is whole goes unseen.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_PNG_START))
            file.seek(0, 2)
            file.seek(max(0, file.tell() - len(_PNG_END)))
            end = file.read()
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error
    ends_well = (start.startswith(_JPEG_START) and end.endswith(_JPEG_END)) or (
        start == _PNG_START and end == _PNG_END
    )
    if ends_well:
        _check_declared_size(path, shape)
    else:
        read_picture(path, shape)


def _check_declared_size(path, shape):
    try:
        with Image.open(path) as picture:
            stored = (picture.height, picture.width)
            if stored == tuple(shape):
                return
            turned = picture.getexif().get(EXIF_ORIENTATION) in TRANSPOSED
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Rejected("not a picture", f"the file's header cannot be read: {error}") from error
    if not (turned and stored[::-1] == tuple(shape)):
        raise _wrong_size(shape, stored[::-1] if turned else stored)
