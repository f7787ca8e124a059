"""The normalisations between convolutions: what a norm's name stands for.

Names: B pictures, H x W cells, C channels.
"""

import keras
from keras import ops

from kmaskrcnn.backends import uses_tensorflow

FROZEN, BATCH, GROUP, SYNC = "frozen_batch_norm", "batch_norm", "group_norm", "sync_batch_norm"
NORMS = (FROZEN, BATCH, GROUP, SYNC, None)


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class FrozenBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation that never trains: always its moving statistics, whatever `trainable` says.

    A detector's batch of 1 or 2 pictures is too small for batch statistics, so Mask R-CNN keeps those
    of ImageNet. Setting `model.trainable = True` on the whole must not undo that, hence a class
    instead of a flag. Weights, their names and order are those of `keras.layers.BatchNormalization`.

    Reference: [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 3.1 and
    [Deep Residual Learning](https://arxiv.org/abs/1512.03385), appendix A.
    """

    @property
    def trainable(self):
        return False

    @trainable.setter
    def trainable(self, value):
        pass

    def call(self, inputs, training=None, mask=None):
        # Keras's own call goes through float32 in mixed precision; two element-wise operations in the
        # compute dtype are all that a fixed scale and shift need.
        scale, shift = scale_and_shift(self)
        return inputs * ops.cast(scale, inputs.dtype) + ops.cast(shift, inputs.dtype)


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation whose batch statistics and outputs TensorFlow computes in one operation.

    Keras's own takes some ten. Where the operation does not fit (other backends, float64, no gamma or no beta, another
    axis than the last of `(B, H, W, C)`, statistics over replicas, not training) this is Keras's layer. Weights,
    arguments and numbers are those of `keras.layers.BatchNormalization`, and its name, so that files saved with either
    load into the other.

    Reference: [Batch Normalization](https://arxiv.org/abs/1502.03167)
    """

    def call(self, inputs, training=None, mask=None):
        learns = training and self.trainable and uses_tensorflow() and mask is None
        if not learns or not self._fits(inputs):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            ops.cast(inputs, self.compute_dtype),
            ops.cast(self.gamma, "float32"),
            ops.cast(self.beta, "float32"),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation gives the variance of what the batch is a sample of; Keras keeps the batch's own.
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
        self._keep(self.moving_mean, mean)
        self._keep(self.moving_variance, variance * (tf.maximum(count - 1, 1) / count))
        return outputs

    def _fits(self, inputs):
        whole = self.gamma is not None and self.beta is not None
        whole = whole and not (
            self.synchronized or getattr(self, "renorm", False)
        )  # 3.12 has no renorm
        maps = len(inputs.shape) == 4 and self.axis in (-1, 3)
        return whole and maps and keras.backend.standardize_dtype(inputs.dtype) != "float64"

    def _keep(self, moving, of_batch):
        before = ops.cast(moving, of_batch.dtype)
        moving.assign(before * self.momentum + of_batch * (1.0 - self.momentum))


def scale_and_shift(norm):
    """Gives the `y = scale * x + shift` that a batch normalisation computes at inference.

    Args:
        norm: a built `keras.layers.BatchNormalization` over the last axis, C channels.

    Returns:
        `(scale, shift)`, both `(C,)` float32.
    """
    scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
    if norm.gamma is not None:
        scale = scale * norm.gamma
    shift = -norm.moving_mean * scale
    return scale, shift if norm.beta is None else shift + norm.beta


def make_norm(norm, epsilon, **kwargs):
    """Makes the Keras layer that a norm's name stands for; `None` for no norm.

    Args:
        norm: `"frozen_batch_norm"`, `"batch_norm"`, `"sync_batch_norm"` (statistics over all replicas
            of a distribution strategy; TensorFlow only), `"group_norm"` (32 groups) or `None`.
        epsilon: added to the variance.
        **kwargs: the layer's `name` and `dtype`.

    Raises:
        ValueError: for another name.
    """
    if norm == FROZEN:
        return FrozenBatchNormalization(epsilon=epsilon, **kwargs)
    # Momentum 0.9 as PyTorch's 0.1: detection schedules are short for Keras's 0.99.
    if norm == BATCH:
        return BatchNormalization(momentum=0.9, epsilon=epsilon, **kwargs)
    if norm == SYNC:
        return keras.layers.BatchNormalization(
            momentum=0.9, epsilon=epsilon, synchronized=True, **kwargs
        )
    if norm == GROUP:
        return keras.layers.GroupNormalization(groups=32, epsilon=epsilon, **kwargs)
    if norm is None:
        return None
    raise ValueError(f"norm={norm!r} is not known; accepted are {', '.join(map(repr, NORMS))}.")
