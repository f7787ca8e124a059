"""Both ways of suppression against the greedy loop."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kmaskrcnn.geometry.suppression import class_nms, suppress

both = pytest.mark.parametrize("portable", [False, True], ids=["kernel", "keras.ops"])


def run(boxes, scores, portable, **options):
    options = {"iou_threshold": 0.5, "max_per_class": 50, "max_total": 60, **options}
    return [ops.convert_to_numpy(x) for x in class_nms(boxes, scores, portable=portable, **options)]


def expected(boxes, scores, threshold, max_total, score_threshold=0):
    """(score, label, box) of one picture, best first."""
    found = []
    for label in range(scores.shape[1]):
        of_class = boxes[:, label if boxes.shape[1] > 1 else 0]
        for i in oracles.nms(of_class, scores[:, label], threshold):
            if scores[i, label] > score_threshold:
                found.append((scores[i, label], label, of_class[i]))
    return sorted(found, key=lambda row: -row[0])[:max_total]


@both
@pytest.mark.parametrize("own_boxes", [False, True])
def test_equals_the_greedy_loop(portable, own_boxes):
    rng = np.random.default_rng(1)
    boxes = oracles.random_boxes(rng, (2, 40, 3 if own_boxes else 1), 60, 60, smallest=15)
    scores = rng.random((2, 40, 3)).astype("float32")
    out_boxes, out_scores, labels, count = run(boxes, scores, portable, score_threshold=0.2)
    for i in range(2):
        truth = expected(boxes[i], scores[i], 0.5, 60, 0.2)
        assert count[i] == len(truth) > 3
        np.testing.assert_allclose(out_scores[i, : count[i]], [row[0] for row in truth], rtol=1e-6)
        np.testing.assert_array_equal(labels[i, : count[i]], [row[1] for row in truth])
        np.testing.assert_allclose(out_boxes[i, : count[i]], [row[2] for row in truth], rtol=1e-6)
        assert (labels[i, count[i] :] == -1).all() and not out_boxes[i, count[i] :].any()


@both
def test_nan_and_zero_are_never_kept(portable):
    boxes = np.array([[[[0, 0, 10, 10]], [[50, 0, 60, 10]], [[0, 50, 10, 60]]]], "float32")
    scores = np.array([[[np.nan], [0.0], [1e-6]]], "float32")
    out_boxes, out_scores, labels, count = run(boxes, scores, portable)
    assert count[0] == 1 and labels[0, 0] == 0 and out_scores[0, 0] == np.float32(1e-6)
    np.testing.assert_array_equal(out_boxes[0, 0], [0, 50, 10, 60])


@both
def test_limits_a_class_and_in_all(portable):
    boxes = (np.arange(10, dtype="float32")[:, None] * 20 + np.array([0, 0, 10, 10], "float32"))[
        None, :, None
    ]
    scores = np.linspace(0.9, 0.1, 20, dtype="float32").reshape(1, 10, 2)
    *_, labels, count = run(boxes, scores, portable, max_per_class=3, max_total=5)
    assert count[0] == 5 and (labels[0] == [0, 1, 0, 1, 0]).all()


@both
def test_no_box_at_all(portable):
    *_, labels, count = run(
        np.zeros((1, 4, 1, 4), "float32"), np.zeros((1, 4, 2), "float32"), portable
    )
    assert count[0] == 0 and (labels == -1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_suppression_is_idempotent(seed, threshold):
    rng = np.random.default_rng(seed)
    boxes = oracles.random_boxes(rng, (30,), 50, 50, smallest=15)
    valid = np.ones(30, bool)
    once = ops.convert_to_numpy(suppress(boxes, threshold, valid))
    assert list(np.flatnonzero(once)) == sorted(oracles.nms(boxes, -np.arange(30.0), threshold))
    again = ops.convert_to_numpy(suppress(boxes[once], threshold, valid[: once.sum()]))
    assert again.all()
