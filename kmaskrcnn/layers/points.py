"""Points of a region, and what is known there: to sample, to draw where a mask is uncertain, to refine it there.

points       (N, S, 2)  x, y in the region's own frame: 0 at its left and upper edge, 1 at its right and lower one
mask_logits  (N, M, M)  each region's mask for its own class
cells        (N, S)     int32, y * M + x

A mask is uncertain where its logit is near 0.
"""

import keras
from keras import ops

from kmaskrcnn.layers.mask_targets import cells_in_frames, framed_masks
from kmaskrcnn.layers.rpn import stride_of


def sample_maps(maps, map_indices, points):
    """Read maps between their cells, bilinearly; beyond the centre of the outermost cell its value stays.

    Args:
        maps: `(B, H, W, C)`.
        map_indices: `(N,)` int32, the map that each row of points lies in.
        points: `(N, S, 2)` float32 x, y in cells: cell i spans [i, i + 1).

    Returns:
        `(N, S, C)`.
    """
    height, width = ops.shape(maps)[1:3]
    table = ops.reshape(maps, (-1, maps.shape[3]))
    columns, of_columns = _neighbours(points[..., 0], width)
    rows, of_rows = _neighbours(points[..., 1], height)
    first, total = (map_indices * height * width)[:, None], 0.0
    for row, of_row in zip(rows, of_rows):
        for column, of_column in zip(columns, of_columns):
            values = ops.take(table, first + row * width + column, axis=0)
            total = total + values * ops.cast(of_row * of_column, values.dtype)[..., None]
    return total


def _neighbours(position, size):
    """The two cells that each position along an axis lies between, and their weights; all `(N, S)`."""
    position = ops.clip(position - 0.5, 0.0, ops.cast(size, "float32") - 1.0)
    before = ops.floor(position)
    share = position - before
    before = ops.cast(before, "int32")
    return (before, ops.minimum(before + 1, size - 1)), (1.0 - share, share)


