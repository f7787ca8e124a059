"""Pictures whose pixels say which object they belong to."""

import numpy as np

from kmaskrcnn.geometry.run_lengths import windows_to_rles


def split_instances(ids, ignored=(0,)):
    """The objects of a picture of ids, each with the pixels of its own value.

    Args:
        ids: `(height, width)` whole numbers.
        ignored: values that are no object.

    Returns:
        `{value: RLE}`, values rising; RLEs are of the whole picture, as json holds them.
    """
    values = np.setdiff1d(ids, ignored).tolist()
    return {value: mask_to_rle(ids == value) for value in values}


def mask_to_rle(mask):
    """COCO's RLE, ready for json, of a `(height, width)` bool mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size:
        top, left = rows[0], columns[0]
        window = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    else:
        window, top, left = mask[:1, :1], 0, 0
    return windows_to_rles([(window, top, left)], mask.shape)[0]
