"""The sheet of augmented pictures."""

import numpy as np
from coco_files import sound_document, write_files

from kmaskrcnn.config import AugmentationConfig, MaskRCNNConfig, Recipe
from kmaskrcnn.data.records import load_coco
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
