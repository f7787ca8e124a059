"""Pasting, cropping and encoding of masks against loops over pixels and pycocotools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from kmaskrcnn.geometry.masks import crop_masks_to_boxes, masks_to_rles, paste_masks, paste_windows


def paste_by_loops(mask, box, image_size):
    """Probabilities of the whole picture, pixel by pixel, with zeros around the mask."""
    cells = len(mask)
    x1, y1, x2, y2 = (float(value) for value in box)
    padded = np.pad(mask.astype(np.float64), 1)
    pasted = np.zeros(image_size)
    for y in range(image_size[0]):
        for x in range(image_size[1]):
            u = (x + 0.5 - x1) / (x2 - x1) * cells - 0.5
            v = (y + 0.5 - y1) / (y2 - y1) * cells - 0.5
            if not (-1 < u < cells and -1 < v < cells):
                continue
            left, top = int(np.floor(u)), int(np.floor(v))
            across, down = u - left, v - top
            upper = padded[top + 1, left + 1] * (1 - across) + padded[top + 1, left + 2] * across
            lower = padded[top + 2, left + 1] * (1 - across) + padded[top + 2, left + 2] * across
            pasted[y, x] = upper * (1 - down) + lower * down
    return pasted


@st.composite
def masks_in_pictures(draw):
    """A mask with its box, which may leave the picture, and the picture's size."""
    height, width, cells = (
        draw(st.integers(1, 24)),
        draw(st.integers(1, 24)),
        draw(st.integers(1, 9)),
    )
    seed = draw(st.integers(0, 2**31))
    generator = np.random.default_rng(seed)
    mask = generator.random((cells, cells)).astype(np.float32)
    if draw(st.booleans()):
        mask = np.round(mask)
    x1, y1 = generator.uniform(-8, width), generator.uniform(-8, height)
    size = generator.uniform(0.3, 30, 2)
    return mask, np.array([x1, y1, x1 + size[0], y1 + size[1]]), (height, width)


@settings(max_examples=80, deadline=None)
@given(masks_in_pictures(), st.sampled_from([0.2, 0.5, 0.8]))
def test_paste_equals_a_loop_over_pixels(case, threshold):
    mask, box, image_size = case
    expected = paste_by_loops(mask, box, image_size)
    pasted = paste_masks(mask[None], box[None], image_size, threshold)[0]
    # float32 may fall on either side of a threshold that is met exactly.
    clear = np.abs(expected - threshold) > 1e-5
    np.testing.assert_array_equal(pasted[clear], (expected >= threshold)[clear])


def test_paste_by_hand():
    mask = np.array([[[0.0, 1.0], [0.0, 1.0]]])
    pasted = paste_masks(mask, [[2, 1, 6, 3]], (4, 8))[0]
    # Centres 2.5 .. 5.5 sample at -0.25, 0.25, 0.75, 1.25: values 0, 0.25, 0.75, 0.75 in rows of
    # weight 1.
    expected = np.zeros((4, 8), bool)
    expected[1:3, 4:6] = True
    np.testing.assert_array_equal(pasted, expected)


@settings(max_examples=60, deadline=None)
@given(masks_in_pictures(), st.floats(0.51, 1))
def test_a_pasted_mask_stays_in_its_box(case, threshold):
    mask, box, (height, width) = case
    y, x = np.nonzero(paste_masks(mask[None], box[None], (height, width), threshold)[0])
    assert np.all(
        (x + 0.5 >= box[0]) & (x + 0.5 <= box[2]) & (y + 0.5 >= box[1]) & (y + 0.5 <= box[3])
    )


@settings(max_examples=80, deadline=None)
@given(masks_in_pictures(), st.sampled_from([0.0, 0.3, 0.5]))
def test_rles_equal_pycocotools_of_the_pasted_mask(case, threshold):
    mask, box, image_size = case
    (rle,) = masks_to_rles(mask[None], box[None], image_size, threshold)
    pasted = paste_masks(mask[None], box[None], image_size, threshold)[0]
    expected = coco_mask.encode(np.asfortranarray(pasted.astype(np.uint8)))
    assert rle == {"size": list(image_size), "counts": expected["counts"].decode()}


@pytest.mark.parametrize("box", [[3, 3, 3, 9], [5, 5, 2, 2], [40, 40, 60, 60], [-9, -9, -2, -2]])
def test_boxes_without_area_or_outside_have_empty_masks(box):
    masks = np.ones((1, 7, 7))
    assert not paste_masks(masks, [box], (20, 30)).any()
    assert coco_mask.area(masks_to_rles(masks, [box], (20, 30)))[0] == 0


