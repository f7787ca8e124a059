"""RoIAlign against the loop and against torchvision, all implementations."""

from pathlib import Path

import keras
import numpy as np
import oracles
import pytest
from keras import ops
from layer_checks import check_layer

from kmaskrcnn.layers.roi_align import RoIAlign, assign_levels

IMPLEMENTATIONS = ["crop_and_resize", "gather", "kernel"]
each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS, indirect=True)


@pytest.fixture
def implementation(request):
    """Its name; the kernel is built where it is wanted."""
    if request.param == "kernel":
        request.getfixturevalue("kernels")
    return request.param


def pyramid(rng, batch=2, size=(64, 96), channels=3):
    sizes = {
        level: (size[0] // stride, size[1] // stride)
        for level, stride in zip(("P2", "P3", "P4", "P5"), (4, 8, 16, 32))
    }
    return {
        level: rng.normal(size=(batch, *hw, channels)).astype("float32")
        for level, hw in sizes.items()
    }


def expected(features, boxes, image_indices, levels, **options):
    pooled = []
    for box, image, level in zip(boxes, image_indices, levels):
        feature = features[f"P{level}"][image]
        pooled.append(oracles.roi_align(feature, box, 2**level, **options))
    return np.stack(pooled)


@pytest.mark.parametrize(
    "implementation, reduce",
    [(name, "average") for name in IMPLEMENTATIONS]
    + [("crop_and_resize", "max"), ("gather", "max")],
    indirect=["implementation"],
)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3, 0])
def test_equals_the_loop(implementation, aligned, reduce, sampling_ratio):
    rng = np.random.default_rng(0)
    features = pyramid(rng)
    boxes = oracles.random_boxes(rng, (40,), 64, 96)  # many of them cross the border
    boxes[0] = 0  # padding
    boxes[1] = [-30, -30, 130, 100]  # larger than the picture
    indices = rng.integers(0, 2, 40).astype("int32")
    layer = RoIAlign(3, sampling_ratio, aligned, reduce, implementation)
    levels = ops.convert_to_numpy(assign_levels(boxes, 5, 2))
    oracle = expected(
        features,
        boxes,
        indices,
        levels,
        pool=3,
        sampling=sampling_ratio,
        aligned=aligned,
        reduce=np.mean if reduce == "average" else np.max,
    )
    np.testing.assert_allclose(layer(features, boxes, indices), oracle, atol=2e-5)


@each
def test_samples_a_ramp_where_it_says(implementation):
    """On a map whose value is its own x, a bin's average is the x of its centre."""
    ramp = np.tile(np.arange(32, dtype="float32")[None, None, :, None], (1, 16, 1, 1))
    layer = RoIAlign(2, implementation=implementation, levels=("P2",))
    pooled = ops.convert_to_numpy(
        layer({"P2": ramp}, np.array([[20, 8, 60, 40]], "float32"), np.array([0]))
    )
    # x from 20 to 60 pixels is cells 5 to 15, bins centred at 7.5 and 12.5; cell i is centred at i + 0.5
    np.testing.assert_allclose(pooled[0, :, :, 0], [[7.0, 12.0], [7.0, 12.0]], atol=1e-5)


def pool_with_gradient(implementation, features, boxes, indices):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = RoIAlign(7, implementation=implementation)(features, boxes, indices)
        loss = tf.reduce_sum(pooled * tf.sin(tf.range(8, dtype=tf.float32)))
    return pooled.numpy(), [gradient.numpy() for gradient in tape.gradient(loss, features).values()]


def test_the_implementations_agree_with_gradients(kernels):
    import tensorflow as tf

    rng = np.random.default_rng(1)
    features = {level: tf.constant(x) for level, x in pyramid(rng, channels=8).items()}
    boxes, indices = oracles.random_boxes(rng, (200,), 64, 96), rng.integers(0, 2, 200).astype(
        "int32"
    )
    pooled, gradients = pool_with_gradient("gather", features, boxes, indices)
    for implementation in ("kernel", "crop_and_resize"):
        other, others = pool_with_gradient(implementation, features, boxes, indices)
        np.testing.assert_allclose(other, pooled, atol=1e-4)
        for x, y in zip(others, gradients):
            np.testing.assert_allclose(x, y, atol=1e-3, rtol=1e-4)


@each
def test_no_gradient_is_lost_where_regions_overlap(implementation):
    """A mean over samples within the map gives away all that it gets, from however many threads."""
    import tensorflow as tf

    features = tf.Variable(tf.zeros((1, 20, 20, 8)))
    boxes = np.tile(np.float32([[40, 40, 44, 44]]), (400, 1))
    layer = RoIAlign(14, implementation=implementation, levels=("P2",))
    with tf.GradientTape() as tape:
        pooled = layer({"P2": features}, boxes, np.zeros(400, "int32"))
    gradient = tape.gradient(pooled, features, output_gradients=tf.ones_like(pooled)).numpy()
    np.testing.assert_allclose(gradient.sum(dtype=float), 400 * 14 * 14 * 8, rtol=1e-4)
    # Rows 9 to 11 and their neighbours.
    assert not gradient[:, :8].any() and not gradient[:, 13:].any()


