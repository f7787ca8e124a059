"""What a region is, and where exactly it lies."""

import keras
from keras import ops

from kmaskrcnn import components


class BoxBranch(keras.layers.Layer):
    """The box head on every region, and from its answers the detections.

    Args:
        config: a `MaskRCNNConfig`.
        stage5: what every region passes through before the head: the trunk's fifth stage in a C4 model, or None.

    Reference:
        [Fast R-CNN](https://arxiv.org/abs/1504.08083), section 2
    """

    def __init__(self, config, stage5=None, **kwargs):
        super().__init__(**kwargs)
        self.built = True  # the graphs call its layers, never itself
        self.stage5 = stage5
        self.align = components.make_roi_layer(config, config.box_pool_size, "box_align")
        self.head = components.make_box_head(config)
        self.targets = components.make_detection_targets(config)
        self.detection = components.make_detection(config)

    def predict(self, features, proposals, image_sizes):
        """The objects in each picture.

        Args:
            features: dict of level name -> `(B, h, w, C)`.
            proposals: `(B, R, 4)` xyxy pixels, zeros pad.
            image_sizes: `(B, 2)` height and width.

        Returns:
            Dict of `boxes (B, D, 4)`, `labels (B, D)`, `scores (B, D)`, `num_detections (B,)`.
        """
        class_logits, box_deltas = self._answers(features, proposals)
        return self.detection(proposals, class_logits, box_deltas, image_sizes)

    def learn(self, features, proposals, truth):
        """Draw regions, and say what the head makes of them.

        Args:
            features: dict of level name -> `(B, h, w, C)`.
            proposals: `(B, R, 4)` xyxy pixels, zeros pad.
            truth: dict of `boxes (B, G, 4)`, `labels (B, G)`, `is_crowd (B, G)`.

        Returns:
            The drawn regions, see `DetectionTargetLayer`, for the other branches; and the outputs of the train graph.
        """
        regions = self.targets(
            proposals, **{name: truth[name] for name in ("boxes", "labels", "is_crowd")}
        )
        class_logits, box_deltas = self._answers(features, regions["rois"])
        return regions, answers_and_targets(class_logits, box_deltas, regions)

    def _answers(self, features, rois):
        pooled = self.align(features, rois)
        return self.head(pooled if self.stage5 is None else self.stage5(pooled))


def answers_and_targets(class_logits, box_deltas, regions, stage=""):
    """What a box head gives to the train graph's outputs; their names end in `stage`."""
    return {
        f"class_logits{stage}": class_logits,  # (B * R, K + 1)
        f"box_deltas{stage}": box_deltas,  # (B * R, K, 4), or (B * R, 1, 4) for all classes
        f"region_rois{stage}": ops.reshape(regions["rois"], (-1, 4)),  # (B * R, 4)
        f"region_labels{stage}": ops.reshape(regions["labels"], (-1,)),  # (B * R,)
        f"region_deltas{stage}": ops.reshape(regions["deltas"], (-1, 4)),  # (B * R, 4)
    }
