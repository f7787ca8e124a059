"""The heads of the paper's model: what a region is, where exactly it lies, and which of its pixels belong to it.

pooled        (N, P, P, C)          from RoIAlign
class_logits  (N, K + 1)            the background last
box_deltas    (N, Q, 4)             one box for every class (Q = K) or for all of them (Q = 1)
mask_logits   (N, 2 * P, 2 * P, Q)  masks likewise
"""

import keras
from keras import ops

from kmaskrcnn.layers.convolution import ConvNorm, add_bias


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class BoxHead(keras.layers.Layer):
    """Classifies each region and refines its box.

    Args:
        num_classes: K.
        units: of the hidden dense layers.
        num_dense: how many of them: 2 in the paper.
        num_convs: 3x3 convolutions before them: 0 in the paper, 4 in later heads.
        channels: of those convolutions.
        norm: their normalisation, see `ConvNorm`.
        norm_epsilon: of the normalisation.
        class_agnostic: one box for all classes (Q = 1) instead of one for each (Q = K).
        average: take the mean of a region's cells, as behind a whole trunk, instead of all of them in a row.

    Call arguments:
        pooled: `(N, P, P, C)`.

    Returns:
        `class_logits (N, K + 1)` and `box_deltas (N, Q, 4)`, float32.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), figure 4 (right; left with `average` and no hidden layers)
    """

    def __init__(
        self,
        num_classes,
        units=1024,
        num_dense=2,
        num_convs=0,
        channels=256,
        norm=None,
        norm_epsilon=1e-5,
        class_agnostic=False,
        average=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes, self.units, self.num_dense = num_classes, units, num_dense
        self.class_agnostic, self.average = class_agnostic, average
        self.num_convs, self.channels = num_convs, channels
        self.norm, self.norm_epsilon = norm, norm_epsilon
        common = {"dtype": self.dtype_policy}
        self.convs = [
            ConvNorm(
                channels,
                3,
                norm=norm,
                norm_epsilon=norm_epsilon,
                activation="relu",
                name=f"conv{i + 1}",
                **common,
            )
            for i in range(num_convs)
        ]
        to_vector = keras.layers.GlobalAveragePooling2D if average else keras.layers.Flatten
        self.to_vector = to_vector(name="to_vector", **common)
        self.dense = [
            keras.layers.Dense(units, activation="relu", name=f"dense{i + 1}", **common)
            for i in range(num_dense)
        ]
        # Detectron's spreads: at the start all classes score alike, and boxes stay where they are.
        self.class_logits = keras.layers.Dense(
            num_classes + 1,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="class_logits",
            **common,
        )
        self.box_deltas = keras.layers.Dense(
            4 if class_agnostic else 4 * num_classes,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.001),
            name="box_deltas",
            **common,
        )

    def build(self, shape):
        for layer in (*self.convs, self.to_vector, *self.dense):
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.class_logits.build(shape)
        self.box_deltas.build(shape)

    def call(self, pooled, training=False):
        hidden = pooled
        for conv in self.convs:
            hidden = conv(hidden, training=training)
        hidden = self.to_vector(hidden)
        for dense in self.dense:
            hidden = dense(hidden)
        boxes = 1 if self.class_agnostic else self.num_classes
        deltas = ops.reshape(self.box_deltas(hidden), (-1, boxes, 4))
        return ops.cast(self.class_logits(hidden), "float32"), ops.cast(deltas, "float32")

    def get_config(self):
        names = (
            "num_classes",
            "units",
            "num_dense",
            "num_convs",
            "channels",
            "norm",
            "norm_epsilon",
            "class_agnostic",
            "average",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class MaskHead(keras.layers.Layer):
    """Predicts masks of each region by convolutions: in the paper one for every class, whose sigmoids do not compete.

    Args:
        num_masks: Q: K; 1 where masks are class-agnostic; K + 1, the background last, for a softmax over classes.
        num_convs: 3x3 convolutions before the mask is doubled in size.
        channels: of the convolutions.
        norm: their normalisation, see `ConvNorm`.
        norm_epsilon: of the normalisation.

    Call arguments:
        pooled: `(N, P, P, C)`.
        labels: `(N,)` int32, where only the mask of a region's own class is wanted; see `SelectClass`.

    Returns:
        `(N, 2 * P, 2 * P, Q)` logits, float32; `(N, 2 * P, 2 * P)` with `labels`.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), sections 3 and 3.1, figure 4 (right)
    """

    def __init__(
        self, num_masks, num_convs=4, channels=256, norm=None, norm_epsilon=1e-5, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_masks, self.num_convs, self.channels = num_masks, num_convs, channels
        self.norm, self.norm_epsilon = norm, norm_epsilon
        common = {"kernel_initializer": "he_normal", "dtype": self.dtype_policy}
        self.convs = [
            ConvNorm(
                channels,
                3,
                norm=norm,
                norm_epsilon=norm_epsilon,
                activation="relu",
                name=f"conv{i + 1}",
                **common,
            )
            for i in range(num_convs)
        ]
        self.upsample = keras.layers.Conv2DTranspose(
            channels, 2, 2, activation="relu", name="upsample", **common
        )
        common["kernel_initializer"] = keras.initializers.RandomNormal(stddev=0.001)
        self.logits = keras.layers.Conv2D(num_masks, 1, name="logits", **common)

    def build(self, shape):
        for layer in (*self.convs, self.upsample, self.logits):
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, pooled, labels=None, training=False):
        hidden = pooled
        for conv in self.convs:
            hidden = conv(hidden, training=training)
        height, width = ops.shape(hidden)[1:3]
        quarters = ops.reshape(self._quarters(hidden), (-1, 4 * height * width, self.channels))
        logits = self._all_logits(quarters) if labels is None else self._logits_of(labels, quarters)
        count = logits.shape[-1]
        logits = ops.reshape(logits, (-1, width, 2, 2 * count))
        logits = ops.transpose(logits, (0, 2, 1, 3))  # (N * P, 2, P, 2 * count)
        logits = ops.reshape(logits, (-1, 2 * height, 2 * width, count))
        return ops.cast(logits if labels is None else logits[..., 0], "float32")

    def _quarters(self, hidden):
        """The 2 x 2 cells that each cell becomes: `(N * P * P, 4 * C)`.

        What `upsample(hidden)` computes, as a matrix product: a cell's quarters depend on it alone.
        """
        kernel = ops.cast(self.upsample.kernel, self.compute_dtype)  # (2, 2, F, C)
        kernel = ops.transpose(ops.reshape(kernel, (-1, kernel.shape[-1])))
        bias = ops.tile(ops.cast(self.upsample.bias, self.compute_dtype), 4)
        hidden = ops.reshape(hidden, (-1, kernel.shape[0]))
        return ops.relu(add_bias(ops.matmul(hidden, kernel), bias))

    def _all_logits(self, quarters):
        """`(N, S, C)` -> `(N, S, Q)`."""
        kernel, bias = (ops.cast(v, self.compute_dtype) for v in self.logits.weights)
        return add_bias(ops.matmul(quarters, kernel[0, 0]), bias)

    def _logits_of(self, labels, quarters):
        """The logits of each region's class alone, `(N, S, 1)`: with 80 classes, an 80th of the numbers."""
        channel = ops.clip(labels, 0, self.num_masks - 1)
        kernel, bias = (ops.cast(v, self.compute_dtype) for v in self.logits.weights)
        kernel = ops.take(ops.transpose(kernel[0, 0]), channel, axis=0)  # (N, C)
        return ops.matmul(quarters, kernel[..., None]) + ops.take(bias, channel)[:, None, None]

    def get_config(self):
        names = ("num_masks", "num_convs", "channels", "norm", "norm_epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class MLPMaskHead(keras.layers.Layer):
    """Predicts masks of each region by dense layers, which do not know where a pixel's neighbours are.

    Args:
        num_masks: Q, as for `MaskHead`.
        units: of the hidden dense layers.
        num_dense: how many of them.
        scale: s, cells of a mask to one of `pooled`, along each side.

    Call arguments:
        pooled: `(N, P, P, C)`.
        labels: as for `MaskHead`.

    Returns:
        `(N, s * P, s * P, Q)` logits, float32; `(N, s * P, s * P)` with `labels`.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 4.2, "Mask Branch", and table 2e
    """

    def __init__(self, num_masks, units=1024, num_dense=2, scale=2, **kwargs):
        super().__init__(**kwargs)
        self.num_masks, self.units, self.num_dense = num_masks, units, num_dense
        self.scale = scale
        common = {"dtype": self.dtype_policy}
        self.flatten = keras.layers.Flatten(name="flatten", **common)
        self.dense = [
            keras.layers.Dense(units, activation="relu", name=f"dense{i + 1}", **common)
            for i in range(num_dense)
        ]

    def build(self, shape):
        self.mask_size = self.scale * shape[1]
        self.logits = keras.layers.Dense(
            self.mask_size**2 * self.num_masks,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.001),
            name="logits",
            dtype=self.dtype_policy,
        )
        for layer in (self.flatten, *self.dense, self.logits):
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, pooled, labels=None):
        hidden = self.flatten(pooled)
        for dense in (*self.dense, self.logits):
            hidden = dense(hidden)
        masks = ops.reshape(hidden, (-1, self.mask_size, self.mask_size, self.num_masks))
        masks = ops.cast(masks, "float32")
        return masks if labels is None else select_class(masks, labels)

    def get_config(self):
        names = ("num_masks", "units", "num_dense", "scale")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class SelectClass(keras.layers.Layer):
    """Takes, of every region's masks, the one of its class.

    Call arguments:
        mask_logits: `(N, M, M, Q)`, or points of it `(N, S, Q)`; with Q = 1 the one mask serves all classes.
        labels: `(N,)` int32; regions with no class (under 0, or K) get any mask.

    Returns:
        `(N, M, M)` or `(N, S)`.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, mask_logits, labels):
        return select_class(mask_logits, labels)


def select_class(mask_logits, labels):
    """Takes one channel of the last axis for each region, as `SelectClass` does.

    Args:
        mask_logits: `(N, ..., Q)`.
        labels: `(N,)` int32; those beyond 0 to Q - 1 take the nearest channel.

    Returns:
        `(N, ...)`.
    """
    channel = ops.clip(labels, 0, mask_logits.shape[-1] - 1)
    channel = ops.reshape(channel, (-1, *[1] * (len(mask_logits.shape) - 1)))
    return ops.take_along_axis(mask_logits, channel, axis=-1)[..., 0]
