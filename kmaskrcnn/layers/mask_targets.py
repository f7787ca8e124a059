"""What the mask head should have said: the part of an object's mask that its region sees."""

import keras
from keras import ops

from kmaskrcnn.layers.roi_align import RoIAlign


def framed_masks(masks):
    """All objects' masks with one cell of background around each: `(B, G, H, W)` -> `(B * G, H + 2, W + 2, 1)`."""
    height, width = ops.shape(masks)[2:]
    masks = ops.cast(ops.reshape(masks, (-1, height, width, 1)), "float32")
    return ops.pad(masks, [[0, 0], [1, 1], [1, 1], [0, 0]])


def cells_in_frames(points, boxes, mask_shape):
    """Where points of the picture lie in the framed masks of their objects.

    Args:
        points: `(N, S, 2)` x, y in pixels.
        boxes: `(N, 4)`, the object's box of each row of points.
        mask_shape: H and W of the masks.

    Returns:
        `(N, S, 2)` x, y in cells of `framed_masks`.
    """
    corner, extent = boxes[:, None, :2], ops.maximum(boxes[:, None, 2:] - boxes[:, None, :2], 1e-4)
    cells = ops.stack([ops.cast(size, "float32") for size in (mask_shape[1], mask_shape[0])])
    return (points - corner) / extent * cells + 1.0


# A cell that the object's outline halves is object, whichever way the last bit of its coordinates was rounded.
TIE = 1e-3


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
        `(N, M, M)` float32, 1 where the object covers half of a cell or more, else 0.

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
        objects = image_indices * ops.shape(boxes)[1] + matches
        boxes = ops.take(ops.reshape(boxes, (-1, 4)), objects, axis=0)
        corners = ops.reshape(rois, (-1, 2, 2))
        frames = ops.reshape(cells_in_frames(corners, boxes, ops.shape(masks)[2:]), (-1, 4))
        pooled = self.align({"P0": framed_masks(masks)}, frames, objects)
        return ops.cast(pooled[..., 0] >= 0.5 - TIE, "float32")

    def compute_output_spec(self, rois, *_):
        shape = (rois.shape[0], self.mask_size, self.mask_size)
        return keras.KerasTensor(shape, "float32")

    def get_config(self):
        own = {"mask_size": self.mask_size, "implementation": self.implementation}
        return {**super().get_config(), **own}