def in_pixels(points, rois):
    """Points in the frames of `rois (N, 4)`, as pixels of the picture: `(N, S, 2)`."""
    return rois[:, None, :2] + points * (rois[:, None, 2:] - rois[:, None, :2])


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class SampleMasks(keras.layers.Layer):
    """Reads each region's own maps at its points.

    Call arguments:
        maps: `(N, m, m, Q)`.
        points: `(N, S, 2)`.

    Returns:
        `(N, S, Q)`.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})

    def call(self, maps, points):
        size = ops.convert_to_tensor([maps.shape[2], maps.shape[1]], "float32")
        return sample_maps(maps, ops.arange(ops.shape(maps)[0], dtype="int32"), points * size)


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class SampleFeatures(keras.layers.Layer):
    """Reads one level of the pyramid at points of regions.

    Args:
        level: its name.

    Call arguments:
        features: dict of level name -> `(B, H, W, C)`.
        rois: `(N, 4)` xyxy pixels.
        image_indices: `(N,)` int32.
        points: `(N, S, 2)`.

    Returns:
        `(N, S, C)`.
    """

    def __init__(self, level="P2", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.level = level

    def call(self, features, rois, image_indices, points):
        cells = in_pixels(points, rois) / float(stride_of(self.level))
        return sample_maps(features[self.level], image_indices, cells)

    def get_config(self):
        return {**super().get_config(), "level": self.level}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class PointTargetLayer(keras.layers.Layer):
    """Says how much of each point is object, by the object's mask; beyond the object's box nothing is.

    Call arguments:
        points: `(N, S, 2)`.
        rois: `(N, 4)` xyxy pixels.
        image_indices: `(N,)` int32, the picture of each region.
        matches: `(N,)` int32, its object among the picture's G.
        boxes: `(B, G, 4)` ground truth.
        masks: `(B, G, H, W)` uint8, in the boxes' frames.

    Returns:
        `(N, S)` float32, 0 to 1; between where the mask's edge passes.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})

    def call(self, points, rois, image_indices, matches, boxes, masks):
        objects = image_indices * ops.shape(boxes)[1] + matches
        boxes = ops.take(ops.reshape(boxes, (-1, 4)), objects, axis=0)
        cells = cells_in_frames(in_pixels(points, rois), boxes, ops.shape(masks)[2:])
        return sample_maps(framed_masks(masks), objects, cells)[..., 0]


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class DrawPoints(keras.layers.Layer):
    """Draws the points that a step learns from: more where the mask is uncertain, the rest anywhere.

    Args:
        count: S.
        oversampling: of so many times S points drawn, the most uncertain are kept.
        importance: the share of S that these make up.
        seed: of the draw.

    Call arguments:
        mask_logits: `(N, m, m)`.

    Returns:
        `(N, S, 2)` points, the uncertain ones first; no gradient passes.

    Reference:
        [PointRend](https://arxiv.org/abs/1912.08193), section 3.1, "Training"
    """

    def __init__(self, count=196, oversampling=3, importance=0.75, seed=0, **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        self.count, self.oversampling, self.importance = count, oversampling, importance
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, mask_logits):
        kept = int(self.importance * self.count)
        # One draw for both kinds of points.
        drawn = int(self.oversampling * self.count)
        shape = (ops.shape(mask_logits)[0], drawn + self.count - kept, 2)
        points = keras.random.uniform(shape, seed=self.seed_generator)
        candidates, anywhere = points[:, :drawn], points[:, drawn:]
        regions = ops.arange(shape[0], dtype="int32")
        size = ops.convert_to_tensor([mask_logits.shape[2], mask_logits.shape[1]], "float32")
        logits = sample_maps(mask_logits[..., None], regions, candidates * size)[..., 0]
        best = ops.top_k(-ops.abs(logits), kept)[1]
        uncertain = ops.take_along_axis(candidates, best[..., None], axis=1)
        return ops.stop_gradient(ops.concatenate([uncertain, anywhere], axis=1))

    def get_config(self):
        names = ("count", "oversampling", "importance", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class UncertainCells(keras.layers.Layer):
    """Finds the cells of each mask that are worth another look.

    Args:
        count: S; all cells of a mask that has fewer.

    Call arguments:
        mask_logits: `(N, M, M)`.

    Returns:
        `cells (N, S)` int32, most uncertain first, and `points (N, S, 2)`, their centres.

    Reference:
        [PointRend](https://arxiv.org/abs/1912.08193), section 3.1, "Inference"
    """

    def __init__(self, count=784, **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        self.count = count

    def call(self, mask_logits):
        height, width = mask_logits.shape[1:]
        logits = ops.reshape(mask_logits, (-1, height * width))
        cells = ops.cast(ops.top_k(-ops.abs(logits), min(self.count, height * width))[1], "int32")
        x, y = (ops.cast(place, "float32") + 0.5 for place in (cells % width, cells // width))
        return cells, ops.stack([x / width, y / height], axis=-1)

    def get_config(self):
        return {**super().get_config(), "count": self.count}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class ReplaceCells(keras.layers.Layer):
    """Puts new values into some cells of each mask.

    Call arguments:
        mask_logits: `(N, M, M)`.
        cells: `(N, S)` int32, none twice.
        values: `(N, S)`.

    Returns:
        `(N, M, M)`.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})

    def call(self, mask_logits, cells, values):
        regions, area = ops.shape(mask_logits)[0], mask_logits.shape[1] * mask_logits.shape[2]
        places = cells + ops.arange(regions, dtype="int32")[:, None] * area
        # A scatter of sums, which LiteRT has; an update in place is none of its operations.
        new = ops.stack([values, ops.ones_like(values)], axis=-1)
        new = ops.scatter(
            ops.reshape(places, (-1, 1)), ops.reshape(new, (-1, 2)), (regions * area, 2)
        )
        new = ops.reshape(new, (-1, *mask_logits.shape[1:], 2))
        return ops.where(new[..., 1] > 0, new[..., 0], mask_logits)
