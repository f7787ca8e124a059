"""COCO segmentations (polygons, compressed and uncompressed RLE) as masks.

A segmentation is what a COCO json holds for one object: a list of polygons, each a flat list
`[x0, y0, x1, y1, ...]` in pixels, or a run-length encoding `{"size": [height, width], "counts"}`
whose runs go down the columns and start with the background. `counts` is a list of ints or
COCO's string of 6-bit characters.
"""

import numpy as np
from pycocotools import mask as coco_mask

FARTHEST = 100  # boxes' lengths away from the box, where a polygon's points are held


def run_lengths(counts):
    """The runs of an RLE as numbers.

    Args:
        counts: list of ints, or COCO's compressed form as `str` or `bytes`.

    Returns:
        `(R,)` int64, lengths in pixels of background, object, background, ...

    Raises:
        ValueError: if `counts` is neither, or has characters that the format does not know.
    """
    if isinstance(counts, (str, bytes)):
        return _decompress(counts.encode() if isinstance(counts, str) else counts)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("RLE counts must be a list of ints or a string")
    return np.array(counts, dtype=np.int64)


def _decompress(text):
    # Each character carries 5 bits of a number, low bits first, and 0x20 where more follow; the
    # last one's 0x10 is the sign. From the fourth number on they are differences to the last but one.
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if codes.size and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20):
        raise ValueError("compressed RLE counts are cut off or have characters outside '0' to 'o'")
    ends = np.flatnonzero((codes & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    digits = ends - starts + 1
    if digits.size and digits.max() > 7:
        raise ValueError("compressed RLE counts hold a number of more than 7 characters")
    place = np.arange(len(codes)) - np.repeat(starts, digits)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts) if digits.size else codes
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * digits), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def to_rle(segmentation, height, width):
    """Any COCO segmentation as one compressed RLE of the whole picture.

    Args:
        segmentation: list of polygons, or an RLE `dict`.
        height: int, pixels of the picture.
        width: int, pixels of the picture.

    Returns:
        `{"size": [height, width], "counts": bytes}`, as pycocotools takes it. Several polygons
        become their union.

    Raises:
        ValueError: if the RLE's size is not the picture's, its runs do not add up to it, or
            a polygon has under 3 points.

    Example:
        >>> rle = to_rle([[2, 2, 5, 2, 5, 5, 2, 5]], 8, 8)
        >>> int(pycocotools.mask.area(rle))
        9
    """
    if not isinstance(segmentation, dict):
        return _polygons_to_rle(segmentation, height, width)
    _checked_runs(segmentation, height, width)
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    counts = segmentation["counts"]
    counts = counts.encode() if isinstance(counts, str) else counts
    return {"size": [height, width], "counts": counts}


def _checked_runs(rle, height, width):
    if list(rle["size"]) != [height, width]:
        raise ValueError(
            f"RLE size (height, width) must be the picture's ({height}, {width}), "
            f"got {rle['size']}"
        )
    # pycocotools does not check: runs that add up to more are written past the mask's end.
    runs = run_lengths(rle["counts"])
    pixels = height * width
    if (runs < 0).any() or (runs > pixels).any() or runs.sum() != pixels:
        raise ValueError(
            f"RLE runs must be non-negative and add up to {pixels} pixels, "
            f"got a sum of {runs.sum()}"
        )
    return runs


def _polygons_to_rle(polygons, height, width):
    if not polygons or min(len(polygon) for polygon in polygons) < 6:
        raise ValueError("a segmentation needs polygons of at least 3 points (6 numbers) each")
    return coco_mask.merge(coco_mask.frPyObjects(list(polygons), height, width))


def rasterise_in_box(segmentation, box, size=112):
    """An object's mask in the frame of its own box, whatever the box's size.

    Polygons are moved and scaled into the box's frame and rasterised there, so that a small
    object keeps the detail of its outline and a large one costs no full-size mask; an RLE is
    decoded and read at the centres of the cells.

    Args:
        segmentation: list of polygons, or an RLE `dict`.
        box: `(x1, y1, x2, y2)` in pixels, of positive width and height.
        size: int, cells along each side.

    Returns:
        `(size, size)` uint8, 1 inside the object. What lies outside the box is cut off, and cells
        outside the picture are 0.

    Raises:
        ValueError: if the box has no area or the segmentation is malformed.
    """
    x1, y1, x2, y2 = box
    if not (x2 > x1 and y2 > y1):
        raise ValueError(f"box must have x2 > x1 and y2 > y1, got {tuple(box)}")
    if isinstance(segmentation, dict):
        return _sample_rle(segmentation, box, size)
    origin = np.array([x1, y1])
    scale = size / np.array([x2 - x1, y2 - y1])
    # A box far smaller than its polygon would cost a rasterisation of its own size squared.
    far = FARTHEST * size
    moved = [((np.reshape(p, (-1, 2)) - origin) * scale).clip(-far, far) for p in segmentation]
    return coco_mask.decode(_polygons_to_rle([p.ravel() for p in moved], size, size))


def _sample_rle(rle, box, size):
    height, width = rle["size"]
    runs = _checked_runs(rle, height, width)
    inside = (np.arange(len(runs)) % 2).astype(np.uint8)
    columns_first = np.repeat(inside, runs).reshape(width, height)
    x1, y1, x2, y2 = box
    centres = (np.arange(size) + 0.5) / size
    columns = np.floor(x1 + centres * (x2 - x1)).astype(np.int64)
    rows = np.floor(y1 + centres * (y2 - y1)).astype(np.int64)
    cells = columns_first.take(columns, axis=0, mode="clip").take(rows, axis=1, mode="clip")
    cells[(columns < 0) | (columns >= width)] = 0
    cells[:, (rows < 0) | (rows >= height)] = 0
    return cells.T
