"""Where the joints of an object are."""

import keras

from kmaskrcnn import components
from kmaskrcnn.layers.keypoint_head import KeypointDecoder, KeypointTargetLayer


class KeypointBranch(keras.layers.Layer):
    """The keypoint head on regions, and from its heatmaps the points.

    Args:
        config: a `MaskRCNNConfig`.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 5
    """

    output_name = "keypoints"

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.built = True  # the graphs call its layers, never itself
        self.num_keypoints = config.num_keypoints
        self.align = components.make_roi_layer(config, config.keypoint_pool_size, "keypoint_align")
        self.head = components.make_keypoint_head(config)
        self.decode = KeypointDecoder(config.keypoint_rule, name="decode_keypoints")
        self.targets = KeypointTargetLayer(config.heatmap_size, name="keypoint_targets")

    def truth_inputs(self):
        """What the train graph takes: `keypoints (B, G, P, 3)` x, y in pixels, visibility."""
        shape = (None, self.num_keypoints, 3)
        return {"keypoints": keras.Input(shape, name="keypoints", dtype="float32")}

    def predict(self, features, found):
        """The keypoints of each packed detection, `(N, P, 3)` x, y in pixels, score.

        Args:
            features: dict of level name -> `(B, h, w, C)`.
            found: packed `rois (N, 4)`, `image_indices (N,)`.
        """
        return self.decode(self.maps(features, found), found["rois"])

    def maps(self, features, found):
        """What views of one picture may be averaged by: heatmaps `(N, m, m, P)`, logits."""
        return self.head(self.align(features, found["rois"], found["image_indices"]))

    def learn(self, features, positive, truth):
        """What the head says of the positive regions, and what it should have said.

        Args:
            features: dict of level name -> `(B, h, w, C)`.
            positive: packed `rois (N, 4)`, `labels (N,)`, `matches (N,)`, `image_indices (N,)`.
            truth: dict with `keypoints (B, G, P, 3)`.
        """
        places = [positive[name] for name in ("rois", "image_indices", "matches")]
        return {
            "keypoint_labels": positive["labels"],  # (N,)
            "keypoint_logits": self.maps(features, positive),  # (N, m, m, P)
            "keypoint_cells": self.targets(*places, truth["keypoints"]),  # (N, P)
        }
