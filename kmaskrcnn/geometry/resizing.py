"""The size a picture has inside the network: short side, long side, padding."""


def resize_shape(height, width, min_size=800, max_size=1333):
    """The size of a picture once its short side is `min_size` and its long side at most `max_size`.

    Args:
        height: int, pixels of the original picture.
        width: int, pixels of the original picture.
        min_size: int, wanted length of the short side in pixels.
        max_size: int, greatest length of the long side; where both cannot hold, this one does.

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
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padded_length(length, divisor):
    """The least multiple of `divisor` that holds `length` pixels.

    Args:
        length: int, pixels.
        divisor: int, 64 for a pyramid up to P6.

    Returns:
        int, pixels.
    """
    return -(-length // divisor) * divisor
