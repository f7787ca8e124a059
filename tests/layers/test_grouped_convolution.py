"""Grouped convolution, joined groups among them, and its gradient, against loops."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from convolution_oracle import convolve

from kmaskrcnn.layers.convolution import ConvNorm
from kmaskrcnn.layers.grouped_convolution import grouped_convolution


def gradients(image, kernel, cotangent, strides, dilation):
    """Of the sum of `cotangent` times the convolution: with respect to image and kernel, by loops."""
    k, _, size, filters = kernel.shape
    groups, pad = image.shape[2] // size, (k - 1) // 2 * dilation
    padded = np.pad(image, [(pad, pad), (pad, pad), (0, 0)])
    to_image, to_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for f in range(filters):
        group = f // (filters // groups)
        taken = slice(group * size, (group + 1) * size)
        for y, x, i, j in np.ndindex(*cotangent.shape[:2], k, k):
            row, column = y * strides + i * dilation, x * strides + j * dilation
            to_image[row, column, taken] += cotangent[y, x, f] * kernel[i, j, :, f]
            to_kernel[i, j, :, f] += cotangent[y, x, f] * padded[row, column, taken]
    return to_image[pad : pad + image.shape[0], pad : pad + image.shape[1]], to_kernel


@pytest.mark.parametrize(
    "groups, channels, filters, strides, dilation",
    [
        (8, 4, 4, 1, 1),  # four groups at once, twice
        (8, 4, 2, 2, 1),
        (2, 8, 8, 1, 2),  # both at once
        (3, 4, 2, 1, 1),  # an odd number is not joined
        (2, 16, 3, 2, 1),  # wide enough alone
    ],
)
def test_values_and_gradients_equal_loops(groups, channels, filters, strides, dilation):
    generator = np.random.default_rng(groups)
    image = generator.normal(size=(5, 6, groups * channels))
    kernel = generator.normal(size=(3, 3, channels, groups * filters))
    layer = ConvNorm(groups * filters, 3, strides, norm=None, dilation_rate=dilation, groups=groups)
    layer.build((1, *image.shape))
    layer.kernel.assign(kernel)
    inputs = tf.constant(image[None], "float32")
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
    expected = convolve(image, kernel, strides, dilation)
    np.testing.assert_allclose(outputs[0], expected, atol=1e-4)
    cotangent = generator.normal(size=expected.shape)
    got = tape.gradient(
        outputs, [inputs, layer.kernel.value], tf.constant(cotangent[None], "float32")
    )
    wanted = gradients(image, kernel, cotangent, strides, dilation)
    np.testing.assert_allclose(got[0][0], wanted[0], atol=1e-4)
    np.testing.assert_allclose(got[1], wanted[1], atol=1e-4)


def test_one_group_is_a_convolution():
    generator = np.random.default_rng(0)
    image, kernel = generator.normal(size=(4, 5, 3)), generator.normal(size=(3, 3, 3, 2))
    found = grouped_convolution(
        image[None].astype("float32"), kernel.astype("float32"), 1, padding="same"
    )
    np.testing.assert_allclose(found[0], convolve(image, kernel), atol=1e-5)


def test_a_group_does_not_see_the_others():
    layer = ConvNorm(32, 3, norm=None, groups=8)
    image = np.random.default_rng(1).normal(size=(1, 4, 4, 32)).astype("float32")
    other = image.copy()
    other[..., :4] = 0.0
    before, after = (keras.ops.convert_to_numpy(layer(x)) for x in (image, other))
    assert np.abs(before - after)[..., :4].max() > 0
    np.testing.assert_array_equal(before[..., 4:], after[..., 4:])
