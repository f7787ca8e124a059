"""Reads one entry of a COCO json, untrusted, into values that can be relied on.

Every function raises `Rejected` with what was found and what is accepted.
"""

import math

import numpy as np

from kmaskrcnn.data.faults import Rejected
from kmaskrcnn.geometry.segmentations import to_rle

# Beyond this, in pixels, a coordinate is a slip of the pen that would cost minutes to rasterise.
FARTHEST_COORDINATE = 1e6
HUGE = 1e300  # json knows integers that no float holds


def entry_value(entry, key, types, accepted):
    """The value under `key`, of one of `types`.

    Args:
        entry: the json entry.
        key: str.
        types: a type, or several in a tuple.
        accepted: str, the accepted values in words, for the error.

    Returns:
        The value as it stands.
    """
    if not isinstance(entry, dict):
        raise Rejected("malformed entry", f"must be an object, got {_short(entry)}")
    if key not in entry:
        raise Rejected("malformed entry", f"{key!r} is missing; it must be {accepted}")
    if not isinstance(entry[key], types) or isinstance(entry[key], bool):
        raise Rejected("malformed entry", f"{key!r} must be {accepted}, got {_short(entry[key])}")
    return entry[key]


def entry_int(entry, key, minimum=None):
    """The whole number under `key`, which must fit into 64 bits.

    Args:
        entry: the json entry.
        key: str.
        minimum: int or `None`.

    Returns:
        int; a float without a fraction is accepted, since some tools write ids so.
    """
    accepted = "a whole number" + ("" if minimum is None else f" of at least {minimum}")
    value = entry_value(entry, key, (int, float), accepted)
    whole = isinstance(value, int) or (math.isfinite(value) and value == int(value))
    if not whole or abs(value) >= 2**63 or (minimum is not None and value < minimum):
        raise Rejected("malformed entry", f"{key!r} must be {accepted}, got {_short(value)}")
    return int(value)


def entry_number(entry, key, least=None):
    """The finite number under `key`, above `least` where that is given, as float."""
    accepted = "a finite number" + ("" if least is None else f" above {least}")
    value = entry_value(entry, key, (int, float), accepted)
    if not is_number(value) or (least is not None and value <= least):
        raise Rejected("malformed entry", f"{key!r} must be {accepted}, got {_short(value)}")
    return float(value)


def is_number(value):
    """Whether a json value is a finite number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and -HUGE < value < HUGE


def read_box(entry, height, width):
    """The entry's COCO box `[x, y, w, h]`, cut to the picture.

    Args:
        entry: the json entry of an annotation.
        height: int, pixels of the picture.
        width: int, pixels of the picture.

    Returns:
        `(x1, y1, x2, y2)` floats in pixels, of positive area.
    """
    values = entry_value(entry, "bbox", list, "a list [x, y, width, height]")
    if len(values) != 4 or not all(is_number(value) for value in values):
        raise Rejected("bad box", f"'bbox' must be 4 finite numbers, got {_short(values)}")
    x, y, box_width, box_height = map(float, values)
    if box_width <= 0 or box_height <= 0:
        raise Rejected(
            "bad box", f"'bbox' must have positive width and height, got {_short(values)}"
        )
    x1, y1, x2, y2 = (
        max(x, 0.0),
        max(y, 0.0),
        min(x + box_width, width),
        min(y + box_height, height),
    )
    if x1 >= x2 or y1 >= y2:
        raise Rejected(
            "box outside",
            f"'bbox' {_short(values)} lies outside the picture of height {height}, width {width}",
        )
    return x1, y1, float(x2), float(y2)


def read_segmentation(entry, height, width):
    """The entry's segmentation, checked.

    Args:
        entry: the json entry of an annotation.
        height: int, pixels of the picture.
        width: int, pixels of the picture.

    Returns:
        A list of polygons, an RLE `{"size": [height, width], "counts"}`, or `None` where the entry
        has none.
    """
    segmentation = entry.get("segmentation")
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, list):
        for polygon in segmentation:
            check_polygon(polygon, height, width)
        return segmentation
    if isinstance(segmentation, dict):
        return _checked_rle(segmentation, height, width)
    raise Rejected(
        "malformed entry",
        f"'segmentation' must be a list of polygons or an RLE, got {_short(segmentation)}",
    )


def check_polygon(polygon, height, width):
    """Raises `Rejected` unless `polygon` is a flat list of at least 3 points that reach the picture."""
    try:
        points = np.array(polygon, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise Rejected("bad polygon", f"a polygon must hold numbers: {error}") from error
    if points.ndim != 1 or points.size < 6 or points.size % 2:
        raise Rejected(
            "bad polygon",
            "a polygon must be a flat list [x0, y0, x1, y1, ...] of at least 3 points, "
            f"got {_short(polygon)}",
        )
    points = points.reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    if not (low > -FARTHEST_COORDINATE).all() or not (high < FARTHEST_COORDINATE).all():
        raise Rejected("bad polygon", f"a polygon's points must be finite, got {_short(polygon)}")
    if high.min() < 0 or low[0] > width or low[1] > height:
        raise Rejected(
            "polygon outside",
            f"a polygon from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}) lies outside "
            f"the picture of height {height}, width {width}",
        )


def _checked_rle(rle, height, width):
    size = entry_value(rle, "size", list, "a list [height, width]")
    if size != [height, width]:
        raise Rejected(
            "RLE size", f"RLE size must be the picture's [{height}, {width}], got {_short(size)}"
        )
    checked = {"size": [height, width], "counts": rle.get("counts")}
    try:
        to_rle(checked, height, width)
    except (ValueError, OverflowError) as error:
        raise Rejected("bad RLE", str(error)) from error
    return checked


def read_crowd(entry):
    """Whether the entry is a crowd; entries without `iscrowd` are not.

    Args:
        entry: the json entry of an annotation.

    Returns:
        bool.
    """
    value = entry.get("iscrowd", 0)
    if value not in (0, 1):
        raise Rejected("malformed entry", f"'iscrowd' must be 0 or 1, got {_short(value)}")
    return bool(value)


def read_keypoints(entry):
    """The entry's keypoints.

    Args:
        entry: the json entry of an annotation.

    Returns:
        `((x, y, visibility), ...)` floats in pixels, visibility 0, 1 or 2; `None` where the entry
        has none, or an empty list.
    """
    if entry.get("keypoints") in (None, []):
        return None
    values = entry_value(entry, "keypoints", list, "a flat list [x, y, visibility, ...]")
    if len(values) % 3 or not all(is_number(value) for value in values):
        raise Rejected(
            "bad keypoints", f"'keypoints' must be 3 finite numbers a point, got {_short(values)}"
        )
    if not set(values[2::3]) <= {0, 1, 2}:
        raise Rejected("bad keypoints", f"visibility must be 0, 1 or 2, got {_short(values[2::3])}")
    return tuple(tuple(map(float, values[i : i + 3])) for i in range(0, len(values), 3))


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
