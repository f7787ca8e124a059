"""Box arithmetic against loops and hand numbers."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kmaskrcnn.geometry import boxes as B

VARIANCE = (0.1, 0.1, 0.2, 0.2)
coordinates = st.floats(-500, 500, width=32)
sides = st.floats(1, 500, width=32)
a_box = st.tuples(coordinates, coordinates, sides, sides).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]], "float32")
)


def test_iou_equals_the_loop():
    rng = np.random.default_rng(0)
    boxes, others = oracles.random_boxes(rng, (2, 7), 60, 80), oracles.random_boxes(
        rng, (2, 5), 60, 80
    )
    expected = [[[oracles.iou(b, o) for o in others[i]] for b in boxes[i]] for i in range(2)]
    np.testing.assert_allclose(B.pairwise_iou(boxes, others), expected, atol=1e-6)


def test_iou_of_known_boxes():
    boxes = np.array([[0, 0, 10, 10]], "float32")
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [3, 3, 3, 9]], "float32")
    np.testing.assert_allclose(B.pairwise_iou(boxes, others), [[1, 1 / 3, 0, 0]], atol=1e-7)


def test_a_box_without_area_overlaps_nothing_not_even_itself():
    point = np.zeros((1, 4), "float32")
    assert float(B.pairwise_iou(point, point)[0, 0]) == 0.0


@settings(max_examples=50, deadline=None)
@given(a_box, a_box)
def test_iou_is_symmetric_and_a_share(first, second):
    forth = float(B.pairwise_iou(first[None], second[None])[0, 0])
    back = float(B.pairwise_iou(second[None], first[None])[0, 0])
    assert forth == pytest.approx(back, abs=1e-6)
    assert 0.0 <= forth <= 1.0 + 1e-6


def test_coverage_is_the_share_of_the_first_box():
    small, large = np.array([[0, 0, 10, 10]], "float32"), np.array([[5, 0, 100, 100]], "float32")
    assert float(B.pairwise_coverage(small, large)[0, 0]) == pytest.approx(0.5)
    assert float(B.pairwise_coverage(large, small)[0, 0]) == pytest.approx(50 / 9500)


def test_deltas_of_known_boxes():
    box = np.array([[0, 0, 10, 20]], "float32")
    target = np.array([[5, 0, 25, 20]], "float32")  # centre moves 10 right, width doubles
    expected = [[10 / 10 / 0.1, 0, np.log(2) / 0.2, 0]]
    np.testing.assert_allclose(B.encode_deltas(box, target, VARIANCE), expected, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(a_box, a_box)
def test_decoding_undoes_encoding(box, target):
    deltas = B.encode_deltas(box[None], target[None], VARIANCE)
    shrink = max(
        (box[2] - box[0]) / (target[2] - target[0]), (target[2] - target[0]) / (box[2] - box[0])
    )
    stretch = max(
        (box[3] - box[1]) / (target[3] - target[1]), (target[3] - target[1]) / (box[3] - box[1])
    )
    if max(shrink, stretch) < 60:  # beyond it the clamp of decode_deltas is at work
        # Coordinates of 1000 leave float32 about 1e-4, and a delta of a box 60 times as large 60 times that.
        np.testing.assert_allclose(
            B.decode_deltas(box[None], deltas, VARIANCE), target[None], atol=2e-2
        )


def test_wild_deltas_give_finite_boxes():
    box = np.array([[0, 0, 16, 16]], "float32")
    decoded = ops.convert_to_numpy(B.decode_deltas(box, np.full((1, 4), 1e4, "float32"), VARIANCE))
    assert np.isfinite(decoded).all()
    assert decoded[0, 2] - decoded[0, 0] == pytest.approx(1000, rel=1e-4)  # 16 * 1000 / 16


def test_degenerate_boxes_encode_to_zero():
    box, point = np.array([[0, 0, 10, 10]], "float32"), np.array([[3, 3, 3, 3]], "float32")
    assert not np.any(B.encode_deltas(box, point, VARIANCE))
    assert not np.any(B.encode_deltas(point, box, VARIANCE))


def test_boxes_are_clipped_to_their_own_picture():
    boxes = np.tile(np.array([-5, -5, 200, 200], "float32"), (2, 3, 1))
    clipped = ops.convert_to_numpy(B.clip_boxes(boxes, np.array([[100, 50], [60, 70]])))
    np.testing.assert_array_equal(clipped[0, 0], [0, 0, 50, 100])
    np.testing.assert_array_equal(clipped[1, 2], [0, 0, 70, 60])
