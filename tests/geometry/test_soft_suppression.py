"""Soft-NMS against the paper's loop, one class at a time."""

import numpy as np
import oracles
import pytest
import tensorflow as tf

from kmaskrcnn.geometry.soft_suppression import soft_nms
from kmaskrcnn.geometry.suppression import class_nms


def loop_soft_nms(boxes, scores, method, iou_threshold, sigma, score_threshold):
    """Figure 2 of the paper: `(score, box)` of one class, in the order taken."""
    scores, left, found = scores.astype(float), list(range(len(boxes))), []
    while left:
        best = max(left, key=lambda i: scores[i])
        if scores[best] <= score_threshold:
            break
        found.append((scores[best], boxes[best]))
        left.remove(best)
        for i in left:
            iou = oracles.iou(boxes[best], boxes[i])
            if method == "soft_gaussian":
                scores[i] *= np.exp(-(iou**2) / sigma)
            elif iou > iou_threshold:
                scores[i] *= 1 - iou
    return found


@pytest.mark.parametrize("method", ["soft_linear", "soft_gaussian"])
@pytest.mark.parametrize("own_boxes", [True, False])
def test_equals_the_loop(method, own_boxes):
    rng = np.random.default_rng(0)
    boxes = oracles.random_boxes(rng, (2, 25, 3 if own_boxes else 1), 40, 40, smallest=15)
    scores = rng.uniform(0, 1, (2, 25, 3)).astype("float32")
    found = soft_nms(
        boxes,
        scores,
        method=method,
        iou_threshold=0.3,
        sigma=0.4,
        max_total=30,
        score_threshold=0.2,
    )
    found_boxes, found_scores, labels, count = (np.array(x) for x in found)
    for i in range(2):
        expected = []
        for k in range(3):
            of_class = boxes[i, :, k if own_boxes else 0]
            taken = loop_soft_nms(of_class, scores[i, :, k], method, 0.3, 0.4, 0.2)
            expected += [(score, k, box) for score, box in taken]
        expected = sorted(expected, key=lambda row: -row[0])[:30]
        assert 8 < count[i] == len(expected)
        np.testing.assert_allclose(found_scores[i, : count[i]], [e[0] for e in expected], atol=1e-5)
        np.testing.assert_array_equal(labels[i, : count[i]], [e[1] for e in expected])
        np.testing.assert_array_equal(found_boxes[i, : count[i]], [e[2] for e in expected])
        assert (labels[i, count[i] :] == -1).all() and not found_scores[i, count[i] :].any()


def test_hand_numbers():
    """Two boxes that overlap by a half, IoU 1/3; a far one; one of another class."""
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [50, 0, 60, 10], [1, 0, 11, 10]], "float32")
    scores = np.array([[0.9, 0], [0.8, 0], [0.5, 0], [0, 0.7]], "float32")
    options = {"sigma": 0.5, "max_total": 6, "score_threshold": 0.0}
    inputs = boxes[None, :, None], scores[None]
    _, linear, labels, count = soft_nms(*inputs, method="soft_linear", iou_threshold=0.3, **options)
    np.testing.assert_allclose(linear[0], [0.9, 0.7, 0.8 * 2 / 3, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(labels[0], [0, 1, 0, 0, -1, -1])
    assert int(count[0]) == 4
    _, soft, *_ = soft_nms(*inputs, method="soft_gaussian", iou_threshold=0.3, **options)
    np.testing.assert_allclose(soft[0, 2], 0.8 * np.exp(-2 / 9), atol=1e-6)


def test_without_overlap_it_is_hard_suppression():
    corners = np.stack(np.meshgrid(range(0, 50, 10), range(0, 50, 10)), -1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + 8], 1).astype("float32")[None, :, None]
    scores = np.random.default_rng(1).uniform(0, 1, (1, 25, 2)).astype("float32")
    soft = soft_nms(
        boxes, scores, method="soft_gaussian", iou_threshold=0.5, sigma=0.5, max_total=60
    )
    hard = class_nms(boxes, scores, iou_threshold=0.5, max_per_class=60, max_total=60)
    for one, other in zip(soft, hard):
        np.testing.assert_allclose(one, other)


def test_nothing_to_take_and_nan():
    boxes = np.zeros((1, 3, 1, 4), "float32")
    scores = np.array([[[0.0], [np.nan], [0.0]]], "float32")
    found = soft_nms(boxes, scores, method="soft_linear", iou_threshold=0.5, sigma=1, max_total=5)
    assert int(found[3][0]) == 0 and (np.array(found[2]) == -1).all()


def test_compiles_with_xla():
    rng = np.random.default_rng(2)
    boxes = oracles.random_boxes(rng, (1, 10, 2), 40, 40)
    scores = rng.uniform(0, 1, (1, 10, 2)).astype("float32")
    options = {"method": "soft_gaussian", "iou_threshold": 0.5, "sigma": 0.5, "max_total": 7}
    run = tf.function(lambda b, s: soft_nms(b, s, **options), jit_compile=True)
    for one, other in zip(run(boxes, scores), soft_nms(boxes, scores, **options)):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="method: got 'hard'"):
        soft_nms(
            np.zeros((1, 1, 1, 4)),
            np.zeros((1, 1, 1)),
            method="hard",
            iou_threshold=0.5,
            sigma=1,
            max_total=1,
        )
