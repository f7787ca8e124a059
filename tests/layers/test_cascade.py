"""What lies between the heads of a cascade, against loops."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from keras import ops
from layer_checks import check_layer
from test_targets import loop_roles, truth

from kmaskrcnn.layers.cascade import (
    RefineRegions,
    RelabelLayer,
    average_logits,
    scale_gradient,
)

VARIANCE = (0.05, 0.05, 0.1, 0.1)


def loop_refine(box, delta, size, variance):
    """Centre moved by shares of the sides, sides multiplied, cut to the picture of `size` (height, width)."""
    width, height = box[2] - box[0], box[3] - box[1]
    x = (box[0] + box[2]) / 2 + delta[0] * variance[0] * width
    y = (box[1] + box[3]) / 2 + delta[1] * variance[1] * height
    width *= np.exp(delta[2] * variance[2])
    height *= np.exp(delta[3] * variance[3])
    moved = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return moved.clip(0, [size[1], size[0], size[1], size[0]])


def test_regions_move_as_the_loop_moves_them():
    rng = np.random.default_rng(0)
    rois = oracles.random_boxes(rng, (2, 9), 80, 60).clip(0, 80)
    rois[:, 7:] = 0  # padding
    deltas = rng.normal(0, 3, (18, 1, 4)).astype("float32")
    sizes = np.array([[60, 80], [50, 70]], "int32")
    out = ops.convert_to_numpy(RefineRegions(VARIANCE)(rois, deltas, sizes))
    for i in range(2):
        for j in range(9):
            wanted = loop_refine(rois[i, j], deltas[9 * i + j, 0], sizes[i], VARIANCE)
            np.testing.assert_allclose(out[i, j], wanted, atol=1e-4)
    assert not out[:, 7:].any()


def test_no_gradient_passes_from_one_head_to_the_one_before():
    deltas = tf.Variable(np.ones((3, 1, 4), "float32"))
    with tf.GradientTape() as tape:
        rois = np.array([[[0, 0, 9, 9]] * 3], "float32")
        total = tf.reduce_sum(RefineRegions()(rois, deltas, np.array([[50, 50]])))
    assert tape.gradient(total, deltas) is None


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7])
def test_every_region_is_labelled_again_as_the_loop_does(threshold):
    rng = np.random.default_rng(1)
    boxes, labels, is_crowd = truth(rng)
    rois = oracles.random_boxes(rng, (2, 60), 80, 80).clip(0, 80)
    rois[:, :40] = np.repeat(boxes[:, :2], 20, axis=1) + rng.normal(0, 6, (2, 40, 4))
    rois[:, 55:] = 0  # padding
    layer = RelabelLayer(3, threshold, VARIANCE)
    out = {k: ops.convert_to_numpy(v) for k, v in layer(rois, boxes, labels, is_crowd).items()}
    np.testing.assert_array_equal(out["rois"], rois)
    for i in range(2):
        roles, matches = loop_roles(rois[i], boxes[i], labels[i], is_crowd[i], threshold, threshold)
        assert 0 < (roles == 1).sum() < 40  # the threshold tells regions apart
        for j in range(60):
            label, delta = out["labels"][i, j], out["deltas"][i, j]
            if j >= 55 or roles[j] == -1:
                assert label == -1 and not delta.any()
            elif roles[j] == 0:
                assert label == 3 and not delta.any()
            else:
                assert label == labels[i][matches[j]] and out["matches"][i, j] == matches[j]
                moved = loop_refine(rois[i, j], delta, (80, 80), VARIANCE)
                np.testing.assert_allclose(moved, boxes[i][matches[j]], atol=1e-3)


def test_averaged_logits_are_the_mean_of_probabilities():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 5, (3, 7, 4)).astype("float32")
    shares = np.exp(logits.astype("float64"))
    wanted = np.mean(shares / shares.sum(-1, keepdims=True), axis=0)
    out = ops.softmax(average_logits(list(logits)))
    np.testing.assert_allclose(out, wanted, atol=1e-6)


def test_a_share_of_the_gradient_passes_and_every_bit_of_the_value():
    values = tf.Variable(np.random.default_rng(3).normal(size=20).astype("float32"))
    with tf.GradientTape() as tape:
        out = scale_gradient(values, 1 / 3)
        total = tf.reduce_sum(out * out)
    np.testing.assert_array_equal(out, values)
    np.testing.assert_allclose(tape.gradient(total, values), 2 * values / 3, rtol=1e-6)


def test_runners():
    rng = np.random.default_rng(4)
    boxes, labels, is_crowd = truth(rng)
    rois = oracles.random_boxes(rng, (2, 9), 80, 80)
    deltas = keras.random.normal((18, 1, 4), seed=0)
    check_layer(RefineRegions(VARIANCE), (rois, deltas, np.array([[60, 80]] * 2, "int32")))
    check_layer(RelabelLayer(3, 0.6, VARIANCE), (rois, boxes, labels, is_crowd))
