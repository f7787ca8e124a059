"""Tiles cover a picture, and what they find is merged as an eye would."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmaskrcnn.detections import Detections
from kmaskrcnn.serving.tiling import merge_tiles, tile_windows


@given(st.integers(1, 500), st.integers(1, 500), st.integers(20, 200), st.floats(0, 0.9))
def test_windows_cover_the_picture_and_overlap_enough(height, width, tile_size, overlap):
    windows = tile_windows((height, width), tile_size, overlap)
    seen = np.zeros((height, width), int)
    for rows, columns in windows:
        seen[rows, columns] += 1
        assert rows.stop - rows.start == min(tile_size, height)
        assert columns.stop - columns.start == min(tile_size, width)
    assert seen.min() >= 1
    starts = sorted({columns.start for _, columns in windows})
    # Whole pixels: the start of an evenly spread window is rounded.
    assert all(b - a <= tile_size * (1 - overlap) + 1 for a, b in zip(starts, starts[1:]))


@pytest.mark.parametrize("tile_size, overlap", [(0, 0.2), (10, 1.0), (10, -0.1)])
def test_senseless_windows_are_refused(tile_size, overlap):
    with pytest.raises(ValueError, match="tile_size and overlap"):
        tile_windows((10, 10), tile_size, overlap)


def found(*rows, size=(100, 100)):
    """Detections of `(box, label, score)` rows, with masks that are told apart by their score."""
    boxes, labels, scores = zip(*rows) if rows else ((), (), ())
    masks = np.array([np.full((2, 2), score) for score in scores]).reshape(-1, 2, 2)
    return Detections(boxes, labels, scores, size, masks=masks, class_names=("a", "b"))


WINDOWS = tile_windows((100, 160), 100, 0.4)  # columns 0-100 and 60-160


def test_an_object_in_the_overlap_is_found_once():
    merged = merge_tiles(
        [found(([65, 10, 90, 40], 0, 0.8)), found(([5, 10, 31, 40], 0, 0.9))], WINDOWS, (100, 160)
    )
    np.testing.assert_allclose(merged.boxes, [[65, 10, 91, 40]])
    np.testing.assert_allclose(merged.scores, [0.9])
    np.testing.assert_allclose(merged.masks[:, 0, 0], [0.9])
    assert merged.image_size == (100, 160) and merged.names == ["a"]


def test_a_cut_part_gives_way_to_the_whole_even_with_a_better_score():
    # The left tile sees columns 80-100 of an object that the right tile sees whole: IoU 0.4.
    left, right = found(([80, 10, 100, 40], 0, 0.95)), found(([20, 10, 70, 40], 0, 0.6))
    merged = merge_tiles([left, right], WINDOWS, (100, 160))
    np.testing.assert_allclose(merged.boxes, [[80, 10, 130, 40]])


def test_what_belongs_to_different_objects_stays():
    left = found(([10, 10, 50, 50], 0, 0.5), ([20, 20, 30, 30], 0, 0.7), ([70, 5, 90, 25], 1, 0.6))
    right = found(([10, 5, 30, 25], 0, 0.9), ([60, 60, 99.5, 90], 1, 0.4))
    merged = merge_tiles([left, right], WINDOWS, (100, 160))
    # A small object within a large one, two classes at one place, and one at the picture's own border.
    np.testing.assert_allclose(merged.scores, [0.9, 0.7, 0.6, 0.5, 0.4])
    assert merged.labels.tolist() == [0, 0, 1, 0, 1]


def test_keypoints_move_with_their_tile():
    """Two objects, one a tile; columns of the right tile begin at 60, and a score stays a score."""

    def posed(box, points):
        return Detections([box], [0], [0.5], (100, 100), keypoints=[points])

    left = posed([10, 10, 30, 40], [[12, 20, 0.9], [28, 30, 0.8]])
    right = posed([50, 10, 90, 40], [[55, 20, 0.7], [80, 30, 0.6]])
    merged = merge_tiles([left, right], WINDOWS, (100, 160))
    wanted = [[[12, 20, 0.9], [28, 30, 0.8]], [[115, 20, 0.7], [140, 30, 0.6]]]
    np.testing.assert_allclose(merged.keypoints, wanted, rtol=1e-6)
    lower = merge_tiles([right], [(slice(40, 140), slice(0, 100))], (140, 100))
    np.testing.assert_allclose(lower.keypoints[0, :, :2], [[55, 60], [80, 70]])


def test_nothing_found_is_nothing():
    assert len(merge_tiles([found(), found()], WINDOWS, (100, 160))) == 0
