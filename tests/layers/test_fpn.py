import keras
import numpy as np
import pytest
from convolution_oracle import convolve
from layer_checks import check_layer

from kmaskrcnn.layers.fpn import FeaturePyramid, SingleLevel


def features(sizes, batch=1, seed=0):
    generator = np.random.default_rng(seed)
    return {
        stage: generator.normal(size=(batch, *size, channels)).astype("float32")
        for channels, (stage, size) in enumerate(sizes.items(), start=2)
    }


EVEN = {"C2": (16, 24), "C3": (8, 12), "C4": (4, 6), "C5": (2, 3)}
ODD = {"C2": (11, 13), "C3": (6, 7), "C4": (3, 4), "C5": (2, 2)}
NO_C2 = {"C3": (7, 5), "C4": (4, 3), "C5": (2, 2)}


def numpy_pyramid(layer, maps):
    """The paper's section 3 in loops, for the first picture."""
    convs = [*layer.lateral_convs.values(), *layer.output_convs.values()]
    convs = {conv.name: conv for conv in convs}

    def conv(name, x):
        return convolve(x, convs[name].kernel.numpy().astype("float64")) + convs[name].bias.numpy()

    merged, pyramid = {}, {}
    for level in sorted((int(name[1]) for name in maps), reverse=True):
        merged[level] = conv(f"lateral_C{level}", maps[f"C{level}"][0])
        for y, x in np.ndindex(merged[level].shape[:2]):
            if level + 1 in merged:
                merged[level][y, x] += merged[level + 1][y // 2, x // 2]
        pyramid[f"P{level}"] = conv(f"output_P{level}", merged[level])
    top = pyramid["P5"]
    pyramid["P6"] = np.array([[top[y, x] for x in range(0, top.shape[1], 2)]
                              for y in range(0, top.shape[0], 2)])  # fmt: skip
    return pyramid


@pytest.mark.parametrize("sizes", [EVEN, ODD, NO_C2])
def test_equals_numpy(sizes):
    maps = features(sizes)
    layer = FeaturePyramid(channels=5)
    layer.build({name: value.shape for name, value in maps.items()})
    generator = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(generator.normal(size=weight.shape))
    expected = numpy_pyramid(layer, maps)
    pyramid = layer(maps)
    assert list(pyramid) == sorted(expected)
    for name, value in expected.items():
        assert pyramid[name].shape[1:] == value.shape
        np.testing.assert_allclose(pyramid[name][0], value, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sizes", [EVEN, ODD, NO_C2])
@pytest.mark.parametrize("norm", [None, "batch_norm"])
def test_layer_promises(sizes, norm):
    check_layer(FeaturePyramid(8, norm=norm), features(sizes, batch=2), free_axes=(1, 2))


def test_sizes_and_names():
    layer = FeaturePyramid(8, extra_levels=2)
    pyramid = layer(features(EVEN))
    sizes = {name: tuple(value.shape[1:3]) for name, value in pyramid.items()}
    assert sizes == {
        "P2": (16, 24), "P3": (8, 12), "P4": (4, 6), "P5": (2, 3), "P6": (1, 2), "P7": (1, 1),
    }  # fmt: skip
    assert list(FeaturePyramid(8, extra_levels=0)(features(NO_C2))) == ["P3", "P4", "P5"]


def test_the_order_of_the_features_does_not_matter():
    maps = features(EVEN)
    layer = FeaturePyramid(8)
    turned = layer(dict(reversed(maps.items())))
    for name, value in layer(maps).items():
        np.testing.assert_array_equal(turned[name], value)


def test_training_reaches_the_norms():
    layer = FeaturePyramid(8, norm="batch_norm")
    layer(features(EVEN))
    means = [w for w in layer.weights if w.name == "moving_mean"]
    assert all(np.all(mean == 0) for mean in means)
    layer(features(EVEN), training=True)
    assert len(means) == 8 and all(np.abs(mean).max() > 0 for mean in means)


def test_every_convolution_gets_a_gradient():
    import tensorflow as tf

    layer = FeaturePyramid(4)
    maps = {name: tf.constant(value) for name, value in features(ODD).items()}
    with tf.GradientTape() as tape:
        pyramid = layer(maps)
        total = tf.reduce_sum(pyramid["P2"] ** 2) + tf.reduce_sum(pyramid["P6"] ** 2)
    gradients = tape.gradient(total, [weight.value for weight in layer.trainable_weights])
    silent = {
        weight.path.split("/")[-2]
        for weight, gradient in zip(layer.trainable_weights, gradients)
        if gradient is None
    }
    assert silent == {"output_P3", "output_P4"}  # only they are not in the total


@pytest.mark.parametrize("stage", ["C4", "C5"])
def test_a_single_level_is_its_stage(stage):
    maps = {name: np.full((2, 3, 4, 5), i, "float32") for i, name in enumerate(("C4", "C5"))}
    outputs = check_layer(SingleLevel(stage), maps, free_axes=(1, 2))
    np.testing.assert_array_equal(outputs["P4"], maps[stage])
    assert list(outputs) == ["P4"]


@pytest.mark.parametrize("stages", [["C3", "C5"], ["P3", "P4"], ["C2", "head"], []])
def test_wrong_stages_are_named(stages):
    maps = {name: keras.KerasTensor((1, 8, 8, 4)) for name in stages}
    with pytest.raises(ValueError, match="accepted are consecutive ones"):
        FeaturePyramid().compute_output_shape({name: m.shape for name, m in maps.items()})
