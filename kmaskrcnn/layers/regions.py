"""Only what exists is computed: from padded lists of regions to the regions there are, and back.

    padded  (B, R, ...)  some of the R places of a picture are empty
    packed  (N, ...)     the regions of all pictures, one after the other

In a TensorFlow graph N is the number of regions that exist, 50 of 256 in a usual training step, and the mask
head costs a fifth. Where shapes must be fixed (XLA, ONNX) N is B * R and the empty places travel along.
"""

import math

import keras
from keras import ops

from kmaskrcnn.backends import uses_tensorflow


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class PackRegions(keras.layers.Layer):
    """Packs the places of padded lists that hold a region.

    Args:
        portable: keep the empty places, so that shapes are fixed.

    Call arguments:
        padded: dict of `(B, R, ...)`.
        valid: `(B, R)` bool.

    Returns:
        Dict of `(N, ...)`, with `image_indices (N,)` int32, the picture of each region, and `places (N,)` int32, where
        each stood among the B * R.
    """

    def __init__(self, portable=False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.portable = portable
        if uses_tensorflow(portable):
            self.supports_jit = False  # the number of regions is known only when the graph runs

    def call(self, padded, valid):
        count = ops.shape(valid)[1]
        places = ops.arange(ops.shape(valid)[0] * count, dtype="int32")
        if uses_tensorflow(self.portable):
            exists = ops.reshape(valid, (-1,))
            # One empty place travels where no region exists: TensorFlow's convolutions fail on empty batches.
            exists = exists | ((places == 0) & ~ops.any(exists))
            places = ops.cast(ops.nonzero(exists)[0], "int32")
        packed = {"places": places, "image_indices": places // count}
        for name, values in padded.items():
            packed[name] = ops.take(ops.reshape(values, (-1, *values.shape[2:])), places, axis=0)
        return packed

    def compute_output_spec(self, padded, valid):
        fixed = not uses_tensorflow(self.portable) and None not in valid.shape
        count = (math.prod(valid.shape) if fixed else None,)
        packed = {name: keras.KerasTensor(count, "int32") for name in ("places", "image_indices")}
        for name, values in padded.items():
            packed[name] = keras.KerasTensor((*count, *values.shape[2:]), values.dtype)
        return packed

    def get_config(self):
        return {**super().get_config(), "portable": self.portable}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class UnpackRegions(keras.layers.Layer):
    """Puts packed values back into padded lists, zeros where there was no region.

    Call arguments:
        packed: `(N, ...)`.
        places: `(N,)` int32, as `PackRegions` gave them.
        valid: `(B, R)` bool, as `PackRegions` took it.

    Returns:
        `(B, R, ...)`.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, packed, places, valid):
        batch, count = ops.shape(valid)
        shape = ops.shape(packed)[1:]
        flat = ops.scatter(places[:, None], packed, (batch * count, *shape))
        valid = ops.reshape(valid, (batch, count, *[1] * len(shape)))
        return ops.where(valid, ops.reshape(flat, (batch, count, *shape)), 0)

    def compute_output_spec(self, packed, places, valid):
        return keras.KerasTensor((*valid.shape, *packed.shape[1:]), packed.dtype)
