"""Anchors against hand numbers."""

import numpy as np
from keras import ops

from kmaskrcnn.geometry.anchors import anchor_grid, base_anchors


def test_ratio_is_height_over_width_and_keeps_the_area():
    anchors = base_anchors(32, (0.5, 1.0, 2.0))
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    np.testing.assert_allclose(height / width, [0.5, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(width * height, 32**2, rtol=1e-6)


def test_grid_runs_over_y_then_x_then_the_base_anchors():
    base = np.array([[-1, -1, 1, 1], [-2, -1, 2, 1]], "float32")
    grid = ops.convert_to_numpy(anchor_grid(2, 3, 8, base))
    expected = [
        np.array([x * 8, y * 8, x * 8, y * 8]) + anchor
        for y in range(2)
        for x in range(3)
        for anchor in base
    ]
    np.testing.assert_array_equal(grid, expected)
