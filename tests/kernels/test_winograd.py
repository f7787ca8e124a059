"""Convolution by Winograd's algorithm: equal to loops, with its gradients, and only where it may be."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from convolution_oracle import convolve
from layer_checks import check_layer
from tiny import batch, tiny_backbone, tiny_config, tiny_model

from kmaskrcnn.kernels.winograd import pays, takes, winograd
from kmaskrcnn.layers.convolution import ConvNorm
from kmaskrcnn.model import MaskRCNN


def draw(shape, filters, seed=0):
    """Maps, a kernel, a bias and an upstream gradient, whose outputs are of size 1."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=shape)
    kernel = rng.normal(0, (9 * shape[-1]) ** -0.5, (3, 3, shape[-1], filters))
    bias, upstream = rng.normal(size=filters), rng.normal(size=(*shape[:-1], filters))
    return [x.astype("float32") for x in (maps, kernel, bias, upstream)]


def expected(maps, kernel, bias):
    pictures = [convolve(picture, kernel.astype("float64")) for picture in maps]
    return np.reshape(pictures, (*maps.shape[:-1], kernel.shape[-1])) + bias


def expected_gradients(maps, kernel, upstream):
    """Of the maps and the kernel, window after window."""
    padded = np.pad(maps.astype("float64"), [(0, 0), (1, 1), (1, 1), (0, 0)])
    of_maps, of_kernel = np.zeros_like(padded), np.zeros(kernel.shape)
    for b, y, x, i, j in np.ndindex(*maps.shape[:3], 3, 3):
        of_maps[b, y + i, x + j] += kernel[i, j] @ upstream[b, y, x].astype("float64")
        of_kernel[i, j] += np.outer(padded[b, y + i, x + j], upstream[b, y, x])
    return of_maps[:, 1:-1, 1:-1], of_kernel


