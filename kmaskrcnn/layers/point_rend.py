"""The two heads of PointRend: a coarse mask of the whole region, and the mask at single points.

pooled         (N, P, P, C)          from RoIAlign
coarse logits  (N, P / 2, P / 2, Q)  Q masks, see `MaskHead`
fine           (N, S, C)             features at S points of each region
"""

import keras
from keras import ops

from kmaskrcnn.layers.heads import MLPMaskHead


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class CoarseMaskHead(keras.layers.Layer):
    """Predicts small masks of each region: a convolution that halves it, then dense layers.

    Args:
        num_masks: Q.
        channels: of the convolution.
        units: of the hidden dense layers.
        num_dense: how many of them.

    Call arguments:
        pooled: `(N, P, P, C)`.

    Returns:
        `(N, P / 2, P / 2, Q)` logits, float32.

    Reference:
        [PointRend](https://arxiv.org/abs/1912.08193), section 4.1, "Architecture"
    """

    def __init__(self, num_masks, channels=256, units=1024, num_dense=2, **kwargs):
        super().__init__(**kwargs)
        self.num_masks, self.channels = num_masks, channels
        self.units, self.num_dense = units, num_dense
        common = {"dtype": self.dtype_policy}
        self.halve = keras.layers.Conv2D(
            channels,
            2,
            2,
            activation="relu",
            kernel_initializer="he_normal",
            name="halve",
            **common,
        )
        self.dense = MLPMaskHead(num_masks, units, num_dense, scale=1, name="dense", **common)

    def build(self, shape):
        self.halve.build(shape)
        self.dense.build(self.halve.compute_output_shape(shape))

    def call(self, pooled):
        return self.dense(self.halve(pooled))

    def get_config(self):
        names = ("num_masks", "channels", "units", "num_dense")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class PointHead(keras.layers.Layer):
    """Predicts masks at points: dense layers, the same for every point, each of which sees the coarse answer too.

    Args:
        num_masks: Q.
        channels: of the hidden layers.
        num_dense: how many of them.

    Call arguments:
        fine: `(N, S, C)`.
        coarse: `(N, S, Q)`, the coarse logits there.

    Returns:
        `(N, S, Q)` logits, float32.

    Reference:
        [PointRend](https://arxiv.org/abs/1912.08193), sections 3.2 and 4.1
    """

    def __init__(self, num_masks, channels=256, num_dense=3, **kwargs):
        super().__init__(**kwargs)
        self.num_masks, self.channels, self.num_dense = num_masks, channels, num_dense
        common = {"dtype": self.dtype_policy}
        self.dense = [
            keras.layers.Dense(
                channels,
                activation="relu",
                kernel_initializer="he_normal",
                name=f"dense{i + 1}",
                **common,
            )
            for i in range(num_dense)
        ]
        self.logits = keras.layers.Dense(
            num_masks,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.001),
            name="logits",
            **common,
        )

    def build(self, fine_shape, coarse_shape):
        width = fine_shape[-1]
        for dense in (*self.dense, self.logits):
            dense.build((*fine_shape[:-1], width + coarse_shape[-1]))
            width = self.channels

    def call(self, fine, coarse):
        hidden = fine
        for dense in self.dense:
            hidden = dense(ops.concatenate([hidden, ops.cast(coarse, hidden.dtype)], axis=-1))
        joined = ops.concatenate([hidden, ops.cast(coarse, hidden.dtype)], axis=-1)
        return ops.cast(self.logits(joined), "float32")

    def get_config(self):
        names = ("num_masks", "channels", "num_dense")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
