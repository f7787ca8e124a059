"""RoIAlign (Mask R-CNN, section 3): features of a region, sampled where they are and never rounded.

    features       {"P2": (B, H, W, C), ...}
    rois           (N, 4)  xyxy pixels of the image
    image_indices  (N,)    the image of each region
    pooled         (N, P, P, C)

A region is cut into P x P bins, each bin is sampled bilinearly at s x s points, and the samples are averaged. In the
units of a level's cells, sample (i, j) of the P*s x P*s grid lies at

    y = y1 / stride - offset + (i + 0.5) * height / (stride * P * s)        x likewise

where cell 0 has its centre at y = 0, so that `offset` is 0.5 when pixel centres are honoured (`aligned`), and 0 in the
first published version. A sample up to one cell outside the map takes the value of the map's edge, one farther out 0.
Adaptive sampling (`sampling_ratio` 0) takes as many samples as a bin has cells, rounded up, for each region and axis.
"""

import math

import keras
from keras import ops

from kmaskrcnn.backends import uses_tensorflow
from kmaskrcnn.kernels import roi_align as kernel
from kmaskrcnn.layers.crops import crop_and_resize
from kmaskrcnn.layers.rpn import stride_of

CANONICAL_SIZE = 224.0  # a region of this side, an ImageNet picture's, ...
CANONICAL_LEVEL = 4  # ... is pooled from this level (FPN, equation 1)


