"""What lies between the box heads of a cascade: boxes that move on, and the answers that are expected of them there.

rois          (B, R, 4)      xyxy pixels, zeros pad
box_deltas    (B * R, 1, 4)  one box for all classes
class_logits  (B * R, K + 1)
"""

import keras
from keras import ops

from kmaskrcnn.geometry.boxes import clip_boxes, decode_deltas
from kmaskrcnn.layers.targets import answers_of_regions, match_regions, spec_of_regions


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class RefineRegions(keras.layers.Layer):
    """Moves each region as its head says, for the next head to look at; no gradient passes.

    Args:
        box_variance: what the deltas were divided by.

    Call arguments:
        rois: `(B, R, 4)`.
        box_deltas: `(B * R, 1, 4)`.
        image_sizes: `(B, 2)` height and width; regions are clipped to it.

    Returns:
        `(B, R, 4)`.

    Reference:
        [Cascade R-CNN](https://arxiv.org/abs/1712.00726), section 4.1
    """

    def __init__(self, box_variance=(0.1, 0.1, 0.2, 0.2), **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.box_variance = tuple(box_variance)

    def call(self, rois, box_deltas, image_sizes):
        deltas = ops.reshape(box_deltas, (-1, rois.shape[1], 4))
        boxes = clip_boxes(decode_deltas(rois, deltas, self.box_variance), image_sizes)
        return ops.stop_gradient(boxes)

    def compute_output_shape(self, rois_shape, *_):
        return rois_shape

    def get_config(self):
        return {**super().get_config(), "box_variance": self.box_variance}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class RelabelLayer(keras.layers.Layer):
    """Says what a later head should answer: every region is compared with the objects again, none is drawn anew.

    Args:
        num_classes: K; label K stands for the background.
        positive_threshold: IoU from which a region is an object, and under which background.
        box_variance: what the deltas are divided by.

    Call arguments:
        rois: `(B, R, 4)`, as the head before refined them.
        boxes, labels, is_crowd: ground truth, `(B, G, 4)`, `(B, G)`, `(B, G)`.

    Returns:
        Dict as of `DetectionTargetLayer`; regions without area have label -1.

    Reference:
        [Cascade R-CNN](https://arxiv.org/abs/1712.00726), section 4.2
    """

    def __init__(
        self, num_classes, positive_threshold=0.6, box_variance=(0.05, 0.05, 0.1, 0.1), **kwargs
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.num_classes = num_classes
        self.positive_threshold = positive_threshold
        self.box_variance = tuple(box_variance)

    def call(self, rois, boxes, labels, is_crowd):
        matches, roles = match_regions(rois, boxes, labels, is_crowd, self.positive_threshold)
        of_head = self.num_classes, self.box_variance
        return {
            "rois": rois,
            **answers_of_regions(rois, roles, matches, boxes, labels, *of_head),
        }

    def compute_output_spec(self, rois, *_, **__):
        return spec_of_regions(*rois.shape[:2])

    def get_config(self):
        names = ("num_classes", "positive_threshold", "box_variance")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def average_logits(class_logits):
    """Logits whose softmax is the mean of several heads' probabilities: a list of `(N, K + 1)` -> `(N, K + 1)`."""
    logs = ops.stack([ops.log_softmax(logits) for logits in class_logits])
    return ops.logsumexp(logs, axis=0)


def scale_gradient(values, share):
    """The values as they are, with this share of their gradient."""
    fixed = ops.stop_gradient(values)
    return fixed + share * (values - fixed)
