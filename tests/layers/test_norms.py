"""Batch normalisation in its two forms, against Keras's own layer and NumPy."""

import keras
import numpy as np
import pytest
from convolution_oracle import randomise_norm
from layer_checks import check_layer

from kmaskrcnn.layers.norms import BatchNormalization, FrozenBatchNormalization


def test_frozen_batch_normalization_alone_equals_keras():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(2, 3, 3, 5)).astype("float32")
    frozen = FrozenBatchNormalization(epsilon=1e-3)
    check_layer(frozen, x)
    randomise_norm(frozen, generator)
    batch_norm = keras.layers.BatchNormalization(epsilon=1e-3)
    batch_norm.build(x.shape)
    batch_norm.set_weights(frozen.get_weights())
    expected = batch_norm(x, training=False)
    np.testing.assert_allclose(frozen(x, training=True), expected, rtol=1e-5, atol=1e-5)


def normalised(x, gamma, beta, epsilon):
    """What a batch norm makes of a batch in training, and the batch's mean and variance."""
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta, mean, variance


def learning_norm(channels, dtype="float32"):
    norm = BatchNormalization(momentum=0.9, epsilon=1e-3, dtype=dtype)
    norm.build((None, None, None, channels))
    randomise_norm(norm, np.random.default_rng(4))
    return norm


@pytest.mark.parametrize("shape", [(2, 5, 6, 8), (1, 1, 1, 3), (3, 1, 1, 16)])
@pytest.mark.parametrize(
    "dtype, rounding", [("float32", 0), ("mixed_bfloat16", 2**-8), ("float64", 0)]
)
def test_a_batch_is_normalised_and_remembered(shape, dtype, rounding):
    x = np.random.default_rng(5).normal(2, 3, size=shape).astype("float32")
    norm = learning_norm(shape[-1], dtype)
    inputs = keras.ops.cast(x, norm.compute_dtype)
    x = keras.ops.convert_to_numpy(keras.ops.cast(inputs, "float64"))
    gamma, beta, mean, variance = (keras.ops.convert_to_numpy(w) for w in norm.weights)
    wanted, of_batch, spread = normalised(x, gamma, beta, 1e-3)
    outputs = norm(inputs, training=True)
    assert outputs.dtype == norm.compute_dtype
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float64"))
    np.testing.assert_allclose(outputs, wanted, rtol=rounding, atol=1e-5)
    np.testing.assert_allclose(norm.moving_mean, 0.9 * mean + 0.1 * of_batch, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, 0.9 * variance + 0.1 * spread, rtol=1e-5)


def test_gradients_equal_those_of_kerass_layer():
    import tensorflow as tf

    generator = np.random.default_rng(6)
    x, upstream = (generator.normal(size=(2, 4, 5, 8)).astype("float32") for _ in range(2))
    found = []
    for kind in (BatchNormalization, keras.layers.BatchNormalization):
        norm = kind(epsilon=1e-3)
        norm.build(x.shape)
        randomise_norm(norm, np.random.default_rng(4))
        inputs = tf.Variable(x)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(norm(inputs, training=True) * upstream)
        found.append(tape.gradient(total, [inputs, norm.gamma.value, norm.beta.value]))
    for gradient, wanted in zip(*found):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_it_is_one_operation_and_as_keras_where_it_does_not_learn():
    import tensorflow as tf

    norm = learning_norm(8)
    x = np.random.default_rng(7).normal(size=(2, 4, 5, 8)).astype("float32")
    check_layer(norm, x)
    graph = tf.function(lambda x: norm(x, training=True)).get_concrete_function(x).graph
    assert "FusedBatchNormV3" in {operation.type for operation in graph.get_operations()}
    weights = norm.get_weights()
    plain = keras.layers.BatchNormalization(epsilon=1e-3)
    plain.build(x.shape)
    plain.set_weights(weights)
    np.testing.assert_array_equal(norm(x), plain(x))
    norm.trainable = False
    np.testing.assert_array_equal(norm(x, training=True), plain(x))
    for kept, before in zip(norm.get_weights(), weights):
        np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"axis": 1}])
def test_what_the_operation_does_not_fit_is_left_to_keras(options):
    x = np.random.default_rng(8).normal(size=(2, 4, 5, 8)).astype("float32")
    ours, plain = (
        kind(epsilon=1e-3, **options)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    )
    np.testing.assert_array_equal(ours(x, training=True), plain(x, training=True))
    np.testing.assert_array_equal(ours.moving_variance, plain.moving_variance)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_float16"])
def test_weights_and_maps_of_16_bits_are_taken(dtype):
    x = np.random.default_rng(9).normal(size=(2, 4, 5, 8)).astype("float32")
    norm = learning_norm(8, dtype)
    outputs = norm(keras.ops.cast(x, norm.compute_dtype), training=True)
    assert outputs.dtype == norm.compute_dtype
    gamma, beta = (
        keras.ops.convert_to_numpy(keras.ops.cast(w, "float32")) for w in norm.weights[:2]
    )
    wanted, *_ = normalised(x, gamma, beta, 1e-3)
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    # Maps and outputs are rounded to the format; statistics of rounded maps differ as little.
    np.testing.assert_allclose(outputs, wanted, rtol=0.02, atol=0.02)
