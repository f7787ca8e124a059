"""The region proposal network (Faster R-CNN, section 3): anchors, head and proposals.

features    {"P2": (B, H, W, C), ...}
anchors     {"P2": (A, 4), ...}      A = H * W * R anchors of a level, xyxy pixels
rpn_logits  {"P2": (B, A), ...}
rpn_deltas  {"P2": (B, A, 4), ...}
proposals   (B, N, 4)                all levels together, best first
"""

import keras
import numpy as np
from keras import ops

from kmaskrcnn.backends import uses_tensorflow
from kmaskrcnn.geometry.anchors import anchor_grid, base_anchors
from kmaskrcnn.geometry.boxes import clip_boxes_by_rule, decode_deltas, lengthen, shorten
from kmaskrcnn.geometry.suppression import class_nms
from kmaskrcnn.layers.convolution import ConvNorm


def stride_of(level: str) -> int:
    """Pixels a cell of a pyramid level: 4 for `"P2"`, 64 for `"P6"`."""
    return 2 ** int(level[1:])


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class AnchorGenerator(keras.layers.Layer):
    """Lays anchors over every level of a feature pyramid.

    Args:
        scales: one a level, finest first: the side of the square anchor in pixels; or several of a level, as a tuple.
        aspect_ratios: height / width.
        rule: `"exact"`, or `"torchvision"`, whose weights know anchors with their corners rounded to whole pixels, and
            strides of whole pixels found from the sizes of the maps: 58 instead of 64 at a P6 of 6 x 6 over 352 pixels.

    Call arguments:
        features: dict of `(B, H, W, C)`; only the sizes count.

    Returns:
        Dict of `(H * W * R, 4)` float32 xyxy anchors, not clipped; R runs over scales, then ratios.

    Reference:
        [Feature Pyramid Networks](https://arxiv.org/abs/1612.03144), section 4.1
    """

    def __init__(self, scales, aspect_ratios=(0.5, 1.0, 2.0), rule="exact", **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        if rule not in ("exact", "torchvision"):
            raise ValueError(f"rule: got {rule!r}, accepted are 'exact' and 'torchvision'")
        self.scales = tuple(
            scale if isinstance(scale, (int, float)) else tuple(scale) for scale in scales
        )
        self.aspect_ratios = tuple(aspect_ratios)
        self.rule = rule

    def call(self, features):
        if len(features) != len(self.scales):
            raise ValueError(
                f"scales: got {len(self.scales)} for the {len(features)} levels {sorted(features)}"
            )
        anchors = {}
        for level, scale in zip(sorted(features), self.scales):
            height, width = ops.shape(features[level])[1:3]
            of_level = scale if isinstance(scale, tuple) else (scale,)
            base = np.concatenate([base_anchors(one, self.aspect_ratios) for one in of_level])
            stride = stride_of(level)
            if self.rule == "torchvision":
                base, stride = base.round(), self._whole_strides(features, level)
            anchors[level] = anchor_grid(height, width, stride, base)
        return anchors

    def _whole_strides(self, features, level):
        """Sides of the padded picture // sides of the map; the finest map divides the picture evenly."""
        finest = min(features)
        sides = zip(ops.shape(features[finest])[1:3], ops.shape(features[level])[1:3])
        return tuple(
            ops.cast(fine * stride_of(finest) // coarse, "float32") for fine, coarse in sides
        )

    def get_config(self):
        names = ("scales", "aspect_ratios", "rule")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class RPNHead(keras.layers.Layer):
    """Scores and moves every anchor; the same weights at every level.

    Args:
        anchors_per_cell: R.
        channels: of the 3x3 convolutions; None for those of the features.
        num_convs: how many 3x3 convolutions come first.

    Call arguments:
        features: dict of `(B, H, W, C)`.

    Returns:
        Two dicts by level: logits `(B, H * W * R)` and deltas `(B, H * W * R, 4)`, float32.

    Reference:
        [Faster R-CNN](https://arxiv.org/abs/1506.01497), section 3.1
    """

    def __init__(self, anchors_per_cell=3, channels=None, num_convs=1, **kwargs):
        super().__init__(**kwargs)
        self.anchors_per_cell = anchors_per_cell
        self.channels = channels
        self.num_convs = num_convs

    def build(self, features_shape):
        shape = next(iter(features_shape.values()))
        channels = self.channels or shape[-1]
        self.convs = [
            self._conv(channels, 3, f"conv{i + 1}", activation="relu")
            for i in range(self.num_convs)
        ]
        self.logits = self._conv(self.anchors_per_cell, 1, "logits")
        self.deltas = self._conv(4 * self.anchors_per_cell, 1, "deltas")
        for conv in self.convs:
            conv.build(shape)
            shape = (*shape[:3], channels)
        self.logits.build(shape)
        self.deltas.build(shape)

    def _conv(self, filters, kernel_size, name, **options):
        # Small weights as in Detectron: at the start all anchors score alike and proposals stay near them.
        small = keras.initializers.RandomNormal(stddev=0.01)
        options |= {"name": name, "dtype": self.dtype_policy, "kernel_initializer": small}
        return ConvNorm(filters, kernel_size, norm=None, **options)

    def call(self, features):
        logits, deltas = {}, {}
        for level, hidden in features.items():
            for conv in self.convs:
                hidden = conv(hidden)
            anchors = (ops.shape(hidden)[0], -1)
            logits[level] = ops.cast(ops.reshape(self.logits(hidden), anchors), "float32")
            deltas[level] = ops.cast(ops.reshape(self.deltas(hidden), (*anchors, 4)), "float32")
        return logits, deltas

    def get_config(self):
        own = {name: getattr(self, name) for name in ("anchors_per_cell", "channels", "num_convs")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class ProposalLayer(keras.layers.Layer):
    """Turns the RPN's outputs into the regions worth a second look.

    The best anchors of each level are moved by their deltas, clipped to the picture and suppressed within their level;
    the best of all levels remain.

    Args:
        pre_nms_topk: anchors kept of each level before suppression.
        post_nms_topk: N, proposals kept of each image.
        pre_nms_topk_train, post_nms_topk_train: the same while training; None for the same numbers.
        nms_threshold: IoU above which the worse box goes.
        min_box_size: proposals with a shorter side (pixels) go.
        box_variance: what the deltas were divided by.
        box_rule: see `geometry/boxes.py`.
        joint_levels: choose the `pre_nms_topk` and suppress among the anchors of all levels together.
        portable: use operations only that XLA, JAX and ONNX have.

    Call arguments:
        anchors, rpn_logits, rpn_deltas: dicts by level, `(A, 4)`, `(B, A)` and `(B, A, 4)`.
        image_sizes: `(B, 2)` height and width of each picture; proposals are clipped to it.

    Returns:
        `(B, N, 4)` float32 xyxy, best first, zeros where there are fewer. No gradient flows through it.

    Reference:
        [Feature Pyramid Networks](https://arxiv.org/abs/1612.03144), section 4.1
    """

    def __init__(
        self,
        pre_nms_topk=1000,
        post_nms_topk=1000,
        pre_nms_topk_train=None,
        post_nms_topk_train=None,
        nms_threshold=0.7,
        min_box_size=1e-3,
        box_variance=(1.0, 1.0, 1.0, 1.0),
        box_rule="edges",
        joint_levels=False,
        portable=False,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.pre_nms_topk = pre_nms_topk
        self.post_nms_topk = post_nms_topk
        self.pre_nms_topk_train = pre_nms_topk_train or pre_nms_topk
        self.post_nms_topk_train = post_nms_topk_train or post_nms_topk
        self.nms_threshold = nms_threshold
        self.min_box_size = min_box_size
        self.box_variance = tuple(box_variance)
        self.box_rule, self.joint_levels = box_rule, joint_levels
        self.portable = portable
        if uses_tensorflow(portable):
            self.supports_jit = False  # the suppression kernel has no XLA version

    def call(self, anchors, rpn_logits, rpn_deltas, image_sizes, training=False):
        pre = self.pre_nms_topk_train if training else self.pre_nms_topk
        post = self.post_nms_topk_train if training else self.post_nms_topk
        if self.joint_levels:
            anchors, rpn_logits, rpn_deltas = (
                {"all": ops.concatenate([x[level] for level in sorted(x)], axis=axis)}
                for x, axis in ((anchors, 0), (rpn_logits, 1), (rpn_deltas, 1))
            )
        levels = [
            self._best_of_level(
                anchors[level], rpn_logits[level], rpn_deltas[level], image_sizes, pre
            )
            for level in sorted(anchors)
        ]
        boxes = ops.stack([boxes for boxes, _ in levels], axis=2)  # (B, pre, L, 4)
        # (B, pre, L): a level is suppressed as a class.
        scores = ops.stack([scores for _, scores in levels], axis=2)
        proposals, *_ = class_nms(
            boxes,
            scores,
            iou_threshold=self.nms_threshold,
            max_per_class=min(pre, post),
            max_total=post,
            portable=self.portable,
        )
        return ops.stop_gradient(lengthen(proposals, self.box_rule))

    def compute_output_spec(self, anchors, rpn_logits, *_, training=False, **__):
        batch = next(iter(rpn_logits.values())).shape[0]
        count = self.post_nms_topk_train if training else self.post_nms_topk
        return keras.KerasTensor((batch, count, 4), "float32")

    def _best_of_level(self, anchors, logits, deltas, image_sizes, topk):
        """The `topk` best boxes of one level: `(B, topk, 4)` and scores `(B, topk)`, 0 where there is none."""
        available = logits.shape[1]
        size = (
            ops.minimum(topk, ops.shape(logits)[1]) if available is None else min(topk, available)
        )
        scores, order = ops.top_k(logits, size)
        boxes = decode_deltas(
            shorten(ops.take(anchors, order, axis=0), self.box_rule),
            ops.take_along_axis(deltas, order[..., None], axis=1),
            self.box_variance,
        )
        boxes = clip_boxes_by_rule(boxes, image_sizes, self.box_rule)
        sides = boxes[..., 2:] - boxes[..., :2]
        scores = ops.where(ops.all(sides >= self.min_box_size, axis=-1), ops.sigmoid(scores), 0.0)
        missing = topk - size
        boxes = ops.pad(boxes, [[0, 0], [0, missing], [0, 0]])
        scores = ops.pad(scores, [[0, 0], [0, missing]])
        # The padding makes the length static again, which the suppression needs to know.
        return ops.reshape(boxes, (-1, topk, 4)), ops.reshape(scores, (-1, topk))

    def get_config(self):
        names = (
            "pre_nms_topk",
            "post_nms_topk",
            "pre_nms_topk_train",
            "post_nms_topk_train",
            "nms_threshold",
            "min_box_size",
            "box_variance",
            "box_rule",
            "joint_levels",
            "portable",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
