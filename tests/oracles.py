"""The arithmetic of Mask R-CNN once more, in plain NumPy loops: slow, short and checkable by eye."""

import numpy as np


def iou(box, other):
    """Intersection over union of two xyxy boxes."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, 0) * max(height, 0)
    union = (
        (box[2] - box[0]) * (box[3] - box[1])
        + (other[2] - other[0]) * (other[3] - other[1])
        - shared
    )
    return shared / union if union > 0 else 0.0


def nms(boxes, scores, threshold):
    """Indices of the boxes that greedy suppression keeps, best first."""
    kept = []
    for candidate in np.argsort(-scores, kind="stable"):
        if all(iou(boxes[candidate], boxes[other]) <= threshold for other in kept):
            kept.append(candidate)
    return kept


def bilinear(feature, y, x):
    """Value of `feature (H, W, C)` at (y, x), cell 0 centred at 0: the edge's up to a cell outside, then 0."""
    height, width, _ = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(feature.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = feature[y0, x0] * (1 - (x - x0)) + feature[y0, x1] * (x - x0)
    bottom = feature[y1, x0] * (1 - (x - x0)) + feature[y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


def roi_align(feature, box, stride, pool, sampling=2, aligned=True, reduce=np.mean):
    """Pool one xyxy box from `feature (H, W, C)`: `(pool, pool, C)` (Mask R-CNN, section 3).

    `sampling` 0 takes as many samples as a bin has cells, rounded up.
    """
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (value / stride - offset for value in box)
    width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
    rows, columns = (
        sampling or max(int(np.ceil(np.float32(side) / pool)), 1) for side in (height, width)
    )
    out = np.zeros((pool, pool, feature.shape[2]))
    for i in range(pool):
        for j in range(pool):
            samples = [
                bilinear(
                    feature,
                    y1 + (i + (a + 0.5) / rows) * height / pool,
                    x1 + (j + (b + 0.5) / columns) * width / pool,
                )
                for a in range(rows)
                for b in range(columns)
            ]
            out[i, j] = reduce(samples, axis=0)
    return out


def random_boxes(rng, shape, height, width, smallest=4):
    """Boxes that may cross the border of a picture of this size."""
    sides = np.exp(rng.uniform(np.log(smallest), np.log(max(height, width)), (*shape, 2)))
    centres = rng.uniform(0, 1, (*shape, 2)) * [width, height]
    return np.concatenate([centres - sides / 2, centres + sides / 2], -1).astype("float32")


def runs_by_loop(mask):
    """Lengths of background, object, background, ... down the columns of a mask, pixel by pixel."""
    counts, value = [0], 0
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts
