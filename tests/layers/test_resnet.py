import keras
import numpy as np
import pytest
from convolution_oracle import convolve, randomise_norm

from kmaskrcnn.layers.resnet import resnet, resnet_stage5

STRIDES = {"C2": 4, "C3": 8, "C4": 16, "C5": 32}


class Oracle:
    """A ResNet's forward pass written a second time, in NumPy loops, from the layers' weights."""

    def __init__(self, model, stride_in_1x1=False, epsilon=1e-5, c5_dilation=1):
        self.layers = {layer.name: layer for layer in model.layers}
        self.stride_in_1x1 = stride_in_1x1
        self.epsilon = epsilon
        self.c5_dilation = c5_dilation

    def conv(self, name, x, strides=1, dilation=1):
        layer = self.layers[name]
        x = convolve(x, layer.kernel.numpy().astype("float64"), strides, dilation)
        weights = {w.name: w.numpy().astype("float64") for w in layer.norm_layer.weights}
        x = (x - weights["moving_mean"]) / np.sqrt(weights["moving_variance"] + self.epsilon)
        return x * weights["gamma"] + weights["beta"]

    def block(self, name, x, strides, dilation):
        conv, shortcut = self.conv, x
        if f"{name}_conv3" in self.layers:
            first, second = (strides, 1) if self.stride_in_1x1 else (1, strides)
            y = np.maximum(conv(f"{name}_conv1", x, first), 0)
            y = np.maximum(conv(f"{name}_conv2", y, second, dilation), 0)
            y = conv(f"{name}_conv3", y)
        else:
            y = np.maximum(conv(f"{name}_conv1", x, strides, dilation), 0)
            y = conv(f"{name}_conv2", y, 1, dilation)
        if f"{name}_shortcut" in self.layers:
            shortcut = conv(f"{name}_shortcut", x, strides)
        return np.maximum(y + shortcut, 0)

    def max_pool(self, x):
        height, width, channels = x.shape
        output = np.empty((-(-height // 2), -(-width // 2), channels))
        for i, j in np.ndindex(output.shape[:2]):
            top, left = max(2 * i - 1, 0), max(2 * j - 1, 0)
            output[i, j] = x[top : 2 * i + 2, left : 2 * j + 2].max((0, 1))
        return output

    def __call__(self, image, blocks):
        x = self.max_pool(np.maximum(self.conv("stem", image.astype("float64"), 2), 0))
        features = {}
        for stage, count in zip(STRIDES, blocks):
            dilation = self.c5_dilation if stage == "C5" else 1
            for number in range(1, count + 1):
                strides = 2 if number == 1 and stage != "C2" and dilation == 1 else 1
                x = self.block(f"{stage}_block{number}", x, strides, dilation)
            features[stage] = x
        return features


@pytest.mark.parametrize(
    "depth, blocks, arguments",
    [
        (18, (2, 2, 2, 2), {}),
        (18, (2, 2, 2, 2), {"c5_dilation": 2}),
        (50, (3, 4, 6, 3), {}),
        (50, (3, 4, 6, 3), {"stride_in_1x1": True, "norm_epsilon": 1e-3}),
        (50, (3, 4, 6, 3), {"c5_dilation": 2}),
        (50, (3, 4, 6, 3), {"groups": 32, "width_per_group": 4}),
    ],
)
def test_forward_equals_numpy(depth, blocks, arguments):
    model = resnet(depth, **arguments)
    generator = np.random.default_rng(depth)
    for layer in model.layers:
        if hasattr(layer, "norm_layer"):
            randomise_norm(layer.norm_layer, generator)
    image = generator.normal(size=(33, 41, 3)).astype("float32")
    oracle = Oracle(
        model,
        arguments.get("stride_in_1x1", False),
        arguments.get("norm_epsilon", 1e-5),
        arguments.get("c5_dilation", 1),
    )
    expected = oracle(image, blocks)
    features = model(image[None])
    assert list(features) == list(expected)
    for stage, value in expected.items():
        # float32 through up to 53 convolutions, relative to the map's largest value.
        assert features[stage].shape[1:] == value.shape
        np.testing.assert_allclose(features[stage][0], value, rtol=0, atol=1e-5 * value.max())


@pytest.mark.parametrize(
    "depth, arguments, published",
    [
        # torchvision's totals (11,689,512 and so on) without the 1000-class layer.
        (18, {}, 11_176_512),
        (34, {}, 21_284_672),
        (50, {}, 23_508_032),
        pytest.param(101, {}, 42_500_160, marks=pytest.mark.slow),
        (50, {"groups": 32, "width_per_group": 4}, 22_979_904),
        pytest.param(101, {"groups": 32, "width_per_group": 8}, 86_742_336, marks=pytest.mark.slow),
        pytest.param(101, {"groups": 64, "width_per_group": 4}, 81_406_272, marks=pytest.mark.slow),
    ],
)
def test_parameters_as_published(depth, arguments, published):
    model = resnet(depth, **arguments)
    running = ("moving_mean", "moving_variance")
    count = sum(np.prod(w.shape) for w in model.weights if w.name not in running)
    assert count == published


@pytest.mark.parametrize(
    "depth, channels", [(18, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))]
)
def test_sizes_are_rounded_up(depth, channels):
    model = resnet(depth)
    for height, width in [(64, 96), (500, 333), (37, 1)]:
        outputs = model.compute_output_spec(keras.KerasTensor((2, height, width, 3)))
        for (stage, stride), filters in zip(STRIDES.items(), channels):
            expected = (2, -(-height // stride), -(-width // stride), filters)
            assert outputs[stage].shape == expected
    images = np.zeros((1, 67, 45, 3), "float32")
    sizes = [tuple(feature.shape[1:3]) for feature in model(images).values()]
    assert sizes == [(17, 12), (9, 6), (5, 3), (3, 2)]


def test_dilated_c5_keeps_stride_16():
    outputs = resnet(50, c5_dilation=2).compute_output_spec(keras.KerasTensor((1, 64, 96, 3)))
    assert outputs["C5"].shape == (1, 4, 6, 2048)


@pytest.mark.parametrize("depth, channels", [(18, 256), (50, 1024)])
def test_the_fifth_stage_alone_is_that_of_the_trunk(depth, channels):
    """For a region of 5 cells, an odd number; the loops run the same blocks."""
    arguments = {"stride_in_1x1": True, "norm_epsilon": 1e-3}
    model = resnet_stage5(depth, **arguments)
    trunk = {w.path: w.shape for w in resnet(depth, **arguments).weights}
    assert {w.path: w.shape for w in model.weights}.items() <= trunk.items()
    assert len(model.weights) == sum(path.startswith("C5_") for path in trunk)
    generator = np.random.default_rng(depth)
    for layer in model.layers:
        if hasattr(layer, "norm_layer"):
            randomise_norm(layer.norm_layer, generator)
    pooled = generator.normal(size=(1, 5, 5, channels)).astype("float32")
    oracle, found = Oracle(model, **{"stride_in_1x1": True, "epsilon": 1e-3}), model(pooled)
    assert found.shape == (1, 3, 3, 2 * channels)
    for region, value in zip(pooled, found):
        x = region.astype("float64")
        for number in range(1, 3 if depth == 18 else 4):
            x = oracle.block(f"C5_block{number}", x, 2 if number == 1 else 1, 1)
        np.testing.assert_allclose(value, x, rtol=0, atol=1e-5 * x.max())


def test_a_trunk_may_end_with_c4():
    whole, short = resnet(18), resnet(18, last_stage="C4")
    values = {w.path: w for w in whole.weights}
    assert {path for path in values if not path.startswith("C5")} == {w.path for w in short.weights}
    for weight in short.weights:
        weight.assign(values[weight.path])
    images = np.random.default_rng(0).normal(size=(1, 32, 64, 3)).astype("float32")
    found, expected = short(images), whole(images)
    assert list(found) == ["C2", "C3", "C4"]
    np.testing.assert_array_equal(found["C4"], expected["C4"])


def test_a_grouped_trunk_trains():
    """Each kernel of each group gets a gradient, on a CPU too."""
    import tensorflow as tf

    model = resnet(50, groups=32, width_per_group=4)
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    with tf.GradientTape() as tape:
        total = sum(tf.reduce_mean(feature**2) for feature in model(images, training=True).values())
    for weight, gradient in zip(
        model.trainable_weights,
        tape.gradient(total, [weight.value for weight in model.trainable_weights]),
    ):
        assert (
            np.abs(gradient).max((0, 1, 2)).min() >= 0 and np.abs(gradient).max() > 0
        ), weight.path


def test_saves_and_loads(tmp_path):
    model = resnet(18, norm="group_norm", in_channels=4, name="trunk")
    images = np.random.default_rng(0).normal(size=(1, 32, 64, 4)).astype("float32")
    model.save(tmp_path / "trunk.keras")
    loaded = keras.saving.load_model(tmp_path / "trunk.keras")
    assert loaded.name == "trunk"
    for stage, expected in model(images).items():
        np.testing.assert_array_equal(loaded(images)[stage], expected)


def test_frozen_norm_is_the_same_in_training():
    model = resnet(18)
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(
        model(images, training=True)["C5"], model(images, training=False)["C5"]
    )
    assert {weight.name for weight in model.trainable_weights} == {"kernel"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"depth": 19}, "depth=19 is not known; accepted are 18, 34, 50, 101"),
        ({"depth": 34, "groups": 2}, "groups=2.*depth=34 has basic blocks"),
        ({"depth": 50, "last_stage": "C6"}, "last_stage='C6'; accepted are C2, C3, C4, C5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet(**arguments)
