"""What RoIAlign is compared with in the paper: RoIPool and RoIWarp, which round a region to whole cells.

rounded    first cell = round(x1 / stride), cells = round(x2 / stride) - first + 1, at least 1    y likewise
RoIPool    each of P x P bins, its borders rounded outwards to whole cells, gives the greatest of its cells
RoIWarp    the rounded region is sampled bilinearly, as RoIAlign samples the exact one
"""

import keras
from keras import ops

from kmaskrcnn.layers.roi_align import RoIAlign


def round_to_cells(start, end, stride):
    """The cells of a map that a region is rounded to, along one axis.

    Args:
        start, end: `(N,)` pixels.
        stride: pixels a cell.

    Returns:
        First cell and number of cells, both `(N,)` float32.
    """
    first, last = (_round(edge / stride) for edge in (start, end))
    return first, ops.maximum(last - first + 1.0, 1.0)


def _round(values):
    """Halves go away from zero, as in C; `ops.round` takes them to the even number."""
    return ops.sign(values) * ops.floor(ops.abs(values) + 0.5)


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class RoIWarp(RoIAlign):
    """Samples every region bilinearly after it was rounded to whole cells.

    Args, call arguments and results are those of `RoIAlign`, without `aligned`.

    Reference:
        [Instance-aware Semantic Segmentation via Multi-task Network Cascades](https://arxiv.org/abs/1512.04412), and
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 4.2, "RoIAlign"
    """

    def __init__(
        self,
        pool_size=7,
        sampling_ratio=2,
        reduce="average",
        implementation="auto",
        levels=("P2", "P3", "P4", "P5"),
        **kwargs,
    ):
        super().__init__(pool_size, sampling_ratio, True, reduce, implementation, levels, **kwargs)

    def _extent(self, start, end, stride):
        return round_to_cells(start, end, stride)[1]

    def _first_and_step(self, start, end, size, stride, ratio):
        first, _ = round_to_cells(start, end, stride)
        step = self._extent(start, end, stride) / (self.pool_size * ops.cast(ratio, "float32"))
        return first - 0.5 + 0.5 * step, step  # a cell's centre lies at its number

    def _regions_of_kernel(self, rois, strides):
        x, width = round_to_cells(rois[:, 0], rois[:, 2], strides)
        y, height = round_to_cells(rois[:, 1], rois[:, 3], strides)
        return ops.stack([x, y, x + width, y + height], axis=1) * strides[:, None]

    def get_config(self):
        config = super().get_config()
        del config["aligned"]
        return config


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class RoIPool(RoIAlign):
    """Takes the greatest value of each bin of a region that was rounded to whole cells.

    The greatest cells are found first, without a gradient and in as many turns as the largest bin has cells, then read
    in one go: so the gradient goes to them alone, and no turn's tensors are kept for it.

    Args:
        pool_size: P.
        levels: names of the features to pool from, others are left alone.

    Call arguments:
        features, rois, image_indices: as for `RoIAlign`.

    Returns:
        `(N, P, P, C)`, 0 in bins that lie outside the map; N = B * R for `(B, R, 4)`.

    Reference:
        [Fast R-CNN](https://arxiv.org/abs/1504.08083), section 2.1
    """

    def __init__(self, pool_size=7, levels=("P2", "P3", "P4", "P5"), **kwargs):
        super().__init__(pool_size, reduce="max", implementation="gather", levels=levels, **kwargs)

    def _pool_with_gather(self, features, rois, image_indices):
        cells, geometry = self._table(features)
        number = self._levels_of(rois, features) - int(self.levels[0][1:])
        start, height, width, stride = (ops.take(column, number) for column in geometry)
        base = start + image_indices * height * width  # (N,)
        y_axis = self._bins(rois[:, 1], rois[:, 3], height, stride)
        x_axis = self._bins(rois[:, 0], rois[:, 2], width, stride)
        rows = self._greatest(ops.stop_gradient(cells), base, width, y_axis, x_axis)
        # A few dozen large pictures have more than 2^31 numbers on their finest level; JAX has no larger integers by
        # default.
        place = "int32" if keras.backend.backend() == "jax" else "int64"
        channels = ops.arange(cells.shape[1], dtype=place)
        places = ops.cast(rows, place) * cells.shape[1] + channels
        values = ops.take(ops.reshape(cells, (-1,)), places)
        empty = (y_axis[0] >= y_axis[1])[:, :, None] | (x_axis[0] >= x_axis[1])[:, None]
        return ops.where(empty[..., None], ops.zeros_like(values), values)

    def _bins(self, start, end, size, stride):
        """Each bin's first cell and the one behind its last, along one axis: two of `(N, P)` int32."""
        first, length = (value[:, None] for value in round_to_cells(start, end, stride))
        bins = ops.arange(self.pool_size, dtype="float32")
        bin_length = length / self.pool_size
        last = ops.cast(size, "float32")[:, None]
        borders = ops.floor(bins * bin_length), ops.ceil((bins + 1.0) * bin_length)
        return tuple(ops.cast(ops.clip(first + b, 0.0, last), "int32") for b in borders)

    def _greatest(self, cells, base, width, y_axis, x_axis):
        """The row of the table that holds each bin's greatest value, `(N, P, P, C)` int32."""
        turns = [ops.max(axis[1] - axis[0], initial=1) for axis in (y_axis, x_axis)]
        shape = (ops.shape(base)[0], self.pool_size, self.pool_size, cells.shape[1])
        last = ops.shape(cells)[0] - 1

        def one(n, best, rows):
            # A smaller bin meets its last cell again and again.
            y = ops.minimum(y_axis[0] + n // turns[1], y_axis[1] - 1)
            x = ops.minimum(x_axis[0] + n % turns[1], x_axis[1] - 1)
            row = base[:, None, None] + y[:, :, None] * width[:, None, None] + x[:, None]
            row = ops.clip(row, 0, last)  # empty bins lie outside
            values = ops.take(cells, row, axis=0)
            rows = ops.where(values > best, row[..., None], rows)
            return n + 1, ops.maximum(values, best), rows

        start = (
            ops.convert_to_tensor(0, "int32"),
            ops.full(shape, -float("inf"), cells.dtype),
            ops.zeros(shape, "int32"),
        )
        return ops.while_loop(lambda n, *_: n < turns[0] * turns[1], one, start)[2]

    def get_config(self):
        config = super().get_config()
        for name in ("sampling_ratio", "aligned", "reduce", "implementation"):
            del config[name]
        return config
