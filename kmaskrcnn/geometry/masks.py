"""Masks in box frames, and the same masks in the picture.

    box frame   `(M, M)` probabilities: the object's own box in M x M equal cells
    window      the pixels that a box's mask can reach; all work is done there
    RLE         COCO's run-length encoding of the whole picture, column by column

The mask head predicts in box frames (Mask R-CNN, section 3); a user wants pixels. Coordinates are
continuous: pixel x spans [x, x + 1) and is sampled at its centre x + 0.5, so that boxes need no
rounding.
"""

import math

import cv2
import numpy as np
from pycocotools import mask as coco_mask


def paste_masks(masks, boxes, image_size, threshold=0.5, rule="half_pixel"):
    """Place masks from their boxes' frames into the picture.

    Needs N x height x width bytes: for many masks on a large picture take `paste_window` or
    `masks_to_rles` instead.

    Args:
        masks: `(N, M, M)` float, probabilities in box frames.
        boxes: `(N, 4)` float, xyxy in the picture's continuous pixels; they may leave the picture.
        image_size: `(height, width)` of the picture.
        threshold: a pixel belongs to the object from this probability on.
        rule: `"half_pixel"`, or `"torchvision"`, see `paste_window`.

    Returns:
        `(N, height, width)` bool. A box without area has an empty mask.

    Raises:
        ValueError: the shapes of `masks` and `boxes` do not belong together.

    Reference:
        Mask R-CNN, section 3.1 ("resized to the RoI size, and binarized at a threshold of 0.5"),
        sampled at pixel centres with zeros around the mask as Detectron2's `paste_masks_in_image`.
    """
    masks, boxes = _check(masks, boxes)
    pasted = np.zeros((len(masks), *image_size), bool)
    for canvas, mask, box in zip(pasted, masks, boxes):
        window, top, left = paste_window(mask, box, image_size, threshold, rule)
        canvas[top : top + window.shape[0], left : left + window.shape[1]] = window
    return pasted


def paste_window(mask, box, image_size, threshold=0.5, rule="half_pixel"):
    """Place one mask, and return only the part of the picture that its box reaches.

    Args:
        mask: `(M, M)` float, probabilities in the box's frame.
        box: `(4,)` float, xyxy in the picture's continuous pixels.
        image_size: `(height, width)` of the picture.
        threshold: a pixel belongs to the object from this probability on.
        rule: `"half_pixel"`; or as the published AP of others' weights was measured, `"torchvision"`:
            into a box of whole pixels, up to one too wide and as far off, or `"matterport"`: into the
            box rounded to whole pixels.

    Returns:
        `(window, top, left)`: a bool array, and the picture's row and column of its first pixel.
    """
    if rule == "torchvision":
        return _paste_in_whole_pixels(mask, box, image_size, threshold)
    if rule == "matterport":
        box = np.round(box)
    cells = np.zeros((mask.shape[0] + 3, mask.shape[1] + 3), np.float32)
    cells[1:-2, 1:-2] = mask
    x1, y1, x2, y2 = (float(value) for value in box)
    top, below, share_below = _neighbours(y1, y2, mask.shape[0], image_size[0])
    left, right, share_right = _neighbours(x1, x2, mask.shape[1], image_size[1])
    # Bilinear sampling is separable, rows first, then columns. Gathering two neighbours beats a
    # product with a matrix of weights: NumPy's threads cost more than these small products.
    rows = cells[below - 1]
    rows += share_below * (cells[below] - rows)
    rows = np.ascontiguousarray(rows.T)
    columns = rows[right - 1]
    columns += share_right * (rows[right] - columns)
    return (columns >= threshold).T, top, left


def masks_to_rles(masks, boxes, image_size, threshold=0.5, rule="half_pixel"):
    """Encode masks in box frames as COCO RLE of the whole picture, one mask in memory at a time.

    Args:
        masks, boxes, image_size, threshold, rule: as for `paste_masks`.

    Returns:
        A list of N dicts `{"size": [height, width], "counts": str}`, ready for json, equal to what
        pycocotools encodes from the pasted masks.

    Raises:
        ValueError: the shapes of `masks` and `boxes` do not belong together.
    """
    masks, boxes = _check(masks, boxes)
    return [
        window_to_rle(*paste_window(mask, box, image_size, threshold, rule), image_size)
        for mask, box in zip(masks, boxes)
    ]