@pytest.mark.parametrize("rule", ["half_pixel", "torchvision", "matterport"])
@pytest.mark.parametrize("box", [[2, 26, 8, 40], [40, 3, 54, 9], [-30, 2, -9, 8], [2, -30, 8, -9]])
def test_boxes_beside_the_picture_have_empty_masks_by_every_rule(box, rule):
    masks = np.ones((1, 7, 7))
    assert not paste_masks(masks, [box], (20, 30), rule=rule).any()
    assert coco_mask.area(masks_to_rles(masks, [box], (20, 30), rule=rule))[0] == 0


def test_many_masks_are_pasted_as_each_alone():
    generator = np.random.default_rng(3)
    masks = generator.random((70, 5, 5))
    corners = generator.uniform(-4, 20, (70, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(-1, 15, (70, 2))], axis=1)
    together = masks_to_rles(masks, boxes, (20, 30))
    assert len(together) == 70 and coco_mask.area(together[0]) != coco_mask.area(together[40])
    for mask, box, rle in zip(masks, boxes, together):
        pasted = (
            paste_by_loops(mask, box, (20, 30)) if (box[2:] > box[:2]).all() else np.zeros((20, 30))
        )
        decoded = coco_mask.decode(rle)
        clear = np.abs(pasted - 0.5) > 1e-5  # float32 may fall on either side
        np.testing.assert_array_equal(decoded[clear], (pasted >= 0.5)[clear])


def test_no_masks():
    assert paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (5, 6)).shape == (0, 5, 6)
    assert masks_to_rles(np.zeros((0, 28, 28)), np.zeros((0, 4)), (5, 6)) == []
    assert crop_masks_to_boxes(np.zeros((0, 5, 6)), np.zeros((0, 4)), 28).shape == (0, 28, 28)


def test_a_window_is_no_larger_than_the_box_and_its_half_cells():
    ((window, top, left),) = paste_windows(
        np.ones((1, 28, 28)), [[3000, 2000, 3028, 2056]], (4000, 6000)
    )
    assert window.shape == (58, 28) and (top, left) == (1999, 3000)
    assert window[1:-1].all() and not window[[0, -1]].any()


def test_crop_is_the_share_of_each_cell_that_is_mask():
    generator = np.random.default_rng(0)
    masks = generator.random((4, 12, 10)) < 0.5
    boxes = np.array([[1, 2, 9, 8], [-3, -2, 7, 5], [2.3, 4.1, 6.9, 14.5], [0, 0, 10, 12]])
    crops = crop_masks_to_boxes(masks, boxes, 5)
    # 200 x 200 samples a box, 40 x 40 a cell.
    steps = (np.arange(200) + 0.5) / 200
    for mask, (x1, y1, x2, y2), crop in zip(masks, boxes, crops):
        x, y = np.floor(x1 + steps * (x2 - x1)).astype(int), np.floor(
            y1 + steps * (y2 - y1)
        ).astype(int)
        samples = mask[np.clip(y, 0, 11)[:, None], np.clip(x, 0, 9)].astype(float)
        samples *= ((y >= 0) & (y < 12))[:, None] & ((x >= 0) & (x < 10))
        # 1/40 a side: a sample's width at each edge between pixels.
        np.testing.assert_allclose(crop, samples.reshape(5, 40, 5, 40).mean((1, 3)), atol=0.05)


@pytest.mark.parametrize("size", [8, 16])
def test_paste_after_crop_is_the_identity_where_cells_divide_the_pixels(size):
    masks = np.random.default_rng(1).random((3, 30, 30)) < 0.5
    boxes = np.array([[2, 3, 10, 11], [0, 0, 8, 8], [22, 22, 30, 30]])
    pasted = paste_masks(
        crop_masks_to_boxes(masks, boxes, size), boxes, (30, 30), threshold=0.5 + 1e-4
    )
    for mask, paste, (x1, y1, x2, y2) in zip(masks, pasted, boxes):
        np.testing.assert_array_equal(paste[y1:y2, x1:x2], mask[y1:y2, x1:x2])


@pytest.mark.parametrize("function", [paste_masks, masks_to_rles, crop_masks_to_boxes])
def test_shapes_that_do_not_belong_together_are_refused(function):
    with pytest.raises(ValueError, match=r"masks \(2, 7, 7\), boxes \(3, 4\)"):
        function(np.zeros((2, 7, 7)), np.zeros((3, 4)), 7)
