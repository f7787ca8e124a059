import subprocess
import sys

import keras
import numpy as np
import pytest
from convolution_oracle import convolve, randomise_norm
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_checks import check_layer

from kmaskrcnn.layers.convolution import ConvNorm
from kmaskrcnn.layers.norms import NORMS


@pytest.mark.parametrize("norm", NORMS)
def test_layer_promises(norm):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 32)).astype("float32")
    layer = ConvNorm(64, 3, strides=2, norm=norm, activation="relu")
    outputs = check_layer(layer, x, free_axes=(1, 2))
    assert outputs.shape == (2, 3, 3, 64)
    assert outputs.min() == 0 < outputs.max()


@pytest.mark.parametrize("k, strides, dilation, groups", [
    (1, 1, 1, 1), (1, 2, 1, 1), (3, 1, 1, 1), (3, 2, 1, 1), (7, 2, 1, 1), (3, 1, 2, 1), (3, 2, 1, 2),
])  # fmt: skip
def test_equals_loops(k, strides, dilation, groups):
    generator = np.random.default_rng(k)
    x = generator.normal(size=(1, 7, 6, 4)).astype("float32")
    layer = ConvNorm(6, k, strides, norm=None, dilation_rate=dilation, groups=groups)
    layer.build(x.shape)
    layer.bias.assign(np.arange(6.0))
    expected = convolve(x[0], layer.kernel.numpy(), strides, dilation) + np.arange(6.0)
    np.testing.assert_allclose(layer(x)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "batch_norm"])
@pytest.mark.parametrize("use_bias", [False, True])
def test_folding_equals_convolution_then_batch_norm(norm, use_bias):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(2, 6, 6, 5)).astype("float32")
    layer = ConvNorm(8, 3, norm=norm, norm_epsilon=1e-3, use_bias=use_bias, activation="relu")
    layer.build(x.shape)
    randomise_norm(layer.norm_layer, generator)
    conv = keras.layers.Conv2D(8, 3, padding="same", use_bias=use_bias)
    conv.build(x.shape)
    conv.kernel.assign(layer.kernel)
    if use_bias:
        layer.bias.assign(np.arange(8.0))
        conv.bias.assign(np.arange(8.0))
    batch_norm = keras.layers.BatchNormalization(epsilon=1e-3)
    batch_norm.build((None, None, None, 8))
    batch_norm.set_weights(
        [getattr(layer.norm_layer, n) for n in ("gamma", "beta", "moving_mean", "moving_variance")]
    )
    expected = np.maximum(batch_norm(conv(x), training=False), 0)
    np.testing.assert_allclose(layer(x, training=False), expected, rtol=1e-5, atol=1e-5)


def test_training_uses_batch_statistics_only_where_they_train():
    x = np.random.default_rng(2).normal(3, 2, size=(4, 5, 5, 3)).astype("float32")
    trained = ConvNorm(4, 1, norm="batch_norm")
    outputs = keras.ops.convert_to_numpy(trained(x, training=True))
    np.testing.assert_allclose(outputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std((0, 1, 2)), 1, atol=1e-3)
    assert np.abs(trained.norm_layer.moving_mean).max() > 0
    # A frozen stage, and a norm that is frozen by kind, give in training what they give at inference.
    trained.trainable = False
    frozen = ConvNorm(4, 1)
    for layer in (trained, frozen):
        np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))


def test_frozen_norm_never_trains_and_leaves_the_kernel_its_gradient():
    import tensorflow as tf

    layer = ConvNorm(4, 3)
    layer.build((None, None, None, 2))
    layer.trainable = True
    assert [weight.name for weight in layer.trainable_weights] == ["kernel"]
    names = [weight.path.split("/")[-2:] for weight in layer.non_trainable_weights]
    assert names == [["norm", n] for n in ("gamma", "beta", "moving_mean", "moving_variance")]
    layer.norm_layer.gamma.assign([1.0, 2.0, 3.0, 4.0])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(tf.ones((1, 1, 1, 2))), axis=(0, 1, 2))
    # One cell of ones: the centre tap's gradient is gamma / sqrt(1 + epsilon).
    gradient = tape.gradient(total, layer.kernel.value).numpy()
    scale = np.array([1, 2, 3, 4]) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(gradient[1, 1], [scale, scale], rtol=1e-6)


