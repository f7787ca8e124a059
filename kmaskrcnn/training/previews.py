"""What training will see, drawn before it starts."""

import numpy as np

from kmaskrcnn.config import Recipe
from kmaskrcnn.data.augmentation import Augmentation
from kmaskrcnn.data.faults import DatasetError, Fault
from kmaskrcnn.data.loading import read_record
from kmaskrcnn.data.records import CocoDataset
from kmaskrcnn.visualize import contact_sheet, draw_ground_truth


def draw_augmented(recipe: Recipe, records: CocoDataset, count=12, columns=4):
    """Draw pictures with their objects as a recipe's augmentation changes them.

    Args:
        recipe: its `model`, `data` and `augmentation` parts say how.
        records: the dataset; its first pictures are drawn, again from the first if there are fewer than `count`.
        count: pictures.
        columns: of the sheet.

    Returns:
        `(H, W, 3)` uint8 RGB, one sheet.

    Raises:
        DatasetError: if there is no picture, or one cannot be read.
    """
    if not records.images:
        raise DatasetError([Fault("empty dataset", "it has no sound picture", records.json_path)])
    keypoints = records.keypoints
    # A recipe's pairs may be left to the data, whose names tell left from right.
    flip_pairs = recipe.model.keypoint_flip_pairs or (keypoints.flip_pairs if keypoints else ())
    augment = Augmentation(
        recipe.augmentation,
        recipe.model.min_size,
        recipe.model.max_size,
        0.5 * recipe.data.flip,
        flip_pairs,
        recipe.model.resize_rule,
    )

    def load(record):
        return read_record(record), record

    drawn = []
    for number in range(count):
        generator = np.random.default_rng([recipe.data.seed, number])
        pixels, record = augment(
            *load(records.images[number % len(records.images)]),
            generator,
            lambda: load(records.images[generator.integers(len(records.images))]),
        )
        drawn.append(draw_ground_truth(pixels, record, records.class_names, keypoints=keypoints))
    return contact_sheet(drawn, columns)
