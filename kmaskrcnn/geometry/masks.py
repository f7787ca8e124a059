"""Masks in box frames, and the same masks in the picture.

    box frame   `(M, M)` probabilities: the object's own box in M x M equal cells
    window      the pixels that a box's mask can reach; all work is done there
    RLE         COCO's run-length encoding of the whole picture, column by column

The mask head predicts in box frames (Mask R-CNN, section 3); a user wants pixels. Coordinates are
continuous: pixel x spans [x, x + 1) and is sampled at its centre x + 0.5, so that boxes need no
rounding.
"""

import itertools

import cv2
import numpy as np

from kmaskrcnn.geometry.run_lengths import windows_to_rles

AT_ONCE = 32  # masks whose rows are sampled together


def paste_masks(masks, boxes, image_size, threshold=0.5, rule="half_pixel"):
    """Place masks from their boxes' frames into the picture.

    Needs N x height x width bytes: for many masks on a large picture take `paste_windows` or
    `masks_to_rles` instead.

    Args:
        masks: `(N, M, M)` float, probabilities in box frames.
        boxes: `(N, 4)` float, xyxy in the picture's continuous pixels; they may leave the picture.
        image_size: `(height, width)` of the picture.
        threshold: a pixel belongs to the object from this probability on.
        rule: `"half_pixel"`, `"torchvision"` or `"matterport"`, see `paste_windows`.

    Returns:
        `(N, height, width)` bool. A box without area has an empty mask.

    Raises:
        ValueError: the shapes of `masks` and `boxes` do not belong together.

    Reference:
        Mask R-CNN, section 3.1 ("resized to the RoI size, and binarized at a threshold of 0.5"),
        sampled at pixel centres with zeros around the mask as Detectron2's `paste_masks_in_image`.
    """
    windows = paste_windows(masks, boxes, image_size, threshold, rule)
    pasted = np.zeros((len(masks), *image_size), bool)
    for canvas, (window, top, left) in zip(pasted, windows):
        canvas[top : top + window.shape[0], left : left + window.shape[1]] = window
    return pasted


def paste_windows(masks, boxes, image_size, threshold=0.5, rule="half_pixel"):
    """Place masks, and return only the parts of the picture that their boxes reach.

    Args:
        masks, boxes, image_size, threshold: as for `paste_masks`.
        rule: `"half_pixel"`; or as the published AP of others' weights was measured, `"torchvision"`:
            into a box of whole pixels, up to one too wide and as far off, or `"matterport"`: into the
            box rounded to whole pixels.

    Returns:
        An iterator of N `(window, top, left)`: a bool array, and the picture's row and column of its
        first pixel. One is made at a time.

    Raises:
        ValueError: the shapes of `masks` and `boxes` do not belong together.
    """
    masks, boxes = _check(masks, boxes)
    if rule == "torchvision":
        return (
            _paste_in_whole_pixels(mask, box, image_size, threshold)
            for mask, box in zip(masks, boxes)
        )
    if rule == "matterport":
        boxes = np.round(boxes)
    parts = (slice(start, start + AT_ONCE) for start in range(0, len(masks), AT_ONCE))
    sampled = (_sample_windows(masks[n], boxes[n], image_size, threshold) for n in parts)
    return itertools.chain.from_iterable(sampled)


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
    return windows_to_rles(paste_windows(masks, boxes, image_size, threshold, rule), image_size)


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
    window = window[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    return window, max(top, 0), max(left, 0)


def _sample_windows(masks, boxes, image_size, threshold):
    """Bilinear samples of the masks at the pixels' centres."""
    # Sampling is separable, rows first, then columns. Gathering two neighbours beats a product with a
    # matrix of weights: NumPy's threads cost more than these small products.
    cells = np.zeros((len(masks), masks.shape[1] + 3, masks.shape[2] + 3), np.float32)
    cells[:, 1:-2, 1:-2] = masks
    tops, rows, above, shares = _neighbours(boxes[:, 1], boxes[:, 3], masks.shape[1], image_size[0])
    above += np.repeat(np.arange(len(masks)) * cells.shape[1], rows)
    across = _blend(cells.reshape(-1, cells.shape[2]), above, shares)
    lefts, columns, before, shares = _neighbours(
        boxes[:, 0], boxes[:, 2], masks.shape[2], image_size[1]
    )
    row, column = np.cumsum(rows), np.cumsum(columns)
    for top, left, rows, columns in zip(
        tops, lefts, map(slice, row - rows, row), map(slice, column - columns, column)
    ):
        lines = np.ascontiguousarray(across[rows].T)
        yield (_blend(lines, before[columns], shares[columns]) >= threshold).T, top, left


def _blend(lines, before, share_after):
    """`(P, ...)`: samples between line `before` and the next."""
    steps = lines[1:] - lines[:-1]
    samples = steps.take(before, axis=0)
    samples *= share_after
    samples += lines.take(before, axis=0)
    return samples


def _neighbours(starts, ends, cells, pixels):
    """Where N windows' pixels sample cells that are framed by one zero before and two after.

    Returns:
        `(first, lengths, before, share)`: `(N,)` each window's first pixel and how many it has; and of
        all windows' pixels, one window after another, `(P,)` the cell before each sample, and `(P, 1)`
        the next cell's share of the sample; the rest is the share of the cell before.
    """
    sizes = (ends - starts) / cells
    with_area = sizes > 0
    sizes = np.where(with_area, sizes, 1)
    # Half a cell outside the box a sample still blends with zero; beyond that nothing is left.
    first = np.floor(starts - 0.5 * sizes - 0.5).clip(-1, pixels - 1).astype(np.int64) + 1
    last = np.ceil(ends + 0.5 * sizes - 0.5).clip(0, pixels).astype(np.int64)
    lengths = np.where(with_area, np.maximum(last - first, 0), 0)
    window = np.repeat(np.arange(len(starts)), lengths)
    pixel = np.arange(len(window)) + (first - np.cumsum(lengths) + lengths)[window]
    # The centre of cell i of the box stands at i + 1 in the frame.
    position = (pixel + 0.5 - starts[window]) / sizes[window] + 0.5
    before = position.astype(np.int64)
    return first, lengths, before, (position - before).astype(np.float32)[:, None]


def _coverage(start, end, cells, pixels):
    """Weights `(cells, pixels)`: the share of each cell that each pixel covers."""
    edges = np.linspace(start, end, cells + 1, dtype=np.float64)[:, None]
    low, high = np.arange(pixels), np.arange(pixels) + 1
    overlap = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    cell = (float(end) - float(start)) / cells
    return (np.maximum(overlap, 0) / (cell if cell > 0 else 1)).astype(np.float32)


def _check(masks, boxes):
    """Both as arrays that belong together."""
    masks, boxes = np.asarray(masks), np.asarray(boxes, np.float64)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            "masks must be (N, height, width) and boxes (N, 4) with the same N; "
            f"got masks {masks.shape}, boxes {boxes.shape}."
        )
    return masks, boxes