def gradients_of(maps, kernel, bias, upstream, relu=False):
    inputs = [tf.convert_to_tensor(x) for x in (maps, kernel, bias)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        convolved = winograd(*inputs, relu=relu)
    return convolved, tape.gradient(convolved, inputs, tf.convert_to_tensor(upstream))


SHAPES = [
    ((1, 1, 1, 16), 16),  # less than a tile
    ((2, 4, 4, 16), 48),  # one tile, and panels that are not full with AVX-512
    ((1, 5, 3, 48), 16),
    ((3, 7, 10, 32), 32),
    ((7, 6, 5, 16), 16),  # maps in several rows, the last of them not full
    ((1, 2, 9, 272), 16),  # more channels than are added up at once
    ((2, 41, 37, 16), 16),  # several blocks of tiles
    ((3, 35, 33, 16), 16),  # large maps, each with tiles of its own
]


@pytest.mark.parametrize("shape, filters", SHAPES)
def test_equals_the_loop(kernels, shape, filters):
    maps, kernel, bias, _ = draw(shape, filters)
    wanted = expected(maps, kernel, bias)
    np.testing.assert_allclose(winograd(maps, kernel, bias), wanted, rtol=0, atol=2e-5)
    rectified = winograd(maps, kernel, bias, relu=True)
    np.testing.assert_allclose(rectified, np.maximum(wanted, 0), rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape, filters", SHAPES)
def test_gradients_equal_the_loop(kernels, shape, filters):
    maps, kernel, bias, upstream = draw(shape, filters, seed=1)
    _, gradients = gradients_of(maps, kernel, bias, upstream)
    of_maps, of_kernel = expected_gradients(maps, kernel, upstream)
    np.testing.assert_allclose(gradients[0], of_maps, rtol=0, atol=2e-5)
    spread = np.sqrt(np.prod(shape[:3]))  # so many products make one number
    np.testing.assert_allclose(gradients[1], of_kernel, rtol=0, atol=2e-5 * spread)
    np.testing.assert_allclose(gradients[2], upstream.sum((0, 1, 2)), rtol=1e-5, atol=1e-4)


ROUNDING = {"bfloat16": 2**-8, "float16": 2**-11}  # half the distance of two neighbours near 1


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape, filters", SHAPES[:5])
def test_maps_of_16_bits_are_rounded_once(kernels, dtype, shape, filters):
    """What comes out is the loop's result on the rounded maps, rounded to the nearest number of the format."""
    maps, kernel, bias, upstream = draw(shape, filters, seed=7)
    maps, upstream = (tf.cast(x, dtype) for x in (maps, upstream))
    exact = [x.numpy().astype("float32") for x in (maps, upstream)]
    convolved, gradients = gradients_of(maps, kernel, bias, upstream)
    assert convolved.dtype == gradients[0].dtype == dtype and gradients[1].dtype == "float32"
    of_maps, of_kernel = expected_gradients(exact[0], kernel, exact[1])
    for found, wanted in ((convolved, expected(exact[0], kernel, bias)), (gradients[0], of_maps)):
        found = tf.cast(found, "float32")
        np.testing.assert_allclose(found, wanted, rtol=ROUNDING[dtype], atol=2e-5)
    spread = np.sqrt(np.prod(shape[:3]))
    np.testing.assert_allclose(gradients[1], of_kernel, rtol=0, atol=2e-5 * spread)
    np.testing.assert_allclose(gradients[2], exact[1].sum((0, 1, 2)), rtol=1e-5, atol=1e-4)


def test_no_gradient_flows_where_relu_took_the_number(kernels):
    maps, kernel, bias, upstream = draw((1, 6, 6, 16), 16, seed=2)
    kept = expected(maps, kernel, bias) > 0
    assert 0 < kept.sum() < kept.size
    found = gradients_of(maps, kernel, bias, upstream, relu=True)[1]
    wanted = gradients_of(maps, kernel, bias, (upstream * kept).astype("float32"))[1]
    for gradient, same in zip(found, wanted):
        np.testing.assert_array_equal(gradient, same)


def test_second_gradients_equal_those_of_the_definition(kernels):
    """The gradients of <gradients, v> for random v, against TensorFlow's own convolution."""
    maps, kernel, bias, upstream = draw((1, 5, 6, 16), 16, seed=3)
    directions = draw((1, 5, 6, 16), 16, seed=4)
    inputs = [tf.Variable(x) for x in (maps, kernel, upstream)]

    def second(convolution):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                convolved = convolution(inputs[0], inputs[1])
            first = inner.gradient(convolved, inputs[:2], inputs[2])
            total = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(first, directions)])
        return outer.gradient(total, inputs)

    wanted = second(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"))
    for gradient, same in zip(second(winograd), wanted):
        np.testing.assert_allclose(gradient, same, rtol=0, atol=2e-4)


def test_it_is_the_same_at_every_run(kernels):
    arguments = draw((2, 30, 33, 32), 32, seed=5)
    first = keras.tree.flatten(gradients_of(*arguments))
    for _ in range(10):
        for numbers, same in zip(keras.tree.flatten(gradients_of(*arguments)), first):
            np.testing.assert_array_equal(numbers, same)


def test_what_is_not_finite_stays_in_its_picture(kernels):
    maps, kernel, bias, _ = draw((3, 38, 35, 16), 16, seed=8)
    wanted = winograd(maps, kernel, bias).numpy()
    maps[1, ::37], maps[1, :, ::34] = np.inf, np.nan  # all along its edges
    found = winograd(maps, kernel, bias).numpy()
    np.testing.assert_array_equal(found[::2], wanted[::2])
    assert not np.isfinite(found[1, 0]).any()


@pytest.mark.parametrize("shape", [(0, 8, 8, 16), (2, 0, 5, 16)])
def test_no_maps_have_gradients_of_zeros(kernels, shape):
    convolved, gradients = gradients_of(*draw(shape, 32))
    assert convolved.shape == (*shape[:-1], 32)
    assert [x.shape for x in gradients] == [shape, (3, 3, 16, 32), (32,)]
    assert not any(np.any(x) for x in gradients)


def test_rounding_stays_within_a_few_steps_of_float32(kernels):
    """Against float64: of 2304 products of size 1/48 each sum is off by 1e-6, at most 2e-5."""
    maps, kernel, bias, _ = draw((1, 24, 24, 256), 64, seed=6)
    wanted = tf.nn.conv2d(maps.astype("float64"), kernel.astype("float64"), 1, "SAME") + bias
    error = np.abs(winograd(maps, kernel, bias).numpy() - wanted.numpy())
    assert error.max() < 2e-5 and np.sqrt((error**2).mean()) < 2e-6


def test_what_does_not_fit_is_named(kernels):
    maps, kernel, bias, _ = draw((1, 4, 4, 16), 16)
    for arguments, message in [
        ((maps[..., :12], kernel[:, :, :12], bias), "multiples of 16"),
        ((maps[..., :0], kernel[:, :, :0], bias), "multiples of 16"),
        ((maps, kernel[:2], bias), "kernel: got"),
        ((maps, kernel, bias[:3]), "bias: got"),
        ((maps[0], kernel, bias), "rank 4|maps: got"),
    ]:
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
            winograd(*arguments)


def test_symbolic_shapes_and_free_sizes(kernels):
    maps, kernel, bias, _ = draw((2, 5, 6, 16), 32)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 16))])
    def run(maps):
        convolved = winograd(maps, kernel, bias)
        assert convolved.shape.as_list() == [None, None, None, 32]
        return convolved, tf.gradients(convolved, maps)[0]

    convolved, gradient = run(maps)
    np.testing.assert_allclose(convolved, expected(maps, kernel, bias), rtol=0, atol=2e-5)
    assert gradient.shape == maps.shape


