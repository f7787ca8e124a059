"""Keypoint arithmetic against loops, a dense enlargement by OpenCV, and torchvision."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from kmaskrcnn.geometry.keypoints import (
    TILE,
    WINDOW,
    decode_keypoints,
    decode_keypoints_everywhere,
    encode_keypoints,
    flip_keypoints,
)

RECORDED = np.load(Path(__file__).parents[1] / "fixtures" / "torchvision_ops.npz")


def loop_encode(points, roi, size):
    """The paper's rule: which of the region's m x m cells a visible keypoint lies in."""
    cells = []
    for x, y, visibility in points:
        cell = -1
        if visibility > 0 and roi[0] <= x <= roi[2] and roi[1] <= y <= roi[3]:
            column = min(int((x - roi[0]) / (roi[2] - roi[0]) * size), size - 1)
            row = min(int((y - roi[1]) / (roi[3] - roi[1]) * size), size - 1)
            cell = row * size + column
        cells.append(cell)
    return cells


def test_cells_equal_the_loop():
    rng = np.random.default_rng(0)
    rois = np.array([[8, 16, 72, 144], [0, 0, 28, 14], [-8, 4, 120, 36]], "float32")
    points = np.concatenate([rng.integers(-20, 160, (3, 40, 2)), rng.integers(0, 3, (3, 40, 1))], 2)
    points[0, 0], points[0, 1] = (72, 144, 2), (8, 16, 1)  # on two corners
    cells = np.array(encode_keypoints(points.astype("float32"), rois, 56))
    np.testing.assert_array_equal(cells, [loop_encode(p, r, 56) for p, r in zip(points, rois)])
    assert cells[0, 0] == 56 * 56 - 1 and cells[0, 1] == 0 and (cells < 0).any()


def test_cells_equal_torchvision():
    cells = np.array(
        encode_keypoints(RECORDED["keypoints/truth"], RECORDED["keypoints/truth_boxes"], 56)
    )
    valid = RECORDED["keypoints/valid"] > 0
    assert 0.1 < valid.mean() < 0.9
    np.testing.assert_array_equal(cells >= 0, valid)
    np.testing.assert_array_equal(cells[valid], RECORDED["keypoints/cells"][valid])


def test_a_region_without_extent_has_no_cells():
    points = np.array([[[5, 5, 2]]], "float32")
    assert encode_keypoints(points, np.array([[5, 5, 5, 5]], "float32"), 56)[0, 0] == -1


@pytest.mark.parametrize("decode", [decode_keypoints, decode_keypoints_everywhere])
def test_points_equal_torchvision(decode):
    heatmaps = RECORDED["keypoints/maps"].transpose(0, 2, 3, 1)
    points, peaks = decode(heatmaps, RECORDED["keypoints/rois"])
    np.testing.assert_allclose(points, RECORDED["keypoints/points"][..., :2], atol=1e-5)
    np.testing.assert_allclose(peaks, RECORDED["keypoints/scores"], atol=1e-5)


def dense_decode(heatmap, roi):
    """Enlarge the whole map to the region's pixels and take the best of them."""
    sides = np.maximum(roi[2:] - roi[:2], 1)
    columns, rows = np.ceil(sides).astype(int)
    fine = cv2.resize(heatmap, (int(columns), int(rows)), interpolation=cv2.INTER_CUBIC)
    y, x = np.unravel_index(fine.argmax(), fine.shape)
    return [roi[0] + (x + 0.5) * sides[0] / columns, roi[1] + (y + 0.5) * sides[1] / rows]


def blobs(rng, count, size=56):
    """Smooth heatmaps with peaks anywhere, on the border too."""
    peaks = rng.uniform(0, size, (count, 2))
    axis = np.arange(size) + 0.5
    squares = (axis[None, :, None] - peaks[:, None, None, 1]) ** 2
    squares = squares + (axis[None, None, :] - peaks[:, None, None, 0]) ** 2
    return peaks, (8 * np.exp(-squares / 8)).astype("float32")


@pytest.mark.parametrize("height, width", [(300, 90), (700.5, 1100.25), (40, 30.5), (3, 500)])
def test_the_window_holds_what_the_whole_map_would_give(height, width):
    rng = np.random.default_rng(1)
    _, maps = blobs(rng, 20)
    assert max(height, width) > WINDOW or height < WINDOW
    roi = np.array([12.25, -7, 12.25 + width, height - 7], "float32")
    points, _ = decode_keypoints(maps.transpose(1, 2, 0)[None], roi[None])
    expected = [dense_decode(one, roi) for one in maps]
    # Where two pixels are equally high OpenCV's rounding may take the other one.
    distance = np.abs(np.array(points)[0] - expected)
    assert (distance < 1e-3).all(axis=1).mean() >= 0.9 and distance.max() < 1.1


def test_points_are_finer_than_cells():
    rng = np.random.default_rng(2)
    peaks, maps = blobs(rng, 30)
    inner = ((peaks > 2) & (peaks < 54)).all(axis=1)
    roi = np.array([[0, 0, 560, 560]], "float32")  # a cell has 10 pixels
    points, _ = decode_keypoints(maps.transpose(1, 2, 0)[None], roi)
    error = np.abs(np.array(points)[0] - 10 * peaks)[inner]
    assert inner.sum() > 15 and error.max() < 1.5 and error.mean() < 0.8  # a cell's centre: 2.5


