"""The inputs that the operations' benchmarks share; NumPy alone, so that a peer's Python can read it too."""

from dataclasses import dataclass

import numpy as np

LEVELS = [(200, 304), (100, 152), (50, 76), (25, 38)]  # P2 ... P5 of 800 x 1216 pixels
BATCH, CHANNELS = 2, 256


@dataclass(frozen=True)
class Operation:
    """What is timed: `kind` of `"roi_align"`, `"nms"`, `"paste"`, the others for RoIAlign alone."""

    kind: str
    levels: int = 1
    rois: int = 1000
    pool: int = 7
    gradient: bool = False


OPERATIONS = {
    "roi_align": Operation("roi_align"),
    "roi_align with gradient": Operation("roi_align", gradient=True),
    "roi_align of 4 levels": Operation("roi_align", levels=4),
    "roi_align of 4 levels with gradient": Operation("roi_align", levels=4, gradient=True),
    "roi_align of masks": Operation("roi_align", levels=4, rois=200, pool=14),
    "nms": Operation("nms"),
    "paste": Operation("paste"),
}


def inputs_of(operation):
    """Maps `(B, H, W, C)`, boxes `(N, 4)`, their images `(N,)`, and the gradient of the bins `(N, P, P, C)`."""
    rng = np.random.default_rng(0)
    shapes = [(BATCH, *size, CHANNELS) for size in LEVELS[: operation.levels]]
    bins = (operation.rois, operation.pool, operation.pool, CHANNELS)
    return {
        "features": [rng.standard_normal(shape, "float32") for shape in shapes],
        "boxes": made_up_boxes(operation.rois),
        "images": np.arange(operation.rois, dtype="int32") % BATCH,
        "upstream": rng.standard_normal(bins, "float32"),
    }


def made_up_boxes(count, height=800, width=1216, objects=60, seed=0):
    """Boxes as a region proposal network gives them: 7 of 10 lie around `objects` things, the others anywhere.

    Returns:
        `(count, 4)` float32 xyxy pixels with sides of 16 to 400, within the picture.
    """
    rng = np.random.default_rng(seed)
    things = _draw(rng, objects, height, width)[rng.integers(0, objects, count)]
    things[:, :2] += things[:, 2:] * rng.normal(0, 0.12, (count, 2))
    things[:, 2:] *= np.exp(rng.normal(0, 0.15, (count, 2)))
    anywhere = _draw(rng, count, height, width)
    boxes = np.where(rng.random(count)[:, None] < 0.7, things, anywhere)
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    corners = corners.clip(0, [width, height, width, height])
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    return corners.astype("float32")


def _draw(rng, count, height, width):
    """Centres and sides, `(count, 4)`."""
    side = np.exp(rng.uniform(np.log(16), np.log(400), count))
    ratio = np.exp(rng.normal(0, 0.35, count))
    x, y = rng.uniform(0, width, count), rng.uniform(0, height, count)
    return np.stack([x, y, side * ratio, side / ratio], 1)


def levels_of(boxes, finest=2, coarsest=5):
    """Each box's level of the pyramid, `(N,)` int32 (Feature Pyramid Networks, equation 1)."""
    scale = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    return np.clip(np.floor(4 + np.log2(scale / 224 + 1e-8)), finest, coarsest).astype("int32")