def test_it_takes_kernels_of_whole_steps():
    assert takes((3, 3, 16, 48))
    for shape in ((1, 1, 16, 16), (3, 3, 8, 16), (3, 3, 16, 90), (3, 3, None, 16), (5, 3, 16, 16)):
        assert not takes(shape)


def test_it_pays_unless_bfloat16_is_fast_without_it():
    """The bound is what was measured: docs/kernels.md."""
    for dtype in ("float32", "float16", "bfloat16"):
        assert pays((3, 3, 256, 256), dtype) and not pays((3, 3, 256, 90), dtype)
    assert pays((3, 3, 512, 512), "float32") and not pays((3, 3, 512, 512), "bfloat16")
    assert not pays((3, 3, 256, 256), "float64")


# -- in layers and models ---------------------------------------------------------------------------------------------


def operations_of(layer, dtype=tf.float32, channels=16):
    """The kinds of operations in a layer's graph."""
    function = tf.function(lambda x: layer(x))
    graph = function.get_concrete_function(tf.TensorSpec((1, 8, 8, channels), dtype)).graph
    return {operation.type for operation in graph.get_operations()}


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "group_norm", None])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_a_layer_computes_the_same(kernels, norm, activation):
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 16)).astype("float32")
    options = {"norm": norm, "activation": activation}
    layer = ConvNorm(32, 3, implementation="auto", **options)
    outputs = check_layer(layer, x, free_axes=(1, 2))
    assert "KmaskrcnnWinograd" in operations_of(layer) and not layer.supports_jit
    direct = ConvNorm(32, 3, **options)
    assert direct.supports_jit
    direct.build(x.shape)
    direct.set_weights(layer.get_weights())
    np.testing.assert_allclose(outputs, direct(x), rtol=0, atol=2e-5)


