"""The size a picture has inside the network: short side, long side, padding; and its pixels there.

| Rule | Sides | Pixels | Whose weights know it |
|---|---|---|---|
| `"opencv"` | rounded | OpenCV's bilinear, of bytes | ours |
| `"torchvision"` | cut to whole pixels | bilinear, of floats | torchvision's |
| `"detectron2"` | rounded | Pillow's bilinear, which averages where it shrinks | Detectron2's |
"""

import cv2
import numpy as np
from PIL import Image


def resize_pixels(pixels, size, rule="opencv"):
    """A picture at another size.

    Args:
        pixels: `(H, W, C)` uint8 or float.
        size: `(height, width)`.
        rule: see the head of this file. Pillow knows bytes alone: others are resized as by OpenCV.

    Returns:
        `(height, width, C)`: float32 by `"torchvision"`'s rule, else in the dtype that was given.
    """
    height, width = size
    if rule == "detectron2" and pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    else:
        pixels = pixels.astype(np.float32) if rule == "torchvision" else pixels
        resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(height, width, -1)  # both drop a single channel


def resize_shape(height, width, min_size=800, max_size=1333, rule="opencv"):
    """The size of a picture once its short side is `min_size` and its long side at most `max_size`.

    Args:
        height: int, pixels of the original picture.
        width: int, pixels of the original picture.
        min_size: int, wanted length of the short side in pixels.
        max_size: int, greatest length of the long side; where both cannot hold, this one does.
        rule: see the head of this file.

    Returns:
        `(new_height, new_width)`, ints of at least 1. Rounding makes the scale differ a little
        between the axes: scale each coordinate by `new / old` of its own axis.

    Raises:
        ValueError: if a length is not positive or `max_size` is under `min_size`.

    Example:
        >>> resize_shape(480, 640)
        (800, 1067)

    Reference:
        Feature Pyramid Networks (Lin et al., 2017), section 5: short side 800.
    """
    if min(height, width, min_size) < 1:
        raise ValueError(
            f"height, width and min_size must be at least 1, got {height}, {width} and {min_size}"
        )
    if max_size < min_size:
        raise ValueError(f"max_size must be at least min_size ({min_size}), got {max_size}")
    scale = min(min_size / min(height, width), max_size / max(height, width))
    half = 0.0 if rule == "torchvision" else 0.5
    return max(1, int(height * scale + half)), max(1, int(width * scale + half))


def padded_length(length, divisor):
    """The least multiple of `divisor` that holds `length` pixels.

    Args:
        length: int, pixels.
        divisor: int, 64 for a pyramid up to P6.

    Returns:
        int, pixels.
    """
    return -(-length // divisor) * divisor
