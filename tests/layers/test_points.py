"""Points of regions against loops: sampled, drawn where a mask is uncertain, put back; and PointRend's two heads."""

import keras
import numpy as np
import oracles
import pytest
from keras import ops
from layer_checks import check_layer

from kmaskrcnn.layers.point_rend import CoarseMaskHead, PointHead
from kmaskrcnn.layers.points import (
    DrawPoints,
    PointTargetLayer,
    ReplaceCells,
    SampleFeatures,
    SampleMasks,
    UncertainCells,
)


def random_points(rng, regions, count):
    """Corners and edges of the regions among them."""
    points = rng.uniform(0, 1, (regions, count, 2)).astype("float32")
    points[:, :3] = [[0, 0], [1, 1], [0, 1]]
    return points


def test_maps_are_read_between_cells_as_the_loop_reads_them():
    rng = np.random.default_rng(0)
    maps, points = rng.normal(size=(3, 4, 6, 2)).astype("float32"), random_points(rng, 3, 9)
    out = ops.convert_to_numpy(SampleMasks()(maps, points))
    for n, s in np.ndindex(3, 9):
        x, y = points[n, s] * [6, 4] - 0.5  # the loop counts from the first cell's centre
        np.testing.assert_allclose(out[n, s], oracles.bilinear(maps[n], y, x), atol=1e-5)


def test_features_are_read_where_the_point_is_in_the_picture():
    rng = np.random.default_rng(1)
    features = {name: rng.normal(size=(2, 16, 20, 3)).astype("float32") for name in ("P2", "P3")}
    rois = np.array([[0, 0, 80, 64], [10, 4, 31, 50], [70, 60, 80, 64]], "float32")
    images, points = np.array([0, 1, 1], "int32"), random_points(rng, 3, 9)
    out = ops.convert_to_numpy(SampleFeatures("P2")(features, rois, images, points))
    for n, s in np.ndindex(3, 9):
        x, y = rois[n, :2] + points[n, s] * (rois[n, 2:] - rois[n, :2])
        wanted = oracles.bilinear(features["P2"][images[n]], y / 4 - 0.5, x / 4 - 0.5)
        np.testing.assert_allclose(out[n, s], wanted, atol=1e-5)


def test_targets_are_the_objects_mask_at_the_point():
    rng = np.random.default_rng(2)
    masks = rng.integers(0, 2, (2, 2, 8, 6)).astype("uint8")
    boxes = np.array([[[0, 0, 24, 16], [8, 8, 20, 24]], [[4, 4, 28, 20], [0, 0, 0, 0]]], "float32")
    rois = np.array([[1, 2, 20, 15], [0, 0, 32, 32], [2, 2, 26, 22]], "float32")
    images, matches = np.array([0, 0, 1], "int32"), np.array([0, 1, 0], "int32")
    points = random_points(rng, 3, 30)
    out = PointTargetLayer()(points, rois, images, matches, boxes, masks)
    out = ops.convert_to_numpy(out)
    for n, s in np.ndindex(3, 30):
        box, mask = boxes[images[n], matches[n]], masks[images[n], matches[n]]
        place = rois[n, :2] + points[n, s] * (rois[n, 2:] - rois[n, :2])
        x, y = (place - box[:2]) / (box[2:] - box[:2]) * [6, 8] - 0.5
        framed = np.pad(mask, 1).astype("float32")[..., None]
        x, y = np.clip(x, -1, 6), np.clip(y, -1, 8)  # beyond the frame of zeros: zero
        assert out[n, s] == pytest.approx(oracles.bilinear(framed, y + 1, x + 1)[0], abs=1e-4)
    assert (out[1] == 0).any() and (out > 0).any()


