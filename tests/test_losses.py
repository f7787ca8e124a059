"""Losses against loops and hand numbers."""

import numpy as np
import pytest

from kmaskrcnn import losses


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
    assert float(losses.box_loss(deltas, labels, targets, beta=0.0)) == pytest.approx(
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