@each
@pytest.mark.parametrize("name, aligned", [("aligned", True), ("legacy", False)])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_equals_torchvision(implementation, name, aligned, sampling_ratio):
    recorded = np.load(Path(__file__).parents[1] / "fixtures" / "torchvision_ops.npz")
    features = recorded["roi/features"].transpose(0, 2, 3, 1)
    indices, boxes = recorded["roi/boxes"][:, 0].astype("int32"), recorded["roi/boxes"][:, 1:]
    layer = RoIAlign(7, sampling_ratio, aligned, implementation=implementation, levels=("P2",))
    pooled = np.array(layer({"P2": features}, boxes, indices))
    expected = recorded[f"roi_align/{name}_{sampling_ratio}"].transpose(0, 2, 3, 1)
    if aligned and sampling_ratio == 0:  # a box without extent: no sample there (0), one here
        assert (boxes[4, :2] == boxes[4, 2:]).all() and not expected[4].any()
        pooled[4] = 0
    np.testing.assert_allclose(pooled, expected, atol=2e-5)


@each
def test_adaptive_sampling_has_gradients_in_a_graph(implementation):
    """Each sample spreads a gradient of 1 over the cells around it, so a region's sums to its bins."""
    import tensorflow as tf

    boxes = np.array([[8, 8, 50, 20], [4, 4, 30, 60], [10, 10, 11, 11]], "float32")
    layer = RoIAlign(3, 0, implementation=implementation, levels=("P2",))

    @tf.function
    def gradient(feature):
        pooled = layer({"P2": feature}, boxes, np.zeros(3, "int32"))
        return tf.gradients(pooled, feature)[0]

    assert float(tf.reduce_sum(gradient(tf.ones((1, 16, 16, 1))))) == pytest.approx(27, rel=1e-5)


def test_a_region_is_pooled_from_the_level_of_its_size():
    sides = np.array([10, 111, 113, 223, 225, 447, 449, 2000], "float32")
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], 1)
    np.testing.assert_array_equal(assign_levels(boxes, 5, 2), [2, 2, 3, 3, 4, 4, 5, 5])


@each
def test_batched_and_flat_rois_give_the_same(implementation):
    rng = np.random.default_rng(2)
    features, boxes = pyramid(rng), oracles.random_boxes(rng, (2, 5), 64, 96)
    layer = RoIAlign(3, implementation=implementation)
    flat = layer(features, boxes.reshape(-1, 4), np.repeat([0, 1], 5))
    np.testing.assert_array_equal(layer(features, boxes), flat)


@each
def test_no_region_at_all(implementation):
    layer = RoIAlign(3, implementation=implementation)
    features = pyramid(np.random.default_rng(0))
    assert layer(features, np.zeros((0, 4), "float32"), np.zeros((0,), "int32")).shape == (
        0,
        3,
        3,
        3,
    )


@each
def test_runner(implementation):
    rng = np.random.default_rng(3)
    boxes = oracles.random_boxes(rng, (2, 5), 64, 96)
    check_layer(RoIAlign(3, implementation=implementation), (pyramid(rng), boxes), free_axes=(1, 2))


def test_gather_compiles_with_xla():
    import tensorflow as tf

    rng = np.random.default_rng(4)
    features, boxes = pyramid(rng), oracles.random_boxes(rng, (2, 5), 64, 96)
    layer = RoIAlign(3, implementation="gather")
    compiled = tf.function(layer, jit_compile=True)(features, boxes)
    np.testing.assert_allclose(compiled, layer(features, boxes), atol=1e-5)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="reduce.*'sum'"):
        RoIAlign(reduce="sum")
    with pytest.raises(ValueError, match="implementation.*'pool'"):
        RoIAlign(implementation="pool")
    with pytest.raises(ValueError, match="implementation.*'kernel', accepted with 'max'"):
        RoIAlign(reduce="max", implementation="kernel")
    with pytest.raises(ValueError, match="sampling_ratio.*-1"):
        RoIAlign(sampling_ratio=-1)
    with pytest.raises(ValueError, match="image_indices"):
        RoIAlign()(pyramid(np.random.default_rng(0)), keras.ops.zeros((3, 4)))


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_half_precision_rounds_the_result_alone(sampling_ratio):
    """Of bfloat16's 8 bits, weights and sums of many samples lose some."""
    rng = np.random.default_rng(3)
    coarse = {
        level: ops.cast(feature, "bfloat16") for level, feature in pyramid(rng, channels=8).items()
    }
    fine = {level: ops.cast(feature, "float32") for level, feature in coarse.items()}
    boxes = oracles.random_boxes(rng, (40,), 64, 96)
    indices = rng.integers(0, 2, 40).astype("int32")
    options = {"sampling_ratio": sampling_ratio, "implementation": "gather"}
    half = RoIAlign(7, **options, dtype="bfloat16")(coarse, boxes, indices)
    whole = ops.convert_to_numpy(RoIAlign(7, **options)(fine, boxes, indices))
    assert half.dtype == "bfloat16"
    wrong = np.abs(ops.convert_to_numpy(ops.cast(half, "float32")) - whole)
    assert (wrong <= 2.0**-8 * np.abs(whole) + 1e-7).all()
