"""Augmentations against oracles that move the full-size mask, and against what must stay true whatever is drawn."""

import dataclasses

import cv2
import numpy as np
import pytest
import tensorflow as tf
from coco_files import sound_document, write_files
from pycocotools import mask as coco_mask

from kmaskrcnn.config import AugmentationConfig, ConfigError
from kmaskrcnn.data.augmentation import FILL, Augmentation, cut_out, paste, recolour
from kmaskrcnn.data.pipeline import make_dataset
from kmaskrcnn.data.records import ImageRecord, Instance, load_coco
from kmaskrcnn.geometry.segmentations import rasterise_in_box, to_rle

ALL = AugmentationConfig(
    min_sizes=(90, 120),
    vertical_flip=0.5,
    scale_jitter=(0.5, 1.8),
    rotation=25.0,
    brightness=0.2,
    contrast=0.2,
    saturation=0.3,
    hue=0.05,
    cutout=2,
    copy_paste=1.0,
)
GEOMETRY = AugmentationConfig(scale_jitter=(0.6, 1.7), vertical_flip=0.5, rotation=30.0)
POINTS = ((30.0, 25.0, 2.0), (70.0, 40.0, 1.0), (0.0, 0.0, 0.0))


def picture_with_object(rle=False):
    """A picture whose object is white, and the rest black: pixels tell where the object went."""
    polygon = [30.0, 15.0, 70.0, 15.0, 85.0, 40.0, 65.0, 65.0, 35.0, 65.0, 20.0, 38.0]
    mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 80, 110)))
    segmentation = coco_mask.encode(np.asfortranarray(mask)) if rle else [polygon]
    instance = Instance(1, (20, 15, 85, 65), 0, False, segmentation, float(mask.sum()), POINTS)
    return np.repeat(mask[..., None] * 255, 3, axis=2), ImageRecord(
        7, "a.png", 80, 110, (instance,)
    )


def full_masks(record):
    size = record.height, record.width
    return [coco_mask.decode(to_rle(i.segmentation, *size)) for i in record.instances]


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_an_object_goes_where_its_pixels_go(seed, rle):
    pixels, record = picture_with_object(rle)
    augment = Augmentation(GEOMETRY, 100, 140, 0.5, flip_pairs=((0, 1),))
    moved, after = augment(pixels, record, np.random.default_rng(seed))
    assert moved.shape[:2] == (after.height, after.width)
    # Around the picture lies the fill, which is half grey, so white is the object.
    white = moved[..., 0] > 190
    (mask,) = full_masks(after)
    union = np.logical_or(mask, white).sum()
    assert np.logical_and(mask, white).sum() / union > 0.93
    rows, columns = np.nonzero(white)
    around = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(after.instances[0].box, around, atol=2.5)


@pytest.mark.parametrize("flip, mirrored", [(0.0, True), (1.0, False)])
def test_turned_over_the_last_row_is_the_first(flip, mirrored):
    """With the mirror besides it is half a turn, which swaps no left and right."""
    pixels, record = picture_with_object()
    pixels[3, 5] = 200
    augment = Augmentation(AugmentationConfig(vertical_flip=1.0), 80, 110, flip, ((0, 1),))
    moved, after = augment(pixels, record, np.random.default_rng(0))
    np.testing.assert_array_equal(moved, np.rot90(pixels, 2) if flip else pixels[::-1])
    first = after.instances[0].keypoints[1 if mirrored else 0]
    assert first == pytest.approx((79.0 if flip else 30.0, 54.0, 2.0))
    assert after.instances[0].box == pytest.approx((25, 15, 90, 65) if flip else (20, 15, 85, 65))


def test_keypoints_go_with_the_picture_and_swap_when_mirrored():
    pixels, record = picture_with_object()
    pixels = np.zeros_like(pixels)
    pixels[25, 30] = 255  # where keypoint 0 is
    augment = Augmentation(GEOMETRY, 160, 220, 0.5, flip_pairs=((0, 1),))
    mirrored = []
    for seed in range(12):
        moved, after = augment(
            cv2.dilate(pixels, np.ones((3, 3))), record, np.random.default_rng(seed)
        )
        move = augment.draw_move((80, 110), np.random.default_rng(seed))
        mirrored.append(move.mirrored)
        points = np.array(after.instances[0].keypoints)
        x, y, visibility = points[1 if move.mirrored else 0]
        grey = np.where((moved == FILL).all(axis=2), 0, moved[..., 0])
        if visibility:
            rows, columns = np.nonzero(grey > 100)
            assert abs(columns.mean() - x) < 1.5 and abs(rows.mean() - y) < 1.5
        assert not points[2].any()
    assert 0 < sum(mirrored) < 12


def test_nothing_drawn_is_the_plain_resize(tmp_path):
    pixels, record = picture_with_object()
    augment = Augmentation(AugmentationConfig(), 160, 220, flip=0.0)
    moved, after = augment(pixels, record, np.random.default_rng(0))
    plain = cv2.resize(pixels, (220, 160))
    assert np.abs(moved.astype(int) - plain).max() <= 2  # OpenCV's two samplers round differently
    np.testing.assert_allclose(after.instances[0].box, (40, 30, 170, 130))


