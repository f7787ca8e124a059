"""Pictures larger than the network likes: overlapping tiles, and one list of objects from all of them.

A window is `(rows, columns)`, two slices of the picture.
"""

import dataclasses

import numpy as np

from kmaskrcnn.serving.merging import join_detections, suppress_detections

EDGE = 2.0  # pixels: a box that ends so near to a tile's border may go on behind it


def tile_windows(size, tile_size, overlap):
    """Cover a picture with windows of one size, evenly spread.

    Args:
        size: `(height, width)` of the picture.
        tile_size: pixels; a shorter side is covered by one shorter window.
        overlap: least overlap of neighbours, a share of `tile_size` in [0, 1).

    Returns:
        A list of windows, row by row.

    Raises:
        ValueError: `tile_size` is not positive, or `overlap` outside [0, 1).

    Example:
        >>> tile_windows((100, 300), 200, 0.25)
        [(slice(0, 100), slice(0, 200)), (slice(0, 100), slice(100, 300))]
    """
    if tile_size < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f"tile_size and overlap: got {tile_size} and {overlap}, accepted are 1 or more, and [0, 1)"
        )
    rows, columns = (_spans(length, tile_size, overlap) for length in size)
    return [(row, column) for row in rows for column in columns]


def _spans(length, tile_size, overlap):
    if length <= tile_size:
        return [slice(0, length)]
    step = max(1, int(tile_size * (1 - overlap)))
    count = -(-(length - tile_size) // step) + 1
    starts = np.linspace(0, length - tile_size, count).round().astype(int)
    return [slice(int(start), int(start) + tile_size) for start in starts]


def merge_tiles(found, windows, size, iou_threshold=0.5):
    """One list of objects from the lists of all tiles.

    Boxes that end inside their tile go first, those that a tile's border may have cut after them. Within a class, a
    box is dropped if its IoU with one before it is over the threshold; a cut one also where one before it covers half
    of it, since a part of an object overlaps little with the whole.

    Args:
        found: `Detections` of each tile in its own pixels.
        windows: as `tile_windows` gave them.
        size: `(height, width)` of the picture.
        iou_threshold: of the suppression.

    Returns:
        `Detections` in the picture's pixels, best first.
    """
    moved = [_move(one, window) for one, window in zip(found, windows)]
    cut = np.concatenate([_is_cut(one, window, size) for one, window in zip(moved, windows)])
    joined = join_detections(moved, size)
    order = np.lexsort((-joined.scores, cut))
    keep = suppress_detections(joined[order], iou_threshold, cut[order])
    joined = joined[order][keep]
    return joined[np.argsort(-joined.scores, kind="stable")]


def _move(detections, window):
    corner = [window[1].start, window[0].start]
    points = detections.keypoints
    return dataclasses.replace(
        detections,
        boxes=detections.boxes + np.float32([*corner, *corner]),
        keypoints=None if points is None else points + np.float32([*corner, 0]),
        image_size=(window[0].stop, window[1].stop),
    )


def _is_cut(detections, window, size):
    """`(N,)` bool: the box reaches a border of its tile that is none of the picture's."""
    cut = np.zeros(len(detections), bool)
    for axis, span, length in ((1, window[0], size[0]), (0, window[1], size[1])):
        if span.start > 0:
            cut |= detections.boxes[:, axis] < span.start + EDGE
        if span.stop < length:
            cut |= detections.boxes[:, axis + 2] > span.stop - EDGE
    return cut
