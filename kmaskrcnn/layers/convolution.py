"""A convolution with its normalisation: the brick of every trunk, pyramid and head here.

Names: k kernel size, H and W the input's height and width, C channels, F filters.
"""

import keras
from keras import ops

from kmaskrcnn.backends import uses_tensorflow
from kmaskrcnn.kernels import winograd
from kmaskrcnn.layers.grouped_convolution import grouped_convolution
from kmaskrcnn.layers.norms import FROZEN, GROUP, make_norm, scale_and_shift

IMPLEMENTATIONS = ("auto", "direct")


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class ConvNorm(keras.layers.Layer):
    """Convolution, normalisation and activation as one layer.

    Padding is explicit and symmetric, `(k - 1) // 2 * dilation_rate` on every side, so that the output
    has `ceil(H / strides)` rows. TensorFlow's "same" pads a stride of 2 at the bottom and right only,
    which shifts every feature by half a pixel against the published weights.

    Where batch norm is fixed (frozen, or not training) it is folded into the kernel at call time:
    `conv(x, kernel * scale) + shift` spares a pass over the activations and the kernel still gets its
    gradient. Folding happens in float32 and is then cast to the compute dtype.

    Args:
        filters: F.
        kernel_size: k, odd.
        strides: step of the window; with `dilation_rate > 1` it must be 1.
        norm: see `make_norm`. Its layer is the attribute `norm_layer`, named "norm", with the weights
            `gamma`, `beta`, `moving_mean`, `moving_variance` for the batch norms.
        norm_epsilon: added to the variance (1e-5 in PyTorch and Caffe trunks, 1e-3 in Keras's).
        activation: name of a Keras activation, or `None`.
        use_bias: by default only where there is no norm.
        dilation_rate: distance of the kernel's taps.
        groups: input and output channels fall into so many independent groups (ResNeXt).
        kernel_initializer: by default He normal on the fan-out, as in torchvision's ResNet.
        implementation: `"direct"`, or `"auto"`: by Winograd's algorithm where it was built (`docs/kernels.md`) and
            pays: on CPUs, k = 3, strides, dilation_rate and groups 1, C and F as `kernels.winograd.pays` says. A
            model sets it for all of its layers.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `(B, H, W, C)` floats.
        training: whether a trainable batch norm uses the batch's statistics.

    Returns:
        `(B, ceil(H / strides), ceil(W / strides), F)` in the compute dtype.

    Raises:
        ValueError: for an even kernel, an unknown norm or implementation, or strides and dilation together.

    Example:
        >>> ConvNorm(64, 7, strides=2, activation="relu")(images).shape
        (1, 400, 608, 64)
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        norm=FROZEN,
        norm_epsilon=1e-5,
        activation=None,
        use_bias=None,
        dilation_rate=1,
        groups=1,
        kernel_initializer=None,
        implementation="direct",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} is even; symmetric padding needs it odd.")
        if strides > 1 and dilation_rate > 1:
            raise ValueError(f"strides={strides} and dilation_rate={dilation_rate}: one must be 1.")
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.norm = norm
        self.norm_epsilon = norm_epsilon
        self.activation = activation
        self.use_bias = norm is None if use_bias is None else use_bias
        self.dilation_rate = dilation_rate
        self.groups = groups
        self.implementation = implementation
        self.kernel_initializer = keras.initializers.get(
            kernel_initializer
            or keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
        )
        self.norm_layer = make_norm(norm, norm_epsilon, name="norm", dtype=self.dtype_policy)
        self._activate = keras.activations.get(activation)

    @property
    def implementation(self):
        return self._implementation

    @implementation.setter
    def implementation(self, value):
        if value not in IMPLEMENTATIONS:
            raise ValueError(
                f"implementation={value!r} is not known; accepted are {IMPLEMENTATIONS}."
            )
        self._implementation = value
        # Winograd's operation, which TensorFlow alone has, has no XLA version.
        self.supports_jit = value == "direct" or not uses_tensorflow()

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.groups or self.filters % self.groups:
            raise ValueError(
                f"groups={self.groups} must divide the input's channels ({channels}) "
                f"and filters ({self.filters})."
            )
        shape = (self.kernel_size, self.kernel_size, channels // self.groups, self.filters)
        # Not autocast, so that kernel * scale is rounded to bfloat16 once, not twice.
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer=self.kernel_initializer, autocast=False
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.filters,), initializer="zeros", autocast=False
            )
        if self.norm_layer is not None:
            self.norm_layer.build(self.compute_output_shape(input_shape))

    def call(self, inputs, training=False):
        kernel, shift = self.kernel, self.bias if self.use_bias else None
        folded = self._is_fixed(training)
        if folded:
            scale, norm_shift = scale_and_shift(self.norm_layer)
            kernel = kernel * scale
            shift = norm_shift if shift is None else shift * scale + norm_shift
        if self._uses_winograd(kernel):
            ends_here = self.norm_layer is None or folded
            relu = ends_here and self.activation == "relu"
            exact = [None if x is None else ops.cast(x, "float32") for x in (kernel, shift)]
            outputs = winograd.winograd(inputs, *exact, relu)  # rounds its outputs alone
            if relu:
                return outputs
        else:
            outputs = self._convolve(inputs, ops.cast(kernel, self.compute_dtype))
            if shift is not None:
                outputs = add_bias(outputs, ops.cast(shift, self.compute_dtype))
        if self.norm_layer is not None and not folded:
            outputs = self._normalise(outputs, training)
        return self._activate(outputs)

    def _uses_winograd(self, kernel):
        if self.implementation == "direct" or not uses_tensorflow():
            return False
        plain = self.strides == self.dilation_rate == self.groups == 1
        pays = winograd.pays(kernel.shape, self.compute_dtype)
        return plain and pays and winograd.is_available()

    def _is_fixed(self, training):
        is_batch_norm = isinstance(self.norm_layer, keras.layers.BatchNormalization)
        return is_batch_norm and not (training and self.norm_layer.trainable)

    def _normalise(self, outputs, training):
        if self.norm == GROUP:
            return self.norm_layer(outputs)
        return self.norm_layer(outputs, training=training)

    def _convolve(self, inputs, kernel):
        padding = "same"
        if self.strides > 1:
            pad = (self.kernel_size - 1) // 2
            if pad:
                inputs = ops.pad(inputs, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
            padding = "valid"
        return grouped_convolution(
            inputs,
            kernel,
            self.groups,
            strides=self.strides,
            padding=padding,
            dilation_rate=self.dilation_rate,
        )

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape

        def reduced(size):
            return None if size is None else -(-size // self.strides)

        return (batch, reduced(height), reduced(width), self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "implementation": self.implementation,
        }


def add_bias(outputs, bias):
    """Adds `(F,)` to `(..., F)`, fast."""
    if keras.backend.backend() != "tensorflow":
        return outputs + bias
    import tensorflow as tf

    # Unlike an addition it becomes one operation with the convolution before it and the ReLU behind it.
    return tf.nn.bias_add(outputs, bias)
