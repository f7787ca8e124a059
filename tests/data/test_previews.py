"""The sheet of augmented pictures."""

import dataclasses

import numpy as np
import pytest
from coco_files import sound_document, write_files

from kmaskrcnn.config import AugmentationConfig, MaskRCNNConfig, Recipe
from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.records import load_coco
from kmaskrcnn.training import previews
from kmaskrcnn.training.previews import draw_augmented


def test_a_sheet_has_every_picture_and_follows_the_seed(tmp_path):
    records = load_coco(*write_files(tmp_path, sound_document()))
    augmentation = AugmentationConfig(scale_jitter=(0.5, 1.0), brightness=0.5)
    recipe = Recipe(MaskRCNNConfig(min_size=100, max_size=100), augmentation=augmentation)
    sheet = draw_augmented(recipe, records, count=4, columns=2)
    np.testing.assert_array_equal(sheet, draw_augmented(recipe, records, count=4, columns=2))
    assert sheet.dtype == np.uint8 and min(sheet.shape[:2]) > 100 and max(sheet.shape[:2]) <= 224
    # every cell holds something that is not the sheet's ground
    rows, columns = sheet.shape[0] // 2, sheet.shape[1] // 2
    cells = sheet[: 2 * rows, : 2 * columns].reshape(2, rows, 2, columns, 3)
    assert (cells != 245).any(axis=(1, 3, 4)).all()


def drawn_records(monkeypatch, recipe, records):
    """The records as they are drawn."""
    drawn = []

    def draw(pixels, record, *arguments, **options):
        drawn.append(record)
        return pixels

    monkeypatch.setattr(previews, "draw_ground_truth", draw)
    draw_augmented(recipe, records)
    return drawn


def test_pictures_are_resized_by_the_recipes_rule(tmp_path, monkeypatch):
    records = load_coco(*write_files(tmp_path, sound_document()))
    for rule, width in (("opencv", 135), ("torchvision", 134)):  # 80 * 101 / 60 = 134.67
        model = MaskRCNNConfig(min_size=101, max_size=200, resize_rule=rule)
        drawn = drawn_records(monkeypatch, Recipe(model), records)
        assert {r.width for r in drawn if r.image_id == 501} == {width}


def test_a_mirror_swaps_the_recipes_pairs(tmp_path, monkeypatch):
    document = sound_document()
    names = ["nose", "ear", "other ear"]  # which tell nothing of left and right
    document["categories"][0] |= {"keypoints": names, "skeleton": []}
    document["annotations"][3]["keypoints"] = [3, 85, 2, 8, 82, 2, 9, 84, 1]
    records = load_coco(*write_files(tmp_path, document))
    pairs = {"keypoint_names": names, "keypoint_flip_pairs": ((1, 2),)}
    model = MaskRCNNConfig(min_size=100, max_size=200, **{k: tuple(v) for k, v in pairs.items()})
    drawn = drawn_records(monkeypatch, Recipe(model), records)
    bears = [r.instances[1].keypoints for r in drawn if r.image_id == 12]
    assert {tuple(point[2] for point in bear) for bear in bears} == {(2, 2, 1), (2, 1, 2)}


def test_an_empty_dataset_and_a_damaged_picture_are_named(tmp_path):
    json_path, images = write_files(tmp_path, sound_document())
    records = load_coco(json_path, images)
    with pytest.raises(DatasetError, match="no sound picture.*data.json"):
        draw_augmented(Recipe(), dataclasses.replace(records, images=()))
    (images / "wide.png").write_bytes((images / "wide.png").read_bytes()[:-20])
    with pytest.raises(DatasetError, match="cut off.*wide.png, image id 501"):
        draw_augmented(Recipe(), records)
