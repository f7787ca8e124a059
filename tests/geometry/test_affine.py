"""Affine maps against loops over pixels, and against hand-checked numbers."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from kmaskrcnn.geometry import affine

SIZE = 40, 60
TRIANGLE = [5.0, 5.0, 35.0, 8.0, 12.0, 30.0]
MAPS = {
    "mirror": affine.mirror(60),
    "scale": affine.scaling(1.53, 0.71),
    "turn": affine.rotation(30, (30, 20)),
    "crop": affine.translation(-10.25, -7.3),
    "all": affine.translation(-8, 3)
    @ affine.scaling(1.3, 1.1)
    @ affine.rotation(-20, (30, 20))
    @ affine.mirror(60),
}


def sample_by_loops(mask, matrix, size):
    """Each result pixel's centre, taken back, and the source pixel it falls into."""
    back, result = np.linalg.inv(matrix), np.zeros(size, np.uint8)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y, _ = back @ (column + 0.5, row + 0.5, 1.0)
            if 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]:
                result[row, column] = mask[int(y), int(x)]
    return result


def iou(a, b):
    return np.logical_and(a, b).sum() / max(np.logical_or(a, b).sum(), 1)


def test_a_quarter_turn_and_a_mirror_by_hand():
    # Upwards from the centre goes to the left: counter-clockwise as one sees it.
    np.testing.assert_allclose(
        affine.move_points([[20.0, 10.0]], affine.rotation(90, (20, 20))), [[10, 20]]
    )
    np.testing.assert_allclose(affine.move_points([[0.0, 3.0]], affine.mirror(60)), [[60, 3]])


@pytest.mark.parametrize("name", MAPS)
def test_pixels_move_as_a_loop_moves_them(name):
    mask = (np.random.default_rng(0).random(SIZE) < 0.5).astype(np.uint8)
    moved = affine.move_pixels(mask, MAPS[name], (50, 70), smooth=False)
    # OpenCV rounds coordinates to 1/32 of a pixel: a centre that near to an edge may fall either way.
    assert (moved == sample_by_loops(mask, MAPS[name], (50, 70))).mean() > 0.97


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_segmentations_and_their_boxes_move_with_the_full_mask(name, kind):
    # Rasterised at 8 times the size, so that the oracle's own pixels matter little.
    fine = affine.scaling(8, 8)
    polygon = affine.move_points(np.reshape(TRIANGLE, (-1, 2)), fine).ravel().tolist()
    mask = coco_mask.decode(coco_mask.frPyObjects([polygon], 320, 480))[..., 0]
    matrix, size = fine @ MAPS[name] @ np.linalg.inv(fine), (256, 320)
    given = [polygon] if kind == "polygon" else coco_mask.encode(np.asfortranarray(mask))
    moved = affine.move_segmentation(given, matrix, size, mask.shape)
    expected = sample_by_loops(mask, matrix, size)
    if kind == "polygon":
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(moved, *size)))
    else:
        drawn = coco_mask.decode(moved)
    assert iou(drawn, expected) > 0.98
    rows, columns = np.nonzero(expected)
    around = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(affine.segmentation_box(moved), around, atol=2.0)


def test_what_leaves_the_picture_is_gone():
    away = affine.translation(100, 0)
    assert affine.move_segmentation([TRIANGLE], away, SIZE, SIZE) is None
    mask = coco_mask.encode(np.asfortranarray(np.eye(40, 60, dtype=np.uint8)))
    assert affine.move_segmentation(mask, away, SIZE, SIZE) is None
    assert affine.move_box((1, 2, 3, 4), away, SIZE) is None


def test_a_square_is_clipped_by_hand():
    square = np.array([[-5.0, -5], [10, -5], [10, 10], [-5, 10]])
    clipped = affine.clip_polygon(square, (8, 100))
    assert sorted(map(tuple, clipped)) == [(0, 0), (0, 8), (10, 0), (10, 8)]


def test_boxes_move_by_their_corners():
    assert affine.move_box((10, 5, 20, 15), affine.scaling(2, 3), (100, 100)) == (20, 15, 40, 45)
    turned = affine.move_box((10, 10, 20, 20), affine.rotation(45, (15, 15)), (100, 100))
    half = 5 * np.sqrt(2)
    np.testing.assert_allclose(turned, (15 - half, 15 - half, 15 + half, 15 + half))
