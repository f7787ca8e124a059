"""COCO segmentations (polygons, compressed and uncompressed RLE) as masks.

A segmentation is what a COCO json holds for one object: a list of polygons, each a flat list
`[x0, y0, x1, y1, ...]` in pixels, or a run-length encoding `{"size": [height, width], "counts"}`
whose runs go down the columns and start with the background. `counts` is a list of ints or
COCO's string of 6-bit characters.
"""

import itertools
import math

import numpy as np
from pycocotools import mask as coco_mask

from kmaskrcnn.geometry.run_lengths import decompress

AT_ONCE = 1_000_000  # characters of compressed masks whose runs are in memory together
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
        return decompress([_bytes(counts)])[0]
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("RLE counts must be a list of ints or a string")
    try:
        return np.array(counts, dtype=np.int64)
    except OverflowError as error:
        raise ValueError("RLE counts hold a number beyond any picture's pixels") from error


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
    return to_rles([segmentation], [(height, width)])[0]


def to_rles(segmentations, sizes):
    """COCO segmentations as compressed RLEs, faster than one after another.

    Args:
        segmentations: N lists of polygons or RLE dicts, as for `to_rle`.
        sizes: N `(height, width)` of their pictures.

    Returns:
        A list of N RLEs as from `to_rle`.

    Raises:
        ValueError: one of them is malformed, as for `to_rle`.
    """
    pairs = list(zip(segmentations, sizes))
    rles = [(segmentation, size) for segmentation, size in pairs if isinstance(segmentation, dict)]
    for rle, size in rles:
        _check_size(rle, size)
    texts = [(rle["counts"], size) for rle, size in rles if isinstance(rle["counts"], (str, bytes))]
    ends = itertools.accumulate(len(text) for text, _ in texts)
    for _, part in itertools.groupby(zip(texts, ends), key=lambda pair: pair[1] // AT_ONCE):
        _check_texts(*zip(*(text for text, _ in part)))
    return [_to_rle(segmentation, *size) for segmentation, size in pairs]


def _check_texts(texts, sizes):
    runs, lengths = decompress([_bytes(text) for text in texts])
    _check_runs(runs, lengths, np.array([math.prod(size) for size in sizes], np.int64))


def _to_rle(segmentation, height, width):
    if not isinstance(segmentation, dict):
        return _polygons_to_rle(segmentation, height, width)
    counts = segmentation["counts"]
    if isinstance(counts, (str, bytes)):
        return {"size": [height, width], "counts": _bytes(counts)}
    _checked_runs(segmentation)
    return coco_mask.frPyObjects(segmentation, height, width)


def _bytes(text):
    return text.encode() if isinstance(text, str) else text


def _check_size(rle, size):
    missing = [key for key in ("size", "counts") if key not in rle]
    if missing:
        raise ValueError(f"an RLE has 'size' and 'counts'; missing: {', '.join(missing)}")
    if list(rle["size"]) != list(size):
        raise ValueError(
            f"RLE size (height, width) must be the picture's {tuple(size)}, got {rle['size']}"
        )


def _checked_runs(rle):
    runs = run_lengths(rle["counts"])
    _check_runs(runs, np.array([len(runs)]), np.array([math.prod(rle["size"])]))
    return runs


def _check_runs(runs, lengths, pixels):
    """Masks' runs, of `lengths` one after another, fill their `pixels`."""
    # pycocotools does not check: runs that add up to more are written past the mask's end.
    mask = np.repeat(np.arange(len(lengths)), lengths)
    within = (runs >= 0) & (runs <= pixels[mask])
    sums = np.zeros(len(lengths), np.int64)
    np.add.at(sums, mask, runs)
    if not within.all() or (sums != pixels).any():
        wrong = mask[~within][0] if not within.all() else np.flatnonzero(sums != pixels)[0]
        raise ValueError(
            f"RLE runs must be non-negative and add up to {pixels[wrong]} pixels, "
            f"got a sum of {sums[wrong]}"
        )


def _polygons_to_rle(polygons, height, width):
    if not polygons or min(len(polygon) for polygon in polygons) < 6:
        raise ValueError("a segmentation needs polygons of at least 3 points (6 numbers) each")
    rles = coco_mask.frPyObjects(list(polygons), height, width)
    return rles[0] if len(rles) == 1 else coco_mask.merge(rles)


def mask_areas(rles):
    """Pixels of compressed RLEs, `(N,)` int64."""
    # pycocotools takes a list of them, but fails on more than 255.
    return np.array([coco_mask.area(rle) for rle in rles], np.int64)


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
    runs = _checked_runs(rle)
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