def test_three_quarters_of_the_points_are_the_most_uncertain_of_three_times_as_many(monkeypatch):
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (2, 7, 7)).astype("float32")
    noise = rng.uniform(0, 1, (2, 130, 2)).astype("float32")  # 3 * 40 candidates and 10 anywhere

    def given(shape, seed):
        assert tuple(shape) == noise.shape
        return noise

    monkeypatch.setattr(keras.random, "uniform", given)
    points = ops.convert_to_numpy(DrawPoints(40)(logits))
    for n in range(2):
        candidates = sorted(
            (abs(oracles.bilinear(logits[n][..., None], y * 7 - 0.5, x * 7 - 0.5)[0]), x, y)
            for x, y in noise[n, :120]
        )
        np.testing.assert_allclose(points[n, :30], np.array(candidates)[:30, 1:], atol=1e-6)
        np.testing.assert_array_equal(points[n, 30:], noise[n, 120:])


def test_draws_differ_and_stay_in_the_region():
    layer, logits = DrawPoints(40), np.zeros((2, 7, 7), "float32")
    one, other = (ops.convert_to_numpy(layer(logits)) for _ in range(2))
    assert one.shape == (2, 40, 2) and (one != other).any() and (one[0] != one[1]).any()
    assert (one >= 0).all() and (one <= 1).all() and one.max() > 0.9 and one.min() < 0.1


@pytest.mark.parametrize("count", [5, 100])
def test_uncertain_cells_and_their_centres(count):
    logits = np.random.default_rng(4).normal(size=(2, 4, 6)).astype("float32")
    cells, points = (ops.convert_to_numpy(x) for x in UncertainCells(count)(logits))
    assert cells.shape == (2, min(count, 24))
    for n in range(2):
        order = sorted((abs(logits[n, y, x]), y, x) for y, x in np.ndindex(4, 6))[:count]
        np.testing.assert_array_equal(cells[n], [6 * y + x for _, y, x in order])
        centres = [((x + 0.5) / 6, (y + 0.5) / 4) for _, y, x in order]
        np.testing.assert_allclose(points[n], centres, rtol=1e-6)


def test_only_the_named_cells_are_replaced():
    logits = np.arange(32, dtype="float32").reshape(2, 4, 4)
    cells, values = np.array([[0, 15], [6, 5]], "int32"), np.array([[-1, 0], [-3, -4]], "float32")
    wanted = logits.copy()
    wanted[0, 0, 0], wanted[0, 3, 3], wanted[1, 1, 2], wanted[1, 1, 1] = -1, 0, -3, -4
    np.testing.assert_array_equal(ReplaceCells()(logits, cells, values), wanted)


def test_the_point_head_sees_the_coarse_answer_in_every_layer():
    rng = np.random.default_rng(5)
    fine, coarse = (rng.normal(size=(2, 5, c)).astype("float32") for c in (8, 3))
    head = PointHead(3, channels=6)
    out = ops.convert_to_numpy(head(fine, coarse))
    hidden = fine
    for dense in head.dense:
        kernel = ops.convert_to_numpy(dense.kernel)
        hidden = np.maximum(np.concatenate([hidden, coarse], -1) @ kernel, 0)
    joined = np.concatenate([hidden, coarse], -1)
    np.testing.assert_allclose(out, joined @ ops.convert_to_numpy(head.logits.kernel), atol=1e-6)
    assert [dense.kernel.shape[0] for dense in head.dense] == [11, 9, 9]


def test_runners():
    rng = np.random.default_rng(6)
    maps, points = rng.normal(size=(2, 4, 4, 3)).astype("float32"), random_points(rng, 2, 5)
    rois, images = np.array([[0, 0, 9, 9], [3, 4, 15, 12]], "float32"), np.array([0, 1], "int32")
    truth = np.array([[[2, 2, 9, 9]]] * 2, "float32"), np.ones((2, 1, 8, 8), "uint8")
    check_layer(SampleMasks(), (maps, points))
    check_layer(SampleFeatures("P2"), ({"P2": maps}, rois, images, points), free_axes=(1, 2))
    check_layer(PointTargetLayer(), (points, rois, images, 0 * images, *truth))
    check_layer(DrawPoints(8), maps[..., 0])
    check_layer(UncertainCells(5), maps[..., 0])
    cells = np.array([[0, 3], [2, 1]], "int32")
    check_layer(ReplaceCells(), (maps[..., 0], cells, cells.astype("float32")))
    check_layer(CoarseMaskHead(3, 8, 16), maps)
    check_layer(PointHead(3, 8), (maps[:, 0], maps[:, 1]))
