"""Which of a region's pixels belong to the object, with sharp edges: a coarse mask, looked at again where it is unsure.

P cells a side are pooled of each region: the coarse mask has P / 2, the final one 8 * P = M.
"""

import keras
from keras import ops

from kmaskrcnn import components
from kmaskrcnn.branches.mask import MaskBranch
from kmaskrcnn.layers.points import (
    DrawPoints,
    PointTargetLayer,
    ReplaceCells,
    SampleFeatures,
    SampleMasks,
    UncertainCells,
)

FINEST = "P2"  # the level whose features both heads see


class PointRendBranch(MaskBranch):
    """PointRend: the mask is predicted coarsely as a whole, and finely at chosen points.

    In training these are P * P random points, more of them where the coarse mask is uncertain. Predicting, the mask is
    doubled in size again and again, and each time its (2 * P)^2 most uncertain cells are predicted anew.

    Args:
        config: a `MaskRCNNConfig` with `mask_head="point_rend"`.

    Reference:
        [PointRend](https://arxiv.org/abs/1912.08193), sections 3 and 4.1
    """

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.point_head = components.make_point_head(config)
        self.draw = DrawPoints(config.mask_pool_size**2, name="draw_points")
        self.point_targets = PointTargetLayer(name="point_targets")
        self.fine = SampleFeatures(FINEST, name="fine_features")
        self.at_points = SampleMasks(name="coarse_at_points")
        self.enlarge = keras.layers.UpSampling2D(2, interpolation="bilinear", dtype="float32")
        self.uncertain = UncertainCells((2 * config.mask_pool_size) ** 2, name="uncertain_cells")
        self.replace = ReplaceCells(name="replace_cells")

    def maps(self, features, found):
        """The mask of each packed detection: as `MaskBranch.maps`."""
        coarse = self._coarse(features, found)
        logits = self._enlarged(self.select_class(coarse, found["labels"]))  # (N, P, P)
        for _ in range(3):  # (N, 2 * P, 2 * P), all of it anew; then 4 * P and 8 * P
            logits = self._enlarged(logits)
            cells, points = self.uncertain(logits)
            logits = self.replace(logits, cells, self._at(features, found, coarse, points))
        return ops.sigmoid(logits)

    def learn(self, features, positive, truth):
        """What both heads say of the positive regions, and what they should have said: as `MaskBranch.learn`."""
        coarse, labels = self._coarse(features, positive), positive["labels"]
        places = [positive[name] for name in ("rois", "image_indices", "matches")]
        objects = truth["boxes"], truth["masks"]
        mask_logits = self.select_class(coarse, labels)
        points = self.draw(mask_logits)
        return {
            "mask_labels": labels,  # (N,)
            "mask_logits": mask_logits,  # (N, P / 2, P / 2)
            "mask_targets": self.targets(*places, *objects),  # (N, P / 2, P / 2)
            "mask_point_logits": self._at(features, positive, coarse, points),  # (N, S)
            "mask_point_targets": self.point_targets(points, *places, *objects),  # (N, S)
        }

    def _coarse(self, features, regions):
        """All classes' coarse masks, `(N, P / 2, P / 2, Q)`."""
        return self.head(self.align(features, regions["rois"], regions["image_indices"]))

    def _at(self, features, regions, coarse, points):
        """The logits at points of each region, for its own class: `(N, S)`."""
        fine = self.fine(features, regions["rois"], regions["image_indices"], points)
        logits = self.point_head(fine, self.at_points(coarse, points))
        return self.select_class(logits, regions["labels"])

    def _enlarged(self, logits):
        """`(N, m, m)` -> `(N, 2 * m, 2 * m)`, bilinear."""
        return self.enlarge(logits[..., None])[..., 0]
