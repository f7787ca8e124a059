"""Test-time augmentation: one picture looked at in several sizes and in a mirror, and one list of objects from it all.

    boxes       found in every view, brought back to the picture, and suppressed together within each class
    masks       asked of every view for the boxes that stayed, mirrored back, and averaged as probabilities
    keypoints   likewise, averaged as heatmaps; in a mirror left and right change places

D boxes, M mask size, m heatmap size, P keypoints.
"""

import dataclasses

import keras
import numpy as np

from kmaskrcnn.geometry.keypoints import mirror_order
from kmaskrcnn.serving.detectors import KerasDetector, as_detections, as_function, prepare
from kmaskrcnn.serving.merging import join_detections, suppress_detections

BOXES = ("boxes", "labels", "scores", "num_detections")


@dataclasses.dataclass(frozen=True)
class TestTimeAugmentation:
    """In which views a picture is looked at.

    Args:
        scales: factors of the model's `min_size` and `max_size`, one or more. Keypoints are read at the first.
        flip: whether each size is looked at in a mirror too.

    Raises:
        ValueError: there is no scale, or one that is not positive.
    """

    __test__ = False  # pytest takes every class named so for tests

    scales: tuple = (1.0, 0.75, 1.25)
    flip: bool = True

    def __post_init__(self):
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales: got {self.scales!r}, accepted are one or more above 0")

    def views(self, config):
        """`(configuration, mirrored)` of each view: the model's configuration with other sizes of the picture."""
        resized = [
            dataclasses.replace(
                config,
                min_size=max(1, round(scale * config.min_size)),
                max_size=max(1, round(scale * config.max_size)),
            )
            for scale in self.scales
        ]
        return [(c, mirrored) for c in resized for mirrored in (False, True)[: 1 + self.flip]]


def augment(detector, augmentation):
    """The `AugmentedDetector` of a detector's model.

    Raises:
        ValueError: it has none: only a Keras model can be asked for the masks of boxes that it did not find.
    """
    if not isinstance(detector, KerasDetector):
        kind = type(detector).__name__
        raise ValueError(f"tta: got a {kind}, accepted are a MaskRCNN or a .keras file of one")
    return AugmentedDetector(detector.model, augmentation)


class AugmentedDetector:
    """Runs a `MaskRCNN` on several views of each picture.

    Args:
        model: a `MaskRCNN`.
        augmentation: a `TestTimeAugmentation`.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), appendices A and B; merged as Detectron2 does it.
    """

    def __init__(self, model, augmentation):
        self.config = model.config
        self.views = augmentation.views(model.config)
        graph = model.predict_graph
        self.find = as_function(
            keras.Model(graph.input, {name: graph.output[name] for name in BOXES})
        )
        self.describe = as_function(model.make_detail_graph()) if model.detail_branches else None
        self.decode = model.keypoint_branch.decode if model.config.with_keypoints else None

    def detect(self, pictures):
        """`Detections` of each picture `(H, W, C)`, as `KerasDetector.detect`."""
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture):
        views = [_View(picture, *view) for view in self.views]
        parts = [view.to_picture(self._detections(view, self.find(view.inputs))) for view in views]
        merged = merge_views(parts, self.config.nms_threshold, self.config.max_detections)
        return self._with_details(merged, views)

    def _detections(self, view, outputs):
        outputs = {name: np.asarray(values) for name, values in outputs.items()}
        return as_detections(outputs, 0, view.size, view.original_size, self.config)

    def _with_details(self, found, views):
        """The same detections with masks and keypoints."""
        if self.describe is None:
            return found
        count, most = len(found), self.config.max_detections
        labels = np.full((1, most), -1, np.int32)
        labels[0, :count] = found.labels
        maps = [self._maps(view, found, labels) for view in views]
        outputs = {name: np.mean([of_view[name] for of_view in maps], axis=0) for name in maps[0]}
        boxes = views[0].padded_boxes(found, most)
        if "keypoints" in outputs:
            outputs["keypoints"] = np.asarray(self.decode(outputs["keypoints"][0], boxes[0]))[None]
        scores = np.pad(found.scores, (0, most - count))[None]
        outputs |= {"boxes": boxes, "labels": labels, "scores": scores, "num_detections": [count]}
        return self._detections(views[0], outputs)

    def _maps(self, view, found, labels):
        """Mask probabilities `(1, D, M, M)` and heatmaps `(1, D, m, m, P)` of one view, mirrored back."""
        boxes = view.padded_boxes(found, labels.shape[1])
        maps = self.describe({**view.inputs, "boxes": boxes, "labels": labels})
        maps = {name: np.asarray(values) for name, values in maps.items()}
        if view.mirrored:
            maps = {name: values[:, :, :, ::-1] for name, values in maps.items()}
            if "keypoints" in maps:
                c = self.config
                order = mirror_order(c.num_keypoints, c.keypoint_flip_pairs)
                maps["keypoints"] = maps["keypoints"][..., order]
        return maps


class _View:
    """One picture as the network sees it once.

    Attributes:
        inputs: of the network, a batch of one.
        size: `(height, width)` of the picture within the network image; `original_size` before it was resized.
    """

    def __init__(self, picture, config, mirrored):
        pixels = np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture
        self.inputs, self.size = prepare(pixels, config)
        self.mirrored, self.original_size = mirrored, picture.shape[:2]

    def to_picture(self, detections):
        """Detections in pixels of the view's picture, which may be mirrored, in those of the picture itself."""
        return dataclasses.replace(detections, boxes=self._mirror(detections.boxes))

    def padded_boxes(self, detections, most):
        """The boxes `(1, most, 4)` in the view's network image, zeros behind them."""
        scale = np.array(self.size, np.float64) / self.original_size
        boxes = self._mirror(detections.boxes.astype(np.float64)) * np.tile(scale[::-1], 2)
        return np.pad(boxes, ((0, most - len(boxes)), (0, 0)))[None].astype(np.float32)

    def _mirror(self, boxes):
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.T
        width = self.original_size[1]
        return np.stack([width - x2, y1, width - x1, y2], axis=1)


def merge_views(parts, iou_threshold, most):
    """One list of boxes from those of all views.

    Args:
        parts: `Detections` of each view, in the picture's pixels.
        iou_threshold: within a class, a box goes if its IoU with a better one that stays is greater.
        most: boxes to keep.

    Returns:
        `Detections`, best first.
    """
    joined = join_detections(parts, parts[0].image_size)
    joined = joined[np.argsort(-joined.scores, kind="stable")]
    return joined[suppress_detections(joined, iou_threshold)][:most]
