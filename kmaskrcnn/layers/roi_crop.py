"""The RoIAlign of matterport's Mask R-CNN: what `crop_and_resize` does by itself.

    pixels   the picture's are numbered 0 ... H - 1, a map's cells 0 ... h - 1; the last pixel lies on the last cell
    box      from its first pixel to its last
    samples  one a bin, P along an axis, the first at the box's first pixel and the last at its last

    y = (y1 + i * (y2 - 1 - y1) / (P - 1)) * (h - 1) / (H - 1)        x likewise

No sample lies at a bin's centre, but weights that were trained so know it no other way.
"""

import keras
from keras import ops

from kmaskrcnn.layers.roi_align import CANONICAL_LEVEL, CANONICAL_SIZE, RoIAlign
from kmaskrcnn.layers.rpn import stride_of


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class RoICrop(RoIAlign):
    """Samples every region from its first pixel to its last, once a bin.

    Args:
        pool_size: P, 2 or more.
        implementation: as for `RoIAlign`, without `"kernel"`, which is RoIAlign's own.
        levels: as for `RoIAlign`.

    Call arguments:
        features, rois, image_indices: as for `RoIAlign`; maps whose sides are whole shares of the picture's.

    Returns:
        `(N, P, P, C)`, N = B * R for `(B, R, 4)`.

    Raises:
        ValueError: if `pool_size` is 1, or the implementation not known.

    Reference:
        [matterport/Mask_RCNN](https://github.com/matterport/Mask_RCNN), `PyramidROIAlign`
    """

    def __init__(
        self, pool_size=7, implementation="auto", levels=("P2", "P3", "P4", "P5"), **kwargs
    ):
        if pool_size < 2:
            raise ValueError(f"pool_size: got {pool_size}, accepted is 2 or more")
        if implementation == "kernel":
            accepted = "'auto', 'crop_and_resize' and 'gather'"
            raise ValueError(f"implementation: got 'kernel', accepted for crops are {accepted}")
        super().__init__(pool_size, 1, implementation=implementation, levels=levels, **kwargs)

    def _uses_kernel(self):
        return False

    def _first_and_step(self, start, end, size, stride, ratio):
        cells_a_pixel = (size - 1.0) / (size * stride - 1.0)
        step = (end - 1.0 - start) * cells_a_pixel / (self.pool_size - 1.0)
        return start * cells_a_pixel, step

    def _levels_of(self, rois, features):
        """The paper's rule with `round` instead of `floor`, of sides that are shares of the last pixel's number."""
        finest = self.levels[0]
        height, width = (
            ops.cast(side * stride_of(finest), "float32")
            for side in ops.shape(features[finest])[1:3]
        )
        sides = ops.maximum(rois[:, 2:] - rois[:, :2] - 1.0, 0.0)
        share = sides[:, 0] / (width - 1.0) * sides[:, 1] / (height - 1.0)
        scale = ops.sqrt(share) * ops.sqrt(height * width)
        # 1e-8 keeps the logarithm finite for padding.
        level = CANONICAL_LEVEL + ops.round(ops.log2(scale / CANONICAL_SIZE + 1e-8))
        numbers = [int(name[1:]) for name in self.levels]
        return ops.cast(ops.clip(level, min(numbers), max(numbers)), "int32")

    def get_config(self):
        config = super().get_config()
        for name in ("sampling_ratio", "aligned", "reduce"):
            del config[name]
        return config
