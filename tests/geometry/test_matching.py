"""Matching and sampling against loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kmaskrcnn.geometry.matching import match_boxes, sample_balanced


def loop_match(ious, positive, negative, match_best):
    labels = []
    for i, row in enumerate(ious):
        label = 1 if max(row) >= positive else 0 if max(row) < negative else -1
        best_for_some = any(row[g] == max(ious[:, g]) and row[g] > 0 for g in range(len(row)))
        labels.append(1 if match_best and best_for_some else label)
    return labels


@pytest.mark.parametrize("match_best", [False, True])
def test_matching_equals_the_loop(match_best):
    rng = np.random.default_rng(0)
    ious = rng.random((2, 30, 4)).astype("float32")
    ious[:, :, 2] *= 0.3  # an object that no box overlaps well
    ious[:, :, 3] = -1.0  # padding
    ious[0, 5, 2] = ious[0, 9, 2] = ious[0, :, 2].max()  # a tie for the best
    matches, labels = match_boxes(ious, 0.7, 0.3, match_best)
    np.testing.assert_array_equal(matches, ious.argmax(2))
    for i in range(2):
        np.testing.assert_array_equal(labels[i], loop_match(ious[i], 0.7, 0.3, match_best))


def test_without_objects_all_is_background():
    _, labels = match_boxes(np.full((1, 5, 2), -1.0, "float32"), 0.7, 0.3, match_best=True)
    np.testing.assert_array_equal(labels, np.zeros((1, 5)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(0, 40), st.integers(0, 10))
def test_samples_are_balanced_distinct_and_true(seed, positives, negatives, ignored):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([1, 0, -1], [positives, negatives, ignored]))[None].astype(
        "int32"
    )
    noise = rng.random(labels.shape).astype("float32")
    indices, drawn = (ops.convert_to_numpy(x)[0] for x in sample_balanced(labels, 16, 0.25, noise))
    expected_positives = min(positives, 4)
    assert (drawn == 1).sum() == expected_positives
    assert (drawn == 0).sum() == min(negatives, 16 - expected_positives)
    assert (drawn[:expected_positives] == 1).all()
    chosen = indices[drawn >= 0]
    assert len(set(chosen)) == len(chosen)
    np.testing.assert_array_equal(labels[0, chosen], drawn[drawn >= 0])


def test_every_candidate_is_drawn_equally_often():
    rng = np.random.default_rng(0)
    labels = np.tile(np.repeat([1, 0], [10, 30]).astype("int32"), (4000, 1))
    indices, drawn = sample_balanced(labels, 8, 0.5, rng.random(labels.shape).astype("float32"))
    times = (
        np.bincount(ops.convert_to_numpy(indices)[ops.convert_to_numpy(drawn) >= 0], minlength=40)
        / 4000
    )
    # 4 of 10 positives and 4 of 30 negatives; the standard error is 0.008
    np.testing.assert_allclose(times[:10], 0.4, atol=0.035)
    np.testing.assert_allclose(times[10:], 4 / 30, atol=0.025)


def test_noise_that_rounds_to_1_makes_no_object_of_background():
    """The greatest number below 1, plus 1, is 2 in float32."""
    noise = np.array([[np.nextafter(np.float32(1), np.float32(0)), 0.0, 0.5]], "float32")
    labels = np.array([[0, 1, -1]], "int32")
    indices, drawn = sample_balanced(labels, 4, 0.5, noise)
    np.testing.assert_array_equal(drawn, [[1, 0, -1, -1]])
    np.testing.assert_array_equal(indices, [[1, 0, 0, 0]])
