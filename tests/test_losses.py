"""Losses against loops and hand numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kmaskrcnn import losses
from kmaskrcnn.geometry.boxes import decode_deltas
from kmaskrcnn.geometry.overlap_losses import overlap_loss


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_smooth_l1_of_known_errors():
    errors = np.array([-2.0, -0.5, 0.0, 0.1, 3.0], "float32")
    np.testing.assert_allclose(
        losses.smooth_l1(errors, 1.0), [1.5, 0.125, 0, 0.005, 2.5], rtol=1e-6
    )
    np.testing.assert_allclose(losses.smooth_l1(errors, 0.0), np.abs(errors))


def test_crossentropy_is_stable_and_right():
    logits, targets = np.array([-3.0, 0.5, 500.0, -500.0], "float32"), np.array(
        [1.0, 0, 1, 0], "float32"
    )
    expected = [-np.log(sigmoid(-3.0)), -np.log(1 - sigmoid(0.5)), 0, 0]
    np.testing.assert_allclose(
        losses.binary_crossentropy(logits, targets), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's tape")
@pytest.mark.parametrize("target", [0.0, 1.0, 0.25])
def test_crossentropy_has_the_right_slope_everywhere(target):
    """sigmoid(logit) - target, also where new weights answer exactly 0."""
    logits = np.array([0.0, -0.0, 1e-4, -3, 15, -15, 60, -60, 1e4, -1e4], "float32")
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        values = losses.binary_crossentropy(variable, np.full(10, target, "float32"))
    wide = np.maximum(np.abs(logits.astype("float64")), 1e-300) * np.where(logits < 0, -1, 1)
    tail = np.exp(-np.abs(wide)) / (1 + np.exp(-np.abs(wide)))  # sigmoid(-|logit|)
    above, below = np.where(wide < 0, 1 - tail, tail), np.where(wide < 0, tail, 1 - tail)
    slopes = (1 - target) * below - target * above
    np.testing.assert_allclose(tape.gradient(values, variable), slopes, rtol=1e-6, atol=1e-30)
    expected = target * np.logaddexp(0, -wide) + (1 - target) * np.logaddexp(0, wide)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-30)


def test_rpn_losses_equal_the_loop():
    rng = np.random.default_rng(0)
    logits, deltas = rng.normal(size=(2, 20)).astype("float32"), rng.normal(size=(2, 20, 4)).astype(
        "float32"
    )
    indices = np.stack([rng.permutation(20)[:6] for _ in range(2)]).astype("int32")
    labels = np.array([[1, 1, 0, 0, 0, -1], [1, 0, 0, -1, -1, -1]], "int32")
    targets = rng.normal(size=(2, 6, 4)).astype("float32")
    class_sum = box_sum = drawn = 0
    for i in range(2):
        for s in range(6):
            if labels[i, s] < 0:
                continue
            drawn += 1
            p = sigmoid(logits[i, indices[i, s]])
            class_sum -= np.log(p if labels[i, s] else 1 - p)
            if labels[i, s] == 1:
                for d in range(4):
                    error = abs(deltas[i, indices[i, s], d] - targets[i, s, d])
                    box_sum += 0.5 * error**2 / 0.2 if error < 0.2 else error - 0.1
    assert drawn == 8
    assert float(losses.rpn_class_loss(logits, indices, labels)) == pytest.approx(
        class_sum / 8, rel=1e-5
    )
    box = losses.rpn_box_loss(deltas, indices, labels, targets, beta=0.2)
    assert float(box) == pytest.approx(box_sum / 8, rel=1e-5)


def test_region_losses_equal_the_loop():
    rng = np.random.default_rng(1)
    logits, deltas = rng.normal(size=(6, 4)).astype("float32"), rng.normal(size=(6, 3, 4)).astype(
        "float32"
    )
    labels = np.array([2, 0, 3, 3, -1, -1], "int32")  # 3 is the background
    targets = rng.normal(size=(6, 4)).astype("float32")
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.mean([np.log(probabilities[i, labels[i]]) for i in range(4)])
    assert float(losses.box_class_loss(logits, labels)) == pytest.approx(expected, rel=1e-5)
    expected = sum(np.abs(deltas[i, labels[i]] - targets[i]).sum() for i in range(2)) / 4
    assert float(losses.box_loss(deltas, labels, targets, 0.0, 3)) == pytest.approx(
        expected, rel=1e-5
    )


def test_mask_loss_counts_positive_regions_alone():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(4, 3, 3)).astype("float32")
    masks = (rng.random((4, 3, 3)) > 0.5).astype("float32")
    labels = np.array([1, 0, -1, 2], "int32")  # -1 padding, 2 background
    p = sigmoid(logits[:2])
    expected = -np.mean(masks[:2] * np.log(p) + (1 - masks[:2]) * np.log(1 - p))
    assert float(losses.mask_loss(logits, labels, masks, 2)) == pytest.approx(expected, rel=1e-5)


def test_nothing_drawn_costs_nothing_even_where_predictions_are_infinite():
    wild = np.full((1, 3), np.inf, "float32")
    none = np.full((1, 3), -1, "int32")
    index = np.zeros((1, 3), "int32")
    assert float(losses.rpn_class_loss(wild, index, none)) == 0
    deltas = np.full((1, 3, 4), np.inf, "float32")
    assert float(losses.rpn_box_loss(deltas, index, none, np.zeros((1, 3, 4), "float32"), 0.1)) == 0
    masks = np.full((2, 4, 4), np.inf, "float32")
    assert (
        float(
            losses.mask_loss(masks, np.array([-1, 5], "int32"), np.zeros((2, 4, 4), "float32"), 5)
        )
        == 0
    )


def test_class_agnostic_boxes_serve_every_class():
    rng = np.random.default_rng(3)
    deltas, targets = rng.normal(size=(2, 5, 4)).astype("float32")
    labels = np.array([2, 0, 3, 1, -1], "int32")  # 3 is the background
    expected = np.abs(deltas - targets)[[0, 1, 3]].sum() / 4
    loss = losses.box_loss(deltas[:, None], labels, targets, 0.0, 3)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_overlap_losses_compare_the_moved_boxes(kind):
    import tensorflow as tf

    rng = np.random.default_rng(4)
    rois = np.array([[0, 0, 10, 20], [5, 5, 25, 15], [0, 0, 0, 0], [3, 3, 9, 9]], "float32")
    labels = np.array([1, 0, -1, 2], "int32")  # an object each, padding, background
    deltas = tf.constant(rng.normal(size=(4, 2, 4)).astype("float32"))
    targets = rng.normal(size=(4, 4)).astype("float32")
    targets[2:] = 0
    variance = (0.1, 0.1, 0.2, 0.2)
    with tf.GradientTape() as tape:
        tape.watch(deltas)
        loss = losses.box_overlap_loss(deltas, labels, targets, rois, variance, kind, 2)
    expected = 0
    for i in range(2):
        moved = decode_deltas(rois[i], np.array(deltas)[i, labels[i]], variance)
        expected += float(overlap_loss(moved, decode_deltas(rois[i], targets[i], variance), kind))
    assert float(loss) == pytest.approx(expected / 3, rel=1e-5)
    gradient = np.array(tape.gradient(loss, deltas))
    assert np.isfinite(gradient).all()
    used = np.zeros((4, 2), bool)
    used[0, 1] = used[1, 0] = True
    np.testing.assert_array_equal(gradient.any(axis=-1), used)


def test_multinomial_masks_compete_with_the_background():
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(4, 3, 3, 3)).astype("float32")  # two classes and the background
    masks = (rng.random((4, 3, 3)) > 0.5).astype("float32")
    labels = np.array([1, 0, -1, 2], "int32")
    expected = []
    for n in range(2):
        for y in range(3):
            for x in range(3):
                p = np.exp(logits[n, y, x]) / np.exp(logits[n, y, x]).sum()
                expected.append(-np.log(p[labels[n] if masks[n, y, x] else 2]))
    loss = losses.multinomial_mask_loss(logits, labels, masks, 2)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)


def test_keypoint_loss_counts_visible_keypoints_of_objects_alone():
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(3, 4, 4, 2)).astype("float32")
    cells = np.array([[5, -1], [15, 0], [3, 3]], "int32")
    labels = np.array([0, 0, 1], "int32")  # 1 is the background
    expected = []
    for n, k in ((0, 0), (1, 0), (1, 1)):
        p = np.exp(logits[n, ..., k]) / np.exp(logits[n, ..., k]).sum()
        expected.append(-np.log(p[cells[n, k] // 4, cells[n, k] % 4]))
    loss = losses.keypoint_loss(logits, labels, cells, 1)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(losses.keypoint_loss(logits, labels, np.full((3, 2), -1, "int32"), 1)) == 0
