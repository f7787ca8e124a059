"""What the mask head should have said: the part of an object's mask that its region sees."""

import keras
from keras import ops

from kmaskrcnn.layers.roi_align import RoIAlign


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class MaskTargetLayer(keras.layers.Layer):
    """Cuts each region's mask target out of its object's mask.

    The mask lies in its box's frame, so the region is moved into that frame first; what a region shows beyond
    the box is not object.

    Args:
        mask_size: M, height and width of the targets.
        implementation: of `RoIAlign`.

    Call arguments:
        rois: `(N, 4)` xyxy pixels.
        image_indices: `(N,)` int32, the picture of each region.
        matches: `(N,)` int32, its object among the picture's G.
        boxes: `(B, G, 4)` ground truth.
        masks: `(B, G, H, W)` uint8, in the boxes' frames.

    Returns:
        `(N, M, M)` float32, 0 or 1.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 3.1
    """

    def __init__(self, mask_size=28, implementation="auto", **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        self.mask_size = mask_size
        self.implementation = implementation
        self.align = RoIAlign(
            mask_size, implementation=implementation, levels=("P0",), dtype="float32", name="align"
        )
        self.supports_jit = self.align.supports_jit

    def build(self, *_):
        self.align.built = True  # it has no weights

    def call(self, rois, image_indices, matches, boxes, masks):
        height, width = ops.shape(masks)[2:]
        objects = image_indices * ops.shape(boxes)[1] + matches
        boxes = ops.take(ops.reshape(boxes, (-1, 4)), objects, axis=0)
        origin = ops.concatenate([boxes[:, :2], boxes[:, :2]], axis=1)
        extent = ops.maximum(boxes[:, 2:] - boxes[:, :2], 1e-4)
        cells = ops.stack([ops.cast(size, "float32") for size in (width, height, width, height)])
        # Within the box's frame, moved by the one cell of background that is put around the mask.
        frames = (rois - origin) / ops.concatenate([extent, extent], axis=1) * cells + 1.0
        masks = ops.reshape(masks, (-1, height, width, 1))
        masks = ops.pad(
            ops.cast(ops.take(masks, objects, axis=0), "float32"), [[0, 0], [1, 1], [1, 1], [0, 0]]
        )
        pooled = self.align({"P0": masks}, frames, ops.arange(ops.shape(objects)[0], dtype="int32"))
        return ops.cast(pooled[..., 0] >= 0.5, "float32")

    def get_config(self):
        own = {"mask_size": self.mask_size, "implementation": self.implementation}
        return {**super().get_config(), **own}
