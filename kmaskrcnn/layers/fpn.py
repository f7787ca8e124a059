"""The feature pyramid: strong semantics at every resolution."""

import keras
from keras import layers

from kmaskrcnn.layers.convolution import ConvNorm


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class FeaturePyramid(keras.layers.Layer):
    """Merges the backbone's stages top-down into a pyramid of maps with equally many channels.

        C5 --1x1-- (+) --3x3-- P5 --every second cell-- P6
                    | x2
        C4 --1x1-- (+) --3x3-- P4         and so on down to C2 and P2

    Args:
        channels: of every output map.
        norm, norm_epsilon: of the convolutions, see `ConvNorm`; with `None` they have a bias.
        extra_levels: how many maps to add on top by taking every second cell: 1 gives P6, which only
            the RPN reads, for its largest anchors.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        features: dict of `(B, H, W, C)`, consecutive stages such as C2..C5; a pyramid from P3 up is
            what comes of leaving C2 out. Each map has at most twice the height and width of the next:
            `ceil` of the half, as the ResNets here give, always fits; from odd sizes halved by `floor`
            (MobileNetV2, ConvNeXt) use pictures whose sides are multiples of 32.

    Returns:
        Dict of `(B, H, W, channels)`: `"P2"` for `"C2"` and so on, of the same height and width, then
        the extra levels of `ceil(H / 2)`.

    Raises:
        ValueError: for stages that are not consecutive.

    Example:
        >>> {name: p.shape[1:] for name, p in FeaturePyramid()(backbone(images)).items()}
        {'P2': (200, 304, 256), 'P3': (100, 152, 256), ..., 'P6': (13, 19, 256)}

    Reference: [Feature Pyramid Networks](https://arxiv.org/abs/1612.03144), section 3; P6 is in the
    footnote of section 4.1.
    """

    def __init__(self, channels=256, norm=None, norm_epsilon=1e-5, extra_levels=1, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.norm = norm
        self.norm_epsilon = norm_epsilon
        self.extra_levels = extra_levels

    def build(self, features_shape):
        self.levels = _levels(features_shape)
        self.lateral_convs, self.output_convs = {}, {}
        for level in self.levels:
            stage, name = f"C{level}", f"P{level}"
            self.lateral_convs[stage] = self._conv(1, f"lateral_{stage}")
            self.output_convs[name] = self._conv(3, f"output_{name}")
            self.lateral_convs[stage].build(features_shape[stage])
            self.output_convs[name].build((None, None, None, self.channels))
        self.upsample = layers.UpSampling2D(
            2, interpolation="nearest", data_format="channels_last", dtype=self.dtype_policy
        )
        self.upsample.build((None, None, None, self.channels))

    def _conv(self, kernel_size, name):
        return ConvNorm(
            self.channels,
            kernel_size,
            norm=self.norm,
            norm_epsilon=self.norm_epsilon,
            # As Detectron2: without a ReLU behind it, He's factor of two would let activations grow.
            kernel_initializer=keras.initializers.VarianceScaling(1.0, "fan_in", "uniform"),
            name=name,
            dtype=self.dtype_policy,
        )

    def call(self, features):
        merged, pyramid = None, {}
        for level in reversed(self.levels):
            lateral = self.lateral_convs[f"C{level}"](features[f"C{level}"])
            merged = lateral if merged is None else lateral + self._top_down(merged, lateral)
            pyramid[f"P{level}"] = self.output_convs[f"P{level}"](merged)
        pyramid = {f"P{level}": pyramid[f"P{level}"] for level in self.levels}
        top = self.levels[-1]
        for level in range(top + 1, top + 1 + self.extra_levels):
            pyramid[f"P{level}"] = pyramid[f"P{level - 1}"][:, ::2, ::2]
        return pyramid

    def _top_down(self, coarse, fine):
        height, width = keras.ops.shape(fine)[1:3]
        # An odd height of 2n - 1 has a coarser map of n rows: the last of 2n rows is too many.
        return self.upsample(coarse)[:, :height, :width]

    def compute_output_shape(self, features_shape):
        levels = _levels(features_shape)
        shapes = {
            f"P{level}": (*features_shape[f"C{level}"][:3], self.channels) for level in levels
        }
        for level in range(levels[-1] + 1, levels[-1] + 1 + self.extra_levels):
            batch, *sides, channels = shapes[f"P{level - 1}"]
            halved = (None if side is None else -(-side // 2) for side in sides)
            shapes[f"P{level}"] = (batch, *halved, channels)
        return shapes

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "extra_levels": self.extra_levels,
        }


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class SingleLevel(keras.layers.Layer):
    """A pyramid of one level: a stage of stride 16, as it is.

    Args:
        stage: `"C4"`, or `"C5"` of a trunk whose last stage is dilated.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        features: dict of `(B, H, W, C)`.

    Returns:
        `{"P4": (B, H, W, C)}`: levels are called after their strides.

    Reference: [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 3, "Network Architecture"
    """

    def __init__(self, stage="C4", **kwargs):
        super().__init__(**kwargs)
        self.stage = stage

    def call(self, features):
        return {"P4": features[self.stage]}

    def compute_output_shape(self, features_shape):
        return {"P4": features_shape[self.stage]}

    def get_config(self):
        return {**super().get_config(), "stage": self.stage}


def _levels(features):
    """The numbers of the given stages, finest first: `[2, 3, 4, 5]` of C2..C5."""
    levels = sorted(int(name[1:]) for name in features if name[:1] == "C" and name[1:].isdigit())
    if (
        not levels
        or len(levels) != len(features)
        or levels != list(range(min(levels), max(levels) + 1))
    ):
        raise ValueError(
            f"features has the stages {sorted(features)}; accepted are consecutive ones such as "
            "C2, C3, C4, C5."
        )
    return levels
