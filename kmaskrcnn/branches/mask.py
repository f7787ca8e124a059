"""Which of a region's pixels belong to the object."""

import keras
from keras import ops

from kmaskrcnn import components
from kmaskrcnn.layers.heads import SelectClass


class MaskBranch(keras.layers.Layer):
    """The mask head on regions whose class is known.

    Args:
        config: a `MaskRCNNConfig`.
        stage5: as of `BoxBranch`, with the same weights; a positive region passes through it once for each branch.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 3
    """

    output_name = "masks"

    def __init__(self, config, stage5=None, **kwargs):
        super().__init__(**kwargs)
        self.built = True  # the graphs call its layers, never itself
        self.stage5 = stage5
        self.classes_compete = config.mask_activation == "softmax"
        self.align = components.make_mask_roi_layer(config)
        self.head = components.make_mask_head(config)
        self.select_class = SelectClass(name="select_class")
        self.targets = components.make_mask_targets(config)

    def truth_inputs(self):
        """What the train graph takes: `masks (B, G, H, W)` uint8 in the boxes' frames."""
        return {"masks": keras.Input((None, None, None), name="masks", dtype="uint8")}

    def predict(self, features, found):
        """The mask of each packed detection, `(N, M, M)` probabilities: `maps` already are."""
        return self.maps(features, found)

    def maps(self, features, found):
        """What views of one picture may be averaged by: probabilities `(N, M, M)`.

        Args:
            features: dict of level name -> `(B, h, w, C)`.
            found: packed `rois (N, 4)`, `labels (N,)`, `image_indices (N,)`.
        """
        logits = self._logits(features, found)
        if self.classes_compete:
            return self.select_class(ops.softmax(logits), found["labels"])
        return ops.sigmoid(logits)

    def learn(self, features, positive, truth):
        """What the head says of the positive regions, and what it should have said.

        Args:
            features: dict of level name -> `(B, h, w, C)`.
            positive: packed `rois (N, 4)`, `labels (N,)`, `matches (N,)`, `image_indices (N,)`.
            truth: dict of `boxes (B, G, 4)` and `masks (B, G, H, W)`.
        """
        places = [positive[name] for name in ("rois", "image_indices", "matches")]
        return {
            "mask_labels": positive["labels"],  # (N,)
            "mask_logits": self._logits(features, positive),  # (N, M, M); softmax: (N, M, M, K + 1)
            "mask_targets": self.targets(*places, truth["boxes"], truth["masks"]),  # (N, M, M)
        }

    def _logits(self, features, regions):
        """Each region's mask for its own class; those of all classes where they compete."""
        pooled = self.align(features, regions["rois"], regions["image_indices"])
        pooled = pooled if self.stage5 is None else self.stage5(pooled)
        return self.head(pooled, None if self.classes_compete else regions["labels"])