def crop_masks_to_boxes(masks, boxes, size):
    """Bring masks of the whole picture into their boxes' frames: the inverse of `paste_masks`.

    Args:
        masks: `(N, height, width)` bool or 0/1, masks of the whole picture.
        boxes: `(N, 4)` float, xyxy in the picture's continuous pixels.
        size: M, cells on a side.

    Returns:
        `(N, M, M)` float32: the share of each cell's area that is mask. What lies outside the
        picture is not mask.

    Raises:
        ValueError: the shapes of `masks` and `boxes` do not belong together.
    """
    masks, boxes = _check(masks, boxes)
    crops = np.zeros((len(masks), size, size), np.float32)
    for crop, mask, (x1, y1, x2, y2) in zip(crops, masks, boxes):
        rows, columns = (
            _coverage(start, end, size, pixels)
            for start, end, pixels in zip((y1, x1), (y2, x2), mask.shape)
        )
        crop[:] = rows @ mask.astype(np.float32) @ columns.T
    return crops


def _paste_in_whole_pixels(mask, box, image_size, threshold):
    """torchvision's paste: a cell of zeros around mask and box, the box cut to whole pixels."""
    grown = np.float32((mask.shape[0] + 2) / mask.shape[0])
    x1, y1, x2, y2 = np.asarray(box, np.float32)
    half = np.float32(0.5)
    half_width, half_height = (x2 - x1) * half * grown, (y2 - y1) * half * grown
    x, y = (x2 + x1) * half, (y2 + y1) * half
    left, right = int(x - half_width), int(x + half_width)
    top, bottom = int(y - half_height), int(y + half_height)
    size = max(right - left + 1, 1), max(bottom - top + 1, 1)
    window = cv2.resize(np.pad(np.asarray(mask, np.float32), 1), size) >= threshold
    height, width = image_size
    window = window[max(-top, 0) : height - top, max(-left, 0) : width - left]
    return window, max(top, 0), max(left, 0)


def _neighbours(start, end, cells, pixels):
    """Where a window's pixels sample cells that are framed by one zero before and two after.

    Returns:
        `(first, after, share)`: the window's first pixel, `(W,)` the cell after each sample, and
        `(W, 1)` that cell's share of the sample; the rest is the share of the cell before it.
    """
    cell = (end - start) / cells
    if not cell > 0:
        return 0, np.zeros(0, np.int64), np.zeros((0, 1), np.float32)
    # Half a cell outside the box a sample still blends with zero; beyond that nothing is left.
    first = min(max(math.floor(start - 0.5 * cell - 0.5) + 1, 0), pixels)
    last = min(max(math.ceil(end + 0.5 * cell - 0.5), 0), pixels)
    # The centre of cell i of the box stands at i + 1 in the frame.
    position = (np.arange(first, last) + 0.5 - start) / cell + 0.5
    before = position.astype(np.int64)
    return first, before + 1, (position - before).astype(np.float32)[:, None]


def _coverage(start, end, cells, pixels):
    """Weights `(cells, pixels)`: the share of each cell that each pixel covers."""
    edges = np.linspace(start, end, cells + 1, dtype=np.float64)[:, None]
    low, high = np.arange(pixels), np.arange(pixels) + 1
    overlap = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    cell = (float(end) - float(start)) / cells
    return (np.maximum(overlap, 0) / (cell if cell > 0 else 1)).astype(np.float32)


def window_to_rle(window, top, left, image_size):
    """Encode a window of a picture that is empty elsewhere.

    Args:
        window: `(height, width)` bool, of one pixel at least.
        top, left: the picture's row and column of the window's first pixel.
        image_size: `(height, width)` of the picture.

    Returns:
        COCO's RLE of the whole picture, a dict ready for json.
    """
    height, width = image_size
    # Columns framed by zeros: along them, every change of value starts a run or ends one.
    columns = np.zeros((window.shape[1], window.shape[0] + 2), bool)
    columns[:, 1:-1] = window.T
    values = columns.ravel()
    column, row = np.divmod(np.flatnonzero(values[1:] != values[:-1]), window.shape[0] + 2)
    changes = (column + left) * height + row + top
    # A run to the picture's lower edge goes on at the top of the next column: no change there.
    joined = np.flatnonzero(changes[1:] == changes[:-1])
    if joined.size:
        changes = np.delete(changes, [joined, joined + 1])
    ends = np.append(changes, height * width)
    counts = np.append(ends[:1], ends[1:] - ends[:-1])
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [int(height), int(width)], "counts": rle["counts"].decode("ascii")}


def _check(masks, boxes):
    """Both as arrays that belong together."""
    masks, boxes = np.asarray(masks), np.asarray(boxes, np.float64)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            "masks must be (N, height, width) and boxes (N, 4) with the same N; "
            f"got masks {masks.shape}, boxes {boxes.shape}."
        )
    return masks, boxes
