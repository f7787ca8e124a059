"""What a region is, and where it lies, said by several heads: each looks at the boxes that the one before refined."""

import keras

from kmaskrcnn import components
from kmaskrcnn.branches.box import answers_and_targets
from kmaskrcnn.layers.cascade import RefineRegions, average_logits, scale_gradient

TRUTH = ("boxes", "labels", "is_crowd")


class CascadeBoxBranch(keras.layers.Layer):
    """Box heads one after the other, each trained on better boxes and with a higher threshold than the one before.

    A region is drawn once, for the first head, and followed through all of them. Losses of all heads are added; of the
    features' gradient each head gives its share, as in Detectron2. Detections have the mean of all heads'
    probabilities and the last head's boxes.

    Args:
        config: a `MaskRCNNConfig` with `cascade_thresholds`.

    Reference:
        [Cascade R-CNN](https://arxiv.org/abs/1712.00726), section 4
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.built = True  # the graphs call its layers, never itself
        self.stages = tuple(config.box_stages)
        first, *later = configs = list(config.box_stages.values())
        self.align = components.make_roi_layer(config, config.box_pool_size, "box_align")
        self.heads = [
            components.make_box_head(c, f"box_head{stage}")
            for stage, c in zip(self.stages, configs)
        ]
        self.targets = components.make_detection_targets(first)
        self.relabel = [
            components.make_relabel(c, f"relabel{stage}")
            for stage, c in zip(self.stages[1:], later)
        ]
        self.refine = [
            RefineRegions(c.box_variance, name=f"refine{stage}")
            for stage, c in zip(self.stages[:-1], configs)
        ]
        self.detection = components.make_detection(configs[-1])

    def predict(self, features, proposals, image_sizes):
        """The objects in each picture: as `BoxBranch.predict`."""
        rois, class_logits, box_deltas = self._run(features, proposals, image_sizes)
        return self.detection(rois[-1], average_logits(class_logits), box_deltas[-1], image_sizes)

    def learn(self, features, proposals, truth):
        """Draw regions, and say what each head makes of them.

        Args:
            features: dict of level name -> `(B, h, w, C)`.
            proposals: `(B, R, 4)` xyxy pixels, zeros pad.
            truth: dict of `boxes (B, G, 4)`, `labels (B, G)`, `is_crowd (B, G)`, `image_sizes (B, 2)`.

        Returns:
            The drawn regions, as the first head sees them, for the other branches; and the outputs of the train graph.
        """
        objects = {name: truth[name] for name in TRUTH}
        drawn = self.targets(proposals, **objects)
        rois, *answers = self._run(
            features, drawn["rois"], truth["image_sizes"], gradient=1 / len(self.heads)
        )
        regions = [drawn] + [
            relabel(moved, **objects) for relabel, moved in zip(self.relabel, rois[1:])
        ]
        outputs = {}
        for *answer, of_stage, stage in zip(*answers, regions, self.stages):
            outputs.update(answers_and_targets(*answer, of_stage, stage))
        return drawn, outputs

    def _run(self, features, rois, image_sizes, gradient=1.0):
        """All heads: lists of the rois that each saw, its class logits and its box deltas."""
        seen, class_logits, box_deltas = [rois], [], []
        for number, head in enumerate(self.heads):
            if number > 0:
                seen.append(self.refine[number - 1](seen[-1], box_deltas[-1], image_sizes))
            pooled = self.align(features, seen[-1])
            logits, deltas = head(pooled if gradient == 1 else scale_gradient(pooled, gradient))
            class_logits.append(logits)
            box_deltas.append(deltas)
        return seen, class_logits, box_deltas
