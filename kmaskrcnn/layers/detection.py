"""From regions and what the box head said of them to the objects in a picture."""

import keras
from keras import ops

from kmaskrcnn.backends import uses_tensorflow
from kmaskrcnn.geometry.boxes import clip_boxes_by_rule, decode_deltas, lengthen, shorten
from kmaskrcnn.geometry.soft_suppression import soft_nms
from kmaskrcnn.geometry.suppression import class_nms

# Pixels: what is thinner is padding, or nothing that can be seen (torchvision's bound).
LEAST_SIDE = 0.01


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class DetectionLayer(keras.layers.Layer):
    """Moves every region by each class's deltas, and keeps the best boxes of each class.

    Args:
        score_threshold: a box is dropped unless its class's probability is greater.
        nms_threshold: IoU within a class above which the worse box goes.
        max_detections: D, boxes kept of each picture.
        box_variance: what the deltas were divided by.
        box_rule: see `geometry/boxes.py`.
        best_class_only: a region can be of no other class than its most probable one, the background among them.
        suppression: `"hard"`, or `"soft_linear"` and `"soft_gaussian"`, see `soft_nms`.
        soft_nms_sigma: of the latter.
        portable: use operations only that XLA, JAX and ONNX have.

    Call arguments:
        rois: `(B, R, 4)` xyxy pixels, zeros pad.
        class_logits: `(B * R, K + 1)`, the background last.
        box_deltas: `(B * R, Q, 4)`, Q = K, or 1 where all classes share a region's box.
        image_sizes: `(B, 2)` height and width; boxes are clipped to it.

    Returns:
        Dict: `boxes (B, D, 4)` and `scores (B, D)` float32, best first, zeros pad; `labels (B, D)` int32, -1 pads;
        `num_detections (B,)` int32.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 3.1, "Inference"
    """

    def __init__(
        self,
        score_threshold=0.05,
        nms_threshold=0.5,
        max_detections=100,
        box_variance=(0.1, 0.1, 0.2, 0.2),
        box_rule="edges",
        best_class_only=False,
        suppression="hard",
        soft_nms_sigma=0.5,
        portable=False,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.box_variance = tuple(box_variance)
        self.box_rule, self.best_class_only = box_rule, best_class_only
        self.suppression, self.soft_nms_sigma = suppression, soft_nms_sigma
        self.portable = portable
        if suppression == "hard" and uses_tensorflow(portable):
            self.supports_jit = False  # the suppression kernel has no XLA version

    def call(self, rois, class_logits, box_deltas, image_sizes):
        regions = rois.shape[1]
        num_classes, num_boxes = class_logits.shape[1] - 1, box_deltas.shape[1]
        scores = ops.reshape(self._scores(class_logits), (-1, regions, num_classes))
        deltas = ops.reshape(box_deltas, (-1, regions, num_boxes, 4))
        rois = shorten(rois[:, :, None, :], self.box_rule)
        boxes = decode_deltas(rois, deltas, self.box_variance)
        boxes = clip_boxes_by_rule(boxes, image_sizes, self.box_rule)
        exists = ops.all(boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE, axis=-1)
        boxes, scores, labels, count = self._suppress(boxes, ops.where(exists, scores, 0.0))
        boxes = lengthen(boxes, self.box_rule)
        return {"boxes": boxes, "scores": scores, "labels": labels, "num_detections": count}

    def compute_output_spec(self, rois, *_):
        places = (rois.shape[0], self.max_detections)
        return {
            "boxes": keras.KerasTensor((*places, 4), "float32"),
            "scores": keras.KerasTensor(places, "float32"),
            "labels": keras.KerasTensor(places, "int32"),
            "num_detections": keras.KerasTensor(places[:1], "int32"),
        }

    def _scores(self, class_logits):
        """Probabilities of the objects' classes, `(B * R, K)`."""
        scores = ops.softmax(class_logits)
        if self.best_class_only:
            scores = ops.where(scores >= ops.max(scores, axis=1, keepdims=True), scores, 0.0)
        return scores[:, :-1]

    def _suppress(self, boxes, scores):
        limits = {"max_total": self.max_detections, "score_threshold": self.score_threshold}
        if self.suppression != "hard":
            return soft_nms(
                boxes,
                scores,
                method=self.suppression,
                iou_threshold=self.nms_threshold,
                sigma=self.soft_nms_sigma,
                **limits,
            )
        return class_nms(
            boxes,
            scores,
            iou_threshold=self.nms_threshold,
            max_per_class=self.max_detections,
            portable=self.portable,
            **limits,
        )

    def get_config(self):
        names = (
            "score_threshold",
            "nms_threshold",
            "max_detections",
            "box_variance",
            "box_rule",
            "best_class_only",
            "suppression",
            "soft_nms_sigma",
            "portable",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
