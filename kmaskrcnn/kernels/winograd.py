"""3x3 convolution by the library's operation, with its gradients.

maps       (B, H, W, C)
kernel     (3, 3, C, F)
convolved  (B, H, W, F)   stride 1, a rim of zeros around the maps
"""

from kmaskrcnn.kernels.library import load_library, once

CHANNEL_STEP = 16  # C and F are multiples of it
# The greatest C * F with which it pays. A kernel is transformed in float32 at each call; where a processor has
# instructions for bfloat16, the definition with 512 x 512 of them takes less than that (measured, docs/kernels.md).
MOST_CHANNELS = {"float32": None, "float16": None, "bfloat16": 256 * 256}


def is_available() -> bool:
    """Whether the operation can run where TensorFlow computes, which is on CPUs; if not built, that is logged once."""
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU") and load_library() is not None


def takes(kernel_shape) -> bool:
    """Whether there is a way for kernels of this shape: `(3, 3, C, F)`, C and F known and multiples of 16."""
    *sides, channels, filters = kernel_shape
    numbers = all(size and size % CHANNEL_STEP == 0 for size in (channels, filters))
    return sides == [3, 3] and numbers


def pays(kernel_shape, dtype) -> bool:
    """Whether kernels of this shape are worth it for maps of this dtype: usually, but for maps of a few cells."""
    if dtype not in MOST_CHANNELS or not takes(kernel_shape):
        return False
    most, channels, filters = MOST_CHANNELS[dtype], *kernel_shape[2:]
    return most is None or channels * filters <= most


def winograd(maps, kernel, bias=None, relu=False):
    """Convolve by Winograd's algorithm: 36 products for 16 outputs, where their definition has 144.

    The result differs from the definition's by rounding, some 1.5e-6 of the outputs' size, before it is rounded to the
    maps' dtype. Gradients flow to all three inputs and are the same at every run.

    Args:
        maps: `(B, H, W, C)` float32, bfloat16 or float16; arithmetic is in float32.
        kernel: `(3, 3, C, F)` float32; C and F are multiples of 16.
        bias: `(F,)` float32, to be added.
        relu: whether negative numbers become 0.

    Returns:
        `(B, H, W, F)` in the maps' dtype.

    Raises:
        RuntimeError: the library was not built.

    Reference:
        [Fast Algorithms for Convolutional Neural Networks](https://arxiv.org/abs/1509.09308)
    """
    import tensorflow as tf

    library = load_library()
    if library is None:
        raise RuntimeError("the kernels are not built; `kmaskrcnn build-kernels` builds them")
    _register_gradients()
    bias = tf.zeros(kernel.shape[-1:]) if bias is None else bias
    return library.kmaskrcnn_winograd(maps, kernel, bias, relu=relu)


def _turned(kernel):
    """The kernel that takes gradients of the output to gradients of the input: `(3, 3, F, C)`."""
    import tensorflow as tf

    return tf.transpose(tf.reverse(kernel, [0, 1]), (0, 1, 3, 2))


@once
def _register_gradients():
    """Tell TensorFlow, not before the operation is used."""
    import tensorflow as tf

    @tf.RegisterGradient("KmaskrcnnWinograd")
    def gradient(op, upstream):
        maps, kernel, _ = op.inputs
        if op.get_attr("relu"):
            upstream = tf.raw_ops.ReluGrad(gradients=upstream, features=op.outputs[0])
        return [
            winograd(upstream, _turned(kernel)),
            load_library().kmaskrcnn_winograd_kernel_grad(maps, upstream),
            tf.reduce_sum(tf.cast(upstream, tf.float32), (0, 1, 2)),
        ]

    @tf.RegisterGradient("KmaskrcnnWinogradKernelGrad")
    def second_gradient(op, upstream):
        """It is linear in the maps and in the gradient of the output."""
        maps, convolved_gradient = op.inputs
        return [winograd(convolved_gradient, _turned(upstream)), winograd(maps, upstream)]
