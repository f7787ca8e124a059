"""Human pose, or any other points of an object: the keypoint head with its targets and its decoding.

pooled           (N, P, P, C)     from RoIAlign, P is 14
keypoint_logits  (N, m, m, K)     a heatmap for each of K keypoints, m = 4 * P = 56
cells            (N, K)           the one cell that each heatmap should pick, -1 where the keypoint is not seen
keypoints        (N, K, 3)        x, y in pixels and a score
"""

import keras
from keras import ops

from kmaskrcnn.geometry.keypoints import (
    decode_keypoints,
    decode_keypoints_everywhere,
    encode_keypoints,
)
from kmaskrcnn.layers.convolution import ConvNorm


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class KeypointHead(keras.layers.Layer):
    """Draws a heatmap for every keypoint of each region.

    Args:
        num_keypoints: K.
        num_convs: 3x3 convolutions before the map grows.
        channels: of the convolutions.
        norm: their normalisation, see `ConvNorm`.
        norm_epsilon: of the normalisation.

    Call arguments:
        pooled: `(N, P, P, C)`.

    Returns:
        `(N, 4 * P, 4 * P, K)` logits, float32.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 5
    """

    def __init__(
        self, num_keypoints, num_convs=8, channels=512, norm=None, norm_epsilon=1e-5, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_keypoints, self.num_convs, self.channels = num_keypoints, num_convs, channels
        self.norm, self.norm_epsilon = norm, norm_epsilon
        common = {"dtype": self.dtype_policy}
        self.convs = [
            ConvNorm(
                channels,
                3,
                norm=norm,
                norm_epsilon=norm_epsilon,
                activation="relu",
                kernel_initializer="he_normal",
                name=f"conv{i + 1}",
                **common,
            )
            for i in range(num_convs)
        ]
        # Small weights, as for masks: at the start every cell is as likely as any other.
        self.logits = keras.layers.Conv2DTranspose(
            num_keypoints,
            4,
            2,
            padding="same",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.001),
            name="logits",
            **common,
        )
        self.enlarge = keras.layers.UpSampling2D(
            2, interpolation="bilinear", dtype="float32", name="enlarge"
        )

    def build(self, shape):
        for layer in (*self.convs, self.logits, self.enlarge):
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, pooled, training=False):
        hidden = pooled
        for conv in self.convs:
            hidden = conv(hidden, training=training)
        return self.enlarge(ops.cast(self.logits(hidden), "float32"))

    def get_config(self):
        names = ("num_keypoints", "num_convs", "channels", "norm", "norm_epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class KeypointTargetLayer(keras.layers.Layer):
    """Finds the cell that each keypoint of a region's object falls into.

    Args:
        heatmap_size: m.

    Call arguments:
        rois: `(N, 4)` xyxy pixels.
        image_indices: `(N,)` int32, the picture of each region.
        matches: `(N,)` int32, its object among the picture's G.
        keypoints: `(B, G, K, 3)` float32 x, y, visibility.

    Returns:
        `(N, K)` int32 cells, -1 where a keypoint is not labelled or lies outside its region.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 5
    """

    def __init__(self, heatmap_size=56, **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        self.heatmap_size = heatmap_size

    def call(self, rois, image_indices, matches, keypoints):
        objects = image_indices * ops.shape(keypoints)[1] + matches
        of_region = ops.take(ops.reshape(keypoints, (-1, *keypoints.shape[2:])), objects, axis=0)
        return encode_keypoints(of_region, rois, self.heatmap_size)

    def get_config(self):
        return {**super().get_config(), "heatmap_size": self.heatmap_size}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class KeypointDecoder(keras.layers.Layer):
    """Turns heatmaps into points, finer than their cells.

    Args:
        rule: `"window"`, which looks around each heatmap's best cell, or `"torchvision"`, which looks everywhere.

    Call arguments:
        keypoint_logits: `(N, m, m, K)`.
        rois: `(N, 4)` xyxy pixels.

    Returns:
        `(N, K, 3)` float32: x and y in pixels, and a score: by `"window"` in [0, 1], the share of the heatmap's softmax
        at the point, as Detectron2 gives it; by `"torchvision"` the logit at the point.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 5
    """

    def __init__(self, rule="window", **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        if rule not in ("window", "torchvision"):
            raise ValueError(f"rule: got {rule!r}, accepted are 'window' and 'torchvision'")
        self.rule = rule

    def call(self, keypoint_logits, rois):
        if self.rule == "torchvision":
            points, scores = decode_keypoints_everywhere(keypoint_logits, rois)
            return ops.concatenate([points, scores[..., None]], axis=2)
        points, peaks = decode_keypoints(keypoint_logits, rois)
        total = ops.logsumexp(keypoint_logits, axis=(1, 2))
        # Between cells the interpolated peak may rise above all of them together.
        scores = ops.minimum(ops.exp(peaks - total), 1.0)
        return ops.concatenate([points, scores[..., None]], axis=2)

    def get_config(self):
        return {**super().get_config(), "rule": self.rule}
