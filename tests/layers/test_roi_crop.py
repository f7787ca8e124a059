"""RoICrop against loops and TensorFlow's own `crop_and_resize`."""

import numpy as np
import oracles
import pytest
import tensorflow as tf
from layer_checks import check_layer

from kmaskrcnn.layers.roi_crop import RoICrop

HEIGHT, WIDTH = 256, 512


def pyramid(rng, channels=2):
    return {
        f"P{level}": rng.normal(size=(2, HEIGHT >> level, WIDTH >> level, channels)).astype(
            "float32"
        )
        for level in (2, 3, 4, 5)
    }


def regions(rng, count=12):
    boxes = oracles.random_boxes(rng, (count,), HEIGHT, WIDTH, smallest=12)
    return np.clip(boxes, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype("float32")


def loop(features, box, image, size):
    """Level by `round` of normalised sides; samples from the first pixel to the last."""
    x1, y1, x2, y2 = (box - [0, 0, 1, 1]) / ([WIDTH - 1, HEIGHT - 1] * 2)
    side = np.sqrt(max(x2 - x1, 0) * max(y2 - y1, 0)) * np.sqrt(HEIGHT * WIDTH)
    level = int(np.clip(4 + np.round(np.log2(side / 224 + 1e-9)), 2, 5))
    feature = features[f"P{level}"][image]
    rows = np.linspace(y1, y2, size) * (feature.shape[0] - 1)
    columns = np.linspace(x1, x2, size) * (feature.shape[1] - 1)
    return np.array([[oracles.bilinear(feature, y, x) for x in columns] for y in rows]), level


@pytest.mark.parametrize("implementation", ["crop_and_resize", "gather"])
def test_equals_the_loop(implementation):
    rng = np.random.default_rng(0)
    features, boxes = pyramid(rng), regions(rng)
    images = np.arange(len(boxes), dtype="int32") % 2
    found = RoICrop(5, implementation=implementation)(features, boxes, images)
    expected = [loop(features, box, image, 5) for box, image in zip(boxes, images)]
    assert {level for _, level in expected} == {2, 3, 4, 5}
    np.testing.assert_allclose(found, [pooled for pooled, _ in expected], atol=2e-4)


def test_equals_tensorflows_kernel_by_itself():
    """Of one level: matterport gives its normalised boxes to `crop_and_resize` as they are."""
    rng = np.random.default_rng(1)
    feature, boxes = pyramid(rng)["P3"], regions(rng)
    shares = (boxes - [0, 0, 1, 1]) / ([WIDTH - 1, HEIGHT - 1] * 2)
    images = np.zeros(len(boxes), "int32")
    expected = tf.image.crop_and_resize(feature, shares[:, [1, 0, 3, 2]], images, (7, 7))
    found = RoICrop(7, levels=("P3",))({"P3": feature}, boxes, images)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_levels_are_rounded():
    """The paper's rule has P3 up to a side of 224 and P4 above; rounded, P4 begins at 158.4."""
    layer, features = RoICrop(7), pyramid(np.random.default_rng(2))
    sides = np.array([20, 77, 81, 150, 157, 160, 223, 250], "float32")
    boxes = np.stack([0 * sides, 0 * sides, sides + 1, sides + 1], 1)
    found = np.array(layer._levels_of(boxes, features))
    np.testing.assert_array_equal(found, [2, 2, 3, 3, 3, 4, 4, 4])


@pytest.mark.parametrize("implementation", ["crop_and_resize", "gather"])
def test_runner(implementation):
    rng = np.random.default_rng(3)
    inputs = pyramid(rng, 3), regions(rng, 4), np.array([0, 1, 1, 0], "int32")
    check_layer(RoICrop(3, implementation=implementation), inputs)


def test_what_it_does_not_know():
    with pytest.raises(ValueError, match="pool_size: got 1"):
        RoICrop(1)  # one sample is not both first and last
    with pytest.raises(ValueError, match="implementation: got 'kernel'"):
        RoICrop(7, implementation="kernel")
