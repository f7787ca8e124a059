"""RoIPool and RoIWarp against loops, RoIPool also against torchvision."""

from pathlib import Path

import numpy as np
import oracles
import pytest
import tensorflow as tf
from layer_checks import check_layer

from kmaskrcnn.layers import roi_pool
from kmaskrcnn.layers.roi_align import RoIAlign
from kmaskrcnn.layers.roi_pool import RoIPool, RoIWarp

RECORDED = np.load(Path(__file__).parents[1] / "fixtures" / "torchvision_ops.npz")
STRIDE = 4
ONE_LEVEL = {"levels": ("P2",)}


def c_round(value):
    """Halves away from zero."""
    return int(np.copysign(np.floor(abs(value) + 0.5), value))


def rounded(start, end):
    first = c_round(start / STRIDE)
    return first, max(c_round(end / STRIDE) - first + 1, 1)


def loop_roi_pool(feature, box, pool):
    """The greatest cell of each bin; bins overlap where cells do not share out evenly."""
    height, width, channels = feature.shape
    (left, columns), (top, rows) = rounded(box[0], box[2]), rounded(box[1], box[3])
    out = np.zeros((pool, pool, channels))
    for i in range(pool):
        for j in range(pool):
            y = range(top + i * rows // pool, top - (-(i + 1) * rows // pool))
            x = range(left + j * columns // pool, left - (-(j + 1) * columns // pool))
            cells = [feature[a, b] for a in y for b in x if 0 <= a < height and 0 <= b < width]
            out[i, j] = np.max(cells, axis=0) if cells else 0
    return out


def loop_roi_warp(feature, box, pool, sampling, reduce):
    """RoIAlign of the region that whole cells cover."""
    (left, columns), (top, rows) = rounded(box[0], box[2]), rounded(box[1], box[3])
    covered = np.array([left, top, left + columns, top + rows]) * STRIDE
    return oracles.roi_align(feature, covered, STRIDE, pool, sampling, reduce=reduce)


@pytest.fixture(scope="module")
def data():
    """A map, and regions that cross its border, lie outside it or have no area."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 16, 24, 3)).astype("float32")
    boxes = oracles.random_boxes(rng, (30,), 64, 96)
    boxes[0], boxes[1], boxes[2] = 0, [-30, -30, 130, 100], [120, 90, 140, 99]
    boxes[3] = [6, 2, 10, 30]  # halves of a cell
    return features, boxes, rng.integers(0, 2, 30).astype("int32")


def test_roi_pool_equals_the_loop(data):
    features, boxes, indices = data
    expected = [loop_roi_pool(features[i], box, 3) for box, i in zip(boxes, indices)]
    np.testing.assert_array_equal(
        RoIPool(3, **ONE_LEVEL)({"P2": features}, boxes, indices), expected
    )


def test_roi_pool_equals_torchvision():
    features = RECORDED["roi/features"].transpose(0, 2, 3, 1)
    indices, boxes = RECORDED["roi/boxes"][:, 0].astype("int32"), RECORDED["roi/boxes"][:, 1:]
    pooled = RoIPool(7, **ONE_LEVEL)({"P2": features}, boxes, indices)
    np.testing.assert_array_equal(pooled, RECORDED["roi_pool/out"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize("implementation", ["crop_and_resize", "gather"])
@pytest.mark.parametrize("reduce", ["average", "max"])
def test_roi_warp_equals_the_loop(data, implementation, reduce):
    features, boxes, indices = data
    layer = RoIWarp(3, 2, reduce, implementation, **ONE_LEVEL)
    function = np.mean if reduce == "average" else np.max
    expected = [loop_roi_warp(features[i], box, 3, 2, function) for box, i in zip(boxes, indices)]
    np.testing.assert_allclose(layer({"P2": features}, boxes, indices), expected, atol=2e-5)


def test_what_rounding_costs():
    """On a ramp RoIAlign gives the region's centre to a hair; rounding moves it by up to half a cell."""
    ramp = np.tile(np.arange(32, dtype="float32")[None, None, :, None], (1, 32, 1, 1))
    boxes = np.array([[21.5, 8, 61.5, 40]], "float32")
    zero = np.zeros(1, "int32")
    exact, warped = (
        float(np.mean(layer({"P2": ramp}, boxes, zero)))
        for layer in (RoIAlign(2, **ONE_LEVEL), RoIWarp(2, **ONE_LEVEL))
    )
    assert exact == pytest.approx(41.5 / 4 - 0.5, abs=1e-5)
    assert warped == pytest.approx((5 + 16) / 2 - 0.5, abs=1e-5)  # cells 5 to 15, all of them


def test_the_gradient_goes_to_the_greatest_cells_alone(data):
    features, boxes, indices = data
    features = tf.constant(features)
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = RoIPool(3, **ONE_LEVEL)({"P2": features}, boxes, indices)
        total = tf.reduce_sum(pooled)
    gradient = tape.gradient(total, features)
    inside = np.array([loop_roi_pool(np.ones((16, 24, 1)), box, 3).sum() for box in boxes])
    assert float(tf.reduce_sum(gradient)) == pytest.approx(3 * inside.sum())
    touched = np.unique(np.array(features)[np.array(gradient) > 0])
    assert set(touched) == set(np.unique(np.array(pooled)[np.array(pooled) != 0]))


@pytest.mark.parametrize("layer", [RoIPool, RoIWarp])
def test_levels_and_batches(layer):
    """A region of (B, R, 4) is pooled from the level of its size, as by RoIAlign."""
    rng = np.random.default_rng(1)
    features = {
        f"P{i}": rng.normal(size=(2, 512 >> i, 512 >> i, 2)).astype("float32") for i in (2, 3, 4, 5)
    }
    boxes = np.array([[[8, 8, 40, 40], [0, 0, 500, 500]]] * 2, "float32")
    pooled = np.array(layer(3)(features, boxes))
    assert pooled.shape == (4, 3, 3, 2)
    alone = layer(3, levels=("P5",))({"P5": features["P5"]}, boxes[:, 1:])
    np.testing.assert_allclose(pooled[[1, 3]], alone, atol=1e-6)


@pytest.mark.parametrize("layer", [RoIPool(3), RoIWarp(3, reduce="max")])
def test_runner(layer):
    rng = np.random.default_rng(2)
    features = {
        f"P{i}": rng.normal(size=(2, 64 >> i, 64 >> i, 2)).astype("float32") for i in (2, 3, 4, 5)
    }
    check_layer(layer, (features, oracles.random_boxes(rng, (2, 5), 64, 64)), free_axes=(1, 2))


def test_places_in_a_table_of_more_than_2_to_the_31_numbers(monkeypatch):
    """No such table is made: what is read is written down."""
    layer, read = RoIPool(1, **ONE_LEVEL), []
    row = 2**23 + 5  # times 256 channels
    monkeypatch.setattr(layer, "_greatest", lambda *_: tf.fill((1, 1, 1, 256), row))

    def take(x, indices, axis=None):
        if len(x.shape) == 1 and x.shape[0] == 4 * 4 * 256:
            read.append(np.array(indices))
            return tf.zeros(indices.shape)
        return original(x, indices, axis)

    original = roi_pool.ops.take
    monkeypatch.setattr(roi_pool.ops, "take", take)
    layer({"P2": np.zeros((1, 4, 4, 256), "float32")}, np.array([[0, 0, 8, 8.0]]), np.array([0]))
    assert read[0].ravel().tolist() == [row * 256 + channel for channel in range(256)]
