"""RoIAlign by the library's operation, with its gradient.

features       L levels, finest first or not   (B, H, W, C)
rois           (N, 4)  xyxy pixels of the image
image_indices  (N,)    the image of each region
level_indices  (N,)    its place among the L features
pooled         (N, P, P, C)
"""

import logging

from kmaskrcnn.kernels.library import has_gpu_kernels, load_library, once

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
ATTRIBUTES = ("strides", "pool_size", "sampling_ratio", "aligned")


def is_available() -> bool:
    """Whether the operation can run on the devices that TensorFlow sees; if not, why is logged once."""
    import tensorflow as tf

    library = load_library()
    if library is None or has_gpu_kernels(library) or not tf.config.list_physical_devices("GPU"):
        return library is not None
    # On the CPU beside a GPU it would have the feature maps copied to and fro.
    _say_that_gpu_kernels_are_missing()
    return False


@once
def _say_that_gpu_kernels_are_missing():
    logger.info(
        "RoIAlign runs on TensorFlow's own operations: the library has no kernels for GPUs; "
        "`kmaskrcnn build-kernels --cuda` builds them"
    )


def roi_align(features, rois, image_indices, level_indices, **options):
    """Average-pool regions from the levels of a pyramid, all levels in one launch.

    Gradients flow to the features, none to the regions, and are the same at every run.

    Args:
        features: list of `(B, H, W, C)` float32, bfloat16 or float16.
        rois: `(N, 4)` float32 xyxy pixels.
        image_indices: `(N,)` int32.
        level_indices: `(N,)` int32.
        **options: `strides` (pixels a cell, one for each of the features), `pool_size`, `sampling_ratio` (0: as many
            as a bin has cells) and `aligned`, as of `layers.RoIAlign`.

    Returns:
        `(N, P, P, C)`, of the features' dtype; the sums are float32.

    Raises:
        RuntimeError: the library was not built.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 3
    """
    library = load_library()
    if library is None:
        raise RuntimeError(
            "RoIAlign's kernels are not built; `kmaskrcnn build-kernels` builds them"
        )
    _register_gradients()
    return library.kmaskrcnn_roi_align(features, rois, image_indices, level_indices, **options)


@once
def _register_gradients():
    """Tell TensorFlow, not before the operation is used."""
    import tensorflow as tf

    @tf.RegisterGradient("KmaskrcnnRoiAlign")
    def gradient(op, pooled_gradient):
        *features, rois, images, levels = op.inputs
        options = {name: op.get_attr(name) for name in ATTRIBUTES}
        shapes = [tf.shape(feature) for feature in features]
        gradients = load_library().kmaskrcnn_roi_align_grad(
            pooled_gradient, shapes, rois, images, levels, **options
        )
        return [*gradients, None, None, None]

    @tf.RegisterGradient("KmaskrcnnRoiAlignGrad")
    def second_gradient(op, *gradients):
        """Pooling is linear: the gradient of its gradient is pooling itself."""
        _, *shapes, rois, images, levels = op.inputs
        options = {name: op.get_attr(name) for name in ATTRIBUTES}
        pooled = load_library().kmaskrcnn_roi_align(gradients, rois, images, levels, **options)
        return [pooled, *[None] * (len(shapes) + 3)]