def test_group_norm_equals_numpy():
    """The statistics of each picture and each of 32 groups of channels, over all its cells."""
    generator = np.random.default_rng(5)
    x = generator.normal(2, 3, size=(2, 3, 4, 5)).astype("float32")
    layer = ConvNorm(64, 1, norm="group_norm", norm_epsilon=1e-3)
    layer.build(x.shape)
    gamma, beta = generator.normal(size=(2, 64))
    layer.norm_layer.gamma.assign(gamma)
    layer.norm_layer.beta.assign(beta)
    y = (x.astype("float64") @ layer.kernel.numpy()[0, 0]).reshape(2, 12, 32, 2)
    for picture, group in np.ndindex(2, 32):
        values = y[picture, :, group]
        spread = np.sqrt(((values - values.mean()) ** 2).mean() + 1e-3)
        y[picture, :, group] = (values - values.mean()) / spread
    expected = y.reshape(2, 3, 4, 64) * gamma + beta
    for training in (True, False):
        np.testing.assert_allclose(layer(x, training=training), expected, atol=1e-4)


SYNCHRONISED = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from kmaskrcnn.layers.convolution import ConvNorm
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.random.default_rng(0).normal(3, 2, size=(2, 4, 5, 3)).astype("float32")
for norm in ("sync_batch_norm", "batch_norm"):
    with strategy.scope():
        layer = ConvNorm(2, 1, norm=norm)
        layer.build(x.shape)
        layer.kernel.assign(np.reshape([1.0, 0, 0, 1, 0, 0], (1, 1, 3, 2)))
    parts = strategy.experimental_distribute_values_from_function(
        lambda replica: tf.constant(x[replica.replica_id_in_sync_group][None]))
    found = strategy.run(lambda part: layer(part, training=True), args=(parts,))
    found = np.concatenate([np.array(part) for part in strategy.experimental_local_results(found)])
    seen = x[..., :2].astype("float64")
    axes = (0, 1, 2) if norm == "sync_batch_norm" else (1, 2)  # both pictures, or each its own
    mean, variance = seen.mean(axes, keepdims=True), seen.var(axes, keepdims=True)
    np.testing.assert_allclose(found, (seen - mean) / np.sqrt(variance + 1e-5), atol=1e-4)
    print(norm, "agrees")
"""


@pytest.mark.slow
def test_synchronised_statistics_are_those_of_all_devices():
    """Two devices with a picture each; they must be set up before TensorFlow starts."""
    done = subprocess.run([sys.executable, "-c", SYNCHRONISED], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == [
        "sync_batch_norm agrees",
        "batch_norm agrees",
    ], done.stderr


def test_mixed_bfloat16_folds_in_float32():
    generator = np.random.default_rng(4)
    exact, mixed = ConvNorm(32, 1), ConvNorm(32, 1, dtype="mixed_bfloat16")
    for layer in (exact, mixed):
        layer.build((None, None, None, 16))
    randomise_norm(exact.norm_layer, generator)
    for name in ("beta", "moving_mean"):
        getattr(exact.norm_layer, name).assign(np.zeros(32))
    mixed.set_weights(exact.get_weights())
    # One-hot pixels give the folded kernel back: rounded to bfloat16 once, not each factor before.
    pixels = np.eye(16, dtype="float32").reshape((1, 4, 4, 16))
    outputs = mixed(pixels)
    assert outputs.dtype == "bfloat16"
    expected = keras.ops.cast(exact(pixels), "bfloat16")
    np.testing.assert_array_equal(outputs, expected)


def test_initial_kernel_has_torchvisions_spread():
    layer = ConvNorm(256, 3)
    layer.build((None, None, None, 64))
    np.testing.assert_allclose(layer.kernel.numpy().std(), np.sqrt(2 / (9 * 256)), rtol=0.01)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 5, 7]), st.integers(1, 4))
def test_output_size_is_the_input_over_the_stride_rounded_up(height, width, k, strides):
    layer = ConvNorm(2, k, strides=strides)
    shape = layer(np.zeros((1, height, width, 1), "float32")).shape
    assert tuple(shape) == (1, -(-height // strides), -(-width // strides), 2)
    assert layer.compute_output_shape((1, height, width, 1)) == tuple(shape)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kernel_size": 2}, "kernel_size=2 is even"),
        ({"kernel_size": 3, "strides": 2, "dilation_rate": 2}, "strides=2 and dilation_rate=2"),
        ({"kernel_size": 3, "norm": "layer_norm"}, "norm='layer_norm' is not known"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNorm(4, **arguments)


def test_wrong_groups_are_named():
    with pytest.raises(ValueError, match=r"groups=3 must divide .* \(4\)"):
        ConvNorm(6, 3, groups=3)(np.zeros((1, 4, 4, 4), "float32"))