def test_decode_after_encode_is_within_a_cell():
    rng = np.random.default_rng(3)
    roi = np.array([[10, 20, 122, 188]], "float32")
    truth = np.concatenate([rng.uniform([10, 20], [122, 188], (9, 2)), np.ones((9, 1))], 1)
    cells = np.array(encode_keypoints(truth[None].astype("float32"), roi, 56))[0]
    maps = np.full((1, 56 * 56, 9), -5, "float32")
    maps[0, cells, range(9)] = 5
    points, _ = decode_keypoints(maps.reshape(1, 56, 56, 9), roi)
    assert (np.abs(np.array(points)[0] - truth[:, :2]) <= [2, 3]).all()


def loop_everywhere(heatmap, roi):
    """torchvision's rule: enlarge the whole map by cubic convolution with a = -0.75, take the first highest pixel."""
    width, height = np.maximum(roi[2:] - roi[:2], np.float32(1))
    number = int(np.ceil(width)), int(np.ceil(height))
    rows, columns = taps(number[1], len(heatmap)), taps(number[0], len(heatmap))
    fine = np.stack([np.tensordot(v, heatmap[i], 1) for i, v in rows])  # (h, m)
    fine = np.stack([fine[:, i] @ v for i, v in columns], axis=1)  # (h, w)
    y, x = np.unravel_index(fine.argmax(), fine.shape)
    point = [(x + 0.5) * width / number[0] + roi[0], (y + 0.5) * height / number[1] + roi[1]]
    return point, fine[y, x]


def taps(number, size, a=-0.75):
    """For each of `number` positions along `size` cells: four cells, the border's repeated, and their weights."""
    found = []
    for position in range(number):
        place = (position + 0.5) * size / number - 0.5
        cells = int(np.floor(place)) + np.arange(-1, 3)
        d = np.abs(place - cells)
        near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        found.append((cells.clip(0, size - 1), np.where(d <= 1, near, far)))
    return found


def test_every_pixel_equals_the_loop():
    """On noise, in regions of several tiles, of one and of less."""
    rng = np.random.default_rng(5)
    maps = rng.normal(size=(4, 14, 14, 3)).astype("float32")
    sides = np.array([[2.5 * TILE, 1.2 * TILE], [TILE, TILE + 1], [30.5, 8], [0.25, 50]])
    corners = rng.uniform(-20, 90, (4, 2))
    rois = np.concatenate([corners, corners + sides], 1).astype("float32")
    points, peaks = decode_keypoints_everywhere(maps, rois)
    expected = [[loop_everywhere(m[..., k], roi) for k in range(3)] for m, roi in zip(maps, rois)]
    np.testing.assert_allclose(points, [[p for p, _ in one] for one in expected], atol=1e-3)
    np.testing.assert_allclose(peaks, [[v for _, v in one] for one in expected], atol=1e-5)


def test_the_highest_pixel_may_lie_far_from_the_highest_cell():
    """Between four cells of .95 a cubic convolution reaches .95 * 1.1875 ** 2 = 1.34, at the edges of cell 11."""
    heatmap = np.zeros((1, 14, 14, 1), "float32")
    heatmap[0, 2, 2] = 1
    heatmap[0, 10:12, 10:12] = 0.95
    # 21 pixels a cell: one centre is on the edge.
    roi = np.array([[0, 0, 14 * 21, 14 * 21]], "float32")
    points, peaks = decode_keypoints_everywhere(heatmap, roi)
    assert np.abs(np.array(points)[0, 0] - 11 * 21).max() < 1 and 1.33 < peaks[0, 0] < 1.34
    assert np.abs(np.array(decode_keypoints(heatmap, roi)[0])[0, 0] - 2.5 * 21).max() < 1


def test_no_region_has_no_points():
    nothing = np.zeros((0, 14, 14, 3), "float32"), np.zeros((0, 4), "float32")
    points, peaks = decode_keypoints_everywhere(*nothing)
    assert points.shape == (0, 3, 2) and peaks.shape == (0, 3)


@pytest.mark.parametrize("decode", [decode_keypoints, decode_keypoints_everywhere])
def test_decoding_compiles_with_xla(decode):
    import tensorflow as tf

    _, maps = blobs(np.random.default_rng(4), 3)
    inputs = maps.transpose(1, 2, 0)[None], np.array([[0, 0, 200, 90]], "float32")
    compiled = tf.function(decode, jit_compile=True)(*inputs)
    for one, other in zip(compiled, decode(*inputs)):
        np.testing.assert_allclose(one, ops.convert_to_numpy(other), atol=1e-3)


def test_a_mirror_swaps_left_and_right():
    nose, left, right = [5.0, 1, 2], [8.0, 2, 1], [0.0, 0, 0]
    flipped = flip_keypoints(np.array([nose, left, right]), 20, [(1, 2)])
    np.testing.assert_array_equal(flipped, [[15, 1, 2], [0, 0, 0], [12, 2, 1]])


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.int32, (3, 5, 2), elements=st.integers(0, 100)),
    arrays(np.int32, (3, 5, 1), elements=st.integers(0, 2)),
    st.integers(1, 100),
)
def test_flipping_twice_is_the_identity(points, visibility, width):
    keypoints = np.concatenate([points, visibility], 2).astype("float32")
    pairs = [(0, 3), (1, 2)]
    once = flip_keypoints(keypoints, width, pairs)
    np.testing.assert_array_equal(flip_keypoints(once, width, pairs), keypoints)
    assert once is not keypoints
