"""Grouped convolution that trains on every device: ResNeXt's, whose groups of channels do not see each other.

input   (B, H, W, G * c)    G groups of c channels
kernel  (k, k, c, G * f)    output channels g * f ... (g + 1) * f - 1 see the channels of group g alone
"""

from keras import ops

from kmaskrcnn.backends import uses_tensorflow

# Fewer channels leave the processor's vectors half empty: a few groups are then computed as one, with zeros between.
LEAST_CHANNELS = 16


def grouped_convolution(inputs, kernel, groups, **options):
    """Convolve each group of channels with its own kernels.

    TensorFlow has no gradient of it on CPUs, and Keras compiles it anew for each size of picture. There the groups
    are convolved one by one, those of few channels some at a time.

    Args:
        inputs: `(B, H, W, G * c)`.
        kernel: `(k, k, c, G * f)`.
        groups: G.
        **options: of `keras.ops.conv`: strides, padding, dilation_rate.

    Returns:
        `(B, H', W', G * f)`.

    Reference:
        [ResNeXt](https://arxiv.org/abs/1611.05431), section 3.3, figure 3c
    """
    if groups == 1 or not uses_tensorflow():
        return ops.conv(inputs, kernel, data_format="channels_last", **options)
    joined = _groups_at_once(groups, kernel.shape[2])
    pieces = groups // joined
    outputs = [
        ops.conv(x, _block_diagonal(k, joined), data_format="channels_last", **options)
        for x, k in zip(ops.split(inputs, pieces, axis=-1), ops.split(kernel, pieces, axis=-1))
    ]
    return ops.concatenate(outputs, axis=-1)


def _groups_at_once(groups, channels):
    """How many groups make a convolution of `LEAST_CHANNELS`."""
    joined = 1
    while joined * channels < LEAST_CHANNELS and groups % (2 * joined) == 0:
        joined *= 2
    return joined


def _block_diagonal(kernel, groups):
    """`(k, k, c, G * f)` -> `(k, k, G * c, G * f)`, zero where another group's channels come in."""
    height, width, channels, filters = kernel.shape
    kernel = ops.reshape(kernel, (height, width, 1, channels, groups, filters // groups))
    own = ops.reshape(ops.eye(groups, dtype=kernel.dtype), (groups, 1, groups, 1))
    return ops.reshape(kernel * own, (height, width, groups * channels, filters))