def assign_levels(rois, coarsest, finest):
    """The pyramid level that each region is pooled from: `(N, 4)` -> `(N,)` int32.

    Args:
        rois: `(N, 4)` xyxy pixels.
        coarsest, finest: the levels there are, such as 5 and 2.

    Reference:
        [Feature Pyramid Networks](https://arxiv.org/abs/1612.03144), equation 1
    """
    sides = ops.maximum(rois[:, 2:] - rois[:, :2], 0.0)
    scale = ops.sqrt(sides[:, 0] * sides[:, 1])
    # 1e-8 keeps the logarithm finite for padding.
    level = ops.floor(CANONICAL_LEVEL + ops.log2(scale / CANONICAL_SIZE + 1e-8))
    return ops.cast(ops.clip(level, finest, coarsest), "int32")


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class RoIAlign(keras.layers.Layer):
    """Pools every region, from the level of the pyramid that suits its size, to P x P cells.

    Args:
        pool_size: P.
        sampling_ratio: s, samples a bin along each axis; 0 for one a cell, as Detectron2's weights know it: slower,
            and in the "gather" implementation without a gradient under XLA.
        aligned: honour that pixel centres lie at half coordinates (offset 0.5).
        reduce: `"average"` or `"max"` of a bin's samples.
        implementation: `"kernel"` (the package's own operation, many times faster, where `kmaskrcnn build-kernels`
            built it), `"crop_and_resize"` (TensorFlow's kernel), `"gather"` (`keras.ops`, for XLA, JAX, ONNX and
            LiteRT) or `"auto"`: the first of them that can run here. The kernel averages and gives the rois no
            gradient; where it was not built, that is logged once and `"crop_and_resize"` takes its place. Other
            backends than TensorFlow's have `"gather"` alone, whichever is named.
        levels: names of the features to pool from, others are left alone.

    Call arguments:
        features: dict of `(B, H, W, C)`.
        rois: `(N, 4)` float32 xyxy pixels, or `(B, R, 4)`.
        image_indices: `(N,)` int32; not needed with `(B, R, 4)`.

    Returns:
        `(N, P, P, C)`, N = B * R for `(B, R, 4)`, in the layer's compute dtype.

    Raises:
        ValueError: on an unknown `implementation` or `reduce`, a maximum asked of the kernel, or `(N, 4)` rois
            without `image_indices`.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 3
    """

    def __init__(
        self,
        pool_size=7,
        sampling_ratio=2,
        aligned=True,
        reduce="average",
        implementation="auto",
        levels=("P2", "P3", "P4", "P5"),
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if reduce not in ("average", "max"):
            raise ValueError(f"reduce: got {reduce!r}, accepted are 'average' and 'max'")
        accepted = ("auto", "kernel", "crop_and_resize", "gather")
        if implementation not in accepted or (implementation, reduce) == ("kernel", "max"):
            accepted = [name for name in accepted if reduce == "average" or name != "kernel"]
            raise ValueError(
                f"implementation: got {implementation!r}, accepted with {reduce!r} are {accepted}"
            )
        if sampling_ratio < 0:
            raise ValueError(f"sampling_ratio: got {sampling_ratio}, accepted is 0 or more")
        self.pool_size = pool_size
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.reduce = reduce
        self.implementation = implementation
        self.levels = tuple(levels)
        if self._runs_on_tensorflow():
            self.supports_jit = False  # neither crop_and_resize nor the kernel has an XLA version

    def _runs_on_tensorflow(self):
        return uses_tensorflow() and self.implementation != "gather"

    def _uses_kernel(self):
        known = self.reduce == "average" and self.compute_dtype in kernel.DTYPES
        return known and self.implementation in ("auto", "kernel") and kernel.is_available()

    def call(self, features, rois, image_indices=None):
        if len(rois.shape) == 3:
            batch, count = ops.shape(rois)[:2]
            image_indices = ops.repeat(ops.arange(batch, dtype="int32"), count)
            rois = ops.reshape(rois, (-1, 4))
        elif image_indices is None:
            raise ValueError("image_indices: needed where rois are (N, 4)")
        features = {level: features[level] for level in self.levels}
        rois, image_indices = ops.cast(rois, "float32"), ops.cast(image_indices, "int32")
        if not self._runs_on_tensorflow():
            pool = self._pool_with_gather
        else:
            pool = self._pool_with_kernel if self._uses_kernel() else self._pool_with_crops
        return ops.cast(pool(features, rois, image_indices), self.compute_dtype)

    def compute_output_spec(self, features, rois, image_indices=None):
        *leading, _ = rois.shape
        count = None if None in leading else math.prod(leading)
        channels = features[self.levels[0]].shape[-1]
        shape = (count, self.pool_size, self.pool_size, channels)
        return keras.KerasTensor(shape, self.compute_dtype)

    def _extent(self, start, end, stride):
        """Length of each region along an axis, in cells: `(N,)`."""
        extent = (end - start) / stride
        return extent if self.aligned else ops.maximum(extent, 1.0)  # the first version's least

    def _ratios(self, start, end, stride):
        """Samples a bin along one axis, as its cells ask for: `(N,)` int32."""
        ratios = ops.ceil(self._extent(start, end, stride) / self.pool_size)
        return ops.cast(ops.maximum(ratios, 1.0), "int32")

    def _first_and_step(self, start, end, size, stride, ratio):
        """The first sample's coordinate and the distance of two samples, in cells of a map of `size`: each `(N,)`."""
        offset = 0.5 if self.aligned else 0.0
        ratio = ops.cast(ratio, "float32")
        step = self._extent(start, end, stride) / (self.pool_size * ratio)
        return start / stride - offset + 0.5 * step, step

    def _levels_of(self, rois, features):
        numbers = [int(level[1:]) for level in self.levels]
        return assign_levels(rois, max(numbers), min(numbers))

    def _reduce_samples(self, samples, ratios):
        """`(N, P * s, P * s, C)` -> `(N, P, P, C)`, `ratios` of s for rows and columns."""
        if isinstance(ratios[0], int):
            if ratios == (1, 1):
                return samples
            pool = ops.average_pool if self.reduce == "average" else ops.max_pool
            return pool(samples, ratios, ratios, data_format="channels_last")
        size, channels = self.pool_size, samples.shape[-1]
        samples = ops.reshape(samples, (-1, size, ratios[0], size, ratios[1], channels))
        return (ops.mean if self.reduce == "average" else ops.max)(samples, axis=(2, 4))

    # -- the package's kernel -----------------------------------------------------------------------------------------

    def _pool_with_kernel(self, features, rois, image_indices):
        strides = [float(stride_of(level)) for level in self.levels]
        level_indices = self._levels_of(rois, features) - int(self.levels[0][1:])
        return kernel.roi_align(
            [ops.cast(features[level], self.compute_dtype) for level in self.levels],
            self._regions_of_kernel(rois, ops.take(ops.convert_to_tensor(strides), level_indices)),
            image_indices,
            level_indices,
            strides=strides,
            pool_size=self.pool_size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )

    def _regions_of_kernel(self, rois, strides):
        """What the kernel is to pool, where that is not the regions themselves: `(N, 4)`."""
        return rois

    # -- TensorFlow's kernel ------------------------------------------------------------------------------------------

    def _pool_with_crops(self, features, rois, image_indices):
        import tensorflow as tf

        if len(features) == 1:
            (level,) = self.levels
            crop = self._crop if self.sampling_ratio else self._crop_adaptively
            return crop(features[level], rois, image_indices, stride_of(level))
        level_of_roi = self._levels_of(rois, features)
        pooled, places = [], []
        for level in self.levels:
            here = tf.where(level_of_roi == int(level[1:]))[:, 0]
            regions = tf.gather(rois, here), tf.gather(image_indices, here)
            crop = self._crop if self.sampling_ratio else self._crop_adaptively
            pooled.append(crop(features[level], *regions, stride_of(level)))
            places.append(tf.cast(here, tf.int32))
        pooled = tf.dynamic_stitch(places, pooled)
        return tf.ensure_shape(pooled, (None, self.pool_size, self.pool_size, None))

    def _crop(self, feature, rois, image_indices, stride, ratios=None):
        """Pool regions from one level, with the same `ratios` of s for rows and columns: `(N, P, P, C)`.

        `crop_and_resize` spreads its samples from a box's first edge to its last, both included, and measures boxes in
        shares of the map's last cell: a box from the first sample to the last one makes it RoIAlign. It knows no edge,
        outside the map is 0; a rim of one repeated cell gives samples that lie up to a cell outside their value.
        """
        import tensorflow as tf

        ratios = ratios or (self.sampling_ratio, self.sampling_ratio)
        padded = tf.pad(feature, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        rows, columns = (self.pool_size * ratio for ratio in ratios)
        height, width = (tf.cast(size, tf.float32) for size in tf.unstack(tf.shape(feature)[1:3]))
        y, y_step = self._first_and_step(rois[:, 1], rois[:, 3], height, stride, ratios[0])
        x, x_step = self._first_and_step(rois[:, 0], rois[:, 2], width, stride, ratios[1])
        y, x = y + 1.0, x + 1.0
        last_y = y + tf.cast(rows - 1, tf.float32) * y_step
        last_x = x + tf.cast(columns - 1, tf.float32) * x_step
        end_y, end_x = height + 1.0, width + 1.0  # the last cell of the padded map
        boxes = tf.stack([y / end_y, x / end_x, last_y / end_y, last_x / end_x], axis=1)
        # The kernel computes in float32 and refuses bfloat16.
        crops = crop_and_resize(tf.cast(padded, tf.float32), boxes, image_indices, (rows, columns))
        return self._reduce_samples(tf.cast(crops, self.compute_dtype), ratios)

    def _crop_adaptively(self, feature, rois, image_indices, stride):
        """As `_crop`, in one turn for all regions that want equally many samples."""
        import tensorflow as tf

        ratios = tf.stack(
            [self._ratios(rois[:, i], rois[:, i + 2], stride) for i in (1, 0)], axis=1
        )
        # Rows and columns in one number, because tf.unique knows vectors alone.
        kinds, kind_of_roi = tf.unique(ratios[:, 0] * 2**15 + ratios[:, 1])

        def turn(i, pooled):
            here = tf.where(kind_of_roi == i)
            regions = tf.gather_nd(rois, here), tf.gather_nd(image_indices, here)
            both = kinds[i] // 2**15, kinds[i] % 2**15
            crops = self._crop(feature, *regions, stride, both)
            return i + 1, tf.tensor_scatter_nd_add(pooled, here, crops)

        shape = (tf.shape(rois)[0], self.pool_size, self.pool_size, feature.shape[-1])
        start = tf.constant(0), tf.zeros(shape, self.compute_dtype)
        return tf.while_loop(lambda i, _: i < tf.size(kinds), turn, start)[1]

    # -- keras.ops ----------------------------------------------------------------------------------------------------

    def _pool_with_gather(self, features, rois, image_indices):
        """Read the 4 corners of each of the s x s samples from one table of all cells, and add them up."""
        cells, geometry = self._table(features)
        number = self._levels_of(rois, features) - int(self.levels[0][1:])
        start, height, width, stride = (ops.take(column, number) for column in geometry)
        base = start + image_indices * height * width  # (N,)
        y_axis = rois[:, 1], rois[:, 3], height, stride
        x_axis = rois[:, 0], rois[:, 2], width, stride

        def sample(i, j, ratios):
            """Sample (i, j) of every bin: `(N, P, P, C)`."""
            y, wy, y_in = self._taps(*y_axis, ratios[0], i)
            x, wx, x_in = self._taps(*x_axis, ratios[1], j)
            total, inside = 0.0, y_in[:, :, None] * x_in[:, None]
            for dy in range(2):
                for dx in range(2):
                    rows = base[:, None, None] + y[dy][:, :, None] * width[:, None, None]
                    weight = wy[dy][:, :, None] * wx[dx][:, None] * inside
                    # In float32 as the other implementations: in bfloat16 weights and sums would lose bits.
                    values = ops.cast(ops.take(cells, rows + x[dx][:, None], axis=0), "float32")
                    total = total + values * weight[..., None]
            return total

        if self.sampling_ratio == 0:
            return self._gather_adaptively(sample, y_axis, x_axis, cells)
        ratios, s = (self.sampling_ratio, self.sampling_ratio), range(self.sampling_ratio)
        total, *samples = [sample(i, j, ratios) for i in s for j in s]
        for values in samples:
            total = total + values if self.reduce == "average" else ops.maximum(total, values)
        return total / self.sampling_ratio**2 if self.reduce == "average" else total

    def _gather_adaptively(self, sample, y_axis, x_axis, cells):
        """Sample by sample up to the most that any region wants; those that want fewer sit out."""
        ratios = tuple(self._ratios(axis[0], axis[1], axis[3]) for axis in (y_axis, x_axis))
        rows, columns = (ops.max(ratio, initial=1) for ratio in ratios)
        shape = (ops.shape(ratios[0])[0], self.pool_size, self.pool_size, cells.shape[-1])
        nothing = 0.0 if self.reduce == "average" else -float("inf")

        def one(n, total):
            i, j = n // columns, n % columns
            wanted = ((i < ratios[0]) & (j < ratios[1]))[:, None, None, None]
            values = ops.where(wanted, sample(i, j, ratios), nothing)
            total = total + values if self.reduce == "average" else ops.maximum(total, values)
            return n + 1, total

        start = ops.convert_to_tensor(0, "int32"), ops.full(shape, nothing, "float32")
        total = ops.while_loop(lambda n, _: n < rows * columns, one, start)[1]
        if self.reduce == "max":
            return total
        return total / ops.cast(ratios[0] * ratios[1], total.dtype)[:, None, None, None]

    def _table(self, features):
        """All cells of all levels as rows `(sum of B * H * W, C)`, and each level's first row, size and stride."""
        maps = [features[level] for level in self.levels]
        cells = [ops.reshape(x, (-1, x.shape[-1])) for x in maps]
        starts, start = [], 0
        for x in maps:
            starts.append(start)
            start = start + ops.shape(x)[0] * ops.shape(x)[1] * ops.shape(x)[2]
        columns = starts, [ops.shape(x)[1] for x in maps], [ops.shape(x)[2] for x in maps]
        geometry = [ops.stack([ops.cast(value, "int32") for value in column]) for column in columns]
        strides = ops.convert_to_tensor([float(stride_of(level)) for level in self.levels])
        return ops.concatenate(cells, axis=0), (*geometry, strides)

    def _taps(self, start, end, size, stride, ratio, i):
        """Along one axis, the two cells that sample i of each bin lies between and their weights.

        Returns:
            Cells (two of `(N, P)` int32), weights (two likewise, float32) and `(N, P)` float32, 0 where a sample lies
            more than one cell outside.
        """
        size = ops.cast(size, "float32")
        first, step = self._first_and_step(start, end, size, stride, ratio)
        ratio = ops.reshape(ops.cast(ratio, "float32"), (-1, 1))
        number = ops.arange(self.pool_size, dtype="float32") * ratio + ops.cast(i, "float32")
        position = first[:, None] + step[:, None] * number
        last = size[:, None] - 1.0
        inside = ops.cast((position >= -1.0) & (position <= last + 1.0), "float32")
        position = ops.clip(position, 0.0, last)
        low = ops.floor(position)
        high = ops.minimum(low + 1.0, last)
        fraction = position - low
        return (ops.cast(low, "int32"), ops.cast(high, "int32")), (1.0 - fraction, fraction), inside

    def get_config(self):
        names = ("pool_size", "sampling_ratio", "aligned", "reduce", "implementation", "levels")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