def test_a_layer_of_mixed_precision_computes_the_same_with_less_rounding(kernels):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 64)).astype("float32")
    x = tf.cast(tf.cast(x, "bfloat16"), "float32")  # so that the exact layer sees the same
    layers = [
        ConvNorm(32, 3, implementation=implementation, dtype=dtype)
        for implementation, dtype in (
            ("direct", "float32"),
            ("auto", "mixed_bfloat16"),
            ("direct", "mixed_bfloat16"),
        )
    ]
    for layer in layers:
        layer.build(x.shape)
        layer.set_weights(layers[0].get_weights())
    assert "KmaskrcnnWinograd" in operations_of(layers[1], tf.bfloat16, channels=64)
    exact, ours, rounded = (tf.cast(layer(x), "float32").numpy() for layer in layers)
    errors = [np.sqrt(np.mean((found - exact) ** 2)) for found in (ours, rounded)]
    assert errors[0] < 2**-9 * np.sqrt(np.mean(exact**2))  # outputs rounded once, no worse
    assert errors[0] < 0.75 * errors[1]  # directly, the kernel is rounded as well


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_16_bits_are_taken_too(kernels, dtype):
    layer = ConvNorm(16, 3, activation="relu", implementation="auto", dtype=dtype)
    x = tf.cast(np.random.default_rng(0).normal(size=(1, 6, 5, 16)), dtype)
    assert layer(x).dtype == dtype and layer.kernel.dtype == dtype
    assert "KmaskrcnnWinograd" in operations_of(layer, dtype)


@pytest.mark.parametrize("changes", [
    {"implementation": "direct"}, {"strides": 2}, {"dilation_rate": 2}, {"groups": 2}, {"kernel_size": 1},
    {"filters": 24}, {"dtype": "float64"},
])  # fmt: skip
def test_layers_that_it_does_not_fit_are_direct(kernels, changes):
    layer = ConvNorm(
        **{"filters": 16, "kernel_size": 3, "norm": None, "implementation": "auto", **changes}
    )
    found = operations_of(layer, tf.as_dtype(layer.compute_dtype))
    assert "Conv2D" in found and "KmaskrcnnWinograd" not in found


def test_without_the_library_layers_are_direct():
    assert "Conv2D" in operations_of(ConvNorm(16, 3, implementation="auto"))


def test_an_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="implementation='fft'.*'auto', 'direct'"):
        ConvNorm(16, 3, implementation="fft")


def test_a_configuration_chooses_for_all_layers(kernels):
    for changes, chosen in (
        ({}, "auto"),
        ({"convolution": "direct"}, "direct"),
        ({"portable": True}, "direct"),
    ):
        layers = [
            layer
            for layer in tiny_model(**changes)._flatten_layers()
            if isinstance(layer, ConvNorm)
        ]
        assert {layer.implementation for layer in layers} == {chosen}
        assert {"C2", "output_P2", "conv1"} <= {layer.name for layer in layers}


@pytest.mark.parametrize("dtype, rounding", [("float32", 1e-4), ("mixed_bfloat16", 0.5)])
def test_a_model_learns_the_same(kernels, dtype, rounding):
    """One step of gradient descent, weight by weight, beside TensorFlow's convolutions in float32.

    In bfloat16 the whole model's rounding moves a stem's gradient by up to 0.43 of its size with TensorFlow's
    convolutions as well; what is lost or turned round is off by 1 and more.
    """
    inputs, targets = batch(np.random.default_rng(0))
    found = []
    for name, policy in (("auto", dtype), ("direct", "float32")):
        keras.utils.set_random_seed(0)  # the weights, and the regions drawn
        model = MaskRCNN(tiny_config(convolution=name), backbone=tiny_backbone(), dtype=policy)
        with tf.GradientTape() as tape:
            outputs = model({**inputs, **targets}, training=True)
            loss = sum(model.loss_values(outputs).values())
        variables = {v.path: v.value for v in model.trainable_variables}
        found.append([loss, tape.gradient(loss, variables)])
    (loss, gradients), (wanted_loss, wanted) = found
    np.testing.assert_allclose(loss, wanted_loss, rtol=max(1e-4, 0.01 * rounding))
    for path in wanted:
        error = np.linalg.norm(np.subtract(gradients[path], wanted[path]))
        assert error <= rounding * np.linalg.norm(wanted[path]), path