def test_pasted_objects_cover_what_lies_beneath():
    pixels, record = picture_with_object()
    square = Instance(2, (40, 10, 110, 80), 1, False, [[40, 10, 110, 10, 110, 80, 40, 80]], 4900.0)
    other = ImageRecord(8, "b.png", 80, 110, (square,))
    red = np.zeros((80, 110, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    before = full_masks(record)[0]
    # the first draw chooses the object
    seed = next(s for s in range(9) if np.random.default_rng(s).random() >= 0.5)
    after_pixels, after = paste(pixels, record, red, other, np.random.default_rng(seed))
    beneath, above = full_masks(after)
    inside = np.zeros((80, 110), bool)
    inside[10:80, 40:110] = True
    np.testing.assert_array_equal(above, inside)
    np.testing.assert_array_equal(beneath, before * ~inside)
    assert (after_pixels[inside] == (200, 0, 0)).all()
    np.testing.assert_array_equal(after_pixels[~inside], pixels[~inside])
    rows, columns = np.nonzero(beneath)
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert after.instances[0].box == box and after.instances[0].area == beneath.sum()
    # (70, 40) is covered now, (30, 25) is not
    assert [p[2] for p in after.instances[0].keypoints] == [2.0, 1.0, 0.0]


def test_an_object_that_is_covered_is_gone():
    pixels, record = picture_with_object()
    whole = Instance(2, (0, 0, 110, 80), 1, False, [[0, 0, 110, 0, 110, 80, 0, 80]], 8800.0)
    seed = next(s for s in range(9) if np.random.default_rng(s).random() >= 0.5)
    other = ImageRecord(8, "b.png", 80, 110, (whole,))
    _, after = paste(pixels, record, pixels, other, np.random.default_rng(seed))
    assert [instance.annotation_id for instance in after.instances] == [2]


def test_colours_change_by_no_more_than_they_may():
    grey = np.full((8, 8, 3), 100, np.uint8)
    config = AugmentationConfig(brightness=0.2)
    levels = [recolour(grey, config, np.random.default_rng(s))[0, 0, 0] for s in range(40)]
    assert 80 <= min(levels) < 88 and 112 < max(levels) <= 120
    # Grey has no saturation and no hue, so these leave it as it is.
    config = AugmentationConfig(saturation=0.9, hue=0.5)
    np.testing.assert_array_equal(recolour(grey, config, np.random.default_rng(0)), grey)
    # Half a turn of the wheel takes red to cyan.
    red = np.zeros((4, 4, 3), np.uint8) + np.array([200, 0, 0], np.uint8)

    class Half:
        def uniform(self, low, high):
            return high

    half = recolour(red, AugmentationConfig(hue=0.5), Half())
    np.testing.assert_array_equal(half[0, 0], [0, 200, 200])


def test_holes_are_of_the_size_they_may_have():
    white = np.full((100, 200, 3), 255, np.uint8)
    shares = []
    for seed in range(30):
        holes = (cut_out(white, 1, np.random.default_rng(seed)) == FILL).all(axis=2)
        shares.append(holes.mean())
    assert min(shares) == 0 and 0.05**2 * 0.9 < max(shares) <= 0.2**2 and (white == 255).all()


def test_a_dataset_of_augmented_pictures_keeps_the_contract(tmp_path):
    records = load_coco(*write_files(tmp_path, sound_document()))
    options = {"batch_size": 3, "min_size": 100, "max_size": 160, "training": True, "seed": 3}
    plain = make_dataset(records, **options)
    augmented = make_dataset(records, augmentation=ALL, **options)
    assert augmented.element_spec == plain.element_spec

    def epochs():
        dataset = make_dataset(records, augmentation=ALL, **options)
        return [tf.nest.map_structure(np.asarray, batch) for _ in range(2) for batch in dataset]

    first, again = epochs(), epochs()
    tf.nest.map_structure(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first[0][0]["image_sizes"], first[1][0]["image_sizes"])
    for inputs, targets in first:
        sizes = inputs["image_sizes"][:, None, ::-1]
        real = targets["labels"] >= 0
        assert ((targets["boxes"][..., 2:] <= sizes) | ~real[..., None]).all()
        assert targets["masks"][real].any(axis=(1, 2)).all()


def test_masks_of_a_dataset_are_those_of_the_moved_object():
    pixels, record = picture_with_object()
    augment = Augmentation(GEOMETRY, 100, 140)
    _, after = augment(pixels, record, np.random.default_rng(5))
    instance = after.instances[0]
    mask = rasterise_in_box(instance.segmentation, instance.box, 56)
    full = full_masks(after)[0].astype(np.float32)
    x1, y1, x2, y2 = instance.box
    centres = (np.arange(56) + 0.5) / 56
    columns, rows = np.float32(x1 + centres * (x2 - x1)), np.float32(y1 + centres * (y2 - y1))
    expected = full[np.ix_(rows.astype(int), columns.astype(int))]
    assert (mask == expected).mean() > 0.95


def test_a_range_that_makes_no_sense_is_refused():
    for changes in (
        {"scale_jitter": (2.0, 1.0)},
        {"copy_paste": 1.5},
        {"rotation": -1.0},
        {"hue": 0.6},
    ):
        with pytest.raises(ConfigError, match=f"augmentation.{next(iter(changes))}"):
            dataclasses.replace(AugmentationConfig(), **changes)
